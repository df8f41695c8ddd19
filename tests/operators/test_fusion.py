from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from operators.checks import ALL_CHECKS, OperatorCase
from operators.errors import NotFiniteError, ParameterError, StateMismatchError
from operators.fusion import ListwiseFusion
from operators.fusion_kernels import FIRST_SQUARES, GAPS, ROWS, gap_bucket
from operators.trends import POSITIONS
from tests.operators.replicas import CHANGES, exchange, spoilt, travelled

CANDIDATES = 7
PRIOR = [0.5, 0.3, 0.0]
INPUTS = len(PRIOR)
UNITS = 4
Array = NDArray[np.float64]


class Batch(NamedTuple):
    features: NDArray[np.float32]
    positions: NDArray[np.int64]
    gaps: NDArray[np.int64]
    targets: NDArray[np.int64]


def make(seed: int = 0, hidden_units: int = UNITS) -> ListwiseFusion:
    return ListwiseFusion(PRIOR, hidden_units=hidden_units, seed=seed)


def random_batch(generator: np.random.Generator, n: int) -> Batch:
    return Batch(
        generator.normal(0, 2, (n, INPUTS, CANDIDATES)).astype(np.float32),
        generator.integers(0, POSITIONS, n),
        generator.integers(0, GAPS, n),
        generator.integers(-1, CANDIDATES, n),
    )


def split(batch: Batch, parts: int) -> list[Batch]:
    pieces: list[Any] = [np.array_split(column, parts) for column in batch]
    return [Batch(*columns) for columns in zip(*pieces, strict=True)]


def poison(batch: Batch) -> Batch:
    features = batch.features.copy()
    features[-1, 0, 0] = np.inf
    return batch._replace(features=features)


CASE = OperatorCase[ListwiseFusion, Batch](
    name="listwise fusion",
    make=make,
    batch=random_batch,
    split=split,
    learn=lambda fusion, batch: fusion.learn_many(*batch),
    predict=lambda fusion, batch: fusion.score_many(*batch[:3]),
    state=ListwiseFusion.arrays,
    load=ListwiseFusion.load_arrays,
    max_bytes=12_000,
    poison=poison,
    take=ListwiseFusion.take_delta,
    apply=ListwiseFusion.apply_delta,
)


@pytest.mark.parametrize("check", ALL_CHECKS)
def test_fusion_keeps_the_contract(
    check: Callable[[OperatorCase[ListwiseFusion, Batch]], None],
) -> None:
    check(CASE)


class Point(NamedTuple):
    """Where the loss is taken: the sum of the three rows in use, and the hidden layer."""

    linear: Array
    hidden: Array


def loss_at(point: Point, features: Array, target: int) -> float:
    scores = point.linear @ features
    for unit in point.hidden:
        active = np.maximum(0.0, unit[:INPUTS] @ features + unit[INPUTS])
        scores = scores + unit[INPUTS + 1] * active
    return float(np.log(np.exp(scores).sum()) - scores[target])


def numeric_gradient(point: Point, name: str, features: Array, target: int) -> Array:
    gradient: Array = np.zeros_like(getattr(point, name))
    for place in np.ndindex(gradient.shape):
        losses = []
        for step in (1e-6, -1e-6):
            moved = getattr(point, name).copy()
            moved[place] += step
            losses.append(loss_at(point._replace(**{name: moved}), features, target))
        gradient[place] = (losses[0] - losses[1]) / 2e-6
    return gradient


