import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from operators.errors import ParameterError, StateMismatchError
from operators.history import History
from operators.vocabulary import Vocabulary

ITEMS = 6
CUSTOMERS = 3
LENGTH = 4
EVENTS = st.lists(
    st.tuples(st.integers(0, CUSTOMERS - 1), st.integers(-1, ITEMS - 1), st.integers(0, 2)),
    max_size=30,
)
Rows = NDArray[np.void]


def shop() -> tuple[Vocabulary, History, Rows]:
    vocabulary = Vocabulary(ITEMS)
    vocabulary.learn_many([f"item-{i}" for i in range(ITEMS)])
    history = History(LENGTH, bought_length=2)
    return vocabulary, history, np.zeros(CUSTOMERS, history.row_dtype)


def learn(
    history: History,
    rows: Rows,
    vocabulary: Vocabulary,
    events: list[tuple[int, int, int]],
    *,
    grouped: bool = True,
    bought: bool = False,
) -> list[list[int]]:
    table = np.array(events, np.int64).reshape(-1, 3)
    groups = table[:, 2].astype(np.int32) if grouped else np.empty(0, np.int32)
    contexts: list[list[int]] = history.contexts_many(
        rows,
        np.ascontiguousarray(table[:, 0]),
        table[:, 1].astype(np.int32),
        np.arange(len(table)),
        groups,
        bought,
        vocabulary,
    ).tolist()
    return contexts


def oracle(events: list[tuple[int, int, int]], *, grouped: bool) -> list[list[int]]:
    recent: dict[int, list[int]] = {}
    contexts: list[list[int]] = []
    before: list[int] = []
    last: tuple[int, int] | None = None
    for customer, item, group in events:
        mine = recent.setdefault(customer, [])
        if not grouped or last != (customer, group):
            before = [*mine]
        last = (customer, group)
        contexts.append((before + [-1] * LENGTH)[:LENGTH])
        if item >= 0:
            mine[:] = [item, *(other for other in mine if other != item)][:LENGTH]
    return contexts


@settings(deadline=None, max_examples=200)
@given(EVENTS, st.booleans())
def test_contexts_agree_with_plain_lists(events: list[tuple[int, int, int]], grouped: bool) -> None:
    vocabulary, history, rows = shop()
    assert learn(history, rows, vocabulary, events, grouped=grouped) == (
        oracle(events, grouped=grouped)
    )


@settings(deadline=None)
@given(EVENTS, st.integers(0, 30))
def test_one_big_batch_equals_two_small_ones(events: list[tuple[int, int, int]], cut: int) -> None:
    vocabulary, history, whole = shop()
    parts = whole.copy()
    big = learn(history, whole, vocabulary, events, grouped=False)
    small = learn(history, parts, vocabulary, events[:cut], grouped=False)
    shifted = [
        learn(history, parts, vocabulary, [event], grouped=False)[0] for event in events[cut:]
    ]
    assert small + shifted == big
    assert parts["recent"].tobytes() == whole["recent"].tobytes()


def test_lines_of_an_order_never_see_each_other() -> None:
    vocabulary, history, rows = shop()
    contexts = learn(history, rows, vocabulary, [(0, 5, 0), (0, 1, 1), (0, 2, 1), (0, 3, 2)])
    assert contexts == [[-1] * 4, [5, -1, -1, -1], [5, -1, -1, -1], [2, 1, 5, -1]]


def test_a_repeated_item_moves_to_the_front_with_its_time() -> None:
    vocabulary, history, rows = shop()
    learn(history, rows, vocabulary, [(0, 0, 0), (0, 1, 1), (0, 2, 2), (0, 0, 3)])
    recent = history.recent_many(rows, np.array([0, 1]), vocabulary)
    assert recent.tolist() == [[0, 2, 1, -1], [-1] * 4]
    assert rows["recent_ts_ms"][0].tolist() == [3, 2, 1, 0]


def test_only_purchases_are_remembered_as_bought() -> None:
    vocabulary, history, rows = shop()
    learn(history, rows, vocabulary, [(0, 0, 0)])
    learn(history, rows, vocabulary, [(0, 1, 0), (0, 2, 1), (0, 3, 2)], bought=True)
    assert history.bought_many(rows, np.array([0]), vocabulary).tolist() == [[3, 2]]
    assert history.recent_many(rows, np.array([0]), vocabulary).tolist() == [[3, 2, 1, 0]]


def test_a_moved_row_is_read_with_the_new_workers_indices() -> None:
    vocabulary, history, rows = shop()
    learn(history, rows, vocabulary, [(0, 0, 0), (0, 1, 0), (0, 2, 0)])
    elsewhere = Vocabulary(ITEMS)
    elsewhere.learn_many(["other", "item-2", "item-0"])
    assert history.recent_many(rows, np.array([0]), elsewhere).tolist() == [[1, 2, -1, -1]]


def test_rows_items_and_slots_that_do_not_fit_are_refused() -> None:
    vocabulary, history, rows = shop()
    with pytest.raises(StateMismatchError):
        History(LENGTH + 1).recent_many(rows, np.array([0]), vocabulary)
    with pytest.raises(ParameterError, match="slots"):
        history.recent_many(rows, np.array([CUSTOMERS]), vocabulary)
    with pytest.raises(ParameterError, match="item 6"):
        learn(history, rows, vocabulary, [(0, ITEMS, 0)])
    with pytest.raises(ParameterError):
        History(0)
