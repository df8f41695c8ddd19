from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from operators.checks import check_deltas_reach_the_other_replica
from operators.cooccurrence import Channel, ItemCooccurrence
from operators.errors import StateMismatchError
from tests.operators.replicas import assert_same, exchange, travelled
from tests.operators.test_cooccurrence import (
    CASE,
    ITEMS,
    Batch,
    assert_sound,
    chosen,
    learn,
    make,
    one,
    random_batch,
    roomy,
    table_by_hand,
    table_of,
)


def batch_of(seed: int, n: int) -> Batch:
    return random_batch(np.random.default_rng(seed), n)


def test_a_replica_with_room_hears_everything() -> None:
    check_deltas_reach_the_other_replica(
        replace(
            CASE,
            make=roomy,
            take=ItemCooccurrence.take_delta,
            apply=ItemCooccurrence.apply_delta,
        )
    )


@settings(deadline=None, max_examples=30)
@given(st.lists(st.integers(0, 1000), min_size=1, max_size=5))
def test_replicas_of_a_split_stream_count_exactly_as_one_that_sees_it_all(
    seeds: list[int],
) -> None:
    whole, replicas = roomy(), [roomy() for _ in range(3)]
    for seed in seeds:
        batch = batch_of(seed, 60)
        learn(whole, batch)
        owners = np.random.default_rng(seed).integers(0, 3, 60)
        for owner, replica in enumerate(replicas):
            learn(replica, chosen(batch, owners == owner))
        exchange(replicas)
    for replica in replicas:
        np.testing.assert_array_equal(table_of(replica), table_of(whole))
        np.testing.assert_array_equal(replica.state.totals, whole.state.totals)
        assert not replica.take_delta()


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 1000), st.permutations([0, 1, 2]))
def test_the_order_of_deltas_makes_no_difference_while_rows_have_room(
    seed: int, order: list[int]
) -> None:
    batches = [batch_of(seed + number, 80) for number in range(3)]
    deltas = []
    for batch in batches:
        sender = roomy()
        learn(sender, batch)
        deltas.append(sender.take_delta())
    receiver = roomy()
    for number in order:
        if deltas[number]:
            receiver.apply_delta(travelled(deltas[number]))
    np.testing.assert_array_equal(table_of(receiver), sum(map(table_by_hand, batches)))


def test_full_rows_keep_the_neighbours_that_all_replicas_together_see_most() -> None:
    """Each item goes with its successor a third of the time, else with anything."""
    replicas = [make() for _ in range(4)]
    generator = np.random.default_rng(0)
    for _ in range(10):
        for replica in replicas:
            batch = batch_of(int(generator.integers(10**6)), 2000)
            contexts = np.full((2000, 4), -1, np.int32)
            contexts[:, 0] = generator.integers(0, ITEMS, 2000)
            follows = generator.random(2000) < 0.33
            items = np.where(follows, (contexts[:, 0] + 1) % ITEMS, batch.items).astype(np.int32)
            learn(replica, batch._replace(items=items, contexts=contexts))
        exchange(replicas)
    everything = np.arange(ITEMS, dtype=np.int32)
    for replica in replicas:
        assert_sound(replica)
        best = replica.neighbours_many(everything, Channel.NEXT)[0][:, 0]
        assert (best == (everything + 1) % ITEMS).mean() > 0.9


def test_replicas_that_hear_the_same_in_the_same_order_are_the_same() -> None:
    sender, one_replica, other = make(), make(), make()
    for seed in range(5):
        learn(sender, batch_of(seed, 400))
        delta = sender.take_delta()
        one_replica.apply_delta(delta)
        other.apply_delta(travelled(delta))
    assert_same(one_replica.arrays(), other.arrays())


def test_what_the_evicted_had_is_told_in_the_totals_and_a_newcomer_from_nothing() -> None:
    sender, receiver = make(), roomy()
    told = 0.0
    for neighbour in range(1, ITEMS):
        learn(sender, one(neighbour, [0], 1.0, neighbour))
        if neighbour % 10 == 0:
            delta = sender.take_delta()
            told += float(delta["totals"][delta["items"] == 0].sum())
            receiver.apply_delta(delta)
            assert set(np.unique(delta["weights"]).tolist()) <= {0.0, 1.0}
    receiver.apply_delta(sender.take_delta())
    assert receiver.state.totals[0].tolist() == [ITEMS - 1, ITEMS - 1, 0, 0, ITEMS - 1]
    assert np.isin(table_of(receiver)[0], [0.0, 1.0]).all()
    assert 16 <= table_of(receiver)[0, :, Channel.NEXT].sum() < ITEMS - 1
    assert (table_of(sender)[0] <= table_of(receiver)[0]).all()
    assert told > 0


