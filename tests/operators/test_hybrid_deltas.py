from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from operators.checks import check_deltas_reach_the_other_replica
from operators.errors import StateMismatchError
from operators.fusion_kernels import ROWS
from operators.hybrid import Hybrid, Lists
from operators.question import FEATURES
from tests.operators.replicas import exchange, travelled
from tests.operators.test_hybrid import (
    CAPACITY,
    CASE,
    CUSTOMERS,
    OPTIONS,
    Shop,
    batch_of,
    piece,
    planted,
    random_batch,
)

Array = NDArray[Any]
ITEMS = 90
# Room for all items and all their neighbours, so that none is given up.
ROOM = 5 * ITEMS
ROOMY = OPTIONS._replace(neighbours=128)


def lend(shop: Shop, other: Shop) -> None:
    other.rows[:] = shop.rows


def test_a_replica_ranks_by_what_another_learned() -> None:
    check_deltas_reach_the_other_replica(
        replace(
            CASE,
            make=lambda seed: Shop(seed, ROOMY, ROOM),
            take=lambda shop: shop.hybrid.take_delta(),
            apply=lambda shop, delta: shop.hybrid.apply_delta(delta),
            lend=lend,
        )
    )


def by_name(shop: Shop, lists: Lists) -> list[dict[str, float]]:
    ids = shop.hybrid.vocabulary.ids
    return [
        {ids[item]: score for item, score in zip(items, scores, strict=True) if item >= 0}
        for items, scores in zip(lists.items.tolist(), lists.scores.tolist(), strict=True)
    ]


def age_alike(one: Shop, two: Shop) -> None:
    """What two replicas count at one time is newer to the one than to the other: see `Trends`."""
    mine, theirs = one.hybrid.trends.state, two.hybrid.trends.state
    known = one.hybrid.vocabulary.ids
    places = two.hybrid.vocabulary.index_many(known)
    for name in ("first", "last", "recent"):
        getattr(theirs, name)[places] = getattr(mine, name)[: len(known)]
    for name in ("units", "sums"):
        getattr(theirs, name)[:] = getattr(mine, name)


def assert_same_lists(one: Shop, two: Shop) -> None:
    """The same items with the same scores, for customers that both have the rows of."""
    lend(one, two)
    age_alike(one, two)
    for mine, theirs in zip(by_name(one, one.rank(60)), by_name(two, two.rank(60)), strict=True):
        assert mine.keys() == theirs.keys()
        for name, score in mine.items():
            assert theirs[name] == pytest.approx(score, rel=1e-2, abs=1e-4)


# All items of a list of everything: which items are candidates then does not hang on rounding.
EVERYTHING = ROOMY._replace(also_candidates=ITEMS, popular_candidates=ITEMS)


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 10**6))
def test_replicas_that_know_items_in_different_orders_come_to_the_same_lists(seed: int) -> None:
    replicas = [Shop(0, EVERYTHING, ROOM) for _ in range(3)]
    for round_number in range(2):
        for number, replica in enumerate(replicas):
            batch = planted(seed + 10 * round_number + number, 60)
            replica.learn(batch)
        exchange([replica.hybrid for replica in replicas])
    assert replicas[0].hybrid.vocabulary.ids != replicas[1].hybrid.vocabulary.ids
    for replica in replicas[1:]:
        assert_same_lists(replicas[0], replica)


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 10**6))
def test_the_order_of_deltas_makes_no_difference(seed: int) -> None:
    deltas = []
    for number in range(2):
        sender = Shop(0, EVERYTHING, ROOM)
        sender.learn(planted(seed + number, 80))
        deltas.append(sender.hybrid.take_delta())
    one, two = Shop(0, EVERYTHING, ROOM), Shop(0, EVERYTHING, ROOM)
    for replica, sequence in ((one, deltas), (two, deltas[::-1])):
        replica.learn(planted(seed + 9, 40))
        for delta in sequence:
            replica.hybrid.apply_delta(delta)
    assert_same_lists(one, two)


def test_applying_another_replicas_learning_twice_as_parts_is_the_same_as_whole() -> None:
    batch = planted(3, 200)
    steady, halves, whole = Shop(0, ROOMY, ROOM), Shop(0, ROOMY, ROOM), Shop(0, ROOMY, ROOM)
    steady.learn(piece(batch, 0, 100))
    halves.hybrid.apply_delta(steady.hybrid.take_delta())
    steady.learn(piece(batch, 100, 200))
    halves.hybrid.apply_delta(steady.hybrid.take_delta())
    again = Shop(0, ROOMY, ROOM)
    again.learn(batch)
    whole.hybrid.apply_delta(again.hybrid.take_delta())
    lend(steady, halves)
    assert_same_lists(halves, whole)


