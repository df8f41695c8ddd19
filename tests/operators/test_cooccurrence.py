from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from operators.checks import ALL_CHECKS, OperatorCase, check_one_big_batch_equals_many_small_ones
from operators.cooccurrence import CHANNELS, Channel, ItemCooccurrence
from operators.cooccurrence_rows import FREED, PROBES, SMALLEST, USED, home_of
from operators.errors import NotFiniteError, ParameterError, StateMismatchError

ITEMS = 120
DEPTH = 3
RECENCY = np.array([1.0, 0.5, 0.25, 0.125], np.float32)
ONE = np.ones(1, np.float32)
Table = NDArray[np.float64]


class Batch(NamedTuple):
    items: NDArray[np.int32]
    contexts: NDArray[np.int32]
    others: NDArray[np.int32]
    weights: NDArray[np.float32]
    event_keys: NDArray[np.uint64]


def make(_seed: int = 0, neighbours: int = 16, horizon: float = 20_000.0) -> ItemCooccurrence:
    return ItemCooccurrence(ITEMS, neighbours, DEPTH, horizon)


def roomy(_seed: int = 0) -> ItemCooccurrence:
    """Rows in which every other item has a place."""
    return ItemCooccurrence(ITEMS, 4096, DEPTH, pool_slots=ITEMS * 8192)


def random_batch(generator: np.random.Generator, n: int) -> Batch:
    """Weights are whole, so that sums of them and of their halves are exact."""

    def lists(length: int) -> NDArray[np.int32]:
        drawn = generator.integers(0, ITEMS + 3, (n, length)).astype(np.int32)
        drawn[np.arange(length) >= generator.integers(0, length + 1, n)[:, np.newaxis]] = -1
        return drawn

    return Batch(
        generator.integers(-1, ITEMS + 1, n).astype(np.int32),
        lists(4),
        lists(2),
        generator.integers(-1, 4, n).astype(np.float32),
        generator.integers(0, 2**63, n).astype(np.uint64),
    )


def learn(model: ItemCooccurrence, batch: Batch) -> None:
    items, contexts, others, weights, event_keys = batch
    model.learn_many(items, contexts, RECENCY, weights, event_keys)
    model.learn_orders_many(items, others, weights, event_keys)


def chosen(batch: Batch, rows: Any) -> Batch:
    columns: list[Any] = [column[rows] for column in batch]
    return Batch(*columns)


def learn_in_turn(model: ItemCooccurrence, batch: Batch) -> None:
    """Both kinds of learning event by event, so that how batches are cut makes no difference."""
    for i in range(len(batch.items)):
        learn(model, chosen(batch, slice(i, i + 1)))


def one(item: int, context: list[int], weight: float = 1.0, key: int = 0) -> Batch:
    return Batch(
        np.array([item], np.int32),
        np.array([(context + [-1] * 4)[:4]], np.int32),
        np.full((1, 1), -1, np.int32),
        np.array([weight], np.float32),
        np.array([key], np.uint64),
    )


def split(batch: Batch, parts: int) -> list[Batch]:
    pieces = [np.array_split(column, parts) for column in batch]
    return [Batch(*columns) for columns in zip(*pieces, strict=True)]


def poison(batch: Batch) -> Batch:
    return batch._replace(weights=np.append(batch.weights[1:], np.float32(np.inf)))


def answer(model: ItemCooccurrence, batch: Batch) -> NDArray[np.float64]:
    answers = [model.neighbours_many(batch.items, channel) for channel in Channel]
    return np.stack([array.astype(np.float64) for pair in answers for array in pair])


CASE = OperatorCase[ItemCooccurrence, Batch](
    name="co-occurrence",
    make=make,
    batch=random_batch,
    split=split,
    learn=learn,
    predict=answer,
    state=ItemCooccurrence.arrays,
    load=ItemCooccurrence.load_arrays,
    max_bytes=350_000,
    poison=poison,
)
IN_TURN = replace(CASE, learn=learn_in_turn, poison=None)


@pytest.mark.parametrize("check", ALL_CHECKS)
@pytest.mark.parametrize("make_model", [make, roomy])
def test_cooccurrence_keeps_the_contract(
    check: Callable[[OperatorCase[ItemCooccurrence, Batch]], None],
    make_model: Callable[[int], ItemCooccurrence],
) -> None:
    case = IN_TURN if check is check_one_big_batch_equals_many_small_ones else CASE
    most = CASE.max_bytes if make_model is make else 50_000_000
    check(replace(case, make=make_model, max_bytes=most))


