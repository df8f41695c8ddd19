from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from operators.checks import ALL_CHECKS, OperatorCase
from operators.errors import ParameterError, StateMismatchError
from operators.trends import POSITIONS, Trends, history_position
from tests.operators.replicas import exchange

ITEMS = 12
HALF_LIVES = (2.0, 50.0)
EVENTS = st.lists(
    st.tuples(st.integers(0, ITEMS - 1), st.sampled_from([0.0, 1.0, 3.0]), st.integers(0, 9)),
    min_size=1,
    max_size=60,
)


class Batch(NamedTuple):
    items: NDArray[np.int32]
    weights: NDArray[np.float32]
    positions: NDArray[np.int64]


def make(_seed: int = 0) -> Trends:
    return Trends(ITEMS, HALF_LIVES, top_size=4)


def random_batch(generator: np.random.Generator, n: int) -> Batch:
    return Batch(
        generator.integers(-1, ITEMS + 1, n).astype(np.int32),
        generator.exponential(1.0, n).astype(np.float32),
        generator.integers(0, POSITIONS, n),
    )


def split(batch: Batch, parts: int) -> list[Batch]:
    pieces = [np.array_split(column, parts) for column in batch]
    return [Batch(*columns) for columns in zip(*pieces, strict=True)]


def answers(trends: Trends, batch: Batch) -> NDArray[np.float64]:
    items = np.clip(batch.items, 0, ITEMS - 1)
    return np.column_stack([trends.state.counts[items], trends.recent_many(items)])


CASE = OperatorCase[Trends, Batch](
    name="trends",
    make=make,
    batch=random_batch,
    split=split,
    learn=lambda trends, batch: trends.learn_many(*batch),
    predict=answers,
    state=Trends.arrays,
    load=Trends.load_arrays,
    max_bytes=20_000,
    poison=lambda batch: batch._replace(weights=np.append(batch.weights[1:], np.float32(np.nan))),
    take=Trends.take_delta,
    apply=Trends.apply_delta,
)


@pytest.mark.parametrize("check", ALL_CHECKS)
def test_trends_keep_the_contract(check: Callable[[OperatorCase[Trends, Batch]], None]) -> None:
    check(CASE)


def learn(trends: Trends, events: list[tuple[int, float, int]]) -> None:
    items, weights, positions = zip(*events, strict=True)
    trends.learn_many(np.array(items, np.int32), np.array(weights, np.float32), np.array(positions))


@settings(deadline=None, max_examples=200)
@given(EVENTS)
def test_counts_agree_with_sums_over_all_events(events: list[tuple[int, float, int]]) -> None:
    trends = make()
    learn(trends, events)
    counted = [event for event in events if event[1] > 0.0]
    for item in range(ITEMS):
        backward = list(enumerate(reversed(counted)))
        mine = [(age, weight) for age, (other, weight, _) in backward if other == item]
        assert trends.state.counts[item] == pytest.approx(sum(weight for _, weight in mine))
        for level, half_life in enumerate(HALF_LIVES):
            expected = sum(weight * 2.0 ** (-age / half_life) for age, weight in mine)
            found = trends.recent_many(np.array([item], np.int32))[0, level]
            assert found == pytest.approx(expected, rel=1e-9, abs=1e-12)


@settings(deadline=None, max_examples=200)
@given(EVENTS)
def test_the_top_lists_hold_the_most_counted_items_in_order(
    events: list[tuple[int, float, int]],
) -> None:
    trends = make()
    learn(trends, events)
    state = trends.state
    for level, counts in enumerate([state.counts, *state.recent.T]):
        top = state.top[level]
        listed = counts[top[top >= 0]]
        assert listed.tolist() == np.sort(counts[counts > 0.0])[::-1][:4].tolist()
        for place, item in enumerate(top.tolist()):
            assert item < 0 or state.ranks[level, item] == place + 1


def test_counts_stay_finite_over_a_long_stream() -> None:
    trends = Trends(2, (1.0,))
    for _ in range(3):
        trends.learn_many(
            np.zeros(1_000, np.int32), np.ones(1_000, np.float32), np.zeros(1_000, np.int64)
        )
    assert trends.recent_many(np.zeros(1, np.int32)).tolist() == [[2.0]]


@settings(deadline=None)
@given(st.lists(st.tuples(EVENTS, st.integers(0, 2)), min_size=1, max_size=6))
def test_replicas_count_what_one_would_that_sees_it_all(
    rounds: list[tuple[list[tuple[int, float, int]], int]],
) -> None:
    """Each round one replica learns, and tells the others before the next one does."""
    whole, replicas = make(), [make() for _ in range(3)]
    for events, owner in rounds:
        learn(whole, events)
        learn(replicas[owner], events)
        exchange(replicas)
    everything = np.arange(ITEMS, dtype=np.int32)
    for replica in replicas:
        np.testing.assert_allclose(replica.state.counts, whole.state.counts)
        np.testing.assert_allclose(
            replica.recent_many(everything), whole.recent_many(everything), rtol=1e-9, atol=1e-12
        )
        np.testing.assert_allclose(replica.state.positions, whole.state.positions, rtol=1e-6)
        assert replica.state.totals.tolist() == whole.state.totals.tolist()
        assert replica.state.first.tolist() == whole.state.first.tolist()
        assert replica.state.last.tolist() == whole.state.last.tolist()


def test_positions_double_in_length() -> None:
    lengths = [0, 1, 2, 3, 4, 7, 8, 255, 256, 10_000]
    assert [history_position(n) for n in lengths] == [0, 1, 2, 2, 3, 3, 4, 8, 9, 9]


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ParameterError):
        Trends(0)
    with pytest.raises(ParameterError, match="half-lives"):
        Trends(3, (0.5,))
    with pytest.raises(ParameterError, match="position"):
        learn(make(), [(0, 1.0, POSITIONS)])
    with pytest.raises(StateMismatchError):
        make().load_arrays(Trends(ITEMS + 1, HALF_LIVES).arrays())
    other = make()
    learn(other, [(1, 1.0, 0)])
    delta = other.take_delta()
    with pytest.raises(StateMismatchError, match="counts"):
        make().apply_delta(delta | {"counts": -delta["counts"]})
