import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from operators.deltas import (
    Precisions,
    Steps,
    Sums,
    part_of,
    require_delta,
    require_ends,
    require_within,
)
from operators.errors import StateMismatchError

ROWS = 6
RATE = 0.2
FIRST = 0.01


class Rows:
    """Rows that step by Adagrad or its like towards goals, one gradient at a time."""

    def __init__(
        self, together: float | None = None, first: float = 1.0, power: float = 0.5
    ) -> None:
        self.values = np.zeros((ROWS, 1))
        self.squares = np.zeros(ROWS)
        self.power = power
        steps = None if together is None else Steps(RATE, FIRST, together, power)
        self.shared = Precisions(self.values, self.squares, first, steps)

    def learn(self, row: int, gradient: float) -> None:
        self.squares[row] += gradient**2
        self.values[row] -= RATE / (FIRST + self.squares[row]) ** self.power * gradient

    def choose(self, row: int, chances: NDArray[np.float64]) -> None:
        """Fit the log-odds of what has these chances, by one draw each."""
        for drawn in chances:
            self.learn(row, 1 / (1 + math.exp(-self.values[row, 0])) - drawn)

    def take(self) -> tuple[NDArray[Any], ...]:
        rows = self.shared.touched()
        return rows, *self.shared.take(rows)


def exchange(replicas: list[Rows]) -> None:
    deltas = [replica.take() for replica in replicas]
    for replica in replicas:
        for other, delta in zip(replicas, deltas, strict=True):
            if other is not replica:
                replica.shared.apply(*delta)


GRADIENTS = st.lists(
    st.tuples(st.integers(0, ROWS - 1), st.floats(-3, 3).filter(lambda g: abs(g) > 0.01)),
    max_size=20,
)


@settings(deadline=None)
@given(st.lists(GRADIENTS, min_size=3, max_size=3), st.permutations([0, 1, 2]), GRADIENTS)
def test_precisions_added_in_any_order_lead_to_the_same_rows(
    learned: list[list[tuple[int, float]]], order: list[int], own: list[tuple[int, float]]
) -> None:
    deltas = []
    for gradients in learned:
        replica = Rows(together=1.0)
        for row, gradient in gradients:
            replica.learn(row, gradient)
        deltas.append(replica.take())
    one, two = Rows(together=1.0), Rows(together=1.0)
    for replica, sequence in ((one, [0, 1, 2]), (two, order)):
        for row, gradient in own:
            replica.learn(row, gradient)
        for sender in sequence:
            replica.shared.apply(*deltas[sender])
    np.testing.assert_allclose(one.values, two.values, 1e-9, 1e-12)
    np.testing.assert_allclose(one.squares, two.squares, 1e-9)
    for mine, theirs in zip(one.take()[1:], two.take()[1:], strict=True):
        np.testing.assert_allclose(mine, theirs, 1e-6, 1e-9)


@settings(deadline=None)
@given(st.lists(GRADIENTS, min_size=6, max_size=6))
def test_replicas_that_have_heard_everything_agree(learned: list[list[tuple[int, float]]]) -> None:
    replicas = [Rows(together=2.0) for _ in range(3)]
    for start in (0, 3):
        for replica, gradients in zip(replicas, learned[start:], strict=False):
            for row, gradient in gradients:
                replica.learn(row, gradient)
        exchange(replicas)
    for replica in replicas[1:]:
        np.testing.assert_allclose(replica.values, replicas[0].values, 1e-9, 1e-12)
    assert all(not len(replica.shared.touched()) for replica in replicas)


def test_small_steps_of_a_well_known_row_add_up() -> None:
    replicas = [Rows() for _ in range(4)]
    for replica in replicas:
        replica.squares[0] = 1e6
        replica.shared.reset()
        replica.learn(0, -1.0)
    step = replicas[0].values[0, 0]
    exchange(replicas)
    assert replicas[0].values[0, 0] == pytest.approx(4 * step, rel=1e-4)


def test_first_large_steps_of_a_new_row_are_averaged_by_what_each_has_seen() -> None:
    one, two, three = (Rows(first=1e-9) for _ in range(3))
    for replica, value, seen in ((one, 1.0, 10.0), (two, 1.0, 10.0), (three, 4.0, 20.0)):
        replica.values[0], replica.squares[0] = value, seen
    exchange([one, two, three])
    assert one.values[0, 0] == pytest.approx((10 + 10 + 80) / 40)