def table_of(model: ItemCooccurrence) -> Table:
    """Every weight by item, neighbour and channel."""
    return rows_of(model, len(model.state.sizes))


def rows_of(model: ItemCooccurrence, count: int) -> Table:
    """The same of the first items; refuses a neighbour that lies twice in a row."""
    state = model.state
    table = np.zeros((count, len(state.sizes), CHANNELS))
    for item in np.flatnonzero(state.sizes[:count] >= 0).tolist():
        slots = state.starts[item] + np.arange(1 << int(state.sizes[item]))
        used = slots[state.keys[slots] > 0]
        neighbours = state.keys[used] - 1
        assert len(set(neighbours.tolist())) == len(neighbours)
        assert not state.weights[slots[state.keys[slots] == 0]].any()
        table[item, neighbours] = state.weights[used]
    return table


def table_by_hand(batch: Batch) -> Table:
    """The formula, pair by pair."""
    table = np.zeros((ITEMS, ITEMS, CHANNELS))

    def given(items: list[int]) -> list[int]:
        return items[: items.index(-1)] if -1 in items else items

    for item, context, others, weight, _ in zip(*batch, strict=True):
        if not 0 <= item < ITEMS or weight <= 0:
            continue
        for place, before in enumerate(given(context.tolist())[:DEPTH]):
            if before != item and before < ITEMS:
                part = weight * RECENCY[place]
                table[before, item] += weight * (place == 0), part, 0, 0, weight
                table[item, before] += 0, 0, part, 0, weight
        for other in given(others.tolist()):
            if other != item and other < ITEMS:
                table[item, other, Channel.ORDER] += weight
                table[other, item, Channel.ORDER] += weight
    return table


def assert_sound(model: ItemCooccurrence) -> None:
    """Rows and freed rows lie side by side in the pool, each neighbour where it is looked for."""
    state = model.state
    taken = np.zeros(len(state.keys), np.int64)
    for item in np.flatnonzero(state.sizes >= 0).tolist():
        start, size = int(state.starts[item]), int(state.sizes[item])
        assert SMALLEST <= 1 << size <= 1 << state.largest
        taken[start : start + (1 << size)] += 1
        for place, key in enumerate(state.keys[start : start + (1 << size)].tolist()):
            if key:
                assert (place - home_of(key, size)) % (1 << size) < PROBES
    for size in range(state.largest + 1):
        following = int(state.pool[FREED + size])
        while following:
            start = (following - 1) * SMALLEST
            taken[start : start + (1 << size)] += 1
            assert not state.weights[start : start + (1 << size)].any()
            following = int(state.keys[start])
    assert (taken[: state.pool[USED]] == 1).all()
    assert not taken[state.pool[USED] :].any()


@settings(deadline=None, max_examples=50)
@given(st.integers(0, 10_000), st.integers(0, 600))
def test_weights_are_exactly_those_of_a_table_while_rows_have_room(seed: int, n: int) -> None:
    batch = random_batch(np.random.default_rng(seed), n)
    model = roomy()
    learn(model, batch)
    table = table_by_hand(batch)
    np.testing.assert_array_equal(table_of(model), table)
    np.testing.assert_array_equal(model.state.totals, table.sum(axis=1))
    assert_sound(model)


@settings(deadline=None, max_examples=50)
@given(st.integers(0, 10_000), st.sampled_from([16, 32, 64]), st.integers(0, 30))
def test_full_rows_and_a_full_pool_keep_their_bounds(seed: int, neighbours: int, more: int) -> None:
    model = ItemCooccurrence(ITEMS, neighbours, DEPTH, pool_slots=SMALLEST * (ITEMS + more))
    truth = np.zeros((ITEMS, ITEMS, CHANNELS))
    for part in range(4):
        batch = random_batch(np.random.default_rng(seed + part), 500)
        learn(model, batch)
        truth += table_by_hand(batch)
        assert_sound(model)
        assert (table_of(model) <= truth).all()
        np.testing.assert_array_equal(model.state.totals, truth.sum(axis=1))


def test_a_newer_context_item_weighs_more_and_only_the_newest_is_next() -> None:
    model = make()
    learn(model, one(0, [1, 2, 3, 4]))
    neighbours, shares = model.neighbours_many(np.array([0, 3, 4], np.int32), Channel.BACKWARD)
    assert neighbours[0, :4].tolist() == [1, 2, 3, -1]
    np.testing.assert_allclose(shares[0, :4] / shares[0, 0], [1.0, 0.5, 0.25, 0.0])
    assert (neighbours[1:] == -1).all()
    forward = model.neighbours_many(np.array([1, 3, 4], np.int32), Channel.FORWARD)[0]
    assert forward[:, 0].tolist() == [0, 0, -1]
    following = model.neighbours_many(np.array([1, 2, 3], np.int32), Channel.NEXT)[0]
    assert following[:, 0].tolist() == [0, -1, -1]


