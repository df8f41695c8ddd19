"""One partition's state on disk: a RocksDB that takes rows, offsets and watermark in one write.

Everything lies in the default column family, under a key whose first byte says what it is::

    00 "header"      format version, identity, layout of each table; JSON, written once
    00 "progress"    source offsets, largest timestamps, watermark, last sweep; JSON
    00 "changelog"   position in the changelog, where there is one; JSON
    01 key           table "customers": the row's raw bytes under the customer's UTF-8 id

One column family is one log and one order of flushing. So whatever prefix of the log survives a
crash is a prefix of whole checkpoints: rows and offsets always agree. `FORMAT_VERSION` in
`state.layout` names this scheme; a new table takes the next byte. A damaged tail of the log is
cut off in the same way, at a checkpoint; any other damage is a `CorruptStateError`.

What survives: a batch that `write` returned from is in the operating system's hands, and a
killed process loses none of it. After a power cut whole batches may be missing from the tail,
rows and offsets together, unless `SharedOptions.sync` is set.

Pages of a rebuild do not go through the log. RocksDB writes them to its files in their order, so
what survives of them is a prefix too, with the position that belongs to it. All of them are in
files before anything is logged behind them.
"""

from collections.abc import Iterable
from contextlib import suppress
from dataclasses import fields
from pathlib import Path
from typing import Any, Self

import msgspec
import numpy as np
from rocksdict import DbClosedError, Rdict, WriteBatch

from state.changelog import ChangelogPage
from state.description import (
    PartitionDescription,
    TableDescription,
    describe,
    describe_partition,
)
from state.directories import set_aside
from state.errors import (
    CorruptStateError,
    ForeignStateError,
    LayoutMismatchError,
    StateError,
    StateUnavailableError,
)
from state.layout import FORMAT_VERSION, fingerprint
from state.records import (
    CHANGELOG_KEY,
    CUSTOMERS,
    HEADER_KEY,
    PROGRESS_KEY,
    ChangelogPosition,
    Header,
    Identity,
    Progress,
    read_changelog_position,
    read_customers,
    read_customers_after,
    read_header,
    read_progress,
)
from state.rocks import REBUILD, UNLOGGED, SharedOptions, named_errors, wait_for_flushes
from state.rows import KeyedRows, RowsSnapshot

__all__ = [
    "ChangelogPosition",
    "Identity",
    "Partition",
    "PartitionDescription",
    "Progress",
    "SharedOptions",
    "TableDescription",
    "describe_partition",
    "set_aside",
]

# Stands in the directory from the first header on. RocksDB takes some damage for a new, empty
# database, and even tidies the old one's files away; the marker tells them apart every time.
MARKER = "HEADER_WRITTEN"


