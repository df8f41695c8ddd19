"""What lies in a partition's directory, for people: counted and verified, nothing changed."""

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from rocksdict import AccessType, Rdict

from state.errors import CorruptStateError, StateError, StateUnavailableError
from state.records import (
    ChangelogPosition,
    Identity,
    read_changelog_position,
    read_customers,
    read_header,
    read_progress,
)
from state.rocks import REBUILD, SharedOptions, named_errors

DATA_SUFFIXES = {".sst", ".log"}
MOST_OPENINGS = 200


@dataclass(frozen=True)
class TableDescription:
    """One table: how many rows, the size of each (0 where there is none), and of all, in bytes."""

    rows: int
    row_bytes: int
    value_bytes: int


@dataclass(frozen=True)
class PartitionDescription:
    """What lies in a partition's directory; read with all checksums verified on the way.

    Attributes
    ----------
    path
        The directory.
    identity, format_version, layout
        Whose it is, and how it is written; `layout` is the fingerprint of a customer's row.
    tables
        By name.
    bytes_on_disk
        Of all files, after compression and with what awaits compaction.
    offsets
        Next offset to apply, by source topic.
    watermark_ms
        Event time, ms.
    changelog
        None for a state that was never copied to a changelog.
    """

    path: Path
    identity: Identity
    format_version: int
    layout: str
    tables: dict[str, TableDescription]
    bytes_on_disk: int
    offsets: dict[str, int]
    watermark_ms: int
    changelog: ChangelogPosition | None

    @property
    def rows(self) -> int:
        """Number of rows of all tables."""
        return sum(table.rows for table in self.tables.values())


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
        When there is no state at `path`, the disk fails, or the files change all the time.
    """
    if not (path / "CURRENT").is_file():
        raise StateUnavailableError(f"there is no state in {path}: name a partition's directory")
    db = _open_beside_a_worker(path)
    try:
        return describe(db, path)
    finally:
        db.close()


def _open_beside_a_worker(path: Path) -> Rdict:
    """Open a RocksDB to read it as it is at one moment.

    A worker may remove files while they are being opened, and then some are missing, or a part
    of the log. Once they are open, nobody can take them away.
    """
    for _ in range(MOST_OPENINGS):
        before = _data_files(path)
        try:
            with named_errors(path):
                # All files at once: by default RocksDB opens some when it needs them.
                db = SharedOptions(max_open_files=-1).open(path, AccessType.read_only(False))
        except StateError:
            if _data_files(path) == before:
                raise
        else:
            if _data_files(path) == before:
                return db
            db.close()
    raise StateUnavailableError(
        f"the files in {path} change faster than they can be opened: try again, or stop the worker"
    )


def _data_files(path: Path) -> set[str]:
    """Name the files that hold data; those for people come and go with every opening."""
    with named_errors(path):
        return {file.name for file in path.iterdir() if file.suffix in DATA_SUFFIXES}


def describe(db: Rdict, path: Path) -> PartitionDescription:
    """Describe an open RocksDB; see `describe_partition`."""
    header = read_header(db, path)
    if header is None:
        raise CorruptStateError(f"the state in {path} has no header: {REBUILD}")
    progress = read_progress(db, path)
    return PartitionDescription(
        path=path,
        identity=header.identity,
        format_version=header.format_version,
        layout=header.layouts["customers"],
        tables={"customers": _customers(db, path)},
        bytes_on_disk=_bytes_on_disk(path),
        offsets=progress.offsets,
        watermark_ms=progress.watermark_ms,
        changelog=read_changelog_position(db, path),
    )


def _customers(db: Rdict, path: Path) -> TableDescription:
    count = value_bytes = 0
    sizes: set[int] = set()
    for _, rows in read_customers(db, path):
        count += len(rows)
        value_bytes += sum(map(len, rows))
        sizes.update(map(len, rows))
        if len(sizes) > 1:
            raise CorruptStateError(
                f"the state in {path} holds rows of different sizes {sorted(sizes)}: {REBUILD}"
            )
    return TableDescription(count, next(iter(sizes), 0), value_bytes)


def _bytes_on_disk(path: Path) -> int:
    total = 0
    with named_errors(path):
        for file in path.iterdir():
            # A compaction may remove a file between listing it and looking at it.
            with suppress(FileNotFoundError):
                total += file.stat().st_size
    return total
