"""Rows that must stay in memory, while a changelog is followed that is larger than the memory."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from state.changelog import ChangelogPage
from state.partition import ChangelogPosition, Partition, Progress, SharedOptions
from state.rows import KeyedRows
from tests.state.partitions import IDENTITY

LAYOUT = np.dtype([("owed", "u1"), ("count", "u1")])
CAP = 10


def owed(rows: NDArray[np.void]) -> NDArray[np.bool_]:
    marks: NDArray[np.uint8] = rows["owed"]
    return marks > 0


def page(*rows: tuple[str, int, int]) -> ChangelogPage:
    """Make a page of (key, owed, count)."""
    stored = np.array([each[1:] for each in rows], LAYOUT)
    return ChangelogPage(
        [each[0].encode() for each in rows], stored.tobytes(), LAYOUT.itemsize, [], Progress()
    )


def test_a_page_that_spans_checkpoints_fits_when_the_state_behind_it_does(tmp_path: Path) -> None:
    """Three customers were paid and three others fell due: never more than the cap were owed."""
    store = Partition.open(
        tmp_path / "p", identity=IDENTITY, layout=LAYOUT, options=SharedOptions()
    )
    rows = KeyedRows(LAYOUT, max_rows=CAP, cold=store, pinned=owed)
    pages = [
        page(*((f"c{n}", 1, 1) for n in range(CAP))),
        page(*((f"c{n}", 0, 2) for n in range(3)), *((f"new{n}", 1, 1) for n in range(3))),
    ]
    for number, each in enumerate(pages, 1):
        store.take_in(each, ChangelogPosition(number, as_of_ms=0, whole=True))
        rows.take_in(each)
    due = [*(f"c{n}" for n in range(3, CAP)), *(f"new{n}" for n in range(3))]
    assert (rows.slots_of(due) >= 0).all()
    assert len(rows) <= CAP
    back = rows.slots_of(["c0"])
    assert back[0] < 0
    store.close()
