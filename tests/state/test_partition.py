import subprocess
import sys
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from state import records
from state.errors import (
    CorruptStateError,
    ForeignStateError,
    LayoutMismatchError,
    RowsFullError,
    StateLockedError,
    StateUnavailableError,
)
from state.layout import fingerprint
from state.partition import (
    ChangelogPosition,
    Identity,
    Progress,
    SharedOptions,
    TableDescription,
    describe_partition,
)
from state.rows import KeyedRows
from tests.state.partitions import (
    IDENTITY,
    ROW,
    make_state,
    new_rows,
    open_at,
    overwrite_record,
    read_count,
    write_count,
)

KEYS = st.text(min_size=1, max_size=3)


def test_a_new_partition_is_empty(tmp_path: Path) -> None:
    partition = open_at(tmp_path / "new" / "directory")
    rows = new_rows()
    assert partition.load_rows(rows) == len(rows) == 0
    assert partition.progress == Progress()
    partition.close()
    partition.close()


PROGRESSES = st.builds(
    Progress,
    offsets=st.dictionaries(KEYS, st.integers(0, 2**63 - 1)),
    max_ts_ms=st.dictionaries(KEYS, st.integers(-(2**63), 2**63 - 1)),
    watermark_ms=st.integers(-(2**63), 2**63 - 1),
    sweep_ms=st.integers(0, 2**63 - 1),
)
CHECKPOINTS = st.tuples(
    st.dictionaries(KEYS, st.binary(min_size=ROW.itemsize, max_size=ROW.itemsize)),
    st.lists(KEYS),
    PROGRESSES,
)


@settings(max_examples=25, deadline=None)
@given(st.lists(CHECKPOINTS, min_size=1, max_size=4), st.booleans())
def test_what_is_written_comes_back_byte_equal(
    checkpoints: list[tuple[dict[str, bytes], list[str], Progress]], sync: bool
) -> None:
    with TemporaryDirectory() as directory:
        path = Path(directory, "p")
        model: dict[str, bytes] = {}
        rows = new_rows()
        for changed, removed, progress in checkpoints:
            partition = open_at(path, options=SharedOptions(sync=sync))
            slots = rows.claim(list(changed))
            raw = np.frombuffer(b"".join(changed.values()), f"V{ROW.itemsize}")
            rows.data.view(f"V{ROW.itemsize}")[slots] = raw
            rows.mark_dirty(slots)
            rows.remove(removed)
            partition.write(rows.take_snapshot(), progress)
            partition.close()
            model = {k: v for k, v in (model | changed).items() if k not in set(removed)}

            partition = open_at(path)
            rows = new_rows()
            assert partition.load_rows(rows) == len(model) == len(rows)
            assert partition.progress == progress
            assert rows.dirty_count == 0
            for key, row in model.items():
                (slot,) = rows.slots_of([key])
                assert rows.data[slot : slot + 1].tobytes() == row
            partition.close()


def test_a_table_longer_than_one_chunk_is_read_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_state(tmp_path / "p")
    for chunk in (1, 299, 300, 301):
        monkeypatch.setattr(records, "LOAD_ROWS", chunk)
        assert read_count(tmp_path / "p") == 3


def test_rows_beyond_the_cap_are_refused_on_loading(tmp_path: Path) -> None:
    make_state(tmp_path / "p")
    partition = open_at(tmp_path / "p")
    with pytest.raises(RowsFullError):
        partition.load_rows(new_rows(max_rows=299))
    partition.close()


def rows_at(path: Path) -> dict[bytes, bytes]:
    partition = open_at(path)
    try:
        return dict(zip(*partition.read_page(None, 10_000), strict=True))
    finally:
        partition.close()


def test_many_rows_are_read_at_once_and_absent_ones_are_none(tmp_path: Path) -> None:
    make_state(tmp_path / "p")
    stored = rows_at(tmp_path / "p")
    partition = open_at(tmp_path / "p")
    asked = [b"customer-7", b"nobody", b"customer-299", b"customer-7", b""]
    expected = [stored.get(key) for key in asked]
    assert partition.read_many(asked) == expected
    assert [row is None for row in expected] == [False, True, False, False, True]
    assert partition.read_many([]) == []
    partition.close()


@pytest.mark.parametrize("most", [1, 7, 299, 300, 301])
def test_pages_follow_each_other_without_gaps(tmp_path: Path, most: int) -> None:
    make_state(tmp_path / "p")
    stored = rows_at(tmp_path / "p")
    partition = open_at(tmp_path / "p")
    read: dict[bytes, bytes] = {}
    after: bytes | None = None
    while True:
        keys, rows = partition.read_page(after, most)
        if not keys:
            break
        assert len(keys) == len(rows) <= most
        assert not set(keys) & set(read)
        read |= dict(zip(keys, rows, strict=True))
        after = keys[-1]
    assert list(read) == sorted(stored)
    assert read == stored
    partition.close()


