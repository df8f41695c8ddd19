"""The records of a partition's RocksDB: their keys, their types, and how they are read."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import msgspec
from rocksdict import Rdict, RdictIter

from state.errors import CorruptStateError, LayoutMismatchError
from state.layout import FORMAT_VERSION
from state.rocks import REBUILD, named_errors

HEADER_KEY = b"\x00header"
PROGRESS_KEY = b"\x00progress"
CHANGELOG_KEY = b"\x00changelog"
CUSTOMERS = b"\x01"

# Rows read and handed on at a time when a partition is loaded.
LOAD_ROWS = 4096

Record = TypeVar("Record")


@dataclass(frozen=True)
class Identity:
    """Whose state it is.

    Attributes
    ----------
    cluster_id
        The Kafka cluster's id.
    topics
        The source topics (names, or names with their ids), in a fixed order.
    partition
        Number of the source partition.
    partitions
        Number of partitions of each source topic.
    app_id
        The application's name: another one has another changelog.
    """

    cluster_id: str
    topics: tuple[str, ...]
    partition: int
    partitions: int
    app_id: str


@dataclass
class Progress:
    """How far the rows have got.

    Attributes
    ----------
    offsets
        Next offset to apply, by source topic; empty when nothing was ever applied.
    max_ts_ms
        Largest event time seen, by source topic.
    watermark_ms
        Event time up to which windows are closed.
    sweep_ms
        Event time of the last sweep.
    """

    offsets: dict[str, int] = field(default_factory=dict)
    max_ts_ms: dict[str, int] = field(default_factory=dict)
    watermark_ms: int = 0
    sweep_ms: int = 0


@dataclass(frozen=True)
class ChangelogPosition:
    """How much of the changelog the rows and the progress hold.

    Attributes
    ----------
    offset
        Next offset of the changelog to take in.
    as_of_ms
        Broker's time of the newest record or checkpoint taken in, ms since the epoch.
    whole
        Whether rows and progress are those of one checkpoint; False in the middle of a rebuild.
    """

    offset: int
    as_of_ms: int
    whole: bool


@dataclass(frozen=True)
class _Version:
    format_version: int


@dataclass(frozen=True)
class Header:
    """What is stored once, when a partition's state is made; `layouts` by table."""

    format_version: int
    identity: Identity
    layouts: dict[str, str]


def read_header(db: Rdict, path: Path) -> Header | None:
    """Read the header; only its version where that is not ours, since the rest may differ."""
    version = _record(db, path, HEADER_KEY, _Version)
    if version is not None and version.format_version != FORMAT_VERSION:
        raise LayoutMismatchError(
            f"the state in {path} has format version {version.format_version}, this program "
            f"reads {FORMAT_VERSION}: run the program that wrote it, or {REBUILD}"
        )
    return _record(db, path, HEADER_KEY, Header)


def read_progress(db: Rdict, path: Path) -> Progress:
    """Read the progress; empty where there is none."""
    return _record(db, path, PROGRESS_KEY, Progress) or Progress()


def read_changelog_position(db: Rdict, path: Path) -> ChangelogPosition | None:
    """Read the position in the changelog; None where there is none."""
    return _record(db, path, CHANGELOG_KEY, ChangelogPosition)


def read_customers(db: Rdict, path: Path) -> Iterator[tuple[list[bytes], list[bytes]]]:
    """Read the customers' table as it is now, `LOAD_ROWS` keys and rows at a time."""
    cursor = db.iter()
    try:
        with named_errors(path):
            cursor.seek(CUSTOMERS)
        while True:
            keys, rows = _take(cursor, path, LOAD_ROWS)
            if not keys:
                return
            yield keys, rows
    finally:
        # A cursor that lives on in a traceback would keep the directory locked.
        del cursor


def read_customers_after(
    db: Rdict, path: Path, after: bytes | None, most: int
) -> tuple[list[bytes], list[bytes]]:
    """Read the keys and rows of the `most` customers behind the key `after`, None for the first."""
    cursor = db.iter()
    try:
        with named_errors(path):
            # Nothing lies between a key and that key with a zero byte behind it.
            cursor.seek(CUSTOMERS if after is None else CUSTOMERS + after + b"\x00")
        return _take(cursor, path, most)
    finally:
        del cursor


def _take(cursor: RdictIter, path: Path, most: int) -> tuple[list[bytes], list[bytes]]:
    """Read up to `most` customers from where the cursor stands; leave it behind them."""
    # A cursor, not `items()`: that one ends early and in silence at a damaged block.
    keys: list[bytes] = []
    rows: list[bytes] = []
    try:
        with named_errors(path):
            while len(keys) < most and cursor.valid():
                key: bytes = cursor.key()
                if not key.startswith(CUSTOMERS):
                    break
                keys.append(key[len(CUSTOMERS) :])
                rows.append(cursor.value())
                cursor.next()
            cursor.status()
    finally:
        del cursor
    return keys, rows


def _record(db: Rdict, path: Path, key: bytes, kind: type[Record]) -> Record | None:
    """Read one JSON record, None where there is none."""
    with named_errors(path):
        stored = db.get(key)
    if stored is None:
        return None
    try:
        return msgspec.json.decode(stored, type=kind)
    except msgspec.DecodeError as error:
        raise CorruptStateError(
            f"the {kind.__name__.strip('_').lower()} of the state in {path} cannot be read "
            f"({error}): {REBUILD}"
        ) from error