def overshoot(together: float | None, replicas: int, power: float = 0.5, rounds: int = 12) -> float:
    """Log-odds fitted by replicas that each see 3,000 draws a round; their largest error late."""
    goal = math.log(0.2 / 0.8)
    fleet = [Rows(together, power=power) for _ in range(replicas)]
    generator = np.random.default_rng(1)
    errors = []
    for _ in range(rounds):
        for replica in fleet:
            replica.choose(0, (generator.random(3000) < 0.2).astype(float))
        exchange(fleet)
        errors.append(abs(float(fleet[0].values[0, 0]) - goal))
    return max(errors[rounds // 2 :])


@pytest.mark.parametrize("power", [0.5, 0.25])
def test_replicas_that_run_far_between_exchanges_do_not_overshoot_together(power: float) -> None:
    """Whatever power of the sum of squares steps shrink by."""
    alone = overshoot(together=1.0, replicas=1, power=power)
    assert overshoot(together=1.0, replicas=8, power=power) < max(0.1, alone)
    assert overshoot(together=None, replicas=8, power=power) > 0.3


def test_steps_that_shrink_less_are_held_back_more() -> None:
    """The same records bring a row nearer to its goal, so that two replicas overshoot by more."""
    kept = []
    for power in (0.5, 0.25):
        one, two = Rows(1.0, power=power), Rows(1.0, power=power)
        for replica in (one, two):
            replica.squares[0] = 1000.0
            replica.shared.reset()
            replica.squares[0] += 100.0
            replica.values[0] += 1.0
        one.shared.apply(*two.take())
        before = one.shared.known_values[0, 0]
        one.take()
        kept.append(one.values[0, 0] - before)
    assert kept[0] > 1.3 * kept[1] > 0.0


def test_a_replica_that_hears_nothing_keeps_all_of_its_movement() -> None:
    alone = Rows(together=8.0)
    for _ in range(3):
        alone.choose(0, np.ones(500))
        before = alone.values.copy()
        alone.take()
        np.testing.assert_array_equal(alone.values, before)


def test_rows_of_minus_one_are_left_out() -> None:
    rows = Rows()
    rows.shared.apply(np.array([-1, 2], np.int32), np.ones((2, 1)), np.ones(2))
    assert rows.squares.tolist() == [0, 0, 1, 0, 0, 0]


def test_sums_add_up_and_are_told_once() -> None:
    mine, theirs = {"counts": np.zeros(2, np.int64)}, {"counts": np.array([5, 0])}
    my_sums, their_sums = Sums(mine), Sums(theirs)
    mine["counts"][1] = 3
    delta = my_sums.take()
    require_delta("sums", delta, their_sums.expected())
    their_sums.apply(delta)
    assert theirs["counts"].tolist() == [5, 3]
    assert (their_sums.take(), my_sums.take()) == ({}, {})
    theirs["counts"][:] = 9
    their_sums.reset()
    assert their_sums.take() == {}


EXPECTED = {"items": (np.int32, ("n",)), "vectors": (np.float32, ("n", 2))}


@pytest.mark.parametrize(
    "changed",
    [
        {"items": np.zeros(3, np.int32)},
        {"items": np.zeros(2, np.int64)},
        {"vectors": np.zeros((2, 3), np.float32)},
        {"vectors": np.zeros(2, np.float32)},
        {"vectors": np.full((2, 2), np.nan, np.float32)},
        {"more": np.zeros(1)},
    ],
)
def test_a_delta_that_does_not_fit_is_named(changed: dict[str, NDArray[Any]]) -> None:
    delta: dict[str, NDArray[Any]] = {
        "items": np.zeros(2, np.int32),
        "vectors": np.zeros((2, 2), np.float32),
    }
    require_delta("Model", delta, EXPECTED)
    with pytest.raises(StateMismatchError, match=f"^Model: .*{next(iter(changed))}|vectors"):
        require_delta("Model", delta | changed, EXPECTED)
    with pytest.raises(StateMismatchError, match=r"^Model: a delta of"):
        require_delta("Model", {"items": delta["items"]}, EXPECTED)


def test_a_checked_delta_can_be_handed_to_a_kernel() -> None:
    sent = np.frombuffer(np.arange(4, dtype=np.int32).tobytes(), np.int32)
    checked = require_delta("Model", {"items": sent}, {"items": (np.int32, ("n",))})
    assert checked["items"].flags.writeable
    assert checked["items"].tolist() == [0, 1, 2, 3]


def test_numbers_and_ends_out_of_range_are_refused() -> None:
    for items in ([-1], [5]):
        with pytest.raises(StateMismatchError, match="items"):
            require_within("Model", {"items": np.array(items)}, "items", 0, 5)
    require_within("Model", {"items": np.empty(0)}, "items", 0, 5)
    for ends in ([1, 0], [-1, 2], [1], []):
        with pytest.raises(StateMismatchError, match="ends"):
            require_ends("Model", np.array(ends, np.int64), 2)
    require_ends("Model", np.array([0, 2, 2]), 2)


def test_a_part_is_found_by_its_whole_prefix() -> None:
    delta = {"mf.inputs": np.zeros(1), "mfx.inputs": np.zeros(2), "mf": np.zeros(3)}
    assert part_of("mf", delta).keys() == {"inputs"}
