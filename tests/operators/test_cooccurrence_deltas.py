from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from operators.checks import check_deltas_reach_the_other_replica
from operators.cooccurrence import ItemCooccurrence
from operators.errors import StateMismatchError
from tests.operators.replicas import exchange, travelled
from tests.operators.test_cooccurrence import CASE, DAY_MS, ITEMS, Batch, make, random_batch

ALL = np.arange(ITEMS, dtype=np.int32)


def table(model: ItemCooccurrence) -> NDArray[np.float64]:
    """Every item's shares by neighbour."""
    shares = np.zeros((ITEMS, ITEMS + 1))
    neighbours, values = model.neighbours_many(ALL)
    np.put_along_axis(shares, neighbours, values, 1)
    return shares[:, :ITEMS]


def batch_at(seed: int, n: int, start_ms: int, end_ms: int) -> Batch:
    batch = random_batch(np.random.default_rng(seed), n)
    times = np.sort(np.random.default_rng(seed).integers(start_ms, end_ms, n))
    return batch._replace(ts_ms=times)


def test_a_replica_with_room_hears_everything() -> None:
    roomy = replace(
        CASE,
        make=lambda seed: make(seed, ITEMS),
        take=ItemCooccurrence.take_delta,
        apply=ItemCooccurrence.apply_delta,
    )
    check_deltas_reach_the_other_replica(roomy)


@settings(deadline=None)
@given(st.lists(st.integers(0, 1000), min_size=1, max_size=6))
def test_replicas_of_a_split_stream_count_as_one_that_sees_it_all(seeds: list[int]) -> None:
    whole, replicas = make(neighbours=ITEMS), [make(neighbours=ITEMS) for _ in range(3)]
    for day, seed in enumerate(seeds):
        batch = batch_at(seed, 30, day * DAY_MS // 2, (day + 1) * DAY_MS // 2)
        whole.learn_many(*batch)
        owners = np.random.default_rng(seed).integers(0, 3, 30)
        for owner, replica in enumerate(replicas):
            replica.learn_many(*(column[owners == owner] for column in batch))
        exchange(replicas)
    for replica in replicas:
        np.testing.assert_allclose(table(replica), table(whole), 1e-4, 1e-6)


@settings(deadline=None)
@given(st.integers(0, 1000), st.permutations([0, 1, 2]))
def test_the_order_of_deltas_makes_no_difference_while_lists_have_room(
    seed: int, order: list[int]
) -> None:
    senders = [make(neighbours=ITEMS) for _ in range(3)]
    for number, sender in enumerate(senders):
        sender.learn_many(*batch_at(seed + number, 40, 0, 90 * DAY_MS))
    deltas = [sender.take_delta() for sender in senders]
    one, two = make(neighbours=ITEMS), make(neighbours=ITEMS)
    for replica, sequence in ((one, [0, 1, 2]), (two, order)):
        replica.learn_many(*batch_at(seed + 9, 20, 0, 30 * DAY_MS))
        for sender_number in sequence:
            replica.apply_delta(deltas[sender_number])
    np.testing.assert_allclose(table(one), table(two), 1e-4, 1e-6)


def test_full_lists_keep_the_neighbours_that_all_replicas_together_see_most() -> None:
    """Each item goes with its successor a third of the time, else with anything."""
    replicas = [make(neighbours=4) for _ in range(4)]
    generator = np.random.default_rng(0)
    for _ in range(10):
        for replica in replicas:
            batch = batch_at(int(generator.integers(10**6)), 200, 0, DAY_MS)
            contexts = np.full((200, 3), -1, np.int32)
            contexts[:, 0] = generator.integers(0, ITEMS, 200)
            follows = generator.random(200) < 0.33
            items = np.where(follows, (contexts[:, 0] + 1) % ITEMS, batch.items).astype(np.int32)
            replica.learn_many(*batch._replace(items=items, contexts=contexts))
        exchange(replicas)
    for replica in replicas:
        assert replica.state.neighbours.shape == (ITEMS, 4)
        best = replica.neighbours_many(ALL)[0][:, 0]
        assert (best == (ALL + 1) % ITEMS).mean() > 0.9
        lists = replica.state.neighbours
        assert all(len(set(row)) == len(row) for row in lists.tolist())


def test_what_a_newcomer_to_a_full_list_inherits_is_not_told() -> None:
    sender, receiver = make(neighbours=1), make(neighbours=4)
    for neighbour, weight in ((1, 3.0), (2, 1.0)):
        sender.learn_many(
            np.array([neighbour], np.int32),
            np.array([[0]], np.int32),
            np.array([weight], np.float32),
            np.zeros(1, np.int64),
        )
    receiver.apply_delta(sender.take_delta())
    assert sender.neighbours_many(ALL[:1])[1].tolist() == [[1.0]]
    neighbours, shares = receiver.neighbours_many(ALL[:1])
    assert neighbours[0, :2].tolist() == [2, -1]
    assert shares[0, 0] == 0.25


def test_items_and_neighbours_of_minus_one_are_left_out() -> None:
    sender, receiver = make(), make()
    sender.learn_many(*batch_at(1, 60, 0, DAY_MS))
    delta = sender.take_delta()
    gone = delta["neighbours"] % 2 == 0
    delta["neighbours"][gone] = -1
    delta["items"][0] = -1
    receiver.apply_delta(delta)
    assert receiver.state.totals[0] == 0
    assert not np.isin(receiver.state.neighbours, np.arange(0, ITEMS, 2)).any()


def test_a_delta_that_does_not_fit_changes_nothing() -> None:
    sender, receiver = make(), make()
    sender.learn_many(*batch_at(1, 60, 0, DAY_MS))
    delta = travelled(sender.take_delta())
    for wrong in (
        {"weights": -delta["weights"]},
        {"totals": np.full(len(delta["totals"]), np.inf)},
        {"ends": delta["ends"][::-1].copy()},
        {"ends": delta["ends"] + 1},
        {"neighbours": delta["neighbours"][1:]},
        {"clock": np.zeros(3, np.int64)},
    ):
        with pytest.raises(StateMismatchError):
            receiver.apply_delta(delta | wrong)
    assert not receiver.state.totals.any()
    assert (receiver.state.neighbours == -1).all()
