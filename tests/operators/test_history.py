import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from operators.errors import ParameterError, StateMismatchError
from operators.history import DAY_MS, MAX_COUNT, History
from operators.vocabulary import Vocabulary

ITEMS = 9
CUSTOMERS = 3
LENGTH = 4
EVENTS = st.lists(
    st.tuples(st.integers(0, CUSTOMERS - 1), st.integers(-1, ITEMS - 1), st.integers(0, 2)),
    max_size=40,
)
Rows = NDArray[np.void]
Events = list[tuple[int, int, int]]


def shop(length: int = LENGTH) -> tuple[Vocabulary, History, Rows]:
    vocabulary = Vocabulary(ITEMS)
    vocabulary.learn_many([f"item-{i}" for i in range(ITEMS)])
    history = History(length)
    return vocabulary, history, np.zeros(CUSTOMERS, history.row_dtype)


def learn(
    history: History,
    rows: Rows,
    vocabulary: Vocabulary,
    events: Events,
    *,
    grouped: bool = True,
    bought: bool = False,
    start_ms: int = 0,
) -> None:
    table = np.array(events, np.int64).reshape(-1, 3)
    history.learn_many(
        rows,
        np.ascontiguousarray(table[:, 0]),
        table[:, 1].astype(np.int32),
        start_ms + np.arange(len(table)),
        table[:, 2].astype(np.int32) if grouped else None,
        bought,
        vocabulary,
    )


class Customer:
    """The same, with plain lists: [item, number of its last order, times], newest first."""

    def __init__(self) -> None:
        self.orders = 0
        self.items: list[list[int]] = []

    def push(self, item: int) -> None:
        known = [entry for entry in self.items if entry[0] == item]
        times = known[0][2] + 1 if known else 1
        if not known and len(self.items) == LENGTH:
            older = self.items[LENGTH // 2 :]
            ages = [self.orders - order - 5 * (times - 1) for _, order, times in older]
            # Of equal ones the last goes.
            place = max(range(len(ages)), key=lambda k: (ages[k], k))
            self.items.remove(older[place])
        self.items = [
            [item, self.orders, times],
            *(entry for entry in self.items if entry[0] != item),
        ]


def oracle(events: Events, *, grouped: bool) -> list[Customer]:
    customers = [Customer() for _ in range(CUSTOMERS)]
    last: tuple[int, int] | None = None
    for number, item, group in events:
        customer = customers[number]
        if not grouped or last != (number, group):
            customer.orders += 1
        last = (number, group)
        if item >= 0:
            customer.push(item)
    return customers


@settings(deadline=None, max_examples=300)
@given(EVENTS, st.booleans())
def test_histories_agree_with_plain_lists(events: Events, grouped: bool) -> None:
    vocabulary, history, rows = shop()
    learn(history, rows, vocabulary, events, grouped=grouped)
    found = history.items_many(rows, np.arange(CUSTOMERS), vocabulary).tolist()
    for number, customer in enumerate(oracle(events, grouped=grouped)):
        items = [entry[0] for entry in customer.items]
        assert found[number] == items + [-1] * (LENGTH - len(items))
        assert rows["orders_seen"][number] == customer.orders
        for place, (_, order, times) in enumerate(customer.items):
            assert rows["orders"][number, place] == order
            assert rows["counts"][number, place] & MAX_COUNT == times


@settings(deadline=None)
@given(EVENTS, st.integers(0, 40))
def test_one_big_batch_equals_two_small_ones(events: Events, cut: int) -> None:
    vocabulary, history, whole = shop()
    parts = whole.copy()
    learn(history, whole, vocabulary, events, grouped=False)
    learn(history, parts, vocabulary, events[:cut], grouped=False)
    learn(history, parts, vocabulary, events[cut:], grouped=False, start_ms=cut)
    assert all((parts[name] == whole[name]).all() for name in whole.dtype.names or ())


def test_an_item_that_came_often_outlives_one_that_came_once() -> None:
    vocabulary, history, rows = shop()
    loyal = [(0, 0, n) for n in range(5)]
    learn(history, rows, vocabulary, [*loyal, *[(0, item, 9 + item) for item in range(1, 8)]])
    assert 0 in history.items_many(rows, np.array([0]), vocabulary)[0]


def test_only_purchases_are_remembered_as_bought() -> None:
    vocabulary, history, rows = shop()
    learn(history, rows, vocabulary, [(0, 0, 0)])
    learn(history, rows, vocabulary, [(0, 1, 0), (0, 2, 1)], bought=True)
    learn(history, rows, vocabulary, [(0, 1, 3)])
    bought = history.items_many(rows, np.array([0]), vocabulary, bought_only=True)
    assert bought.tolist() == [[1, 2, -1, -1]]


def test_the_interval_is_that_between_purchases_of_an_item() -> None:
    vocabulary, history, rows = shop()
    for day in (100, 130, 160, 190):
        learn(history, rows, vocabulary, [(0, 3, 0)], start_ms=day * DAY_MS)
    assert rows["intervals"][0, 0] == 30
    assert rows["days"][0, 0] == 190
    learn(history, rows, vocabulary, [(0, 3, 0)], start_ms=193 * DAY_MS)
    assert rows["intervals"][0, 0] == 21


def test_a_late_event_does_not_turn_time_back() -> None:
    vocabulary, history, rows = shop()
    learn(history, rows, vocabulary, [(0, 3, 0)], start_ms=100 * DAY_MS)
    learn(history, rows, vocabulary, [(0, 3, 0)], start_ms=90 * DAY_MS)
    assert rows["days"][0, 0] == 100
    assert rows["intervals"][0, 0] == 0
    assert rows["last_ts_ms"][0] == 100 * DAY_MS


def test_times_are_counted_up_to_a_bound() -> None:
    vocabulary, history, rows = shop()
    learn(history, rows, vocabulary, [(0, 3, 0)] * 300, grouped=False)
    assert rows["counts"][0, 0] == MAX_COUNT


def test_a_moved_row_is_read_with_the_new_workers_indices() -> None:
    vocabulary, history, rows = shop()
    learn(history, rows, vocabulary, [(0, 0, 0), (0, 1, 0), (0, 2, 0)])
    elsewhere = Vocabulary(ITEMS)
    elsewhere.learn_many(["other", "item-2", "item-0"])
    assert history.items_many(rows, np.array([0]), elsewhere).tolist() == [[1, 2, -1, -1]]


def test_rows_items_and_slots_that_do_not_fit_are_refused() -> None:
    vocabulary, history, rows = shop()
    with pytest.raises(StateMismatchError):
        History(LENGTH + 1).items_many(rows, np.array([0]), vocabulary)
    with pytest.raises(ParameterError, match="slots"):
        history.items_many(rows, np.array([CUSTOMERS]), vocabulary)
    with pytest.raises(ParameterError, match="item 9"):
        learn(history, rows, vocabulary, [(0, ITEMS, 0)])
    with pytest.raises(ParameterError):
        History(1)