class Partition:
    """The stored rows and progress of one source partition; see the module for what is where.

    Examples
    --------
    >>> from tempfile import TemporaryDirectory
    >>> layout = np.dtype([("clicks", np.int64)])
    >>> identity = Identity("cluster-1", ("clicks", "purchases"), 0, 8, "shop")
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
        self._has_unlogged = False

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
        except BaseException:
            partition.close()
            raise
        return partition

    @property
    def progress(self) -> Progress:
        """The progress as stored with the last `write`; empty in a new partition."""
        return read_progress(self._db, self._path)

    @property
    def changelog_position(self) -> ChangelogPosition | None:
        """The position in the changelog as last stored; None where none ever was."""
        return read_changelog_position(self._db, self._path)

    def read_many(self, keys: list[bytes]) -> list[bytes | None]:
        """Return the row of each UTF-8 key, None where there is none.

        Blocks: 1 µs for a key that is not there, 2 to 10 µs for one that is, by where its block is.

        Raises
        ------
        CorruptStateError
            When a block's checksum or a row's size is wrong.
        StateUnavailableError
            When the disk fails.
        """
        with named_errors(self._path):
            rows: Any = self._db.get([CUSTOMERS + key for key in keys])
        self._require_size(row for row in rows if row is not None)
        return list(rows)

    def read_page(self, after: bytes | None, most: int) -> tuple[list[bytes], list[bytes]]:
        """Read the next customers in the order of their keys.

        Parameters
        ----------
        after
            The last key of the page before; None for the first page.
        most
            Customers, ≥ 1; fewer come at the end only.

        Returns
        -------
        Their UTF-8 keys and their rows.

        Raises
        ------
        CorruptStateError
            When a block's checksum or a row's size is wrong.
        StateUnavailableError
            When the disk fails.
        """
        keys, rows = read_customers_after(self._db, self._path, after, most)
        self._require_size(rows)
        return keys, rows

    def load_rows(self, into: KeyedRows) -> int:
        """Read all rows, and bring into `into`, as clean ones, as many as there is room for.

        Rows that stay out are cold, and `into` knows. Pinned ones never stay out.

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
            When the pinned rows do not fit, or when `into` has no cold store and any does not.
        StateUnavailableError
            When the disk fails.
        """
        if into.dtype != self._layout:
            raise LayoutMismatchError(
                f"the rows to fill have another layout than the state in {self._path}: "
                "open it with their layout"
            )
        count = 0
        for keys, rows in read_customers(self._db, self._path):
            self._require_size(rows)
            into.load_what_fits(keys, b"".join(rows))
            count += len(keys)
        return count

    def write(
        self,
        snapshot: RowsSnapshot,
        progress: Progress,
        position: ChangelogPosition | None = None,
    ) -> None:
        """Make a checkpoint durable: changed rows, deleted rows and progress, all or nothing.

        With them goes the position in the changelog, where there is one.

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
        batch = self._batch(snapshot, position)
        batch.put(PROGRESS_KEY, msgspec.json.encode(progress))
        self._commit(batch, sync=self._sync)

    def take_in(self, page: ChangelogPage, position: ChangelogPosition) -> None:
        """Follow the changelog: store a page of it and the position behind it, all or nothing.

        While `position` is not whole, pages may be lost with the process, the last ones first and
        each with its position. Blocks, as `write` does.

        Raises
        ------
        StateUnavailableError
            When the disk fails; see `write`.
        """
        batch = self._batch(page, position)
        if page.progress is not None:
            batch.put(PROGRESS_KEY, msgspec.json.encode(page.progress))
        self._commit(batch, sync=self._sync, logged=position.whole)

    def describe(self) -> PartitionDescription:
        """Count and verify everything that is stored; see `describe_partition`."""
        return describe(self._db, self._path)

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

    def _batch(
        self, changes: RowsSnapshot | ChangelogPage, position: ChangelogPosition | None
    ) -> WriteBatch:
        """Begin a batch with changed and deleted rows and the position."""
        if self._write_failed:
            raise StateUnavailableError(
                f"an earlier write to {self._path} failed: close it and open it again"
            )
        size, rows = changes.row_bytes, changes.rows
        if size != self._layout.itemsize:
            raise ValueError(f"rows of {size} bytes do not fit {self._layout.itemsize}")
        batch = WriteBatch(raw_mode=True)
        for key in changes.deleted:
            batch.delete(CUSTOMERS + key)
        for key, start in zip(changes.keys, range(0, len(rows), size), strict=True):
            batch.put(CUSTOMERS + key, rows[start : start + size])
        if position is None:
            # The rows go on without their changelog, so they are at none of its positions.
            batch.delete(CHANGELOG_KEY)
        else:
            batch.put(CHANGELOG_KEY, msgspec.json.encode(position))
        return batch

    def _commit(self, batch: WriteBatch, *, sync: bool, logged: bool = True) -> None:
        try:
            with named_errors(self._path):
                wait_for_flushes(self._db)
                if not logged:
                    self._has_unlogged = True
                    self._db.write(batch, UNLOGGED)
                    return
                if self._has_unlogged:
                    # After a crash the log alone would be a state with a hole before it.
                    self._db.flush()
                    self._has_unlogged = False
                self._db.write(batch)
                if sync:
                    # Not WriteOptions.sync: that would wait with the interpreter lock held.
                    self._db.flush_wal(sync=True)
        except StateError:
            self._write_failed = True
            raise

    def _require_size(self, rows: Iterable[bytes]) -> None:
        """Refuse stored rows that are not as long as the layout."""
        if not set(map(len, rows)) <= {self._layout.itemsize}:
            raise CorruptStateError(
                f"the state in {self._path} holds a row that is not "
                f"{self._layout.itemsize} bytes long: {REBUILD}"
            )


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
