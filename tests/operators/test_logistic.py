from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression

from operators.checks import ALL_CHECKS, OperatorCase
from operators.errors import ParameterError
from operators.logistic import BayesianLogistic
from operators.logistic_kernels import logistic, mode_step

TRUTH = np.array([1.5, -1.0, 0.5, 0.0])


class Examples(NamedTuple):
    x: NDArray[np.float64]
    labels: NDArray[np.int8]


def draw(generator: np.random.Generator, n: int, truth: NDArray[np.float64] = TRUTH) -> Examples:
    x = generator.normal(size=(n, len(truth)))
    chance = 1 / (1 + np.exp(0.7 - x @ truth))
    return Examples(x, (generator.random(n) < chance).astype(np.int8))


def poison(examples: Examples) -> Examples:
    x = examples.x.copy()
    x[-1, 1] = np.nan
    return Examples(x, examples.labels)


def case_of(forgetting: float) -> OperatorCase[BayesianLogistic, Examples]:
    return OperatorCase(
        name=f"logistic with forgetting {forgetting}",
        make=lambda _: BayesianLogistic(4, forgetting=forgetting),
        batch=draw,
        split=lambda examples, parts: [
            Examples(examples.x[rows], examples.labels[rows])
            for rows in np.array_split(np.arange(len(examples.labels)), parts)
        ],
        learn=lambda model, examples: model.learn_many(*examples),
        predict=lambda model, examples: model.predict_proba_many(examples.x),
        state=BayesianLogistic.arrays,
        load=BayesianLogistic.load_arrays,
        take=BayesianLogistic.take_delta,
        apply=BayesianLogistic.apply_delta,
        poison=poison,
        max_bytes=10_000,
    )


@pytest.mark.parametrize("case", [case_of(1.0), case_of(0.99)], ids=str)
@pytest.mark.parametrize("check", ALL_CHECKS)
def test_logistic_keeps_the_contract(
    check: Callable[[OperatorCase[BayesianLogistic, Examples]], None],
    case: OperatorCase[BayesianLogistic, Examples],
) -> None:
    check(case)


def test_one_pass_comes_close_to_the_batch_ridge_solution() -> None:
    x, labels = draw(np.random.default_rng(3), 3000)
    ours = BayesianLogistic(4, prior_precision=2.0)
    ours.learn_many(x, labels)
    batch = LogisticRegression(C=0.5, tol=1e-8).fit(x, labels)
    np.testing.assert_allclose(ours.weights[:-1], batch.coef_[0], atol=0.03)
    np.testing.assert_allclose(ours.weights[-1], batch.intercept_[0], atol=0.03)
    np.testing.assert_allclose(ours.predict_proba_many(x), batch.predict_proba(x)[:, 1], atol=0.01)


def test_the_covariance_comes_close_to_the_inverse_hessian() -> None:
    x, labels = draw(np.random.default_rng(3), 3000)
    model = BayesianLogistic(4)
    model.learn_many(x, labels)
    wide = np.column_stack([x, np.ones(len(x))])
    chance = 1 / (1 + np.exp(-wide @ model.weights))
    precision = (wide * (chance * (1 - chance))[:, None]).T @ wide
    precision += np.diag(1 / model.prior_variance)
    np.testing.assert_allclose(model.covariance, np.linalg.inv(precision), rtol=0.1, atol=3e-4)


def test_contributions_sum_to_the_log_odds_of_the_prediction() -> None:
    x, labels = draw(np.random.default_rng(3), 50)
    model = BayesianLogistic(4)
    model.learn_many(x, labels)
    chance = model.predict_proba_many(x)
    np.testing.assert_allclose(
        model.contributions_many(x).sum(axis=1), np.log(chance / (1 - chance))
    )


def test_forgetting_follows_a_change_of_the_world() -> None:
    generator = np.random.default_rng(5)
    loyal, forgetful = BayesianLogistic(4), BayesianLogistic(4, forgetting=0.9999)
    before, after = draw(generator, 3000), draw(generator, 1000, -TRUTH)
    for model in (loyal, forgetful):
        model.learn_many(*before)
        model.learn_many(*after)
    assert np.abs(forgetful.weights[:4] + TRUTH).max() < 0.3
    assert np.abs(loyal.weights[:4] + TRUTH).max() > 1.0


@pytest.mark.parametrize("forgetting", [0.5, 0.99, 0.9999])
def test_forgetting_never_winds_up(forgetting: float) -> None:
    model = BayesianLogistic(2, prior_precision=4.0, forgetting=forgetting)
    generator = np.random.default_rng(1)
    x = np.column_stack([generator.normal(size=5000), np.zeros(5000)])
    model.learn_many(x, generator.integers(0, 2, 5000))
    assert (np.diag(model.covariance) <= model.prior_variance + 1e-12).all()
    assert (np.linalg.eigvalsh(model.covariance) > 0).all()
    assert np.abs(model.weights).max() < 10 * np.sqrt(model.prior_variance.max())
    assert model.weights[1] == 0


@pytest.mark.parametrize("log_odds", [-800.0, -30.0, -1.0, 0.0, 2.0, 40.0, 800.0])
@pytest.mark.parametrize("variance", [0.0, 0.1, 10.0, 1e4])
@pytest.mark.parametrize("label", [0.0, 1.0])
def test_the_step_solves_its_equation(log_odds: float, variance: float, label: float) -> None:
    step = mode_step(log_odds, variance, label)
    assert abs(step - label + logistic(log_odds + step * variance)) < 1e-5


def test_separable_data_keep_finite_weights_and_probabilities_inside_the_interval() -> None:
    x = np.array([[-3.0], [3.0]] * 2000)
    model = BayesianLogistic(1, prior_precision=0.01)
    model.learn_many(x, np.array([0, 1] * 2000))
    low, high = model.predict_proba_many(np.array([[-3.0], [3.0]]))
    assert 0 < low < 0.01
    assert 0.99 < high < 1
    assert (model.predict_proba_many(np.array([[-1e9], [1e9]])) >= 0).all()


@pytest.mark.parametrize(
    "wrong",
    [
        {"n_features": 0},
        {"prior_precision": 0.0},
        {"intercept_precision": -1.0},
        {"forgetting": 0.0},
        {"forgetting": 1.1},
    ],
)
def test_parameters_outside_their_range_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ParameterError):
        BayesianLogistic(**{"n_features": 1, **wrong})  # type: ignore[arg-type]  # on purpose