def test_what_is_heard_is_forgotten_by_half_beyond_the_horizon_and_never_told_on() -> None:
    sender, receiver = make(), make(horizon=8.0)
    learn(receiver, one(2, [0], 2.0))
    learn(sender, one(1, [0], 10.0))
    receiver.apply_delta(sender.take_delta())
    assert receiver.state.totals[0].tolist() == [6, 6, 0, 0, 6]
    assert table_of(receiver)[0, 1:3, Channel.FORWARD].tolist() == [5.0, 1.0]
    delta = receiver.take_delta()
    of_zero = slice(0, int(delta["ends"][0]))
    assert delta["items"].tolist() == [0, 2]
    assert delta["totals"][0].tolist() == [1, 1, 0, 0, 1]
    assert delta["neighbours"][of_zero].tolist() == [2]
    assert delta["weights"][of_zero].tolist() == [[1, 1, 0, 0, 1]]


def test_a_neighbour_that_is_heard_of_often_gets_into_a_full_row() -> None:
    """At one in nine each time, drawn anew each time."""
    receiver = make()
    for neighbour in range(60, ITEMS):
        learn(receiver, one(neighbour, [0], 8.0, neighbour))
    for newcomer in range(1, 4):
        for _ in range(80):
            sender = make()
            learn(sender, one(newcomer, [0]))
            receiver.apply_delta(sender.take_delta())
    assert table_of(receiver)[0, 1:4, Channel.NEXT].all()


def test_what_was_told_is_halved_with_the_rest() -> None:
    sender = make(horizon=8.0)
    learn(sender, one(1, [0], 6.0))
    sender.take_delta()
    learn(sender, one(2, [0], 3.0))
    learn(sender, one(1, [0], 1.0))
    delta = sender.take_delta()
    assert delta["totals"][0].tolist() == [2.5, 2.5, 0, 0, 2.5]
    told = dict(
        zip(delta["neighbours"][:2].tolist(), delta["weights"][:2, 0].tolist(), strict=True)
    )
    assert told == {1: 1.0, 2: 1.5}


def test_a_loaded_replica_tells_only_what_it_learns_afterwards() -> None:
    """Loaded over a model that has learned more, of which nothing may be left."""
    saved, loaded = make(), make()
    learn(saved, batch_of(1, 20))
    learn(loaded, batch_of(2, 2000))
    loaded.take_delta()
    loaded.load_arrays({name: array.copy() for name, array in saved.arrays().items()})
    assert not loaded.take_delta()
    batch = batch_of(3, 300)
    saved.take_delta()
    learn(saved, batch)
    learn(loaded, batch)
    assert_same(loaded.take_delta(), saved.take_delta())


def test_items_and_neighbours_of_minus_one_are_left_out() -> None:
    sender, receiver = roomy(), roomy()
    learn(sender, batch_of(1, 60))
    delta = sender.take_delta()
    first = int(delta["items"][0])
    delta["neighbours"][delta["neighbours"] % 2 == 0] = -1
    delta["items"][0] = -1
    receiver.apply_delta(delta)
    table = table_of(receiver)
    assert not receiver.state.totals[first].any()
    assert not table[first].any()
    assert not table[:, ::2].any()
    assert table[:, 1::2].any()


def test_a_delta_that_does_not_fit_changes_nothing() -> None:
    sender, receiver = make(), make()
    learn(sender, batch_of(1, 60))
    delta = travelled(sender.take_delta())
    for wrong in (
        {"weights": -delta["weights"]},
        {"weights": delta["weights"] + np.float32(1e30)},
        {"weights": delta["weights"][:, :4]},
        {"totals": np.full_like(delta["totals"], np.inf)},
        {"totals": delta["totals"][:, 0]},
        {"ends": delta["ends"][::-1].copy()},
        {"ends": delta["ends"] + 1},
        {"neighbours": delta["neighbours"][1:]},
        {"clock": np.zeros(3, np.int64)},
    ):
        with pytest.raises(StateMismatchError):
            receiver.apply_delta({**delta, **wrong})
    assert not receiver.state.totals.any()
    assert not receiver.state.keys.any()