def test_items_out_of_range_have_no_neighbours() -> None:
    model = make()
    learn(model, one(0, [1]))
    neighbours, shares = model.neighbours_many(np.array([-1, ITEMS], np.int32), Channel.HISTORY)
    assert (neighbours == -1).all()
    assert not shares.any()


def test_an_item_forgets_half_when_its_weight_passes_the_horizon_and_others_do_not() -> None:
    model = make(horizon=8.0)
    learn(model, one(5, [2], 4.0))
    learn(model, one(1, [0], 6.0))
    learn(model, one(2, [0], 2.0))
    assert model.state.totals[0].tolist() == [8, 8, 0, 0, 8]
    learn(model, one(3, [0], 2.0))
    table = table_of(model)
    assert model.state.totals[0].tolist() == [5, 5, 0, 0, 5]
    assert table[0, 1:4, Channel.NEXT].tolist() == [3.0, 1.0, 1.0]
    assert table[1, 0].tolist() == [0, 0, 6, 0, 6]
    assert table[2, 5].tolist() == [4, 4, 0, 0, 4]


def test_an_item_that_is_only_ever_in_orders_forgets_too() -> None:
    model = make(horizon=8.0)
    for other in (1, 2, 3):
        batch = one(0, [], 4.0)
        learn(model, batch._replace(others=np.array([[other]], np.int32)))
    assert model.state.totals[0].tolist() == [0, 0, 0, 6, 0]
    assert table_of(model)[0, 1:4, Channel.ORDER].tolist() == [2.0, 2.0, 2.0]


@settings(deadline=None)
@given(st.lists(st.floats(0, float(np.finfo(np.float32).max), width=32), max_size=30))
def test_weights_stay_finite_and_within_the_horizon(weights: list[float]) -> None:
    model = make(horizon=16.0)
    for weight in weights:
        batch = one(0, [1, 1, 1], weight)
        learn(model, batch._replace(others=np.array([[1]], np.int32)))
    assert np.isfinite(model.state.weights).all()
    totals = model.state.totals
    assert (totals[:, Channel.FORWARD] + totals[:, Channel.BACKWARD] <= 16.0).all()
    assert (totals[:, Channel.ORDER] <= 16.0).all()


def test_the_pool_is_rounded_up_and_its_default_is_48_slots_for_each_item() -> None:
    assert len(ItemCooccurrence(10).state.keys) == 480
    assert len(ItemCooccurrence(10, pool_slots=161).state.keys) == 176


@pytest.mark.parametrize(
    "wrong",
    [
        {"capacity": 0},
        {"depth": 0},
        {"neighbours": 8},
        {"neighbours": 24},
        {"neighbours": 1 << 17},
        {"horizon": 0.5},
        {"horizon": float("nan")},
        {"horizon": 2.0**25},
        {"pool_slots": 159},
        {"pool_slots": 1 << 40},
    ],
)
def test_parameters_out_of_range_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(ParameterError):
        ItemCooccurrence(**{"capacity": 10, **wrong})


def test_batches_that_do_not_fit_change_nothing() -> None:
    model, batch = make(), one(0, [1])
    items, contexts, others, weights, keys = batch
    two = np.ones(2, np.float32)
    for arguments in (
        (items, contexts, RECENCY, two, keys),
        (items, contexts, RECENCY[:2], weights, keys),
        (items, contexts, RECENCY + np.float32(1), weights, keys),
        (items, contexts, -RECENCY, weights, keys),
        (items, contexts, RECENCY, weights, keys[:0]),
        (items, contexts[:0], RECENCY, weights, keys),
    ):
        with pytest.raises(ParameterError):
            model.learn_many(*arguments)
    with pytest.raises(NotFiniteError):
        model.learn_many(items, contexts, RECENCY * np.float32(np.nan), weights, keys)
    with pytest.raises(NotFiniteError):
        model.learn_orders_many(items, others, weights * np.float32(np.inf), keys)
    with pytest.raises(ParameterError):
        model.learn_orders_many(items, others, two, keys)
    assert not model.state.totals.any()
    with pytest.raises(StateMismatchError):
        make().load_arrays(make(neighbours=32).arrays())