def test_a_page_begins_behind_a_key_that_was_deleted_since(tmp_path: Path) -> None:
    partition = open_at(tmp_path / "p")
    rows = new_rows()
    rows.claim(["a", "a\0", "ab", "b", "c"])
    partition.write(rows.take_snapshot(), Progress())
    rows.settle()
    assert partition.read_page(b"a", 2)[0] == [b"a\0", b"ab"]
    rows.remove(["ab"])
    partition.write(rows.take_snapshot(), Progress())
    assert partition.read_page(b"ab", 9)[0] == [b"b", b"c"]
    assert partition.read_page(b"c", 9) == ([], [])
    partition.close()


def test_rows_beyond_the_cap_stay_cold_and_can_be_found(tmp_path: Path) -> None:
    make_state(tmp_path / "p")
    partition = open_at(tmp_path / "p")
    rows = KeyedRows(ROW, max_rows=100, cold=partition)
    assert partition.load_rows(rows) == 300
    assert (len(rows), rows.has_cold) == (100, True)
    for number in range(300):
        (slot,) = rows.find([f"customer-{number}"])
        assert rows.data["count"][slot] == 3
    assert rows.find(["nobody"]).tolist() == [-1]
    partition.close()


def test_a_checkpoint_without_a_position_is_at_none_in_any_changelog(tmp_path: Path) -> None:
    partition = open_at(tmp_path / "p")
    assert partition.changelog_position is None
    position = ChangelogPosition(7, as_of_ms=8, whole=True)
    partition.write(new_rows().take_snapshot(), Progress(), position)
    partition.write(new_rows().take_snapshot(), Progress({"clicks": 1}))
    partition.close()
    partition = open_at(tmp_path / "p")
    assert partition.changelog_position is None
    assert partition.progress == Progress({"clicks": 1})
    partition.close()


@pytest.mark.parametrize(
    "other",
    [
        replace(IDENTITY, cluster_id="cluster-2"),
        replace(IDENTITY, topics=("clicks",)),
        replace(IDENTITY, partition=4),
        replace(IDENTITY, partitions=16),
        replace(IDENTITY, app_id="other-shop"),
    ],
    ids=["cluster", "topics", "partition", "partitions", "app"],
)
def test_state_of_another_identity_is_refused(tmp_path: Path, other: Identity) -> None:
    make_state(tmp_path / "p")
    with pytest.raises(ForeignStateError, match="use another data directory, or remove"):
        open_at(tmp_path / "p", identity=other)
    assert read_count(tmp_path / "p") == 3


def test_another_row_layout_is_refused(tmp_path: Path) -> None:
    make_state(tmp_path / "p")
    unpadded = np.dtype([("flag", "u1"), ("count", "<i8"), ("noise", "u1", (207,))])
    assert unpadded.itemsize == ROW.itemsize
    with pytest.raises(LayoutMismatchError, match="another row layout"):
        open_at(tmp_path / "p", layout=unpadded)
    partition = open_at(tmp_path / "p")
    with pytest.raises(LayoutMismatchError, match="another layout"):
        partition.load_rows(KeyedRows(unpadded, max_rows=1000))
    other = KeyedRows(np.dtype([("count", "<i8")]), max_rows=10)
    with pytest.raises(ValueError, match="do not fit"):
        partition.write(other.take_snapshot(), Progress())
    partition.close()


def test_another_format_version_is_refused(tmp_path: Path) -> None:
    make_state(tmp_path / "p")
    overwrite_record(tmp_path / "p", records.HEADER_KEY, b'{"format_version": 2, "new": 1}')
    with pytest.raises(LayoutMismatchError, match="has format version 2, this program reads 1"):
        open_at(tmp_path / "p")


@pytest.mark.parametrize("key", [records.HEADER_KEY, records.PROGRESS_KEY, records.CHANGELOG_KEY])
def test_a_record_that_is_not_what_it_should_be_is_named(tmp_path: Path, key: bytes) -> None:
    make_state(tmp_path / "p")
    overwrite_record(tmp_path / "p", key, b'{"format_version": 1, "offsets": 7}')
    with pytest.raises(CorruptStateError, match="cannot be read"):
        describe_partition(tmp_path / "p")


def test_a_row_of_another_size_is_named(tmp_path: Path) -> None:
    make_state(tmp_path / "p")
    overwrite_record(tmp_path / "p", records.CUSTOMERS + b"ada", b"short")
    partition = open_at(tmp_path / "p")
    with pytest.raises(CorruptStateError, match="a row that is not 216 bytes long"):
        partition.load_rows(new_rows())
    with pytest.raises(CorruptStateError, match="a row that is not 216 bytes long"):
        partition.read_many([b"ada"])
    with pytest.raises(CorruptStateError, match="a row that is not 216 bytes long"):
        partition.read_page(None, 5)
    partition.close()
    with pytest.raises(CorruptStateError, match=r"rows of different sizes \[5, 216\]"):
        describe_partition(tmp_path / "p")


def test_state_that_this_process_holds_is_named(tmp_path: Path) -> None:
    partition = open_at(tmp_path / "p")
    with pytest.raises(StateLockedError, match="is in use: stop the other worker"):
        open_at(tmp_path / "p")
    partition.close()
    open_at(tmp_path / "p").close()


