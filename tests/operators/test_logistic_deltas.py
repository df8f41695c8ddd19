import numpy as np
import pytest
from numpy.typing import NDArray

from operators.errors import StateMismatchError
from operators.logistic import BayesianLogistic
from tests.operators.replicas import CHANGES, assert_same, exchange, snapshot, spoilt, travelled

FEATURES = 6
TRUTH = np.array([1.0, -1.0, 0.5, 0.0, 2.0, -0.5])


def rows_of(seed: int, n: int) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    generator = np.random.default_rng(seed)
    x = generator.normal(size=(n, FEATURES))
    chance = 1 / (1 + np.exp(1 - x @ TRUTH))
    return x, (generator.random(n) < chance).astype(np.int64)


@pytest.mark.parametrize("forgetting", [1.0, 0.999, 0.9])
@pytest.mark.parametrize("rows", [1, 50])
def test_one_replica_takes_over_the_very_posterior_of_another(rows: int, forgetting: float) -> None:
    sender, receiver = (BayesianLogistic(FEATURES, forgetting=forgetting) for _ in range(2))
    for seed in range(20):
        sender.learn_many(*rows_of(seed, rows))
        receiver.apply_delta(travelled(sender.take_delta()))
    np.testing.assert_allclose(receiver.weights, sender.weights, rtol=1e-9)
    np.testing.assert_allclose(receiver.covariance, sender.covariance, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(("rows_between", "deviations"), [(40, 0.4), (1000, 1.0)])
def test_replicas_that_exchange_learn_what_one_learns_from_all_rows(
    rows_between: int, deviations: float
) -> None:
    x, labels = rows_of(7, 4000)
    whole, parts = BayesianLogistic(FEATURES), [BayesianLogistic(FEATURES) for _ in range(4)]
    whole.learn_many(x, labels)
    for start in range(0, 4000, rows_between):
        for number, part in enumerate(parts):
            rows = slice(start + number, start + rows_between, 4)
            part.learn_many(x[rows], labels[rows])
        exchange(parts)
    spread = np.sqrt(np.diag(whole.covariance))
    for part in parts:
        # The posterior's own uncertainty is the yardstick.
        assert (np.abs(part.weights - whole.weights) < deviations * spread).all()
        np.testing.assert_allclose(np.sqrt(np.diag(part.covariance)), spread, rtol=0.1)
        np.testing.assert_allclose(part.weights, parts[0].weights, rtol=1e-9)


def test_the_same_first_step_of_many_replicas_does_not_overshoot() -> None:
    x, labels = np.ones((1, FEATURES)), np.array([1])
    whole, parts = BayesianLogistic(FEATURES), [BayesianLogistic(FEATURES) for _ in range(8)]
    for part in parts:
        whole.learn_many(x, labels)
        part.learn_many(x, labels)
    step = parts[0].weights[0]
    exchange(parts)
    assert parts[0].weights[0] < 1.3 * whole.weights[0] < 8 * step


def test_the_order_of_deltas_makes_no_difference() -> None:
    deltas = []
    for seed in (1, 2):
        sender = BayesianLogistic(FEATURES)
        sender.learn_many(*rows_of(seed, 60))
        deltas.append(sender.take_delta())
    ends = []
    for order in ((0, 1), (1, 0)):
        receiver = BayesianLogistic(FEATURES)
        receiver.learn_many(*rows_of(3, 30))
        for number in order:
            receiver.apply_delta(deltas[number])
        ends.append(receiver)
    np.testing.assert_allclose(ends[0].weights, ends[1].weights, rtol=1e-9)
    np.testing.assert_allclose(ends[0].covariance, ends[1].covariance, rtol=1e-9, atol=1e-12)


def test_under_forgetting_rows_of_another_age_what_was_learned_before() -> None:
    sender, receiver, alone = (BayesianLogistic(FEATURES, forgetting=0.99) for _ in range(3))
    for learner in (receiver, alone):
        learner.learn_many(*rows_of(1, 100))
    still = receiver.predict_proba_many(np.eye(FEATURES))
    sender.learn_many(np.zeros((2000, FEATURES)), np.zeros(2000))
    alone.learn_many(np.zeros((2000, FEATURES)), np.zeros(2000))
    receiver.apply_delta(sender.take_delta())
    np.testing.assert_allclose(receiver.weights[:-1], alone.weights[:-1], atol=1e-6)
    assert np.abs(still - 0.5).max() > 0.1
    np.testing.assert_allclose(receiver.weights[:-1], 0, atol=1e-3)


def test_what_was_heard_or_loaded_is_never_sent_on() -> None:
    sender, receiver = BayesianLogistic(FEATURES), BayesianLogistic(FEATURES)
    sender.learn_many(*rows_of(1, 9))
    saved = snapshot(sender.arrays())
    receiver.apply_delta(sender.take_delta())
    assert receiver.take_delta() == sender.take_delta() == {}
    receiver.learn_many(*rows_of(2, 4))
    receiver.load_arrays(saved)
    assert receiver.take_delta() == {}


@pytest.mark.parametrize("name", ["information", "vector", "transition", "noise", "rows"])
@pytest.mark.parametrize("change", CHANGES)
def test_a_delta_that_does_not_fit_changes_nothing(name: str, change: str) -> None:
    model = BayesianLogistic(FEATURES)
    model.learn_many(*rows_of(1, 9))
    before, delta = snapshot(model.arrays()), model.take_delta()
    with pytest.raises(StateMismatchError):
        model.apply_delta(spoilt(delta, name, change))
    assert_same(before, model.arrays())


def test_negative_information_is_refused() -> None:
    model = BayesianLogistic(FEATURES)
    model.learn_many(*rows_of(1, 9))
    delta = model.take_delta()
    with pytest.raises(StateMismatchError, match="eigenvalues"):
        model.apply_delta({**delta, "information": -delta["information"]})
    with pytest.raises(StateMismatchError, match="noise of a delta has negative eigenvalues"):
        model.apply_delta({**delta, "noise": -np.eye(FEATURES + 1)})
    with pytest.raises(StateMismatchError, match="rows"):
        model.apply_delta({**delta, "rows": np.array([-1])})
