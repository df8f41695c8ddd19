from collections.abc import Callable, Mapping
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from operators.checks import ALL_CHECKS, OperatorCase, held_bytes
from operators.errors import NotFiniteError, ParameterError, StateMismatchError
from operators.hybrid import Hybrid, Lists, Options, Part

CAPACITY = 60
CUSTOMERS = 12
OPTIONS = Options(
    history_length=8,
    factors=8,
    negatives=4,
    neighbours=16,
    also_candidates=20,
    near_candidates=10,
    popular_candidates=10,
    hot_candidates=5,
    test_share=0.25,
)
Array = NDArray[Any]


class Batch(NamedTuple):
    slots: NDArray[np.int64]
    ids: list[str]
    weights: NDArray[np.float32]
    ts_ms: NDArray[np.int64]
    keys: NDArray[np.uint64]
    groups: NDArray[np.int32]


class Shop:
    """A recommender with its customers' rows."""

    def __init__(self, seed: int = 0, options: Options = OPTIONS, capacity: int = CAPACITY) -> None:
        self.hybrid = Hybrid(capacity, seed, options)
        self.rows = np.zeros(CUSTOMERS, self.hybrid.row_dtype)

    def learn(self, batch: Batch, *, bought: bool = False) -> list[int]:
        indices: list[int] = self.hybrid.learn_many(self.rows, *batch, bought).tolist()
        return indices

    def touch(self, customer: int, ids: list[str], *, bought: bool = False) -> None:
        start = self.rows["history"]["last_ts_ms"].max() + 1000
        self.learn(batch_of([(customer, text) for text in ids], start), bought=bought)

    def rank(self, n: int = 5, *, exclude_bought: bool = True, **options: Any) -> Lists:
        everyone = np.arange(CUSTOMERS)
        now_ms = int(self.rows["history"]["last_ts_ms"].max())
        return self.hybrid.rank_many(
            self.rows, everyone, n, now_ms=now_ms, exclude_bought=exclude_bought, **options
        )

    def names(self, lists: Lists, customer: int) -> list[str]:
        return [self.hybrid.vocabulary.ids[item] for item in lists.items[customer] if item >= 0]

    def predict(self, _batch: Batch) -> Array:
        return np.stack([answer.astype(np.float64) for answer in self.rank()])

    def state(self) -> dict[str, Array]:
        return self.hybrid.arrays() | {"rows": self.rows}

    def load(self, state: Mapping[str, Array]) -> None:
        self.hybrid.load_arrays({k: v for k, v in state.items() if k != "rows"})
        self.rows[:] = state["rows"]


def batch_of(events: list[tuple[int, str]], start_ms: int = 0) -> Batch:
    n = len(events)
    times = start_ms + 1000 * np.arange(n)
    return Batch(
        np.array([customer for customer, _ in events], np.int64),
        [text for _, text in events],
        np.ones(n, np.float32),
        times,
        times.astype(np.uint64),
        np.arange(n, dtype=np.int32),
    )


def random_batch(generator: np.random.Generator, n: int) -> Batch:
    return Batch(
        generator.integers(0, CUSTOMERS, n),
        [f"item-{i}" for i in generator.integers(0, 90, n).tolist()],
        (generator.exponential(1.0, n) * (generator.random(n) < 0.9)).astype(np.float32),
        generator.integers(0, 10**10, n),
        generator.integers(0, 2**63, n).astype(np.uint64),
        np.arange(n, dtype=np.int32),
    )


def piece(batch: Batch, start: int, end: int) -> Batch:
    return Batch(
        batch.slots[start:end],
        batch.ids[start:end],
        batch.weights[start:end],
        batch.ts_ms[start:end],
        batch.keys[start:end],
        batch.groups[start:end],
    )


def split(batch: Batch, parts: int) -> list[Batch]:
    cuts = np.linspace(0, len(batch.ids), parts + 1).astype(int).tolist()
    return [piece(batch, start, end) for start, end in pairwise(cuts)]


def poison(batch: Batch) -> Batch:
    return batch._replace(weights=np.append(batch.weights[1:], np.float32(np.inf)))


CASE = OperatorCase[Shop, Batch](
    name="hybrid",
    make=Shop,
    batch=random_batch,
    split=split,
    learn=Shop.learn,
    predict=Shop.predict,
    state=Shop.state,
    load=Shop.load,
    max_bytes=4_600_000,
    poison=poison,
)


