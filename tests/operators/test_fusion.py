from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pytest
from numpy.typing import NDArray

from operators.checks import ALL_CHECKS, OperatorCase
from operators.errors import ParameterError, StateMismatchError
from operators.fusion import BUCKETS, ListwiseFusion, history_bucket

CANDIDATES = 7
PRIOR = [0.5, 0.3, 0.0]


class Batch(NamedTuple):
    features: NDArray[np.float64]
    buckets: NDArray[np.int64]
    targets: NDArray[np.int64]


def random_batch(generator: np.random.Generator, n: int) -> Batch:
    return Batch(
        generator.normal(0, 2, (n, CANDIDATES, len(PRIOR))),
        generator.integers(0, BUCKETS, n),
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
    make=lambda _seed: ListwiseFusion(PRIOR),
    batch=random_batch,
    split=split,
    learn=lambda fusion, batch: fusion.learn_many(*batch),
    predict=lambda fusion, batch: fusion.score_many(batch.features, batch.buckets),
    state=ListwiseFusion.arrays,
    load=ListwiseFusion.load_arrays,
    max_bytes=5_000,
    poison=poison,
    take=ListwiseFusion.take_delta,
    apply=ListwiseFusion.apply_delta,
)


@pytest.mark.parametrize("check", ALL_CHECKS)
def test_fusion_keeps_the_contract(
    check: Callable[[OperatorCase[ListwiseFusion, Batch]], None],
) -> None:
    check(CASE)


def loss(weights: NDArray[np.float64], features: NDArray[np.float64], target: int) -> float:
    scores = features @ weights
    return float(np.log(np.exp(scores).sum()) - scores[target])


def test_one_step_follows_the_gradient_of_the_listwise_loss() -> None:
    fusion = ListwiseFusion(PRIOR, learning_rate=0.1)
    batch = random_batch(np.random.default_rng(3), 1)._replace(targets=np.array([2]))
    fusion.learn_many(*batch)
    expected = np.zeros(len(PRIOR))
    for f in range(len(PRIOR)):
        step = np.zeros(len(PRIOR))
        step[f] = 1e-6
        up = loss(np.array(PRIOR) + step, batch.features[0], 2)
        down = loss(np.array(PRIOR) - step, batch.features[0], 2)
        expected[f] = (up - down) / 2e-6
    bucket = int(batch.buckets[0])
    moved = fusion.state.weights.copy()
    moved[0] -= PRIOR
    for row in (0, 1 + bucket):
        np.testing.assert_allclose(
            moved[row], -0.1 * expected / np.sqrt(1 + expected**2), rtol=1e-5
        )
    assert not np.delete(moved, [0, 1 + bucket], axis=0).any()


def test_the_feature_that_tells_the_choice_wins_where_it_tells_it() -> None:
    """In bucket 1 the first feature is right, in bucket 4 the second."""
    generator = np.random.default_rng(0)
    batch = random_batch(generator, 4000)
    buckets = np.where(generator.random(4000) < 0.5, 1, 4)
    telling = np.where(buckets == 1, 0, 1)
    targets = batch.features[np.arange(4000), :, telling].argmax(axis=1)
    fusion = ListwiseFusion([0.0, 0.0, 0.0])
    fusion.learn_many(batch.features, buckets, targets)
    weights = fusion.weights
    assert weights[1, 0] > weights[1, 1] + 0.5
    assert weights[4, 1] > weights[4, 0] + 0.5
    hits = fusion.score_many(batch.features, buckets).argmax(axis=1) == targets
    assert hits.mean() > 0.8


def test_buckets_grow_with_the_history() -> None:
    lengths = [0, 1, 2, 3, 4, 7, 8, 15, 16, 40]
    contexts = [np.where(np.arange(40) < n, 1, -1).astype(np.int32) for n in lengths]
    assert [history_bucket(context) for context in contexts] == [0, 1, 2, 2, 3, 3, 4, 4, 5, 5]


def test_what_does_not_fit_is_refused() -> None:
    fusion = ListwiseFusion(PRIOR)
    batch = random_batch(np.random.default_rng(0), 3)
    with pytest.raises(ParameterError):
        ListwiseFusion([])
    with pytest.raises(ParameterError):
        ListwiseFusion(PRIOR, learning_rate=np.inf)
    with pytest.raises(ParameterError, match="features"):
        fusion.score_many(batch.features[:, :, :2], batch.buckets)
    with pytest.raises(ParameterError, match="bucket"):
        fusion.score_many(batch.features, batch.buckets + BUCKETS)
    with pytest.raises(StateMismatchError):
        fusion.load_arrays(ListwiseFusion([1.0]).arrays())
