"""One partition's state on disk: a RocksDB that takes rows, offsets and watermark in one write.

Everything lies in the default column family, under a key whose first byte says what it is::

    00 "header"      format version, identity, layout of each table; JSON, written once
    00 "progress"    source offsets, largest timestamps, watermark, last sweep; JSON
    01 key           table "customers": the row's raw bytes under the customer's UTF-8 id

One column family is one log and one order of flushing. So whatever prefix of the log survives a
crash is a prefix of whole checkpoints: rows and offsets always agree. `FORMAT_VERSION` in
`state.layout` names this scheme; a new table takes the next byte. A damaged tail of the log is
cut off in the same way, at a checkpoint; any other damage is a `CorruptStateError`.

What survives: a batch that `write` returned from is in the operating system's hands, and a
killed process loses none of it. After a power cut whole batches may be missing from the tail,
rows and offsets together, unless `SharedOptions.sync` is set.
"""

from contextlib import suppress
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Self

import msgspec
import numpy as np
from rocksdict import AccessType, DbClosedError, Rdict, WriteBatch

from state.errors import (
    CorruptStateError,
    ForeignStateError,
    LayoutMismatchError,
    StateError,
    StateUnavailableError,
)
from state.layout import FORMAT_VERSION, fingerprint
from state.records import (
    CUSTOMERS,
    HEADER_KEY,
    PROGRESS_KEY,
    Header,
    Identity,
    Progress,
    read_customers,
    read_header,
    read_progress,
)
from state.rocks import REBUILD, SharedOptions, named_errors, wait_for_flushes
from state.rows import KeyedRows, RowsSnapshot

__all__ = [
    "Identity",
    "Partition",
    "PartitionDescription",
    "Progress",
    "SharedOptions",
    "describe_partition",
]


# Stands in the directory from the first header on. RocksDB takes some damage for a new, empty
# database, and even tidies the old one's files away; the marker tells them apart every time.
MARKER = "HEADER_WRITTEN"


@dataclass(frozen=True)
class PartitionDescription:
    """What lies in a partition's directory; `rows` were counted with all checksums verified."""

    path: Path
    identity: Identity
    format_version: int
    layout: str
    rows: int
    bytes_on_disk: int
    offsets: dict[str, int]
    watermark_ms: int


