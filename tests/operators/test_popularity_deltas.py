import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from operators.decay import MAX_HALF_LIVES, NOW
from operators.errors import StateMismatchError
from operators.popularity import DecayedPopularity
from tests.operators.replicas import exchange, travelled

ITEMS = 20
HALF_LIFE_MS = 10_000
ALL = np.arange(ITEMS, dtype=np.int32)
# (item, milliseconds after the event before, weight, replica); exchanges lie less than a half-life
# apart, so that no clock is ever behind by more than it can catch up with in one step.
EVENTS = st.lists(
    st.tuples(
        st.integers(0, ITEMS - 1),
        st.integers(0, 1_000),
        st.sampled_from([0.5, 1.0, 2.5]),
        st.integers(0, 2),
    ),
    min_size=1,
    max_size=8,
)


def make(top_size: int = 6) -> DecayedPopularity:
    return DecayedPopularity(ITEMS, HALF_LIFE_MS / 1000, top_size)


def count(model: DecayedPopularity, item: int, ts_ms: int, weight: float = 1.0) -> None:
    model.learn_many(
        np.array([item], np.int32), np.array([weight], np.float32), np.array([ts_ms], np.int64)
    )


def top_scores(model: DecayedPopularity) -> NDArray[np.float64]:
    return model.score_many(model.top(ITEMS))


@settings(deadline=None)
@given(st.lists(EVENTS, min_size=1, max_size=8))
def test_replicas_of_a_split_stream_count_as_one_that_sees_it_all(
    rounds: list[list[tuple[int, int, float, int]]],
) -> None:
    whole, replicas = make(), [make() for _ in range(3)]
    now = 10**12
    for events in rounds:
        for item, gap, weight, owner in events:
            now += gap
            count(whole, item, now, weight)
            count(replicas[owner], item, now, weight)
        exchange(replicas)
    for replica in replicas:
        np.testing.assert_allclose(replica.score_many(ALL), whole.score_many(ALL), 1e-9)
        np.testing.assert_allclose(top_scores(replica), top_scores(whole), 1e-9)
        assert replica.state.clock[NOW] == whole.state.clock[NOW] == now
        assert replica.state.total[0] == pytest.approx(replica.state.counts.sum())


def test_counts_agree_while_landmarks_move() -> None:
    whole, replicas = make(), [make(), make()]
    for step in range(4 * MAX_HALF_LIVES):
        now = step * HALF_LIFE_MS // 2
        count(whole, step % 7, now)
        count(replicas[step % 2], step % 7, now)
        if step % 5 == 0:
            exchange(replicas)
    exchange(replicas)
    for replica in replicas:
        np.testing.assert_allclose(replica.score_many(ALL), whole.score_many(ALL), 1e-9)


@settings(deadline=None)
@given(EVENTS, EVENTS)
def test_the_order_of_deltas_makes_no_difference(
    first: list[tuple[int, int, float, int]], second: list[tuple[int, int, float, int]]
) -> None:
    deltas = []
    for events in (first, second):
        sender = make()
        for item, gap, weight, _ in events:
            count(sender, item, gap * 400, weight)
        deltas.append(sender.take_delta())
    one, two = make(), make()
    for replica, order in ((one, deltas), (two, deltas[::-1])):
        count(replica, 3, 200_000)
        for delta in order:
            replica.apply_delta(delta)
    np.testing.assert_allclose(one.score_many(ALL), two.score_many(ALL), 1e-9)
    np.testing.assert_allclose(top_scores(one), top_scores(two), 1e-9)


def test_the_clock_moves_up_to_what_others_saw() -> None:
    sender, receiver = make(), make()
    count(receiver, 1, 0)
    count(sender, 2, 3 * HALF_LIFE_MS)
    receiver.apply_delta(sender.take_delta())
    sender.apply_delta(receiver.take_delta())
    for model in (sender, receiver):
        np.testing.assert_allclose(model.score_many(np.array([1, 2], np.int32)), [0.125, 1.0])


def test_a_barred_item_is_counted_but_never_enters_the_top() -> None:
    sender, receiver = make(), make()
    count(sender, 1, 0, 5.0)
    count(sender, 2, 0)
    receiver.set_barred(1, True)
    receiver.apply_delta(sender.take_delta())
    assert receiver.top(9).tolist() == [2]
    receiver.set_barred(1, False)
    assert receiver.top(9).tolist() == [1, 2]


def test_a_delta_that_does_not_fit_changes_nothing() -> None:
    sender, receiver = make(), make()
    count(sender, 1, 1000)
    delta = travelled(sender.take_delta())
    before = receiver.state.counts.copy()
    for wrong in (
        {"counts": -delta["counts"]},
        {"counts": delta["counts"] * np.nan},
        {"items": np.array([1, 2], np.int32)},
        {"clock": np.array([5, 4, 1])},
        {"clock": np.zeros(3, np.int64)},
    ):
        with pytest.raises(StateMismatchError):
            receiver.apply_delta(delta | wrong)
    np.testing.assert_array_equal(receiver.state.counts, before)
    receiver.apply_delta(delta | {"items": np.array([ITEMS], np.int32)})
    assert not receiver.state.counts.any()