@pytest.mark.parametrize("check", ALL_CHECKS)
def test_hybrid_keeps_the_contract(check: Callable[[OperatorCase[Shop, Batch]], None]) -> None:
    check(CASE)


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 10**6), st.lists(st.integers(1, 6), min_size=1, max_size=40), st.data())
def test_orders_cut_anywhere_between_them_lead_to_the_same_state(
    seed: int, sizes: list[int], data: st.DataObject
) -> None:
    batch = random_batch(np.random.default_rng(seed), sum(sizes))
    groups = np.repeat(np.arange(len(sizes), dtype=np.int32), sizes)
    batch = batch._replace(groups=groups, slots=groups.astype(np.int64) % 3)
    cut = sum(sizes[: data.draw(st.integers(0, len(sizes)))])
    whole, parts = Shop(), Shop()
    whole.learn(batch, bought=True)
    parts.learn(piece(batch, 0, cut), bought=True)
    parts.learn(piece(batch, cut, len(batch.ids)), bought=True)
    for name, array in whole.hybrid.arrays().items():
        assert array.tobytes() == parts.hybrid.arrays()[name].tobytes(), name


def test_a_moved_row_is_not_read_with_items_that_come_later_in_the_batch() -> None:
    origin, whole, parts = Shop(), Shop(), Shop()
    origin.touch(0, ["later"])
    batch = batch_of([(0, "tea"), (1, "later")], 10**6)
    for shop, cuts in ((whole, [0, 2]), (parts, [0, 1, 2])):
        shop.rows[:] = origin.rows
        for start, end in pairwise(cuts):
            shop.learn(piece(batch, start, end))
    for name, array in whole.hybrid.arrays().items():
        assert array.tobytes() == parts.hybrid.arrays()[name].tobytes(), name


def test_lines_of_an_order_are_tested_before_any_of_them_is_learned() -> None:
    """Pairs are always bought together; only a line that saw the other could foresee it."""
    one, two = (Shop(options=OPTIONS._replace(test_share=1.0)) for _ in range(2))
    orders = np.repeat(np.arange(25, dtype=np.int32), 2)
    generator = np.random.default_rng(0)
    for _ in range(8):
        shuffled = generator.permutation(25).tolist()
        apart = batch_of([(0, f"{side}-{i}") for i in shuffled for side in ("left", "right")])
        one.learn(apart._replace(groups=orders))
        two.learn(apart)
    assert one.hybrid.quality()["tests"] == two.hybrid.quality()["tests"] == 400
    foreseen = two.hybrid.quality()["mean_reciprocal_rank"]
    assert one.hybrid.quality()["mean_reciprocal_rank"] < 0.5 * foreseen


def test_items_bought_together_go_together() -> None:
    shop = Shop()
    for customer in range(6):
        batch = batch_of([(customer, "cup"), (customer, "saucer"), (customer, f"x-{customer}")])
        shop.learn(batch._replace(groups=np.zeros(3, np.int32)), bought=True)
    assert shop.hybrid.similar("cup", 1)[0][0] == "saucer"


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 10**6), st.integers(1, 50))
def test_lists_are_ordered_distinct_and_padded(seed: int, n: int) -> None:
    shop = Shop()
    shop.learn(random_batch(np.random.default_rng(seed), 150))
    lists = shop.rank(n)
    for items, scores, causes, parts in zip(*lists, strict=True):
        length = np.count_nonzero(items >= 0)
        assert (items[length:] == -1).all()
        assert (scores[length:] == 0).all()
        assert (causes[length:] == -1).all()
        assert len(set(items[:length].tolist())) == length
        assert (np.diff(scores[:length]) <= 0).all()
        assert ((scores[:length] > 0) & (scores[:length] <= 1)).all()
        assert set(parts.tolist()) <= set(Part)


def test_a_customer_without_a_history_gets_the_popular_items() -> None:
    shop = Shop()
    batch = random_batch(np.random.default_rng(0), 200)
    shop.learn(batch._replace(slots=batch.slots % (CUSTOMERS - 1)))
    lists = shop.rank(8)
    likely = set(shop.hybrid.trends.state.top[0, :10].tolist())
    likely |= set(shop.hybrid.trends.state.top[1, :5].tolist())
    assert set(lists.items[CUSTOMERS - 1].tolist()) <= likely
    unknown = shop.hybrid.rank_unknown(8, now_ms=int(batch.ts_ms.max()))
    assert unknown.items[0].tolist() == lists.items[CUSTOMERS - 1].tolist()
    assert (lists.parts[CUSTOMERS - 1] == Part.POPULAR).all()
    assert (lists.causes[CUSTOMERS - 1] == -1).all()


def test_nothing_learned_means_an_empty_list() -> None:
    assert (Shop().hybrid.rank_unknown(3, now_ms=0).items == -1).all()
    assert set(Shop().hybrid.quality().values()) == {0.0}
    assert Shop().hybrid.similar("tea", 3) == []


