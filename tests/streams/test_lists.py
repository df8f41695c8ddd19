"""Lists owed and paid: nothing owed is forgotten, nobody is served too often."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from streams.lists import ROW_DTYPE, OwedLists

EVERY_SECONDS = 1.0


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def owe(lists: OwedLists, rows: np.ndarray, *slots: int) -> None:
    rows["owed"][list(slots)] = 1
    lists.owe(np.array(slots, np.int64), len(rows))


@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("event"), st.integers(0, 5)),
            st.tuples(st.just("wait"), st.floats(0.0, 2.0)),
            st.tuples(st.just("pay"), st.integers(1, 3)),
        ),
        max_size=60,
    )
)
def test_everybody_owed_is_paid_in_the_end_and_never_twice_within_the_interval(
    steps: list[tuple[str, float]],
) -> None:
    clock = Clock()
    lists, rows = OwedLists(EVERY_SECONDS, clock), np.zeros(6, ROW_DTYPE)
    paid_at: dict[int, list[float]] = {slot: [] for slot in range(6)}
    event_at: dict[int, float] = {}

    def pay(most: int) -> None:
        for slot in lists.take(rows, most).tolist():
            paid_at[slot].append(clock.now)

    for kind, value in steps:
        if kind == "event":
            owe(lists, rows, int(value))
            event_at[int(value)] = clock.now
        elif kind == "wait":
            clock.now += value
        else:
            pay(int(value))
    clock.now += 2 * EVERY_SECONDS
    pay(10)
    clock.now += 2 * EVERY_SECONDS
    pay(10)
    assert not rows["owed"].any()
    for slot, moment in event_at.items():
        assert paid_at[slot][-1] >= moment
    for moments in paid_at.values():
        assert (np.diff(moments) >= EVERY_SECONDS).all()


def test_lists_are_paid_in_the_order_in_which_they_fell_due() -> None:
    lists, rows = OwedLists(EVERY_SECONDS, Clock()), np.zeros(9, ROW_DTYPE)
    owe(lists, rows, 7, 3, 7)
    owe(lists, rows, 5, 3)
    assert lists.take(rows, 10).tolist() == [7, 3, 5]


def test_a_removed_customer_is_owed_nothing() -> None:
    lists, rows = OwedLists(EVERY_SECONDS, Clock()), np.zeros(3, ROW_DTYPE)
    owe(lists, rows, 1, 2)
    rows[1] = 0
    assert lists.take(rows, 10).tolist() == [2]


def test_marks_survive_in_the_rows_so_the_queue_can_be_rebuilt() -> None:
    rows = np.zeros(4, ROW_DTYPE)
    rows["owed"][[0, 3]] = 1
    lists = OwedLists(EVERY_SECONDS, Clock())
    lists.owe(np.flatnonzero(rows["owed"]), len(rows))
    assert lists.take(rows, 10).tolist() == [0, 3]