def test_an_item_that_is_not_available_here_is_not_brought_back_by_others() -> None:
    sender, receiver = Shop(), Shop()
    sender.touch(0, ["tea", "cup", "pot"])
    sender.touch(1, ["tea", "gone before", "gone before", "cup"])
    receiver.touch(0, ["tea", "cup"])
    receiver.hybrid.set_available("tea", False)
    receiver.hybrid.set_available("gone before", False)
    receiver.hybrid.apply_delta(sender.hybrid.take_delta())
    lend(sender, receiver)
    barred = {"tea", "gone before"}
    unknown = receiver.hybrid.rank_unknown(20, now_ms=0)
    for lists in (receiver.rank(20, exclude_bought=False), unknown):
        for customer in range(len(lists.items)):
            listed = set(receiver.names(lists, customer))
            assert listed
            assert not listed & barred
    assert not barred & {name for name, _ in receiver.hybrid.similar("cup", 20)}
    receiver.hybrid.set_available("tea", True)
    assert "tea" in receiver.names(receiver.hybrid.rank_unknown(20, now_ms=0), 0)


def test_an_item_of_others_leaves_when_it_is_no_longer_available() -> None:
    sender, receiver = Shop(), Shop()
    sender.touch(0, ["tea", "cup"])
    receiver.hybrid.apply_delta(sender.hybrid.take_delta())
    receiver.hybrid.set_available("tea", False)
    sender.touch(1, ["tea", "tea"])
    receiver.hybrid.apply_delta(sender.hybrid.take_delta())
    assert receiver.names(receiver.hybrid.rank_unknown(5, now_ms=0), 0) == ["cup"]


def test_a_full_replica_takes_what_concerns_its_own_items() -> None:
    sender, receiver = Shop(), Shop()
    receiver.touch(0, [f"item-{i}" for i in range(CAPACITY)])
    receiver.hybrid.take_delta()
    sender.touch(0, ["item-0", "new", "item-1", "item-0"])
    before = receiver.hybrid.trends.state.counts.copy()
    receiver.hybrid.apply_delta(sender.hybrid.take_delta())
    gained = receiver.hybrid.trends.state.counts - before
    assert gained[:2].tolist() == [2.0, 1.0]
    assert not gained[2:].any()
    assert receiver.hybrid.vocabulary.refused == 1
    assert len(receiver.hybrid.vocabulary) == CAPACITY
    assert receiver.hybrid.take_delta() == {}


def test_a_delta_is_as_large_as_what_changed() -> None:
    shop = Hybrid(50_000, options=OPTIONS)
    rows = np.zeros(CUSTOMERS, shop.row_dtype)
    shop.learn_many(rows, *random_batch(np.random.default_rng(0), 2000), False)
    shop.take_delta()
    shop.learn_many(rows, *random_batch(np.random.default_rng(1), 3), False)
    delta = shop.take_delta()
    assert sum(array.nbytes for array in delta.values()) < 20_000


def test_quality_is_a_replicas_own() -> None:
    sender, receiver = Shop(), Shop()
    sender.learn(random_batch(np.random.default_rng(0), 300))
    receiver.hybrid.apply_delta(sender.hybrid.take_delta())
    assert sender.hybrid.quality()["tests"] > 0
    assert receiver.hybrid.quality()["tests"] == 0


def test_a_delta_that_does_not_fit_changes_nothing() -> None:
    sender, receiver = Shop(), Shop()
    sender.hybrid.set_words("item-1", ["mug"])
    sender.learn(random_batch(np.random.default_rng(0), 200))
    receiver.touch(0, ["tea", "cup"])
    receiver.hybrid.take_delta()
    before = {name: array.copy() for name, array in receiver.hybrid.arrays().items()}
    delta = travelled(sender.hybrid.take_delta())
    ids = len(delta["ends"])
    for wrong in (
        {"mf.outputs": delta["mf.outputs"] * np.float32(np.inf)},
        {"mf.draws": np.array([ids], np.int32)},
        {"trends.items": delta["trends.items"] - np.int32(ids)},
        {"trends.counts": -delta["trends.counts"]},
        {"content.places": delta["content.places"] - np.int32(1 << 20)},
        {"cooccurrence.neighbours": delta["cooccurrence.neighbours"] + np.int32(ids)},
        {"fusion.places": delta["fusion.places"] + np.int32(ROWS * FEATURES)},
        {"fusion.gained": -delta["fusion.gained"]},
        {"ids": np.full_like(delta["ids"], 255)},
        {"ends": delta["ends"][:-1]},
        {"churn.weights": np.zeros(1)},
    ):
        with pytest.raises(StateMismatchError):
            receiver.hybrid.apply_delta(delta | wrong)
    other = Hybrid(CAPACITY, options=OPTIONS._replace(factors=4))
    with pytest.raises(StateMismatchError):
        other.apply_delta(delta)
    assert len(other.vocabulary) == 0
    for name, array in receiver.hybrid.arrays().items():
        np.testing.assert_array_equal(array, before[name], name)
    assert receiver.hybrid.take_delta() == {}


def test_ids_alone_are_told_too() -> None:
    """An item that taught nothing is known to the customers' histories all the same."""
    sender, receiver = Shop(), Shop()
    batch = batch_of([(0, "tea")])
    sender.learn(batch._replace(weights=np.zeros(1, np.float32)))
    receiver.hybrid.apply_delta(sender.hybrid.take_delta())
    assert receiver.hybrid.vocabulary.ids == ["tea"]
    lend(sender, receiver)
    recent = receiver.hybrid.history.items_many(
        receiver.rows["history"], np.array([0]), receiver.hybrid.vocabulary
    )
    assert recent[0, 0] == 0
