from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from operators.checks import ALL_CHECKS, OperatorCase
from operators.errors import ParameterError
from operators.scaler import OnlineScaler, learn_moments, merge_moments

Rows = NDArray[np.float64]


def poison(rows: Rows) -> Rows:
    poisoned = rows.copy()
    poisoned[-1, 0] = np.inf
    return poisoned


def case_of(half_life_rows: float) -> OperatorCase[OnlineScaler, Rows]:
    return OperatorCase(
        name=f"scaler with half-life {half_life_rows}",
        make=lambda _: OnlineScaler(3, half_life_rows=half_life_rows),
        batch=lambda generator, n: generator.normal([0, 5, -5], [1, 10, 0.1], (n, 3)),
        split=np.array_split,
        learn=OnlineScaler.learn_many,
        predict=OnlineScaler.transform_many,
        state=OnlineScaler.arrays,
        load=OnlineScaler.load_arrays,
        take=OnlineScaler.take_delta,
        apply=OnlineScaler.apply_delta,
        poison=poison,
        max_bytes=10_000,
    )


@pytest.mark.parametrize("case", [case_of(np.inf), case_of(50.0)], ids=str)
@pytest.mark.parametrize("check", ALL_CHECKS)
def test_scaler_keeps_the_contract(
    check: Callable[[OperatorCase[OnlineScaler, Rows]], None],
    case: OperatorCase[OnlineScaler, Rows],
) -> None:
    check(case)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_it_standardises_as_numpy_does(dtype: type[np.floating]) -> None:
    x = np.random.default_rng(1).normal([1e6, -3], [2, 50], (500, 2)).astype(dtype)
    scaler = OnlineScaler(2, clip=2.0)
    scaler.learn_many(x)
    wide = x.astype(np.float64)
    expected = np.clip((wide - wide.mean(axis=0)) / wide.std(axis=0), -2, 2)
    np.testing.assert_allclose(scaler.transform_many(x), expected, rtol=1e-6, atol=1e-6)


def test_forgetting_weighs_rows_by_age() -> None:
    x = np.random.default_rng(1).normal(size=(300, 1))
    scaler = OnlineScaler(1, half_life_rows=20.0)
    scaler.learn_many(x)
    weights = 0.5 ** (np.arange(299, -1, -1) / 20.0)
    mean = np.average(x[:, 0], weights=weights)
    variance = np.average((x[:, 0] - mean) ** 2, weights=weights)
    count, learned_mean, squares = scaler.moments[:, 0]
    np.testing.assert_allclose(learned_mean, mean)
    np.testing.assert_allclose(squares / count, variance)


@given(st.lists(st.floats(-1e6, 1e6), min_size=2, max_size=40), st.integers(0, 40))
def test_merged_moments_equal_those_of_all_rows(values: list[float], cut: int) -> None:
    x = np.array(values)[:, None]
    whole, left, right = np.zeros((3, 1)), np.zeros((3, 1)), np.zeros((3, 1))
    learn_moments(x, 1.0, whole)
    learn_moments(x[:cut], 1.0, left)
    learn_moments(x[cut:], 1.0, right)
    merge_moments(left, right, 1.0)
    np.testing.assert_allclose(left, whole, rtol=1e-9, atol=1e-3)


def test_a_constant_feature_is_only_centred() -> None:
    scaler = OnlineScaler(1)
    scaler.learn_many(np.full((7, 1), 0.1))
    np.testing.assert_allclose(scaler.transform_many(np.array([[0.1], [1.1]])), [[0], [1]])


def test_before_learning_values_pass_through_clipped() -> None:
    answer = OnlineScaler(1, clip=3.0).transform_many(np.array([[2.0], [-9.0]]))
    assert answer.tolist() == [[2.0], [-3.0]]


@pytest.mark.parametrize(
    "wrong", [{"n_features": 0}, {"clip": 0.0}, {"half_life_rows": 0.0}, {"clip": np.nan}]
)
def test_parameters_outside_their_range_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ParameterError):
        OnlineScaler(**{"n_features": 1, **wrong})  # type: ignore[arg-type]  # wrong on purpose
