import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from operators.errors import StateMismatchError
from operators.scaler import OnlineScaler
from tests.operators.replicas import CHANGES, assert_same, exchange, snapshot, spoilt, travelled

Rows = NDArray[np.float64]


def rows_of(seed: int, n: int) -> Rows:
    return np.random.default_rng(seed).normal([0, 50, -5], [1, 10, 0.1], (n, 3))


@given(st.integers(0, 1000), st.lists(st.integers(0, 40), min_size=1, max_size=4))
def test_replicas_that_exchange_stand_where_one_that_saw_all_rows_stands(
    seed: int, sizes: list[int]
) -> None:
    whole, parts = OnlineScaler(3), [OnlineScaler(3) for _ in sizes]
    for round_number in range(3):
        for number, size in enumerate(sizes):
            rows = rows_of(seed + 10 * round_number + number, size)
            whole.learn_many(rows)
            parts[number].learn_many(rows)
        exchange(parts)
    for part in parts:
        np.testing.assert_allclose(part.moments, whole.moments, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(("half_life_rows", "tolerance"), [(np.inf, 1e-12), (500.0, 0.1)])
def test_the_order_of_deltas_matters_only_as_far_as_rows_are_forgotten(
    half_life_rows: float, tolerance: float
) -> None:
    deltas = []
    for seed in (1, 2):
        sender = OnlineScaler(3, half_life_rows=half_life_rows)
        sender.learn_many(rows_of(seed, 40))
        deltas.append(sender.take_delta())
    ends = []
    for order in ((0, 1), (1, 0)):
        receiver = OnlineScaler(3, half_life_rows=half_life_rows)
        receiver.learn_many(rows_of(3, 500))
        for number in order:
            receiver.apply_delta(deltas[number])
        ends.append(receiver.moments)
    np.testing.assert_allclose(ends[0], ends[1], rtol=tolerance, atol=tolerance)


def test_under_forgetting_rows_of_another_replica_count_as_the_newest() -> None:
    one, sender, receiver = (OnlineScaler(3, half_life_rows=20.0) for _ in range(3))
    one.learn_many(rows_of(1, 50))
    one.learn_many(rows_of(2, 30))
    receiver.learn_many(rows_of(1, 50))
    sender.learn_many(rows_of(2, 30))
    receiver.apply_delta(sender.take_delta())
    np.testing.assert_allclose(receiver.moments, one.moments, rtol=1e-9)


def test_what_was_heard_is_never_sent_on() -> None:
    sender, receiver = OnlineScaler(3), OnlineScaler(3)
    sender.learn_many(rows_of(1, 5))
    delta = sender.take_delta()
    receiver.apply_delta(travelled(delta))
    assert receiver.take_delta() == {}
    receiver.learn_many(rows_of(2, 7))
    assert receiver.take_delta()["moments"][0].tolist() == [7, 7, 7]
    assert sender.take_delta() == {}


def test_nothing_is_sent_of_what_was_loaded_or_replaced() -> None:
    scaler = OnlineScaler(3)
    scaler.learn_many(rows_of(1, 5))
    scaler.load_arrays(snapshot(scaler.arrays()))
    assert scaler.take_delta() == {}
    scaler.learn_many(rows_of(1, 5))
    scaler.replace_moments(np.zeros((3, 3)))
    assert scaler.take_delta() == {}


@pytest.mark.parametrize("change", sorted(set(CHANGES) - {"missing"}))
def test_a_delta_that_does_not_fit_changes_nothing(change: str) -> None:
    scaler = OnlineScaler(3)
    scaler.learn_many(rows_of(1, 5))
    before, delta = snapshot(scaler.arrays()), scaler.take_delta()
    with pytest.raises(StateMismatchError):
        scaler.apply_delta(spoilt(delta, "moments", change))
    assert_same(before, scaler.arrays())


@pytest.mark.parametrize(("row", "value"), [(0, -1.0), (1, np.nan), (2, -1.0)])
def test_impossible_moments_are_refused(row: int, value: float) -> None:
    scaler = OnlineScaler(3)
    moments = np.ones((3, 3))
    moments[row, 1] = value
    with pytest.raises(StateMismatchError):
        scaler.apply_delta({"moments": moments})
    assert not scaler.moments.any()
