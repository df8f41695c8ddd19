"""Explicit ratings: biases that learn as fast as they are unknown."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from river.reco import Baseline

from operators.checks import ALL_CHECKS, OperatorCase
from operators.errors import ParameterError
from operators.ratings import RatingBiases, Variances

ITEMS, CUSTOMERS = 20, 12
RATINGS = st.lists(
    st.tuples(st.integers(0, 3), st.integers(0, 3), st.floats(1, 5)), min_size=1, max_size=40
)


class Batch(NamedTuple):
    slots: NDArray[np.int64]
    items: NDArray[np.int32]
    ratings: NDArray[np.float64]


class Model:
    """The operator together with its customers."""

    def __init__(self, variances: Variances | None = None) -> None:
        self.biases = RatingBiases(ITEMS, variances)
        self.rows = np.zeros(CUSTOMERS, RatingBiases.row_dtype)

    def learn(self, batch: Batch) -> NDArray[np.float64]:
        return self.biases.learn_many(self.rows, *batch)

    def predict(self, batch: Batch) -> NDArray[np.float64]:
        return self.biases.predict_many(self.rows, batch.slots, batch.items)

    def arrays(self) -> dict[str, NDArray[Any]]:
        return {**self.biases.arrays(), "bias": self.rows["bias"], "own": self.rows["narrowed"]}

    def load(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        self.biases.load_arrays(arrays)
        self.rows["bias"], self.rows["narrowed"] = arrays["bias"], arrays["own"]


def random_batch(generator: np.random.Generator, n: int) -> Batch:
    return Batch(
        generator.integers(0, CUSTOMERS, n),
        generator.integers(-1, ITEMS + 1, n).astype(np.int32),
        generator.integers(1, 6, n).astype(np.float64),
    )


def split(batch: Batch, parts: int) -> list[Batch]:
    pieces = [np.array_split(column, parts) for column in batch]
    return [Batch(*columns) for columns in zip(*pieces, strict=True)]


def learn(model: Model, batch: Batch) -> None:
    model.learn(batch)


CASE = OperatorCase[Model, Batch](
    name="ratings",
    make=lambda seed: Model(),
    batch=random_batch,
    split=split,
    learn=learn,
    predict=Model.predict,
    state=Model.arrays,
    load=Model.load,
    max_bytes=20_000,
    poison=lambda batch: batch._replace(ratings=np.append(batch.ratings[1:], np.nan)),
)


@pytest.mark.parametrize("check", ALL_CHECKS)
def test_ratings_keep_the_contract(check: Callable[[OperatorCase[Model, Batch]], None]) -> None:
    check(CASE)


@settings(deadline=None)
@given(RATINGS)
def test_biases_are_those_of_a_kalman_filter_without_covariances(
    ratings: list[tuple[int, int, float]],
) -> None:
    model, prior = Model(), Variances()
    slots, items, values = (np.array(column) for column in zip(*ratings, strict=True))
    expected = model.learn(Batch(slots, items.astype(np.int32), values.astype(np.float64)))
    mean = 0.0
    biases: dict[tuple[str, int], float] = {}
    variances: dict[tuple[str, int], float] = {}
    for i, (customer, item, rating) in enumerate(ratings):
        keys = (("customer", customer), ("item", item))
        guess = mean + sum(biases.get(key, 0.0) for key in keys)
        seen = [value for _, _, value in ratings[:i]] or [0.0]
        assert expected[i] == pytest.approx(min(max(guess, min(seen)), max(seen)))
        mean += (rating - mean) / (i + 1)
        error = rating - mean - sum(biases.get(key, 0.0) for key in keys)
        now = [
            variances.get(key, getattr(prior, key[0])) + getattr(prior, f"{key[0]}_drift")
            for key in keys
        ]
        total = 1.0 + sum(now)
        for key, variance in zip(keys, now, strict=True):
            biases[key] = biases.get(key, 0.0) + variance / total * error
            variances[key] = variance - variance**2 / total


def test_scales_do_not_matter() -> None:
    batch = random_batch(np.random.default_rng(1), 500)
    stars, points = Model(), Model()
    stars.learn(batch)
    points.learn(batch._replace(ratings=20.0 * batch.ratings - 10.0))
    np.testing.assert_allclose(points.predict(batch), 20.0 * stars.predict(batch) - 10.0)


def test_a_first_rating_moves_a_customer_further_than_a_hundredth() -> None:
    model = Model()
    slots, items = np.zeros(200, np.int64), (np.arange(200) % ITEMS).astype(np.int32)
    model.learn(Batch(slots, items, np.tile([3.0, 5.0], 100)))
    before = model.rows["bias"].copy()
    one = np.ones(1)
    for slot in (0, 1):
        model.learn(Batch(np.array([slot]), np.array([3], np.int32), one))
    moved = np.abs(model.rows["bias"] - before)
    assert moved[1] > 2 * moved[0] > 0


def test_planted_biases_are_found_with_less_error_than_by_gradients() -> None:
    draw = np.random.default_rng(4)
    customers, items = draw.normal(0, 0.6, CUSTOMERS), draw.normal(0, 0.6, ITEMS)
    batch = random_batch(draw, 600)._replace(items=draw.integers(0, ITEMS, 600).astype(np.int32))
    ratings = 3.5 + customers[batch.slots] + items[batch.items] + draw.normal(0, 0.8, 600)
    expected = Model().learn(batch._replace(ratings=ratings))
    river, errors = Baseline(), []
    for slot, item, rating in zip(*batch[:2], ratings, strict=True):
        told = river.predict_one(slot, item)  # type: ignore[no-untyped-call] # river's
        errors.append(rating - told)
        river.learn_one(slot, item, rating)  # type: ignore[no-untyped-call] # river's
    ours = np.sqrt(np.mean((ratings - expected)[60:] ** 2))
    assert ours < np.sqrt(np.mean(np.square(errors[60:])))
    # The noise alone is 0.8.
    assert ours < 0.95


def test_items_beyond_the_capacity_teach_of_the_customer_only() -> None:
    model = Model()
    model.learn(Batch(np.array([0, 0]), np.array([0, ITEMS], np.int32), np.array([3.0, 5.0])))
    assert model.rows["bias"][0] > 0
    assert not model.biases.state.biases[1:].any()


def test_impossible_settings_are_refused() -> None:
    with pytest.raises(ParameterError, match="capacity"):
        RatingBiases(0)
    with pytest.raises(ParameterError, match="variances"):
        RatingBiases(5, Variances(customer=-1.0))
