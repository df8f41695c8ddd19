"""The records of the changelog: a copy of a partition's state in a compacted topic.

A record's key is the key of the same thing in RocksDB (see `state.partition`); a row that was
deleted has no value (a tombstone). Every other value starts with `PREFIX_BYTES` bytes, one for
the format's version and eight of the row layout's fingerprint; behind them stands the row as raw
bytes, or the progress as JSON. A checkpoint's last record is its progress, the marker.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import msgspec
import numpy as np

from state.errors import CorruptStateError, LayoutMismatchError
from state.layout import fingerprint
from state.records import CUSTOMERS, PROGRESS_KEY, Progress
from state.snapshot import RowsSnapshot

CHANGELOG_VERSION = 1
PREFIX_BYTES = 9
REBUILD = (
    "delete the topic crm-changelog and the state's directories to rebuild from the source topics"
)


@dataclass(frozen=True, slots=True)
class ChangelogPage:
    """Successive records of the changelog, reduced to the last one of each key.

    Attributes
    ----------
    keys
        UTF-8 keys of the rows that changed, each once.
    rows
        Those rows end to end, ``len(keys) * row_bytes`` long.
    row_bytes
        Size of a row.
    deleted
        UTF-8 keys of the rows that were deleted; none of them is in `keys`.
    progress
        Of the last marker; None where there is none. The page may hold rows of later ones.
    """

    keys: list[bytes]
    rows: bytes
    row_bytes: int
    deleted: list[bytes]
    progress: Progress | None


def encode(
    snapshot: RowsSnapshot, progress: Progress, layout: np.dtype[np.void]
) -> Iterator[tuple[bytes, bytes | None]]:
    r"""Yield the keys and values of a checkpoint's records: rows, tombstones, the marker last.

    Raises
    ------
    ValueError
        When the snapshot's rows are not of that layout's size.

    Examples
    --------
    >>> layout = np.dtype([("clicks", "<i8")])
    >>> row = np.array([(3,)], layout)
    >>> snapshot = RowsSnapshot([b"ada"], row.tobytes(), layout.itemsize, [b"bob"])
    >>> records = list(encode(snapshot, Progress({"clicks": 3}), layout))
    >>> [(key, None if value is None else len(value)) for key, value in records]
    [(b'\x01ada', 17), (b'\x01bob', None), (b'\x00progress', 78)]
    >>> page = decode_page(*zip(*records), layout)
    >>> page.keys, np.frombuffer(page.rows, layout)["clicks"].tolist(), page.deleted
    ([b'ada'], [3], [b'bob'])
    >>> page.progress.offsets
    {'clicks': 3}
    """
    size = snapshot.row_bytes
    if size != layout.itemsize:
        raise ValueError(f"rows of {size} bytes do not fit {layout.itemsize}")
    prefix, rows = _prefix(layout), snapshot.rows
    for key, start in zip(snapshot.keys, range(0, len(rows), size), strict=True):
        yield CUSTOMERS + key, prefix + rows[start : start + size]
    for key in snapshot.deleted:
        yield CUSTOMERS + key, None
    yield PROGRESS_KEY, prefix + msgspec.json.encode(progress)


def decode_page(
    keys: Sequence[bytes], values: Sequence[bytes | None], layout: np.dtype[np.void]
) -> ChangelogPage:
    """Read successive records, all at once; of each key only the last record is looked at.

    Raises
    ------
    LayoutMismatchError
        When a value was written with another layout or format version.
    CorruptStateError
        When a key is unknown, a value not as long as a row, or the progress not readable.
    """
    prefix = _prefix(layout)
    latest = dict(zip(keys, range(len(keys)), strict=True))
    marker = latest.pop(PROGRESS_KEY, None)
    for key in latest:
        if not key or not key.startswith(CUSTOMERS):
            raise CorruptStateError(f"the changelog holds an unknown key {key!r}: {REBUILD}")
    stored = [key for key, position in latest.items() if values[position] is not None]
    customers = len(CUSTOMERS)
    return ChangelogPage(
        keys=[key[customers:] for key in stored],
        rows=_rows([values[latest[key]] or b"" for key in stored], prefix, layout.itemsize),
        row_bytes=layout.itemsize,
        deleted=[key[customers:] for key, at in latest.items() if values[at] is None],
        progress=None if marker is None else _progress(values[marker], prefix),
    )


@lru_cache(maxsize=8)
def _prefix(layout: np.dtype[np.void]) -> bytes:
    """Return what stands before a row of `layout`."""
    digits = 2 * (PREFIX_BYTES - 1)
    return bytes([CHANGELOG_VERSION]) + bytes.fromhex(fingerprint(layout)[:digits])


def _rows(values: list[bytes], prefix: bytes, row_bytes: int) -> bytes:
    """Return the rows in `values` end to end, without their prefixes."""
    if not values:
        return b""
    for size, value in {len(value): value for value in values}.items():
        if size != PREFIX_BYTES + row_bytes:
            _require(value, prefix)
            raise CorruptStateError(
                f"the changelog holds a row of {size - PREFIX_BYTES} bytes instead of {row_bytes}: "
                f"{REBUILD}"
            )
    table = np.frombuffer(b"".join(values), np.uint8).reshape(len(values), -1)
    same = (table[:, :PREFIX_BYTES] == np.frombuffer(prefix, np.uint8)).all(axis=1)
    if not same.all():
        _require(values[int(np.argmin(same))], prefix)
    return table[:, PREFIX_BYTES:].tobytes()


def _progress(value: bytes | None, prefix: bytes) -> Progress:
    if value is None:
        raise CorruptStateError(f"the changelog's marker was deleted: {REBUILD}")
    _require(value, prefix)
    try:
        return msgspec.json.decode(value[PREFIX_BYTES:], type=Progress)
    except msgspec.DecodeError as error:
        raise CorruptStateError(
            f"the changelog's marker cannot be read ({error}): {REBUILD}"
        ) from error


def _require(value: bytes, prefix: bytes) -> None:
    """Refuse a value that starts with another prefix."""
    if len(value) < PREFIX_BYTES:
        raise CorruptStateError(f"the changelog holds a value of {len(value)} bytes: {REBUILD}")
    if not value.startswith(prefix):
        raise LayoutMismatchError(
            "the changelog was written with another row layout, by another version or with other "
            f"settings: run with those, or {REBUILD}"
        )
