"""Recommendations are judged fairly: predicted before they are learned, and ties do not help."""

import json
import math
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.recommend import BASELINES, OURS, columns_of, read
from benchmarks.recommend.counting import OWN_HALF_LIFE_MS, OwnFrequency, Popularity
from benchmarks.recommend.data import (
    Choice,
    Stream,
    file_choices,
    shortened,
    shuffle_ties,
    stream_of,
)
from benchmarks.recommend.engine import EngineHybrid, as_a_worker
from benchmarks.recommend.factors import BPR, RiverBiasedMF
from benchmarks.recommend.measures import Measures, place_of, ranked
from benchmarks.recommend.methods import Method, Question, Scored
from benchmarks.recommend.neighbours import ItemToItem, OwnAndItemToItem
from benchmarks.recommend.prequential import NONE, evaluate, learning_microseconds
from benchmarks.recommend.retrained import Retrained, train_als, train_bpr
from benchmarks.recommend.stars import compare
from benchmarks.report import BenchmarkError

DAY_MS = 86_400_000


def silent(share: float) -> None:
    del share


def lines(*triples: tuple[str, str, str | None]) -> Stream:
    """Make a stream of (customer, item, order) a day apart."""
    choices = [Choice(c, i, day * DAY_MS, order) for day, (c, i, order) in enumerate(triples)]
    return stream_of("test", choices)


def ask(stream: Stream, customer: int = 0, day: int = 0, barred: Any = NONE) -> Question:
    known = len(stream.item_ids)
    return Question(customer, day * DAY_MS, known, np.array(barred, np.int32))


class Spy:
    """Recommends what it is told to, and remembers what it was asked and taught."""

    def __init__(self, answer: Callable[[Question], Scored]) -> None:
        self.answer = answer
        self.learned = 0
        self.seen: list[tuple[Question, int]] = []

    def score(self, question: Question) -> Scored:
        self.seen.append((question, self.learned))
        return self.answer(question)

    def learn(self, start: int, end: int) -> None:
        assert start == self.learned, "every line is taught once, in turn"
        self.learned = end


def nothing(question: Question) -> Scored:
    return Scored(None, np.full(question.known, np.nan))


def same(question: Question) -> Scored:
    return Scored(None, np.ones(question.known))


# Data


def test_lines_of_an_order_come_together_at_the_place_of_its_first_and_the_rest_by_time() -> None:
    stream = stream_of(
        "shop",
        [
            Choice("ann", "tea", 3000),
            Choice("bob", "cup", 1000, "A"),
            Choice("ann", "mug", 2000),
            Choice("bob", "tea", 2500, "A"),
        ],
    )
    assert [stream.item_ids[i] for i in stream.items] == ["cup", "tea", "mug", "tea"]
    assert [stream.customer_ids[i] for i in stream.customers] == ["bob", "bob", "ann", "ann"]
    assert stream.starts.tolist() == [0, 2, 3, 4]
    assert stream.has_orders
    assert len(shortened(stream, 0.4)) == 2


def test_an_order_of_two_customers_and_an_empty_stream_are_refused() -> None:
    with pytest.raises(BenchmarkError, match="order A is of two customers"):
        stream_of("shop", [Choice("ann", "tea", 1, "A"), Choice("bob", "tea", 1, "A")])
    with pytest.raises(BenchmarkError, match="shop: no line"):
        stream_of("shop", [])


