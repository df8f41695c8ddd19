import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from state.room import least_recently_used
from state.slots import CLEAN, DIRTY, SlotTable

ROW = np.dtype([("pinned", "u1")])


@given(
    st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=40),
    st.integers(0, 50),
    st.integers(0, 1_000),
)
def test_those_who_leave_are_the_longest_unused_of_those_who_may(
    rows: list[tuple[bool, bool]], most: int, seed: int
) -> None:
    ticks = np.random.default_rng(seed).permutation(len(rows))
    table = SlotTable(ROW, max_rows=len(rows), initial_rows=len(rows))
    table.add([f"customer-{i}" for i in range(len(rows))], CLEAN)
    table.data["pinned"] = [pinned for pinned, _ in rows]
    table.states[[is_dirty for _, is_dirty in rows]] = DIRTY
    table.ticks[:] = ticks

    asked: list[int] = []

    def pinned(part: NDArray[np.void]) -> NDArray[np.bool_]:
        asked.append(len(part))
        return np.asarray(part["pinned"] > 0)

    chosen = least_recently_used(table, table.states == CLEAN, most, pinned)
    may = [slot for slot, row in enumerate(rows) if not row[0] and not row[1]]
    assert chosen.tolist() == sorted(may, key=lambda slot: int(ticks[slot]))[:most]
    assert sum(asked) <= len(rows)
    unpinned = least_recently_used(table, table.states == CLEAN, most, None)
    clean = [slot for slot, row in enumerate(rows) if not row[1]]
    assert unpinned.tolist() == sorted(clean, key=lambda slot: int(ticks[slot]))[:most]
