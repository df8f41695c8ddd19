from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from operators.checks import ALL_CHECKS, OperatorCase
from operators.cooccurrence import ItemCooccurrence
from operators.errors import ParameterError, StateMismatchError

ITEMS = 12
DAY_MS = 86_400_000


class Batch(NamedTuple):
    items: NDArray[np.int32]
    contexts: NDArray[np.int32]
    weights: NDArray[np.float32]
    ts_ms: NDArray[np.int64]


def make(_seed: int = 0, neighbours: int = 4) -> ItemCooccurrence:
    return ItemCooccurrence(ITEMS, neighbours, recency=0.5, depth=3, half_life_seconds=86_400.0)


def random_batch(generator: np.random.Generator, n: int) -> Batch:
    contexts = generator.integers(0, ITEMS, (n, 5)).astype(np.int32)
    contexts[np.arange(5) >= generator.integers(0, 6, n)[:, np.newaxis]] = -1
    return Batch(
        generator.integers(-1, ITEMS, n).astype(np.int32),
        contexts,
        generator.exponential(1.0, n).astype(np.float32),
        np.sort(generator.integers(0, 100 * DAY_MS, n)),
    )


def split(batch: Batch, parts: int) -> list[Batch]:
    pieces = [np.array_split(column, parts) for column in batch]
    return [Batch(*columns) for columns in zip(*pieces, strict=True)]


def poison(batch: Batch) -> Batch:
    return batch._replace(weights=np.append(batch.weights[1:], np.float32(np.inf)))


def answer(model: ItemCooccurrence, batch: Batch) -> NDArray[np.float64]:
    neighbours, shares = model.neighbours_many(batch.items)
    return np.stack([neighbours.astype(np.float64), shares.astype(np.float64)])


CASE = OperatorCase[ItemCooccurrence, Batch](
    name="co-occurrence",
    make=make,
    batch=random_batch,
    split=split,
    learn=lambda model, batch: model.learn_many(*batch),
    predict=answer,
    state=ItemCooccurrence.arrays,
    load=ItemCooccurrence.load_arrays,
    max_bytes=10_000,
    poison=poison,
)


@pytest.mark.parametrize("check", ALL_CHECKS)
def test_cooccurrence_keeps_the_contract(
    check: Callable[[OperatorCase[ItemCooccurrence, Batch]], None],
) -> None:
    check(CASE)


def dict_shares(batch: Batch) -> NDArray[np.float64]:
    """The formula, event by event; gaps below a half-life, so that the clock is the time."""
    pairs = np.zeros((ITEMS, ITEMS))
    clock = int(batch.ts_ms[0])
    for item, context, weight, ts_ms in zip(*batch, strict=True):
        step = min(max(int(ts_ms) - clock, 0), DAY_MS)
        pairs *= 2.0 ** (-step / DAY_MS)
        clock += step
        for position, before in enumerate(context[:3].tolist()):
            if before >= 0 and item >= 0 and before != item:
                part = weight * 0.5**position * 2.0 ** (-(clock - max(0, int(ts_ms))) / DAY_MS)
                pairs[before, item] += part
                pairs[item, before] += part * 0.5
    totals = np.maximum(pairs.sum(axis=1, keepdims=True), 1e-300)
    shares: NDArray[np.float64] = pairs / totals
    return shares


@settings(deadline=None)
@given(st.integers(0, 500))
def test_shares_agree_with_a_table_when_nothing_is_evicted(seed: int) -> None:
    generator = np.random.default_rng(seed)
    batch = random_batch(generator, 300)
    batch = batch._replace(ts_ms=np.cumsum(generator.integers(0, DAY_MS, 300)))
    model = make(neighbours=ITEMS)
    model.learn_many(*batch)
    neighbours, shares = model.neighbours_many(np.arange(ITEMS, dtype=np.int32))
    table = np.zeros((ITEMS, ITEMS))
    for item in range(ITEMS):
        known = neighbours[item] >= 0
        table[item, neighbours[item, known]] = shares[item, known]
    np.testing.assert_allclose(table, dict_shares(batch), rtol=1e-3, atol=1e-6)
    assert (np.diff(shares, axis=1) <= 0).all()


@settings(deadline=None)
@given(st.integers(0, 500))
def test_a_heavy_neighbour_is_never_missed_and_weights_are_never_too_small(seed: int) -> None:
    """The guarantees of Space-Saving, on one item's list."""
    generator = np.random.default_rng(seed)
    items = generator.choice(np.arange(1, ITEMS), 200, p=np.r_[[0.3], [0.07] * 10]).astype(np.int32)
    model = ItemCooccurrence(ITEMS, neighbours=4, backward=0.0)
    model.learn_many(
        items, np.zeros((200, 1), np.int32), np.ones(200, np.float32), np.zeros(200, np.int64)
    )
    neighbours, shares = model.neighbours_many(np.array([0], np.int32))
    truth = np.bincount(items, minlength=ITEMS)
    assert set(np.flatnonzero(truth > 50).tolist()) <= set(neighbours[0].tolist())
    counts = shares[0] * 200
    least = counts.min()
    assert (counts >= truth[neighbours[0]] - 1e-3).all()
    assert (counts <= truth[neighbours[0]] + least + 1e-3).all()


def test_a_newer_context_item_weighs_more() -> None:
    model = make()
    model.learn_many(
        np.array([0], np.int32),
        np.array([[1, 2, 3, 4]], np.int32),
        np.ones(1, np.float32),
        np.zeros(1, np.int64),
    )
    neighbours, shares = model.neighbours_many(np.array([0, 3, 4], np.int32))
    assert neighbours[0].tolist() == [1, 2, 3, -1]
    np.testing.assert_allclose(shares[0] / shares[0, 0], [1.0, 0.5, 0.25, 0.0])
    assert neighbours[1].tolist() == [0, -1, -1, -1]
    assert neighbours[2].tolist() == [-1] * 4


def test_parameters_and_arrays_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ParameterError):
        ItemCooccurrence(0)
    with pytest.raises(ParameterError):
        ItemCooccurrence(1, recency=0.0)
    with pytest.raises(ParameterError):
        ItemCooccurrence(1, half_life_seconds=np.inf)
    with pytest.raises(StateMismatchError):
        make().load_arrays(make(neighbours=5).arrays())
