from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from state import changelog
from state.changelog import ChangelogPage, decode_page, encode
from state.errors import CorruptStateError, LayoutMismatchError
from state.partition import Progress
from state.records import CUSTOMERS, PROGRESS_KEY
from state.snapshot import RowsSnapshot

ROW = np.dtype([("flag", "u1"), ("count", "<i4")], align=True)
OTHER = np.dtype([("flag", "u1"), ("count", "<u4")], align=True)
KNOWN = np.dtype([("clicks", "<i4"), ("v", "<f4", (4,))])

KEYS = st.binary(max_size=2)
ROWS = st.binary(min_size=ROW.itemsize, max_size=ROW.itemsize)
CHECKPOINTS = st.lists(st.tuples(st.dictionaries(KEYS, ROWS, max_size=5), st.sets(KEYS)))


def snapshot_of(changed: dict[bytes, bytes], deleted: set[bytes]) -> RowsSnapshot:
    rows = b"".join(changed.values())
    return RowsSnapshot(list(changed), rows, ROW.itemsize, sorted(deleted - set(changed)))


def records_of(count: int = 3, layout: np.dtype[np.void] = ROW) -> dict[bytes, bytes | None]:
    rows = np.arange(count, dtype="u1").repeat(layout.itemsize).tobytes()
    keys = [b"c%d" % number for number in range(count)]
    snapshot = RowsSnapshot(keys, rows, layout.itemsize, [b"gone"])
    return dict(encode(snapshot, Progress({"clicks": count}), layout))


def decode(records: dict[Any, bytes | None]) -> ChangelogPage:
    return decode_page(list(records), list(records.values()), ROW)


def rows_in(page: ChangelogPage) -> dict[bytes, bytes]:
    assert len(page.rows) == len(page.keys) * page.row_bytes
    starts = range(0, len(page.rows), page.row_bytes)
    return {
        key: page.rows[start : start + page.row_bytes]
        for key, start in zip(page.keys, starts, strict=True)
    }


@given(CHECKPOINTS, st.data())
def test_whoever_reads_the_log_ends_where_its_writer_did(
    checkpoints: list[tuple[dict[bytes, bytes], set[bytes]]], data: st.DataObject
) -> None:
    log: list[tuple[bytes, bytes | None]] = []
    model: dict[bytes, bytes] = {}
    for number, (changed, deleted) in enumerate(checkpoints, start=1):
        records = list(encode(snapshot_of(changed, deleted), Progress({"clicks": number}), ROW))
        assert [key for key, _ in records].index(PROGRESS_KEY) == len(records) - 1
        log += records
        model = {key: row for key, row in model.items() if key not in deleted} | changed
    # The broker may drop any record that a later one of its key makes superfluous.
    last = {key: position for position, (key, _) in enumerate(log)}
    log = [r for at, r in enumerate(log) if last[r[0]] == at or data.draw(st.booleans())]
    rows: dict[bytes, bytes] = {}
    progress = Progress()
    while log:
        size = data.draw(st.integers(1, len(log)))
        page = decode_page([key for key, _ in log[:size]], [value for _, value in log[:size]], ROW)
        log = log[size:]
        assert not set(page.keys) & set(page.deleted)
        for key in page.deleted:
            rows.pop(key, None)
        rows.update(rows_in(page))
        progress = page.progress or progress
    assert rows == model
    assert progress == (Progress({"clicks": len(checkpoints)}) if checkpoints else Progress())


def test_an_empty_page_holds_nothing() -> None:
    assert decode_page([], [], ROW) == ChangelogPage([], b"", ROW.itemsize, [], None)


def test_the_bytes_of_a_record_never_change() -> None:
    snapshot = RowsSnapshot([b"ada"], bytes(range(20)), KNOWN.itemsize, [b"bob"])
    prefix = bytes.fromhex("01 c5712c10afa955d3")
    progress = Progress({"clicks": 3}, {"clicks": 5}, 7, 9)
    assert list(encode(snapshot, progress, KNOWN)) == [
        (b"\x01ada", prefix + bytes(range(20))),
        (b"\x01bob", None),
        (
            b"\x00progress",
            prefix + b'{"offsets":{"clicks":3},"max_ts_ms":{"clicks":5},'
            b'"watermark_ms":7,"sweep_ms":9}',
        ),
    ]


def test_rows_of_another_size_are_not_encoded() -> None:
    with pytest.raises(ValueError, match="rows of 3 bytes do not fit 8"):
        list(encode(RowsSnapshot([b"a"], b"row", 3, []), Progress(), ROW))


@pytest.mark.parametrize("only", [None, CUSTOMERS + b"c2", PROGRESS_KEY])
def test_another_layout_is_named_wherever_it_stands(only: bytes | None) -> None:
    ours, theirs = records_of(), records_of(layout=OTHER)
    records = theirs if only is None else ours | {only: theirs[only]}
    with pytest.raises(LayoutMismatchError, match="run with those, or delete the topic"):
        decode(records)
    assert len(decode(ours).keys) == 3


def test_another_version_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    records = records_of()
    changelog._prefix.cache_clear()
    with monkeypatch.context() as patch:
        patch.setattr(changelog, "CHANGELOG_VERSION", 2)
        with pytest.raises(LayoutMismatchError, match="by another version"):
            decode(records)
    changelog._prefix.cache_clear()
    assert len(decode(records).keys) == 3


def test_another_layout_of_another_size_is_named_as_such() -> None:
    with pytest.raises(LayoutMismatchError, match="another row layout"):
        decode(records_of() | records_of(2, np.dtype([("count", "<i8"), ("more", "<i8")])))


@pytest.mark.parametrize("size", [0, 1, 8, 9, 16, 18])
def test_a_value_of_another_length_is_damage(size: int) -> None:
    records = records_of()
    value = (records[CUSTOMERS + b"c1"] or b"") + b"x"
    with pytest.raises(CorruptStateError, match="delete the topic crm-changelog"):
        decode(records | {CUSTOMERS + b"c1": value[:size]})


@pytest.mark.parametrize("key", [b"", b"\x02ada", b"\x00header", b"ada", None])
def test_an_unknown_key_is_damage(key: bytes | None) -> None:
    with pytest.raises(CorruptStateError, match="an unknown key"):
        decode({**records_of(), key: b"value"})


@pytest.mark.parametrize("tail", [b"", b"{", b'{"offsets": 7}'])
def test_a_marker_that_cannot_be_read_is_damage(tail: bytes) -> None:
    records = records_of()
    prefix = (records[PROGRESS_KEY] or b"")[: changelog.PREFIX_BYTES]
    with pytest.raises(CorruptStateError, match="the changelog's marker cannot be read"):
        decode(records | {PROGRESS_KEY: prefix + tail})
    with pytest.raises(CorruptStateError, match="marker was deleted"):
        decode(records | {PROGRESS_KEY: None})


def test_an_older_marker_is_read_with_defaults() -> None:
    records = records_of()
    prefix = (records[PROGRESS_KEY] or b"")[: changelog.PREFIX_BYTES]
    page = decode(records | {PROGRESS_KEY: prefix + msgspec.json.encode({"later": 1})})
    assert page.progress == Progress()