def planted(seed: int, n: int) -> Batch:
    """Even customers move among even items, odd ones among odd items, all equally popular."""
    generator = np.random.default_rng(seed)
    batch = random_batch(generator, n)
    items = 2 * generator.integers(0, 15, n) + batch.slots % 2
    return batch._replace(
        ids=[f"item-{i}" for i in items.tolist()],
        weights=np.ones(n, np.float32),
        ts_ms=1000 * np.arange(n),
    )


def test_two_groups_of_customers_are_ranked_their_own_items() -> None:
    shop = Shop()
    shop.learn(planted(0, 2500))
    lists = shop.rank(10)
    for customer in range(CUSTOMERS):
        own = [int(name[5:]) % 2 == customer % 2 for name in shop.names(lists, customer)]
        assert len(own) == 10
        assert all(own)
    quality = shop.hybrid.quality()
    assert quality["hit_rate_at_10"] > 1.4 * quality["popular_hit_rate_at_10"]


def test_an_item_never_seen_before_is_a_miss() -> None:
    shop = Shop(options=OPTIONS._replace(test_share=1.0))
    shop.touch(0, [f"new-{i}" for i in range(30)])
    quality = shop.hybrid.quality()
    assert quality["tests"] == 30.0
    assert quality["hit_rate_at_10"] == quality["mean_reciprocal_rank"] == 0.0


def test_a_full_vocabulary_refuses_new_items_and_stays_bounded() -> None:
    shop = Shop()
    shop.touch(0, [f"item-{i}" for i in range(CAPACITY)])
    full = held_bytes(shop)
    answer = shop.learn(batch_of([(1, "one more"), (1, "item-3")], 10**6))
    assert answer == [-1, 3]
    assert shop.hybrid.vocabulary.refused == 1
    recent = shop.hybrid.history.items_many(
        shop.rows["history"], np.array([1]), shop.hybrid.vocabulary
    )
    assert recent[0, :2].tolist() == [3, -1]
    assert held_bytes(shop) <= full + 100


def test_weightless_events_enter_the_history_only() -> None:
    shop = Shop()
    shop.touch(0, ["tea", "cup"])
    before = shop.hybrid.trends.state.counts.tolist()
    batch = batch_of([(1, "tea")], 1000)
    shop.learn(batch._replace(weights=np.zeros(1, np.float32)))
    assert shop.hybrid.trends.state.counts.tolist() == before
    assert shop.rows["history"]["keys"][1, 0] == shop.hybrid.vocabulary.keys[0]


def test_read_only_strided_and_wider_arrays_are_taken_as_they_come() -> None:
    one, two = Shop(), Shop()
    batch = random_batch(np.random.default_rng(0), 80)
    one.learn(batch)
    odd = batch._replace(
        slots=np.repeat(batch.slots, 2)[::2],
        weights=batch.weights.astype(np.float64),
        ts_ms=np.frombuffer(batch.ts_ms.tobytes(), np.int64),
    )
    two.learn(odd)
    assert one.rank().items.tolist() == two.rank().items.tolist()


def test_what_does_not_fit_is_refused_before_anything_is_learned() -> None:
    shop = Shop()
    batch = random_batch(np.random.default_rng(0), 4)
    changes: list[dict[str, Any]] = [
        {"ids": batch.ids[:3]},
        {"ids": ["", *batch.ids[1:]]},
        {"slots": np.full(4, CUSTOMERS)},
        {"groups": batch.groups[:2]},
        {"keys": batch.keys[:2]},
    ]
    for change in changes:
        with pytest.raises(ParameterError):
            shop.learn(batch._replace(**change))
    with pytest.raises(NotFiniteError):
        shop.learn(poison(batch))
    with pytest.raises(ParameterError):
        shop.rank(0)
    with pytest.raises(ParameterError, match="excluded"):
        shop.rank(excluded=np.empty((1, 1), np.int32))
    with pytest.raises(ParameterError):
        Hybrid(10, options=Options(test_share=2.0))
    with pytest.raises(ParameterError):
        Hybrid(10, options=Options(popular_candidates=0))
    assert len(shop.hybrid.vocabulary) == 0
    assert not shop.rows["history"]["keys"].any()


def test_arrays_that_do_not_fit_change_nothing() -> None:
    shop = Shop()
    shop.touch(0, ["tea"])
    other = Hybrid(CAPACITY, options=OPTIONS._replace(factors=4))
    with pytest.raises(StateMismatchError):
        shop.hybrid.load_arrays(other.arrays())
    broken = shop.hybrid.arrays() | {"vocabulary.ids": np.full(3, 255, np.uint8)}
    with pytest.raises(StateMismatchError):
        shop.hybrid.load_arrays(broken)
    assert shop.hybrid.vocabulary.ids == ["tea"]
    with pytest.raises(StateMismatchError, match="rows"):
        shop.hybrid.rank_many(
            np.zeros(1, other.row_dtype), np.zeros(1, int), 3, now_ms=0, exclude_bought=True
        )
