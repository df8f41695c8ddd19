"""A store that follows the changelog, up to where its process dies."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from state.changelog import ChangelogPage
from state.errors import StateUnavailableError
from state.partition import ChangelogPosition, Partition, Progress
from state.rows import KeyedRows
from tests.state.partitions import ROW, open_at

CUSTOMERS = 500
PAGE_ROWS = 120


def page_of(number: int) -> ChangelogPage:
    """Page `number` ≥ 1 of a made-up changelog: it changes many rows and deletes some."""
    deleted = {(number * 31 + i) % CUSTOMERS for i in range(9)}
    changed = [(number * 67 + i) % CUSTOMERS for i in range(PAGE_ROWS)]
    changed = [customer for customer in changed if customer not in deleted]
    rows = np.zeros(len(changed), ROW)
    rows["count"] = number
    rows["noise"] = np.random.default_rng(number).integers(0, 256, (len(changed), 200))
    return ChangelogPage(
        [b"c%d" % customer for customer in changed],
        rows.tobytes(),
        ROW.itemsize,
        [b"c%d" % customer for customer in deleted],
        Progress({"clicks": number}) if number % 3 == 0 else None,
    )


def counts_after(pages: int) -> dict[bytes, int]:
    counts: dict[bytes, int] = {}
    for number in range(1, pages + 1):
        page = page_of(number)
        for key in page.deleted:
            counts.pop(key, None)
        counts.update(dict.fromkeys(page.keys, number))
    return counts


def follow(partition: Partition, first: int, last: int, *, whole: bool = False) -> None:
    for number in range(first, last + 1):
        position = ChangelogPosition(number, as_of_ms=number, whole=whole and number == last)
        partition.take_in(page_of(number), position)


def counts_in(partition: Partition) -> dict[bytes, int]:
    keys, rows = partition.read_page(None, 10 * CUSTOMERS)
    counts = np.frombuffer(b"".join(rows), ROW)["count"].tolist()
    return dict(zip(keys, counts, strict=True))


def pages_in(path: Path) -> int:
    """Check that rows, progress and position agree; return how many pages they hold."""
    partition = open_at(path)
    try:
        position = partition.changelog_position
        pages = 0 if position is None else position.offset
        assert counts_in(partition) == counts_after(pages)
        assert partition.progress.offsets.get("clicks", 0) == pages - pages % 3
        return pages
    finally:
        partition.close()


def test_pages_are_stored_with_their_position(tmp_path: Path) -> None:
    partition = open_at(tmp_path / "p")
    follow(partition, 1, 8)
    assert partition.changelog_position == ChangelogPosition(8, as_of_ms=8, whole=False)
    follow(partition, 9, 10, whole=True)
    partition.close()
    assert pages_in(tmp_path / "p") == 10
    partition = open_at(tmp_path / "p")
    assert partition.changelog_position == ChangelogPosition(10, as_of_ms=10, whole=True)
    partition.close()


def test_rows_in_memory_follow_as_the_store_does(tmp_path: Path) -> None:
    partition = open_at(tmp_path / "p")
    rows = KeyedRows(ROW, max_rows=CUSTOMERS // 3, cold=partition)
    for number in range(1, 30):
        follow(partition, number, number, whole=number % 2 == 0)
        rows.take_in(page_of(number))
        assert len(rows) <= CUSTOMERS // 3
    counts = counts_after(29)
    for customer in range(CUSTOMERS):
        (slot,) = rows.find([f"c{customer}"])
        key = b"c%d" % customer
        assert (slot >= 0) == (key in counts)
        assert slot < 0 or rows.data["count"][slot] == counts[key]
    assert rows.take_snapshot().deleted == []
    partition.close()


def test_rows_of_another_size_are_not_taken_in(tmp_path: Path) -> None:
    partition = open_at(tmp_path / "p")
    with pytest.raises(ValueError, match="rows of 3 bytes do not fit 216"):
        partition.take_in(
            ChangelogPage([b"a"], b"row", 3, [], None), ChangelogPosition(1, 1, whole=True)
        )
    assert partition.changelog_position is None
    partition.close()
    with pytest.raises(StateUnavailableError, match="was closed"):
        follow(partition, 1, 1)


def dies(path: Path, program: str) -> None:
    """Run statements on a partition that is then neither closed nor flushed."""
    before = (
        "import os, sys; from pathlib import Path\n"
        "from tests.state.partitions import new_rows, open_at, write_count\n"
        "from tests.state.test_following import follow\n"
        "partition = open_at(Path(sys.argv[1]))\n"
    )
    run = subprocess.run(
        [sys.executable, "-c", f"{before}{program}\nos._exit(9)", str(path)],
        capture_output=True,
        check=False,
        text=True,
    )
    assert run.returncode == 9, run.stderr


def test_what_follows_a_rebuild_in_the_log_never_survives_without_it(tmp_path: Path) -> None:
    dies(tmp_path / "pages", "follow(partition, 1, 7)\nfollow(partition, 8, 8, whole=True)")
    assert pages_in(tmp_path / "pages") == 8
    dies(tmp_path / "rows", "follow(partition, 1, 7)\nwrite_count(partition, new_rows(), 1)")
    partition = open_at(tmp_path / "rows")
    counts = counts_in(partition)
    assert {key: n for key, n in counts.items() if key.startswith(b"c") and len(key) < 5} == (
        counts_after(7)
    )
    assert partition.changelog_position == ChangelogPosition(1, 1_000, whole=True)
    partition.close()


def test_a_rebuild_that_died_goes_on_from_its_position(tmp_path: Path) -> None:
    program = """
import sys
from pathlib import Path
from state.partition import SharedOptions
from tests.state.partitions import open_at
from tests.state.test_following import follow
partition = open_at(Path(sys.argv[1]), options=SharedOptions(write_buffer_bytes=256 << 10))
position = partition.changelog_position
for number in range(1 if position is None else position.offset + 1, 100_000):
    follow(partition, number, number)
    print(number, flush=True)
"""
    path = tmp_path / "p"
    reached = 0
    for lines in (1, 60, 90):
        with subprocess.Popen(
            [sys.executable, "-c", program, str(path)], stdout=subprocess.PIPE, text=True
        ) as process:
            assert process.stdout is not None
            told = [process.stdout.readline() for _ in range(lines)]
            process.kill()
            told += process.stdout.readlines()
        pages = pages_in(path)
        # One more may be stored than was told of.
        assert reached <= pages <= int(told[-1]) + 1
        reached = pages
    assert reached > 0
    partition = open_at(path)
    follow(partition, reached + 1, reached + 3, whole=True)
    partition.close()
    assert pages_in(path) == reached + 3