def test_shuffled_ties_move_only_what_has_the_same_time() -> None:
    choices = [Choice("ann", f"i{n}", n // 10) for n in range(100)]
    shuffled = stream_of("films", shuffle_ties(choices, 1))
    assert [int(stream_ms) for stream_ms in shuffled.ts_ms] == [n // 10 for n in range(100)]
    found = [shuffled.item_ids[i] for i in shuffled.items]
    assert found != [choice.item for choice in choices]
    assert {*found[:10]} == {f"i{n}" for n in range(10)}
    again = stream_of("films", shuffle_ties(choices, 1))
    assert [again.item_ids[i] for i in again.items] == found


@pytest.mark.parametrize("separator", [",", "\t", ";"])
def test_a_csv_is_read_by_its_headings_whatever_separates_them(
    tmp_path: Path, separator: str
) -> None:
    path = tmp_path / "ratings.csv"
    rows = [["user", "movie", "at", "stars"], ["u1", "m1", "964982703", "4.5"]]
    rows.append(["u2", "m2", "2020-01-01T00:00:00", "3"])
    path.write_text("\n".join(separator.join(row) for row in rows))
    columns = columns_of("customer=user,item=movie,ts=at,rating=stars")
    assert file_choices(path, "clicks", columns) == [
        Choice("u1", "m1", 964_982_703_000, None, 4.5),
        Choice("u2", "m2", 1_577_836_800_000, None, 3.0),
    ]


def test_what_is_wrong_with_a_file_is_told_with_the_line(tmp_path: Path) -> None:
    path = tmp_path / "ratings.csv"
    path.write_text("user,movie,at\nu1,m1,1\nu2,m2,yesterday\n")
    with pytest.raises(BenchmarkError, match=r"line 3: .*yesterday"):
        file_choices(path, "clicks", columns_of("customer=user,item=movie,ts=at"))
    with pytest.raises(BenchmarkError, match="no column 'film'"):
        file_choices(path, "clicks", columns_of("customer=user,item=film,ts=at"))
    with pytest.raises(BenchmarkError, match="line 1"):
        file_choices(path, "clicks", None)
    with pytest.raises(BenchmarkError, match=r"needs ts=…"):
        columns_of("customer=user,item=film")
    with pytest.raises(BenchmarkError, match="does not know 'price'"):
        columns_of("customer=user,item=film,ts=at,price=gbp")
    with pytest.raises(BenchmarkError, match="neither a file nor one of"):
        read("nowhere.csv", {}, 1)


def test_records_of_the_contract_are_choices_where_they_speak_for_an_item(tmp_path: Path) -> None:
    clicks, orders = tmp_path / "clicks.jsonl", tmp_path / "orders.jsonl"
    click = {"event_id": "e1", "customer_id": "ann", "ts": 1_600_000_000_000}
    seen = [{**click, "action": a, "item_id": "tea"} for a in ("view", "cart", "remove")]
    clicks.write_text(
        "\n".join(json.dumps(each) for each in [*seen, {**click, "action": "search"}])
    )
    assert file_choices(clicks, "clicks", None) == [Choice("ann", "tea", 1_600_000_000_000)] * 2
    bought = {**click, "items": [{"item_id": "tea"}, {"item_id": "cup", "quantity": 2}]}
    orders.write_text(json.dumps(bought) + "\n\n" + json.dumps({**bought, "order_id": "o9"}))
    found = file_choices(orders, "purchases", None)
    assert [(each.item, each.order) for each in found] == [
        ("tea", "e1"),
        ("cup", "e1"),
        ("tea", "o9"),
        ("cup", "o9"),
    ]


# The protocol


def test_a_whole_order_is_predicted_before_any_of_its_lines_is_learned() -> None:
    triples = [("ann", f"i{n}", f"o{n // 3}") for n in range(60)]
    spy = Spy(same)
    evaluate(lines(*triples), spy, repeats=True, tell=silent)
    assert [learned for _, learned in spy.seen] == list(range(6, 60, 3))
    assert [question.known for question, _ in spy.seen] == list(range(6, 60, 3))


def test_new_mode_bars_what_a_customer_has_had_and_scores_first_times_only() -> None:
    triples = [("ann", item, None) for item in "abcabcabcd"]
    spy = Spy(same)
    figures = evaluate(lines(*triples), spy, repeats=False, tell=silent)
    assert [question.barred.tolist() for question, _ in spy.seen] == [[0], [0, 1], [0, 1, 2]]
    # Each of the three was never seen before: misses, and no line of a known item.
    assert (figures["lines"], figures["hr_at_10"], figures["known_item_lines"]) == (3, 0.0, 0)
    spy = Spy(same)
    figures = evaluate(lines(*triples), spy, repeats=True, tell=silent)
    assert all(not len(question.barred) for question, _ in spy.seen)
    assert (figures["lines"], figures["known_item_lines"]) == (9, 6)
    # Seven were there before; all items are equal, so the place of each is how many there are.
    assert figures["hr_at_10"] == pytest.approx(6 / 9)
    assert figures["mrr"] == pytest.approx(6 * (1 / 3) / 9)


def test_an_item_twice_in_an_order_counts_once() -> None:
    triples = [("ann", item, order) for order in ("1", "2") for item in "aab"]
    assert evaluate(lines(*triples), Spy(same), repeats=True, tell=silent)["lines"] == 4


def test_a_nan_is_a_miss_and_ties_count_against_the_method() -> None:
    triples = [("ann", f"i{n % 12}", None) for n in range(60)]
    stream = lines(*triples)
    assert evaluate(stream, Spy(nothing), repeats=True, tell=silent)["hr_at_10"] == 0.0
    # Among twelve equals everybody is beyond the tenth place.
    assert evaluate(stream, Spy(same), repeats=True, tell=silent)["hr_at_10"] == 0.0
    items, scores = np.array([3, 1, 2], np.int32), np.array([0.5, 0.9, 0.5])
    assert place_of(items, scores, 1) == 1
    assert place_of(items, scores, 3) == place_of(items, scores, 2) == 3
    assert place_of(items, scores, 7) == math.inf


def test_candidates_that_are_barred_unknown_or_impossible_are_left_out() -> None:
    scored = Scored(np.array([5, 1, 2, 3], np.int32), np.array([9.0, 1.0, -np.inf, 2.0]))
    items, scores = ranked(scored, Question(0, 0, known=4, barred=np.array([3], np.int32)))
    assert (items.tolist(), scores.tolist()) == ([1], [1.0])


def test_cold_items_and_customers_are_told_apart() -> None:
    measures = Measures(100)
    measures.add_line(1.0, at=5, item_lines=3, customer_lines=50)
    measures.add_line(math.inf, at=99, item_lines=80, customer_lines=1)
    figures = measures.figures(10)
    assert figures["hr_at_10"] == 0.5
    assert (figures["cold_item_lines"], figures["cold_item_hr_at_10"]) == (1, 1.0)
    assert (figures["cold_customer_lines"], figures["cold_customer_hr_at_10"]) == (1, 0.0)
    assert figures["hr_at_10_over_time"][1] == 1.0
    assert figures["hr_at_10_over_time"][-1] == 0.0
    assert figures["hr_at_10_over_time"][7] is None


# The methods

streams = st.lists(
    st.tuples(st.sampled_from("abc"), st.sampled_from("tuvwxyz"), st.just(None)),
    min_size=1,
    max_size=40,
).map(lambda triples: lines(*triples))


@given(streams)
def test_popularity_is_how_often_an_item_was_taken(stream: Stream) -> None:
    method, decayed = Popularity(stream), Popularity(stream, decay=0.9)
    for each in (method, decayed):
        each.learn(0, len(stream))
    counted = Counter(stream.items.tolist())
    expected = [counted[item] for item in range(len(stream.item_ids))]
    assert method.score(ask(stream)).scores.tolist() == expected
    weights = np.zeros(len(stream.item_ids))
    np.add.at(weights, stream.items, 0.9 ** np.arange(len(stream))[::-1])
    scores = decayed.score(ask(stream)).scores
    assert scores / scores.sum() == pytest.approx(weights / weights.sum())


def test_a_decayed_count_stays_finite_however_many_lines_are_learned_at_once() -> None:
    stream = lines(*[("ann", item, None) for item in "tea" * 200])
    method = Popularity(stream, decay=1e-3)
    method.learn(0, len(stream))
    scores = method.score(ask(stream)).scores
    assert np.isfinite(scores).all()
    assert scores.argmax() == stream.items[-1]


@given(streams)
def test_own_frequency_is_the_decayed_count_of_what_a_customer_took(stream: Stream) -> None:
    method = OwnFrequency(stream)
    method.learn(0, len(stream))
    scores = method.score(ask(stream, 0, day=50)).scores
    for item in range(len(stream.item_ids)):
        own = stream.ts_ms[(stream.items == item) & (stream.customers == 0)]
        expected = (0.5 ** ((50 * DAY_MS - own) / OWN_HALF_LIFE_MS)).sum()
        assert scores[item] == pytest.approx(expected, abs=1e-8)


@given(streams)
def test_item_to_item_is_the_cosine_with_the_last_items_the_latest_first(stream: Stream) -> None:
    method = ItemToItem(stream)
    method.learn(0, len(stream))
    n, pairs = len(stream.item_ids), Counter[tuple[int, int]]()
    recent: dict[int, list[int]] = {}
    for customer, item in zip(stream.customers.tolist(), stream.items.tolist(), strict=True):
        last = recent.setdefault(customer, [])
        for other in last:
            if other != item:
                pairs[other, item] += 1
                pairs[item, other] += 1
        recent[customer] = [*(i for i in last if i != item), item][-10:]
    counts = np.bincount(stream.items, minlength=n)
    expected = np.zeros(n)
    for age, item in enumerate(reversed(recent[0])):
        for other in range(n):
            cosine = pairs[item, other] / math.sqrt(counts[item] * counts[other])
            expected[other] += 0.8**age * cosine
    assert method.score(ask(stream, 0)).scores == pytest.approx(expected, abs=1e-8)


def two_tastes(count: int) -> Stream:
    """Customers a, c, e … take only even items, the others odd ones."""
    draw = np.random.default_rng(3)
    triples: list[tuple[str, str, str | None]] = []
    for _ in range(count):
        customer = int(draw.integers(20))
        triples.append((f"c{customer}", f"i{2 * int(draw.integers(15)) + customer % 2}", None))
    return lines(*triples)


def ours(stream: Stream) -> EngineHybrid:
    return EngineHybrid(stream, 1, as_a_worker(repeats=True))


@pytest.mark.parametrize("name", ["bpr", "implicit_als", "implicit_bpr", OURS, "item_to_item"])
def test_methods_that_learn_tastes_find_two_of_them(name: str) -> None:
    stream = two_tastes(3_000)
    method = ours(stream) if name == OURS else BASELINES[name](stream, 1)
    figures = evaluate(stream, method, repeats=True, tell=silent)
    # Ten of fifteen of one's own taste; of both it would be ten of thirty.
    assert figures["hr_at_10"] > 0.5


def test_rivers_factorisation_is_asked_without_writing_to_it_and_says_what_it_would() -> None:
    stream = two_tastes(200)
    method = RiverBiasedMF(stream, seed=1)
    method.learn(0, len(stream))
    scores = method.score(ask(stream, 2)).scores
    model = method._model
    known = len(model.u_latents)
    items = range(len(stream.item_ids))
    mine = [model.predict_one(2, item) for item in items]  # type: ignore[no-untyped-call] # river's
    assert scores - scores[0] == pytest.approx(np.array(mine) - mine[0])
    method.score(ask(stream, 10_000))
    assert len(model.u_latents) == known


@pytest.mark.parametrize("train", [train_als, train_bpr])
def test_a_retrained_model_knows_nothing_of_what_came_after_its_training(train: Any) -> None:
    stream = two_tastes(400)
    method = Retrained(stream, 1, train)
    counts = Popularity(stream)
    method.learn(0, 10)
    counts.learn(0, 10)
    # Not trained yet: what is popular.
    assert method.score(ask(stream)).scores.tolist() == counts.score(ask(stream)).scores.tolist()
    method.learn(10, 30)
    trained = method.score(ask(stream)).scores.copy()
    method.learn(30, 40)
    assert method.score(ask(stream)).scores.tolist() == trained.tolist()
    method.learn(40, 60)
    assert method.score(ask(stream)).scores.tolist() != trained.tolist()


def test_the_engines_items_are_numbered_as_the_streams() -> None:
    stream = lines(("ann", "tea", None), ("ann", "cup", None), ("bob", "tea", None))
    method: Method = ours(stream)
    method.learn(0, 3)
    scored = method.score(ask(stream, customer=1, barred=[0]))
    assert scored.items is not None
    assert scored.items.tolist() == [1]


def test_own_and_item_to_item_ranks_habits_and_what_goes_with_them_before_the_rest() -> None:
    stream = lines(
        *[("ann", "tea", "1"), ("ann", "cup", "1"), ("bob", "tea", "2"), ("bob", "jam", "3")]
    )
    method = OwnAndItemToItem(stream)
    method.learn(0, 4)
    scores = dict(zip(stream.item_ids, method.score(ask(stream, 0)).scores, strict=True))
    assert scores["tea"] > scores["jam"] > 0.0
    assert scores["cup"] > scores["jam"]


def test_bpr_learns_more_slowly_than_counting_but_learns() -> None:
    stream = two_tastes(2_000)
    assert learning_microseconds(stream, BPR(stream, 1)) > 0
    first = BPR(stream, 1)
    first.learn(0, len(stream))
    again = BPR(stream, 1)
    again.learn(0, len(stream))
    assert first.score(ask(stream)).scores.tolist() == again.score(ask(stream)).scores.tolist()


def test_ratings_are_expected_with_less_error_than_by_rivers_factors() -> None:
    draw = np.random.default_rng(1)
    minds, fames = draw.normal(0, 0.5, 40), draw.normal(0, 0.5, 60)
    choices = []
    for number in range(2_000):
        who, what = int(draw.integers(40)), int(draw.integers(60))
        rating = float(
            np.clip(np.round(3.5 + minds[who] + fames[what] + draw.normal(0, 0.7)), 1, 5)
        )
        choices.append(Choice(f"c{who}", f"i{what}", number, None, rating))
    found = compare(stream_of("films", choices), seed=1)
    assert found["ours"]["rmse"] < found["river_biased_mf"]["rmse"] < 1.5
    assert compare(two_tastes(50), seed=1) == {}
