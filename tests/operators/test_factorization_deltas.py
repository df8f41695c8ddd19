from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from operators.draws import DRAWS_TOLD
from operators.errors import StateMismatchError
from operators.matrix_factorization import MatrixFactorization
from tests.operators.replicas import exchange, travelled
from tests.operators.test_matrix_factorization import (
    FACTORS,
    ITEMS,
    KEYS,
    Batch,
    Model,
    random_batch,
)

Array = NDArray[Any]
VECTORS = ("inputs", "outputs", "biases", "normalizer")


def taught(seed: int, n: int = 60, **options: Any) -> Model:
    model = Model(**options)
    model.learn(random_batch(np.random.default_rng(seed), n))
    return model


def assert_close(one: Model, two: Model) -> None:
    for name in (*VECTORS, "input_squares", "output_squares", "bias_squares", "drawn_counts"):
        left, right = one.operator.arrays()[name], two.operator.arrays()[name]
        np.testing.assert_allclose(left, right, 1e-4, 1e-5, err_msg=name)


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 1000), st.permutations([0, 1, 2]))
def test_the_order_of_deltas_makes_no_difference(seed: int, order: list[int]) -> None:
    # Room in the ring for all draws: only which of them it forgets depends on the order.
    deltas = [taught(seed + k, 15).operator.take_delta() for k in range(3)]
    one, two = taught(seed + 9, 15), taught(seed + 9, 15)
    for replica, sequence in ((one, [0, 1, 2]), (two, order)):
        for sender in sequence:
            replica.operator.apply_delta(deltas[sender])
    assert_close(one, two)


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 1000))
def test_replicas_that_have_heard_everything_agree(seed: int) -> None:
    replicas = [Model(), Model(), Model()]
    for round_number in range(3):
        for number, replica in enumerate(replicas):
            generator = np.random.default_rng(seed + 10 * round_number + number)
            replica.learn(random_batch(generator, 40 * number))
        exchange([replica.operator for replica in replicas])
    for replica in replicas[1:]:
        for name in VECTORS:
            np.testing.assert_allclose(
                replica.operator.arrays()[name],
                replicas[0].operator.arrays()[name],
                1e-3,
                1e-4,
                err_msg=name,
            )


def test_items_admitted_in_another_order_start_from_the_same_vectors() -> None:
    """Nothing but the change is sent, so an item must start alike wherever it is admitted."""
    sender, receiver = taught(1), MatrixFactorization(ITEMS, FACTORS, memory=64)
    shuffled = np.random.default_rng(0).permutation(ITEMS).astype(np.int32)
    receiver.admit_many(KEYS[np.argsort(shuffled)])
    delta = sender.operator.take_delta()
    for name in ("input_items", "output_items", "draws"):
        delta[name] = shuffled[delta[name]]
    receiver.apply_delta(delta)
    for name in ("inputs", "outputs", "biases"):
        np.testing.assert_allclose(
            receiver.arrays()[name][shuffled], sender.operator.arrays()[name], 1e-5, 1e-6
        )


def test_a_delta_holds_the_items_that_were_touched_and_no_others() -> None:
    model = Model(admitted=ITEMS, negatives=1)
    model.operator.take_delta()
    context = np.array([[7, 8, -1, -1]], np.int32)
    key = np.array([5], np.uint64)
    one = np.zeros(1, np.int64), np.array([3], np.int32), np.ones(1, np.float32)
    model.learn(Batch(*one, context, key))
    delta = model.operator.take_delta()
    assert 3 in delta["output_items"]
    assert len(delta["output_items"]) == 2
    assert delta["input_items"].tolist() == [7, 8]
    assert delta["draws"].tolist() == [3]


def test_the_ring_holds_the_draws_of_all_replicas_and_counts_them() -> None:
    one, two = taught(1, 30), taught(2, 30)
    one.operator.apply_delta(two.operator.take_delta())
    state = one.operator.state
    learned = one.operator.arrays()["sizes"][1]
    assert learned > 30
    counted = np.bincount(state.drawn_from[:learned], minlength=ITEMS)
    np.testing.assert_array_equal(state.drawn_counts, counted)
    theirs = two.operator.state
    assert (counted >= theirs.drawn_counts).all()


def test_no_more_draws_are_told_than_the_latest_of_a_bounded_number() -> None:
    model = Model()
    batch = random_batch(np.random.default_rng(0), DRAWS_TOLD + 500)
    model.learn(batch)
    draws = model.operator.take_delta()["draws"]
    learned = batch.items[(batch.items >= 0) & (batch.weights > 0)]
    np.testing.assert_array_equal(draws, learned[-len(draws) :])
    assert len(draws) == min(DRAWS_TOLD, len(learned))


def test_a_delta_that_does_not_fit_changes_nothing() -> None:
    delta = travelled(taught(1).operator.take_delta())
    receiver = taught(2)
    before = {name: array.copy() for name, array in receiver.operator.arrays().items()}
    for wrong in (
        {"output_squares": -delta["output_squares"]},
        {"inputs": delta["inputs"] * np.float32(np.nan)},
        {"output_items": np.full_like(delta["output_items"], ITEMS)},
        {"draws": np.array([-2], np.int32)},
        {"offset": np.zeros((2, 1))},
        {"biases": delta["biases"][:, 0]},
    ):
        with pytest.raises(StateMismatchError):
            receiver.operator.apply_delta(delta | wrong)
    with pytest.raises(StateMismatchError):
        Model(admitted=3).operator.apply_delta(delta)
    other = MatrixFactorization(ITEMS, 2 * FACTORS)
    with pytest.raises(StateMismatchError, match="inputs"):
        other.apply_delta(delta)
    for name, array in receiver.operator.arrays().items():
        np.testing.assert_array_equal(array, before[name], name)
