from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from operators.checks import ALL_CHECKS, OperatorCase
from operators.decay import MAX_HALF_LIVES
from operators.errors import ParameterError, StateMismatchError
from operators.popularity import DecayedPopularity

ITEMS = 20
HALF_LIFE_MS = 10_000
EVENTS = st.lists(
    st.tuples(st.integers(0, ITEMS - 1), st.integers(0, 9_000), st.sampled_from([0.0, 1.0, 2.5])),
    min_size=1,
    max_size=60,
)


class Batch(NamedTuple):
    items: NDArray[np.int32]
    weights: NDArray[np.float32]
    ts_ms: NDArray[np.int64]


def make(_seed: int = 0, top_size: int = 5) -> DecayedPopularity:
    return DecayedPopularity(ITEMS, HALF_LIFE_MS / 1000, top_size)


def random_batch(generator: np.random.Generator, n: int) -> Batch:
    return Batch(
        generator.integers(-1, ITEMS, n).astype(np.int32),
        generator.exponential(1.0, n).astype(np.float32),
        generator.integers(0, 100 * HALF_LIFE_MS, n),
    )


def poison(batch: Batch) -> Batch:
    return batch._replace(weights=np.append(batch.weights[1:], np.float32(np.nan)))


def split(batch: Batch, parts: int) -> list[Batch]:
    pieces = [np.array_split(column, parts) for column in batch]
    return [Batch(*columns) for columns in zip(*pieces, strict=True)]


CASE = OperatorCase[DecayedPopularity, Batch](
    name="decayed popularity",
    make=make,
    batch=random_batch,
    split=split,
    learn=lambda model, batch: model.learn_many(*batch),
    predict=lambda model, batch: model.score_many(batch.items),
    state=DecayedPopularity.arrays,
    load=DecayedPopularity.load_arrays,
    max_bytes=20_000,
    poison=poison,
    take=DecayedPopularity.take_delta,
    apply=DecayedPopularity.apply_delta,
)


@pytest.mark.parametrize("check", ALL_CHECKS)
def test_popularity_keeps_the_contract(
    check: Callable[[OperatorCase[DecayedPopularity, Batch]], None],
) -> None:
    check(CASE)


def learn(model: DecayedPopularity, events: list[tuple[int, int, float]]) -> None:
    items, ts_ms, weights = zip(*events, strict=True)
    model.learn_many(
        np.array(items, np.int32), np.array(weights, np.float32), np.array(ts_ms, np.int64)
    )


@settings(deadline=None)
@given(EVENTS, st.integers(1, 200))
def test_counts_agree_with_the_formula(gaps: list[tuple[int, int, float]], stretch: int) -> None:
    """Gaps stay below a half-life, so the clock is the newest time; many renormalisations."""
    times = np.cumsum([gap for _, gap, _ in gaps])
    events = [(item, int(t), w) for (item, _, w), t in zip(gaps, times, strict=True)] * 1
    events += [(0, int(times[-1]) + 9_000 * k, 1.0) for k in range(1, stretch)]
    model = make()
    learn(model, events)
    now = max(t for _, t, _ in events)
    expected = np.zeros(ITEMS)
    for item, t, weight in events:
        expected[item] += weight * 2.0 ** (-(now - t) / HALF_LIFE_MS)
    np.testing.assert_allclose(model.score_many(np.arange(ITEMS, dtype=np.int32)), expected, 1e-9)


@settings(deadline=None)
@given(st.integers(0, 1000), st.integers(1, 30))
def test_the_top_is_the_exact_order_of_the_counts(seed: int, top_size: int) -> None:
    model = make(top_size=top_size)
    model.learn_many(*random_batch(np.random.default_rng(seed), 200))
    scores = model.score_many(np.arange(ITEMS, dtype=np.int32))
    best = np.argsort(-scores, kind="stable")[: min(top_size, np.count_nonzero(scores))]
    np.testing.assert_array_equal(scores[model.top(ITEMS)], scores[best])


def test_a_barred_item_leaves_the_top_and_comes_back() -> None:
    model = make(top_size=2)
    learn(model, [(3, 0, 3.0), (4, 0, 2.0), (5, 0, 1.0)])
    assert model.top(9).tolist() == [3, 4]
    model.set_barred(3, True)
    assert model.top(9).tolist() == [4, 5]
    learn(model, [(3, 0, 3.0)])
    assert model.top(9).tolist() == [4, 5]
    model.set_barred(3, False)
    assert model.top(9).tolist() == [3, 4]
    assert model.top(1).tolist() == [3]


def test_a_time_far_in_the_future_costs_one_halving_only() -> None:
    model = make()
    learn(model, [(1, 0, 8.0), (2, 10**15, 1.0), (3, 1000, 1.0)])
    scores = model.score_many(np.array([1, 2, 3, -1], np.int32))
    np.testing.assert_allclose(scores, [4.0, 1.0, 2.0**-0.9, 0.0])


def test_old_counts_survive_many_moves_of_the_landmark() -> None:
    model = make()
    learn(model, [(1, 0, 1.0)])
    steps = 3 * MAX_HALF_LIVES
    learn(model, [(2, HALF_LIFE_MS * k, 1.0) for k in range(1, steps + 1)])
    assert model.score_many(np.array([1], np.int32))[0] == pytest.approx(2.0**-steps)


def test_parameters_and_arrays_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ParameterError):
        DecayedPopularity(0, 1.0)
    with pytest.raises(ParameterError):
        DecayedPopularity(1, 0.0)
    with pytest.raises(ParameterError, match="weights"):
        make().learn_many(np.zeros(2, np.int32), np.ones(1, np.float32), np.zeros(2, np.int64))
    with pytest.raises(StateMismatchError):
        make().load_arrays(make(top_size=6).arrays())