@pytest.mark.parametrize("hidden_units", [0, UNITS])
@pytest.mark.parametrize("seed", range(5))
def test_one_step_follows_the_gradient_of_the_listwise_loss(seed: int, hidden_units: int) -> None:
    """Of the three rows in use and of a unit's weights, bias and output weight, by Adagrad."""
    fusion = ListwiseFusion(PRIOR, 0.1, 0.2, hidden_units, seed)
    generator = np.random.default_rng(seed)
    fusion.learn_many(*random_batch(generator, 50))
    batch = random_batch(generator, 1)._replace(targets=np.array([2]))
    rows = [0, 1 + int(batch.positions[0]), 1 + POSITIONS + int(batch.gaps[0])]
    before = {name: array.copy() for name, array in fusion.arrays().items()}
    fusion.learn_many(*batch)
    after = fusion.arrays()

    point = Point(before["weights"][rows].sum(axis=0), before["hidden"])
    features = batch.features[0].astype(np.float64)
    linear = np.zeros((ROWS, INPUTS))
    linear[rows] = numeric_gradient(point, "linear", features, 2)
    hidden = numeric_gradient(point, "hidden", features, 2)
    if hidden_units:
        assert (np.abs(hidden).max(axis=0) > 1e-3).all()
    for name, squares, gradient, rate in (
        ("weights", "squares", linear, 0.1),
        ("hidden", "hidden_squares", hidden, 0.2),
    ):
        grown = before[squares] + gradient**2
        np.testing.assert_allclose(after[squares], grown, rtol=1e-4, atol=1e-7)
        step = -rate * gradient / np.sqrt(FIRST_SQUARES + grown)
        np.testing.assert_allclose(after[name] - before[name], step, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("by", ["positions", "gaps"])
def test_the_feature_that_tells_the_choice_wins_where_it_tells_it(by: str) -> None:
    """In bucket 1 the first feature is right, in bucket 4 the second; the others are the same."""
    generator = np.random.default_rng(0)
    batch = random_batch(generator, 4000)
    buckets = np.where(generator.random(4000) < 0.5, 1, 4)
    same = np.full(4000, 3)
    positions, gaps = (buckets, same) if by == "positions" else (same, buckets)
    telling = np.where(buckets == 1, 0, 1)
    targets = batch.features[np.arange(4000), telling].argmax(axis=1)
    fusion = ListwiseFusion([0.0, 0.0, 0.0])
    fusion.learn_many(batch.features[:3000], positions[:3000], gaps[:3000], targets[:3000])
    scores = fusion.score_many(batch.features, positions, gaps)[3000:]
    hits = scores.argmax(axis=1) == targets[3000:]
    assert hits.mean() > 0.8
    first = 1 if by == "positions" else 1 + POSITIONS
    shared = fusion.weights
    assert (shared + fusion.state.weights[first + 1]).argmax() == 0
    assert (shared + fusion.state.weights[first + 4]).argmax() == 1


def test_the_hidden_layer_tells_what_no_weighted_sum_does() -> None:
    """Chosen is what has the first feature nearest to zero: neither much of it nor little."""
    batch = random_batch(np.random.default_rng(0), 6000)
    targets = np.abs(batch.features[:, 0]).argmin(axis=1)
    rates = []
    for units in (0, 16):
        fusion = ListwiseFusion([0.0] * INPUTS, hidden_units=units)
        fusion.learn_many(*batch[:3], targets)
        fresh = random_batch(np.random.default_rng(1), 1000)
        scores = fusion.score_many(*fresh[:3])
        best = np.abs(fresh.features[:, 0]).argmin(axis=1)
        rates.append((scores.argmax(axis=1) == best).mean())
    assert rates[0] < 0.3
    assert rates[1] > 0.6


def test_the_shared_weights_start_from_the_prior_and_are_a_copy() -> None:
    fusion = make()
    assert fusion.weights.tolist() == PRIOR
    fusion.weights[:] = 9.0
    assert fusion.weights.tolist() == PRIOR


def test_before_learning_the_prior_leads() -> None:
    batch = random_batch(np.random.default_rng(0), 200)
    scores = make().score_many(*batch[:3])
    by_prior = np.einsum("f,nfk->nk", PRIOR, batch.features)
    assert (scores.argmax(axis=1) == by_prior.argmax(axis=1)).mean() > 0.9


def test_a_choice_of_none_of_the_candidates_teaches_nothing() -> None:
    fusion = make()
    before = {name: array.tobytes() for name, array in fusion.arrays().items()}
    for outside in (-1, CANDIDATES):
        batch = random_batch(np.random.default_rng(0), 20)
        fusion.learn_many(*batch._replace(targets=np.full(20, outside)))
    assert {name: array.tobytes() for name, array in fusion.arrays().items()} == before


@given(st.floats(-1e6, 1e15), st.floats(-1e6, 1e15))
def test_gaps_grow_with_the_time_since_the_last_event(one: float, two: float) -> None:
    shorter, longer = gap_bucket(min(one, two)), gap_bucket(max(one, two))
    assert 0 <= shorter <= longer < GAPS


def test_a_minute_an_hour_a_day_a_month_and_never_are_told_apart() -> None:
    gaps = [gap_bucket(seconds) for seconds in (0, 60, 3600, 86_400, 30 * 86_400, 1e12)]
    assert gaps[0] == 0
    assert gaps[-1] == GAPS - 1
    assert len(set(gaps)) == len(gaps)


def learned(seed: int, n: int = 30) -> ListwiseFusion:
    fusion = make()
    fusion.learn_many(*random_batch(np.random.default_rng(seed), n))
    return fusion


def test_the_order_of_deltas_makes_no_difference() -> None:
    deltas = [learned(seed).take_delta() for seed in (1, 2, 3)]
    one, two = learned(4), learned(4)
    for fusion, sequence in ((one, deltas), (two, deltas[::-1])):
        for delta in sequence:
            fusion.apply_delta(delta)
    for name, array in one.arrays().items():
        np.testing.assert_allclose(array, two.arrays()[name], rtol=1e-9, atol=1e-12)


def test_replicas_that_have_heard_everything_agree() -> None:
    replicas = [make() for _ in range(3)]
    for round_number in range(3):
        for number, replica in enumerate(replicas):
            generator = np.random.default_rng(10 * round_number + number)
            replica.learn_many(*random_batch(generator, 20 * number))
        exchange(replicas)
    for replica in replicas[1:]:
        for name, array in replica.arrays().items():
            np.testing.assert_allclose(array, replicas[0].arrays()[name], rtol=1e-9, atol=1e-12)
    assert [replica.take_delta() for replica in replicas] == [{}, {}, {}]


def test_a_delta_holds_only_the_rows_in_use() -> None:
    fusion = make()
    batch = random_batch(np.random.default_rng(0), 1)._replace(targets=np.array([2]))
    fusion.learn_many(*batch)
    rows = {0, 1 + int(batch.positions[0]), 1 + POSITIONS + int(batch.gaps[0])}
    assert set((fusion.take_delta()["places"] // INPUTS).tolist()) == rows


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("name", ["places", "moved", "hidden_moved", "hidden_gained"])
def test_a_delta_of_another_shape_changes_nothing(name: str, change: str) -> None:
    receiver, delta = learned(1), travelled(learned(2).take_delta())
    before = {key: array.tobytes() for key, array in receiver.arrays().items()}
    with pytest.raises(StateMismatchError):
        receiver.apply_delta(spoilt(delta, name, change))
    assert {key: array.tobytes() for key, array in receiver.arrays().items()} == before


def test_a_delta_with_impossible_numbers_is_refused() -> None:
    delta = learned(2).take_delta()
    for wrong in (
        {"places": delta["places"] + np.int32(ROWS * INPUTS)},
        {"hidden_places": delta["hidden_places"] + np.int32(UNITS * (INPUTS + 2))},
        {"gained": -delta["gained"]},
        {"hidden_gained": -delta["hidden_gained"]},
        {"moved": delta["moved"] * np.nan},
    ):
        with pytest.raises(StateMismatchError):
            make().apply_delta(delta | wrong)


def test_what_does_not_fit_is_refused() -> None:
    fusion = make()
    batch = random_batch(np.random.default_rng(0), 3)
    for prior, rate, hidden_rate, units in (
        ([], 0.1, 0.1, 1),
        ([np.nan], 0.1, 0.1, 1),
        (PRIOR, np.inf, 0.1, 1),
        (PRIOR, 0.1, 0.0, 1),
        (PRIOR, 0.1, 0.1, -1),
    ):
        with pytest.raises(ParameterError):
            ListwiseFusion(prior, rate, hidden_rate, units)
    with pytest.raises(ParameterError, match="features"):
        fusion.score_many(batch.features[:, :2], batch.positions, batch.gaps)
    with pytest.raises(ParameterError, match="bucket"):
        fusion.score_many(batch.features, batch.positions + POSITIONS, batch.gaps)
    with pytest.raises(ParameterError, match="bucket"):
        fusion.learn_many(*batch._replace(gaps=batch.gaps - GAPS))
    with pytest.raises(ParameterError, match="targets"):
        fusion.learn_many(*batch._replace(targets=batch.targets[:2]))
    with pytest.raises(NotFiniteError):
        fusion.learn_many(*poison(batch))
    for other in (ListwiseFusion([1.0]), make(hidden_units=UNITS + 1)):
        with pytest.raises(StateMismatchError):
            fusion.load_arrays(other.arrays())