class Partition:
    """The stored rows and progress of one source partition; see the module for what is where.

    Examples
    --------
    >>> from tempfile import TemporaryDirectory
    >>> layout = np.dtype([("clicks", np.int64)])
    >>> identity = Identity("cluster-1", ("clicks", "purchases"), 0, 8)
    >>> rows = KeyedRows(layout, max_rows=1000)
    >>> rows.data["clicks"][rows.claim(["ada"])] = 3
    >>> with TemporaryDirectory() as directory:
    ...     path = Path(directory, "partition-0")
    ...     options = SharedOptions()
    ...     partition = Partition.open(path, identity=identity, layout=layout, options=options)
    ...     partition.write(rows.take_snapshot(), Progress(offsets={"clicks": 3}))
    ...     partition.close()
    ...     partition = Partition.open(path, identity=identity, layout=layout, options=options)
    ...     again = KeyedRows(layout, max_rows=1000)
    ...     partition.load_rows(again), partition.progress.offsets
    ...     partition.close()
    (1, {'clicks': 3})
    >>> again.data["clicks"][again.slots_of(["ada"])].tolist()
    [3]
    """

    def __init__(self, path: Path, db: Rdict, layout: np.dtype[np.void], *, sync: bool) -> None:
        self._path = path
        self._db = db
        self._layout = layout
        self._sync = sync
        self._write_failed = False

    @classmethod
    def open(
        cls,
        path: Path,
        *,
        identity: Identity,
        layout: np.dtype[np.void],
        options: SharedOptions,
    ) -> Self:
        """Open the state in the directory `path`; create it where there is none.

        Raises
        ------
        ForeignStateError
            When it was made for another identity.
        LayoutMismatchError
            When it was written with another format version or row layout.
        CorruptStateError
            When it cannot be read for damage.
        StateLockedError
            When it is open elsewhere.
        StateUnavailableError
            When the directory cannot be made, read or written.
        """
        with named_errors(path):
            path.mkdir(parents=True, exist_ok=True)
            db = options.open(path)
        partition = cls(path, db, layout, sync=options.sync)
        try:
            partition._admit(identity)
        except StateError:
            partition.close()
            raise
        return partition

    @property
    def progress(self) -> Progress:
        """The progress as stored with the last `write`; empty in a new partition."""
        return read_progress(self._db, self._path)

    def load_rows(self, into: KeyedRows) -> int:
        """Read all rows into `into`, as clean ones.

        Returns
        -------
        The number of rows read.

        Raises
        ------
        CorruptStateError
            When a block's checksum or a row's size is wrong; `into` is then half filled.
        LayoutMismatchError
            When `into` has another row layout.
        RowsFullError
            When the rows do not fit.
        StateUnavailableError
            When the disk fails.
        """
        if into.dtype != self._layout:
            raise LayoutMismatchError(
                f"the rows to fill have another layout than the state in {self._path}: "
                "open it with their layout"
            )
        loaded = 0
        for keys, values in read_customers(self._db, self._path):
            if set(map(len, values)) != {self._layout.itemsize}:
                raise CorruptStateError(
                    f"the state in {self._path} holds a row that is not "
                    f"{self._layout.itemsize} bytes long: {REBUILD}"
                )
            into.load(keys, b"".join(values))
            loaded += len(keys)
        return loaded

    def write(self, snapshot: RowsSnapshot, progress: Progress) -> None:
        """Make a checkpoint durable: changed rows, deleted rows and progress, all or nothing.

        Blocks, so call it in a worker thread, one call at a time. RocksDB's part of it (2 µs for
        a row of 1,000 bytes) keeps the interpreter lock all the same; waiting for the disk does
        not.

        Raises
        ------
        StateUnavailableError
            When the disk fails. From then on every write is refused, because later rows without
            these would be a state that never was: close the partition and open it again. The
            batch is then gone, rows and progress together (with `sync`, it may also be there
            as a whole).
        """
        if self._write_failed:
            raise StateUnavailableError(
                f"an earlier write to {self._path} failed: close it and open it again"
            )
        size = snapshot.row_bytes
        if size != self._layout.itemsize:
            raise ValueError(f"rows of {size} bytes do not fit {self._layout.itemsize}")
        batch = WriteBatch(raw_mode=True)
        for key in snapshot.deleted:
            batch.delete(CUSTOMERS + key)
        for key, start in zip(snapshot.keys, range(0, len(snapshot.rows), size), strict=True):
            batch.put(CUSTOMERS + key, snapshot.rows[start : start + size])
        batch.put(PROGRESS_KEY, msgspec.json.encode(progress))
        self._commit(batch, sync=self._sync)

    def describe(self) -> PartitionDescription:
        """Count and verify everything that is stored; see `describe_partition`."""
        return _describe(self._db, self._path)

    def close(self) -> None:
        """Give the directory free for others; no `write` may be running. Twice does no harm."""
        try:
            with named_errors(self._path), suppress(DbClosedError):
                self._db.close()
        except StateError:
            # After a failed write RocksDB repeats that error here, and closes all the same.
            if not self._write_failed:
                raise

    def _admit(self, identity: Identity) -> None:
        """Compare the stored header with what is expected, or write it into a new state."""
        expected = Header(FORMAT_VERSION, identity, {"customers": fingerprint(self._layout)})
        stored = read_header(self._db, self._path)
        marker = self._path / MARKER
        if stored is None:
            with named_errors(self._path):
                if marker.exists():
                    raise CorruptStateError(f"the state in {self._path} is lost: {REBUILD}")
            batch = WriteBatch(raw_mode=True)
            batch.put(HEADER_KEY, msgspec.json.encode(expected))
            self._commit(batch, sync=True)
            stored = expected
        _require_same(stored, expected, self._path)
        with named_errors(self._path):
            marker.touch()

    def _commit(self, batch: WriteBatch, *, sync: bool) -> None:
        try:
            with named_errors(self._path):
                wait_for_flushes(self._db)
                self._db.write(batch)
                if sync:
                    # Not WriteOptions.sync: that would wait with the interpreter lock held.
                    self._db.flush_wal(sync=True)
        except StateError:
            self._write_failed = True
            raise


def describe_partition(path: Path) -> PartitionDescription:
    """Describe the state in the directory `path`, even while a worker has it open.

    Reads every row and verifies every checksum on the way; changes nothing that is stored.

    Raises
    ------
    CorruptStateError
        When something cannot be read for damage.
    LayoutMismatchError
        When another format version wrote it.
    StateUnavailableError
        When there is no state at `path`, or the disk fails.
    """
    if not (path / "CURRENT").is_file():
        raise StateUnavailableError(f"there is no state in {path}: name a partition's directory")
    with named_errors(path):
        # All files open at once, so that none can be removed under the reader.
        db = SharedOptions(max_open_files=-1).open(path, AccessType.read_only(False))
    try:
        return _describe(db, path)
    finally:
        db.close()


def _require_same(stored: Header, expected: Header, path: Path) -> None:
    for part in fields(Identity):
        theirs, ours = getattr(stored.identity, part.name), getattr(expected.identity, part.name)
        if theirs != ours:
            raise ForeignStateError(
                f"the state in {path} was made for {part.name} {theirs!r}, this is {ours!r}: "
                f"use another data directory, or {REBUILD}"
            )
    if stored.layouts != expected.layouts:
        raise LayoutMismatchError(
            f"the state in {path} was written with another row layout, by another version or "
            f"with other settings: run with those, or {REBUILD}"
        )


def _describe(db: Rdict, path: Path) -> PartitionDescription:
    header = read_header(db, path)
    if header is None:
        raise CorruptStateError(f"the state in {path} has no header: {REBUILD}")
    progress = read_progress(db, path)
    return PartitionDescription(
        path=path,
        identity=header.identity,
        format_version=header.format_version,
        layout=header.layouts["customers"],
        rows=sum(len(keys) for keys, _ in read_customers(db, path)),
        bytes_on_disk=_bytes_on_disk(path),
        offsets=progress.offsets,
        watermark_ms=progress.watermark_ms,
    )


def _bytes_on_disk(path: Path) -> int:
    total = 0
    with named_errors(path):
        for file in path.iterdir():
            # A compaction may remove a file between listing it and looking at it.
            with suppress(FileNotFoundError):
                total += file.stat().st_size
    return total
