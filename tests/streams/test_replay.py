import gzip
import io
import json
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streams.errors import BrokerUnavailableError, ReplayError
from streams.partitioner import partition_of
from streams.reading import read_to_end
from streams.replay import STDIN, Chunks, Line, Pace, formatted, json_lines, key_field_of, replay
from streams.replay_formats import FORMATS
from streams.settings import Settings
from tests.streams.topics_for_tests import make_topic


def lines_of(chunks: Chunks) -> list[Line]:
    return [line for chunk in chunks for line in chunk]


def write(path: Path, *lines: str) -> Path:
    path.write_text("".join(line + "\n" for line in lines), encoding="utf-8")
    return path


class Time:
    """A clock that passes only by sleeping."""

    def __init__(self) -> None:
        self.now = 100.0

    def clock(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        assert seconds > 0
        self.now += seconds


def test_lines_are_read_as_they_are(tmp_path: Path) -> None:
    first, second = '{"customer_id": "a",  "x": 1.50}', '{"customer_id": 7, "ts": 5}'
    path = write(tmp_path / "two.jsonl", first, "", "  ", second)
    assert lines_of(json_lines([path], "customer_id", timed=False)) == [
        Line("a", first.encode(), 0),
        Line("7", second.encode(), 0),
    ]


def test_a_last_line_without_an_end_counts(tmp_path: Path) -> None:
    path = tmp_path / "one.jsonl"
    path.write_text('{"customer_id":"a"}')
    assert len(lines_of(json_lines([path], "customer_id", timed=False))) == 1


def test_packed_files_are_unpacked(tmp_path: Path) -> None:
    path = tmp_path / "packed.jsonl.gz"
    with gzip.open(path, "wt") as file:
        file.writelines(f'{{"item_id":"i{number}"}}\n' for number in range(50_000))
    lines = lines_of(json_lines([path], key_field_of("catalog"), timed=False))
    assert [line.key for line in lines] == [f"i{number}" for number in range(50_000)]


def test_standard_input_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    pipe = io.TextIOWrapper(io.BytesIO(b'{"customer_id":"a"}\n'))
    monkeypatch.setattr(sys, "stdin", pipe)
    assert lines_of(json_lines([STDIN], "customer_id", timed=False))[0].key == "a"
    assert not pipe.closed


def test_times_are_read_where_they_matter(tmp_path: Path) -> None:
    path = write(
        tmp_path / "t.jsonl",
        '{"customer_id":"a","ts":1700000000000}',
        '{"customer_id":"a","ts":"2023-11-14T22:13:21Z"}',
    )
    lines = lines_of(json_lines([path], "customer_id", timed=True))
    assert [line.ts_ms for line in lines] == [1_700_000_000_000, 1_700_000_001_000]


@pytest.mark.parametrize(
    "bad", ["{", "[]", '{"ts":1}', '{"customer_id":""}', '{"customer_id":null}', "\x00", "1"]
)
def test_a_bad_line_is_named_after_the_good_ones_were_read(tmp_path: Path, bad: str) -> None:
    path = write(tmp_path / "bad.jsonl", '{"customer_id":"a"}', "", bad)
    chunks = json_lines([path], "customer_id", timed=False)
    assert [line.key for line in next(chunks)] == ["a"]
    with pytest.raises(ReplayError, match=r"bad\.jsonl: line 3: ") as raised:
        next(chunks)
    assert "\n" not in str(raised.value)


def test_a_time_that_is_needed_and_missing_is_an_error(tmp_path: Path) -> None:
    path = write(tmp_path / "no_time.jsonl", '{"customer_id":"a"}')
    with pytest.raises(ReplayError, match=r"line 1: .*`ts`"):
        lines_of(json_lines([path], "customer_id", timed=True))


@pytest.mark.parametrize("name", ["none.jsonl", "broken.jsonl.gz"])
def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, name: str) -> None:
    (tmp_path / "broken.jsonl.gz").write_bytes(b"no gzip")
    with pytest.raises(ReplayError, match=name):
        lines_of(json_lines([tmp_path / name], "customer_id", timed=False))


def test_a_line_without_end_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("streams.replay.LINE_MAX_BYTES", 1_000)
    path = write(tmp_path / "endless.jsonl", "x" * 600_000)
    with pytest.raises(ReplayError, match="longer than 1,000 bytes"):
        lines_of(json_lines([path], "customer_id", timed=False))


@given(st.lists(st.integers(0, 10**6), max_size=50), st.integers(1, 2**18))
def test_reads_of_any_size_give_the_same_lines(
    tmp_path_factory: pytest.TempPathFactory, numbers: list[int], size: int
) -> None:
    path = tmp_path_factory.mktemp("sizes") / "lines.jsonl"
    write(path, *(json.dumps({"customer_id": number}) for number in numbers))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("streams.replay.READ_BYTES", size)
        lines = lines_of(json_lines([path], "customer_id", timed=False))
    assert [line.key for line in lines] == [str(number) for number in numbers]


