"""What the tests of partitions share: a layout, an identity, rows that equal their offset."""

from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from state.partition import ChangelogPosition, Identity, Partition, Progress, SharedOptions
from state.rows import KeyedRows

ROW = np.dtype([("flag", "u1"), ("count", "<i8"), ("noise", "u1", (200,))], align=True)
IDENTITY = Identity("cluster-1", ("clicks", "purchases"), 3, 8, "shop")


MEMORY = Path("/dev/shm")


def quick_directory() -> TemporaryDirectory[str]:
    """A directory in memory where there is one: for the many examples of one test."""
    return TemporaryDirectory(dir=MEMORY if MEMORY.is_dir() else None)


def open_at(
    path: Path,
    identity: Identity = IDENTITY,
    layout: np.dtype[np.void] = ROW,
    options: SharedOptions | None = None,
) -> Partition:
    return Partition.open(
        path, identity=identity, layout=layout, options=options or SharedOptions()
    )


def new_rows(max_rows: int = 10_000) -> KeyedRows:
    return KeyedRows(ROW, max_rows=max_rows)


def write_count(partition: Partition, rows: KeyedRows, count: int, customers: int = 300) -> None:
    """One checkpoint in which every row, the offset and the position is `count`."""
    slots = rows.claim([f"customer-{i}" for i in range(customers)])
    rows.data["count"][slots] = count
    rows.data["noise"][slots] = np.random.default_rng(count).integers(0, 256, (customers, 200))
    rows.mark_dirty(slots)
    position = ChangelogPosition(count, as_of_ms=1_000 * count, whole=True)
    partition.write(rows.take_snapshot(), Progress(offsets={"clicks": count}), position)
    rows.settle()


def make_state(path: Path, writes: int = 3) -> None:
    partition = open_at(path)
    rows = new_rows()
    for count in range(1, writes + 1):
        write_count(partition, rows, count)
    partition.close()


def read_count(path: Path) -> int:
    """Check that rows, offset and position agree; return that number, 0 for an empty state."""
    partition = open_at(path)
    try:
        rows = new_rows()
        loaded = partition.load_rows(rows)
        counts = set(rows.data["count"][rows.occupied()].tolist())
        offset = partition.progress.offsets.get("clicks", 0)
        position = partition.changelog_position
        assert counts == ({offset} if offset else set())
        assert position == (ChangelogPosition(offset, 1_000 * offset, True) if offset else None)
        assert loaded == len(rows) == (300 if offset else 0)
        return offset
    finally:
        partition.close()


def overwrite_record(path: Path, key: bytes, value: bytes) -> None:
    options = SharedOptions()
    db = options.open(path)
    db[key] = value
    db.close()