def test_state_that_another_process_holds_is_named(tmp_path: Path) -> None:
    partition = open_at(tmp_path / "p")
    program = (
        "import sys; from pathlib import Path; from tests.state.partitions import open_at\n"
        "try: open_at(Path(sys.argv[1]))\n"
        "except Exception as error: print(type(error).__name__, error)"
    )
    command = [sys.executable, "-c", program, str(tmp_path / "p")]
    run = subprocess.run(command, capture_output=True, check=True, text=True)
    partition.close()
    assert run.stdout.startswith("StateLockedError ")
    assert run.stdout.count("\n") == 1


@pytest.mark.parametrize("place", ["p", "p/below"])
def test_a_directory_that_cannot_be_made_is_named(tmp_path: Path, place: str) -> None:
    (tmp_path / "p").write_text("a file in the way")
    with pytest.raises(StateUnavailableError, match="choose a directory that can be written"):
        open_at(tmp_path / place)


def test_a_file_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "p" / "LOCK").mkdir(parents=True)
    with pytest.raises(StateUnavailableError, match="check its permissions and the disk"):
        open_at(tmp_path / "p")


def test_a_closed_partition_says_so(tmp_path: Path) -> None:
    partition = open_at(tmp_path / "p")
    partition.close()
    with pytest.raises(StateUnavailableError, match="was closed: open it again"):
        partition.write(new_rows().take_snapshot(), Progress())


def test_reopened_partitions_share_one_cache_and_one_write_buffer(tmp_path: Path) -> None:
    for name in ("a", "b"):
        make_state(tmp_path / name)
    options = SharedOptions(cache_bytes=8 << 20)
    empty = options.cache.get_usage()
    for name in ("a", "b"):
        before = options.cache.get_usage()
        partition = open_at(tmp_path / name, options=options)
        partition.load_rows(new_rows())
        assert options.cache.get_usage() > before >= empty
        assert options.write_buffers.get_usage() > 0
        partition.close()


def test_a_description_counts_what_is_stored_even_while_it_is_open(tmp_path: Path) -> None:
    path = tmp_path / "p"
    partition = open_at(path)
    write_count(partition, new_rows(), 5)
    description = describe_partition(path)
    assert (description.rows, description.offsets) == (300, {"clicks": 5})
    assert description.tables == {"customers": TableDescription(300, 216, 300 * 216)}
    assert description.changelog == ChangelogPosition(5, 5_000, whole=True)
    assert description.identity == IDENTITY
    assert description.layout == fingerprint(ROW)
    assert description.bytes_on_disk > 300 * 200
    assert description.watermark_ms == 0
    here = partition.describe()
    assert replace(here, bytes_on_disk=description.bytes_on_disk) == description
    write_count(partition, new_rows(), 6)
    partition.close()
    assert read_count(path) == 6


def test_an_empty_state_is_described(tmp_path: Path) -> None:
    open_at(tmp_path / "p").close()
    description = describe_partition(tmp_path / "p")
    assert description.tables == {"customers": TableDescription(0, 0, 0)}
    assert description.changelog is None


def test_a_state_is_described_while_a_busy_worker_removes_files(tmp_path: Path) -> None:
    program = """
import sys
from pathlib import Path
from state.partition import SharedOptions
from tests.state.partitions import new_rows, open_at, write_count
options = SharedOptions(write_buffer_bytes=256 << 10)
partition, rows = open_at(Path(sys.argv[1]), options=options), new_rows()
for count in range(1, 1_000_000):
    write_count(partition, rows, count)
    if count == 1:
        print(flush=True)
"""
    path, seen = tmp_path / "p", [0]
    with subprocess.Popen(
        [sys.executable, "-c", program, str(path)], stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None
            process.stdout.readline()
            for _ in range(20):
                # Files that come and go this often may be too fast for it; then it says so.
                with suppress(StateUnavailableError):
                    description = describe_partition(path)
                    assert description.rows == 300
                    assert description.changelog is not None
                    assert description.changelog.offset == description.offsets["clicks"]
                    seen.append(description.offsets["clicks"])
        finally:
            process.kill()
    assert len(seen) > 1
    assert seen == sorted(seen)
    # Files are numbered: many came and went meanwhile.
    assert max(int(file.stem) for file in path.glob("*.sst")) > 20


def test_files_that_change_all_the_time_are_given_up_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_state(tmp_path / "p")
    names = iter(range(10_000))
    monkeypatch.setattr("state.description._data_files", lambda path: {str(next(names))})
    with pytest.raises(StateUnavailableError, match="change faster than they can be opened"):
        describe_partition(tmp_path / "p")
    assert next(names) < 1_000


def test_a_directory_without_state_is_named_and_not_created(tmp_path: Path) -> None:
    with pytest.raises(StateUnavailableError, match="there is no state in"):
        describe_partition(tmp_path / "none")
    assert not (tmp_path / "none").exists()


def test_an_older_progress_record_is_read_with_defaults(tmp_path: Path) -> None:
    make_state(tmp_path / "p")
    overwrite_record(tmp_path / "p", records.PROGRESS_KEY, msgspec.json.encode({"later": 1}))
    partition = open_at(tmp_path / "p")
    assert partition.progress == Progress()
    partition.close()