def test_a_data_set_is_read_in_its_own_format(tmp_path: Path) -> None:
    write(tmp_path / "CDNOW_master.txt", "header", "00001 19970101 1 11.77", "00002 19970102 2 20")
    lines = lines_of(formatted([tmp_path], FORMATS["cdnow"]))
    assert [line.key for line in lines] == ["00001", "00002"]
    assert lines[1].ts_ms - lines[0].ts_ms == 86_400_000
    assert json.loads(lines[0].value)["customer_id"] == "00001"


def test_an_unreadable_data_set_gives_what_is_before_the_fault(tmp_path: Path) -> None:
    directory = tmp_path / "empty"
    directory.mkdir()
    chunks = formatted([directory], FORMATS["cdnow"])
    assert next(chunks) == []
    with pytest.raises(ReplayError, match="CDNOW_master"):
        next(chunks)


async def test_records_lie_where_kafka_would_put_them(settings: Settings) -> None:
    await make_topic(settings, "replay-keys", 4)
    lines = [Line(f"customer-{n}", b'{"n":%d}' % n, 0) for n in range(1_000)]
    told: list[int] = []
    count = await replay(
        settings, "replay-keys", 4, iter([lines[:10], [], lines[10:]]), on_progress=told.append
    )
    assert count == 1_000
    assert told == [10, 1_000]
    found = [record async for record in read_to_end(settings, "replay-keys")]
    assert {record.value for record in found} == {line.value for line in lines}
    assert all(record.partition == partition_of(record.key.decode(), 4) for record in found)


async def test_a_customers_records_keep_their_order(settings: Settings) -> None:
    await make_topic(settings, "replay-order", 2)
    lines = [Line("one", b'{"n":%d,"pad":"%s"}' % (n, b"x" * 2_000), 0) for n in range(600)]
    await replay(settings, "replay-order", 2, iter([lines]))
    found = [record.value async for record in read_to_end(settings, "replay-order")]
    assert found == [line.value for line in lines]


async def test_a_bad_line_tells_how_much_was_sent_before(
    settings: Settings, tmp_path: Path
) -> None:
    await make_topic(settings, "replay-bad", 1)
    path = write(tmp_path / "x.jsonl", '{"customer_id":"a"}', '{"customer_id":"b"}', "{")
    with pytest.raises(ReplayError, match=r"line 3: .*\(records sent before it: 2\)"):
        await replay(settings, "replay-bad", 1, json_lines([path], "customer_id", timed=False))
    assert len([record async for record in read_to_end(settings, "replay-bad")]) == 2


async def test_a_rate_spreads_the_records(settings: Settings) -> None:
    await make_topic(settings, "replay-rate", 1)
    time = Time()
    lines = [Line("a", b"{}", 0) for _ in range(21)]
    await replay(
        settings, "replay-rate", 1, iter([lines]), Pace(rate=4), clock=time.clock, sleep=time.sleep
    )
    assert time.now - 100 == pytest.approx(5, abs=0.3)


async def test_a_speedup_keeps_the_distances_of_event_times(settings: Settings) -> None:
    await make_topic(settings, "replay-speedup", 1)
    time = Time()
    seen: list[tuple[int, float]] = []
    lines = [Line("a", b"{}", ts_ms) for ts_ms in (5_000, 6_000, 65_000, 20_000, 125_000)]
    await replay(
        settings,
        "replay-speedup",
        1,
        iter([lines]),
        Pace(speedup=60),
        lambda count: seen.append((count, time.now - 100)),
        clock=time.clock,
        sleep=time.sleep,
    )
    # The fourth is older than the third and goes out with it.
    assert [count for count, _ in seen] == [1, 2, 4, 5]
    assert [at for _, at in seen] == pytest.approx([0, 1 / 60, 1, 2], abs=0.002)


async def test_a_record_of_several_megabytes_is_sent_whole(settings: Settings) -> None:
    await make_topic(settings, "replay-large", 1)
    value = b'{"text":"%s"}' % (b"x" * 3_000_000)
    await replay(settings, "replay-large", 1, iter([[Line("a", value, 0)]]))
    (record,) = [record async for record in read_to_end(settings, "replay-large")]
    assert record.value == value


async def test_where_no_broker_answers_nothing_is_read() -> None:
    with pytest.raises(BrokerUnavailableError):
        await replay(Settings(broker="kafka://127.0.0.1:1"), "clicks", 1, iter([]))
