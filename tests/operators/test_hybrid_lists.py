"""What is listed at all: what is available, new, not had before, not left out."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from operators.hybrid import INTRODUCED_SHARE, Hybrid
from operators.question import FRESH
from tests.operators.test_hybrid import (
    CAPACITY,
    CUSTOMERS,
    OPTIONS,
    Shop,
    batch_of,
    random_batch,
)


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 10**6), st.lists(st.integers(0, 89), max_size=60))
def test_unavailable_items_are_never_ranked(seed: int, gone: list[int]) -> None:
    shop = Shop(options=OPTIONS._replace(test_share=0.0))
    for item in gone[::2]:
        shop.hybrid.set_available(f"item-{item}", False)
    shop.learn(random_batch(np.random.default_rng(seed), 200))
    for item in gone[1::2]:
        shop.hybrid.set_available(f"item-{item}", False)
    barred = {f"item-{item}" for item in gone}
    lists = shop.rank(20)
    unknown = shop.hybrid.rank_unknown(20, now_ms=0)
    known = set(shop.hybrid.vocabulary.ids)
    for customer in range(CUSTOMERS):
        assert not barred & known & set(shop.names(lists, customer))
    assert not barred & known & set(shop.names(unknown, 0))
    assert not barred & known & {name for name, _ in shop.hybrid.similar("item-1", 50)}


def test_an_item_that_is_available_again_comes_back() -> None:
    shop = Shop()
    shop.touch(0, ["tea", "cup"])
    shop.hybrid.set_available("tea", False)
    assert shop.names(shop.hybrid.rank_unknown(5, now_ms=0), 0) == ["cup"]
    shop.hybrid.set_available("tea", True)
    assert set(shop.names(shop.hybrid.rank_unknown(5, now_ms=0), 0)) == {"tea", "cup"}
    shop.hybrid.set_available("never heard of", True)
    assert len(shop.hybrid.vocabulary) == 2


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 10**6))
def test_what_was_just_bought_and_what_is_excluded_is_not_ranked(seed: int) -> None:
    shop = Shop()
    generator = np.random.default_rng(seed)
    shop.learn(random_batch(generator, 150))
    shop.learn(random_batch(generator, 30), bought=True)
    vocabulary, history = shop.hybrid.vocabulary, shop.hybrid.history
    bought = history.items_many(
        shop.rows["history"], np.arange(CUSTOMERS), vocabulary, bought_only=True
    )
    excluded = generator.integers(-1, len(vocabulary), (CUSTOMERS, 3)).astype(np.int32)
    excluded = -np.sort(-excluded, axis=1)
    lists = shop.rank(15, excluded=excluded)
    for customer in range(CUSTOMERS):
        listed = set(lists.items[customer].tolist()) - {-1}
        assert not listed & set(bought[customer].tolist())
        assert not listed & set(excluded[customer].tolist())
    allowed = shop.rank(15, exclude_bought=False)
    assert np.isin(bought[bought >= 0], allowed.items).any()


WORDS = {
    "red mug": ["red", "mug"],
    "blue mug": ["blue", "mug"],
    "white mug": ["white", "mug"],
    "garden hose": ["garden", "hose"],
    "garden chair": ["garden", "chair"],
    "garden lamp": ["garden", "lamp"],
}


def catalogue() -> Shop:
    """A shop whose even customers look at mugs, the odd ones at what belongs into a garden."""
    shop = Shop(options=OPTIONS._replace(test_share=1.0))
    names = list(WORDS)
    for name in names:
        shop.hybrid.introduce(name, WORDS[name])
    generator = np.random.default_rng(0)
    for _ in range(60):
        for customer in range(CUSTOMERS - 2):
            shop.touch(customer, [names[int(generator.integers(0, 3)) + 3 * (customer % 2)]])
    shop.touch(CUSTOMERS - 2, ["red mug", "blue mug"])
    shop.touch(CUSTOMERS - 1, ["garden hose", "garden lamp"])
    return shop


def test_a_new_item_that_nobody_touched_is_listed_to_whom_its_words_suit() -> None:
    shop = catalogue()
    shop.hybrid.introduce("green mug", ["green", "mug"])
    shop.hybrid.introduce("garden gnome", ["garden", "gnome"])
    assert not shop.hybrid.trends.state.counts[shop.hybrid.vocabulary.index_many(["green mug"])]
    lists = shop.rank(20, exclude_bought=False)
    for customer in range(CUSTOMERS):
        names = shop.names(lists, customer)
        suits, other = ("green mug", "garden gnome")[:: 1 - 2 * (customer % 2)]
        assert suits in names
        assert other not in names or names.index(suits) < names.index(other)


def test_a_new_item_that_is_not_available_is_not_listed() -> None:
    shop = catalogue()
    shop.hybrid.introduce("green mug", ["green", "mug"])
    shop.hybrid.set_available("green mug", False)
    shop.hybrid.set_available("white mug", False)
    shop.hybrid.introduce("white mug", ["white", "mug"])
    lists = shop.rank(20, exclude_bought=False)
    for customer in range(CUSTOMERS):
        assert not {"green mug", "white mug"} & set(shop.names(lists, customer))
    shop.hybrid.set_available("green mug", True)
    assert "green mug" in shop.names(shop.rank(20), CUSTOMERS - 2)


def test_somebody_unknown_gets_new_items_where_nothing_was_touched_yet() -> None:
    shop = Shop()
    for name, words in WORDS.items():
        shop.hybrid.introduce(name, words)
    assert set(shop.names(shop.hybrid.rank_unknown(20, now_ms=0), 0)) == set(WORDS)


def test_an_item_is_new_once_and_older_ones_make_room() -> None:
    hybrid = Hybrid(10 * FRESH, options=OPTIONS)
    for n in range(FRESH + 5):
        hybrid.introduce(f"item-{n}", ["mug"])
        hybrid.introduce("item-0", ["red", "mug"])
    assert hybrid.fresh.tolist() == list(range(FRESH + 4, 4, -1))


def test_a_catalogue_leaves_room_for_what_customers_touch() -> None:
    shop = Shop()
    for n in range(2 * CAPACITY):
        shop.hybrid.introduce(f"catalogue-{n}", ["mug"])
    assert len(shop.hybrid.vocabulary) == INTRODUCED_SHARE * CAPACITY
    assert min(shop.learn(batch_of([(0, f"touched-{n}") for n in range(5)]))) >= 0
    shop.hybrid.introduce("touched-1", ["cup"])
    assert "touched-1" in shop.names(shop.rank(20, exclude_bought=False), 1)


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 10**6))
def test_where_nothing_is_taken_twice_nothing_that_a_customer_had_is_listed(seed: int) -> None:
    """However long ago: the history remembers 8 items, its filter all."""
    shop = Shop(options=OPTIONS._replace(repeats=False))
    generator = np.random.default_rng(seed)
    had: list[set[str]] = [set() for _ in range(CUSTOMERS)]
    for _ in range(3):
        batch = random_batch(generator, 120)
        shop.learn(batch, bought=bool(generator.random() < 0.5))
        for customer, text in zip(batch.slots.tolist(), batch.ids, strict=True):
            had[customer].add(text)
    lists = shop.rank(40, exclude_bought=False)
    assert max(len(items) for items in had) > 2 * OPTIONS.history_length
    for customer in range(CUSTOMERS):
        names = shop.names(lists, customer)
        assert names
        assert not set(names) & had[customer]


def test_where_things_are_taken_twice_what_a_customer_had_may_be_listed() -> None:
    shop = Shop(options=OPTIONS._replace(repeats=True))
    shop.touch(0, [f"item-{n}" for n in range(20)])
    names = shop.names(shop.rank(40, exclude_bought=False), 0)
    assert {f"item-{n}" for n in range(12)} & set(names)
    assert {f"item-{n}" for n in range(12, 20)} <= set(names)


@pytest.mark.parametrize("repeats", [True, False])
def test_a_customer_of_whose_items_none_is_known_here_for_long_is_served_and_learned_from(
    repeats: bool,
) -> None:
    """The vocabulary was full when they came, so that their newest orders have no item."""
    shop = Shop(options=OPTIONS._replace(test_share=1.0, repeats=repeats))
    shop.touch(0, ["early"])
    shop.touch(1, [f"item-{n}" for n in range(CAPACITY - 1)])
    refused = shop.learn(batch_of([(0, f"more-{n}") for n in range(400)], 10**6))
    assert set(refused) == {-1}
    assert len(shop.names(shop.rank(10), 0)) == 10
    assert shop.learn(batch_of([(0, "item-3")], 10**7)) == [4]
    tests = shop.hybrid.quality()["tests"]
    shop.touch(0, ["item-4"])
    assert shop.hybrid.quality()["tests"] == tests + 1
