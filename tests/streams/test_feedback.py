"""What customers think of their lists shapes the next ones."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from operators.errors import StateMismatchError
from operators.hashing import hash_strings
from streams.batches import Batch
from streams.columns import FeedbackColumns, Reaction
from streams.outcomes.feedback import DISMISSED_LENGTH, SHOWN_LENGTH, Feedback
from streams.outcomes.reaction_rates import ReactionRates
from tests.operators.replicas import travelled
from tests.streams.shop_in_memory import ShopInMemory
from tests.streams.workers import START_TS_MS, Event, click, reaction

DAY_S = 86_400
DAY_MS = DAY_S * 1000
NOW_MS = START_TS_MS + 400 * DAY_MS
LONG_AGO = -100_000
ITEMS = [f"i{n}" for n in range(30)]


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[ShopInMemory]:
    shop = ShopInMemory(tmp_path, dismissed_days=30, max_impressions=3, impression_window_days=7)
    shop.feed([click(f"c{n}", LONG_AGO + n, ITEMS[n % 30]) for n in range(300)], NOW_MS)
    shop.pay(NOW_MS)
    yield shop
    shop.store.close()


def last_list(shop: ShopInMemory, *events: Event) -> dict[str, Any] | None:
    """Return the last list that these events lead to, None where they lead to none."""
    shop.outputs.clear()
    shop.feed(events, NOW_MS)
    shop.pay(NOW_MS)
    return shop.outputs["recommendations"][-1] if shop.outputs["recommendations"] else None


def items_after(shop: ShopInMemory, *events: Event) -> list[str]:
    record = last_list(shop, *events)
    assert record is not None
    return [item["item_id"] for item in record["items"]]


def sample(shop: ShopInMemory, name: str, **labels: str) -> float | None:
    return shop.metrics.registry.get_sample_value(name, labels)


def test_a_dismissed_item_leaves_the_very_next_list_and_comes_back_after_the_days(
    shop: ShopInMemory,
) -> None:
    (item, *_) = items_after(shop, click("ada", 0, "i3"))
    record = last_list(shop, reaction("ada", 1, "dismiss", item))
    assert record is not None
    assert record["trigger"]["topic"] == "feedback"
    assert record["trigger"]["event_id"] == "f-ada-1"
    assert item not in [each["item_id"] for each in record["items"]]
    assert item in items_after(shop, click("bob", 2, "i3"))
    assert item not in items_after(shop, click("ada", 30 * DAY_S, "i4"))
    assert item in items_after(shop, click("ada", 30 * DAY_S + 1, "i3"))


def test_an_item_nobody_has_heard_of_may_be_dismissed_before_it_appears(
    shop: ShopInMemory,
) -> None:
    last_list(shop, reaction("ada", 1, "dismiss", "novelty"))
    news = [click(f"d{n}", 10 + n, "novelty") for n in range(50)]
    assert "novelty" not in items_after(shop, *news, click("ada", 100, "i3"))
    assert "novelty" in items_after(shop, click("bob", 101, "i3"))


def test_an_item_shown_too_often_is_left_out_until_its_window_is_over(
    shop: ShopInMemory,
) -> None:
    (item, *_) = items_after(shop, click("ada", 0, "i3"))
    shown = [reaction("ada", 10 + n, "impression", item) for n in range(3)]
    assert item in items_after(shop, *shown[:2], click("ada", 20, "i4"))
    assert item not in items_after(shop, shown[2], click("ada", 21, "i5"))
    assert item not in items_after(shop, click("ada", 9 + 7 * DAY_S, "i6"))
    assert item in items_after(shop, click("ada", 10 + 7 * DAY_S, "i7"))


@pytest.mark.parametrize("outcome", ["click", "conversion"])
def test_a_click_or_conversion_forgets_impressions_and_dismissal(
    shop: ShopInMemory, outcome: str
) -> None:
    (tired_of, disliked, *_) = items_after(shop, click("ada", 0, "i3"))
    shown = [reaction("ada", 10 + n, "impression", tired_of) for n in range(3)]
    without = items_after(shop, *shown, reaction("ada", 13, "dismiss", disliked))
    assert not {tired_of, disliked} & set(without)
    back = [reaction("ada", 14, outcome, tired_of), reaction("ada", 15, outcome, disliked)]
    assert {tired_of, disliked} <= set(items_after(shop, *back))


def test_a_click_from_before_the_dismissal_does_not_undo_it(shop: ShopInMemory) -> None:
    (item, *_) = items_after(shop, click("ada", 0, "i3"))
    last_list(shop, reaction("ada", 20, "dismiss", item), reaction("ada", 10, "click", item))
    assert item not in items_after(shop, click("ada", 30, "i5"))


def test_clicks_and_conversions_teach_the_ranker_and_impressions_teach_nothing(
    shop: ShopInMemory,
) -> None:
    learned = shop.models.recommendations.learned
    last_list(shop, reaction("ada", 1, "impression", "i7"), reaction("ada", 2, "dismiss", "i8"))
    assert shop.models.recommendations.learned == learned
    record = last_list(
        shop, reaction("ada", 3, "click", "i9"), reaction("ada", 4, "conversion", "i1")
    )
    assert record is not None
    assert record["model_version"] == learned + 2


def test_what_customers_click_in_their_lists_others_are_recommended(shop: ShopInMemory) -> None:
    for n, item in enumerate(("tea", "pot")):
        shop.feed([reaction(f"d{k}", n, "click", item) for k in range(40)], NOW_MS)
    others = [item for item in items_after(shop, click("ada", 100, "tea")) if item != "tea"]
    assert others[0] == "pot"


def test_an_impression_causes_no_list_and_does_not_hide_one_that_is_owed(
    shop: ShopInMemory,
) -> None:
    assert last_list(shop, reaction("ada", 1, "impression", "i3")) is None
    record = last_list(shop, click("bob", 2, "i3"), reaction("bob", 3, "impression", "i4"))
    assert record is not None
    assert record["trigger"]["topic"] == "clicks"


def test_feedback_on_a_whole_list_or_on_a_decision_is_counted_and_no_more(
    shop: ShopInMemory,
) -> None:
    (item, *_) = items_after(shop, click("ada", 0, "i3"))
    assert (
        last_list(
            shop,
            reaction("ada", 1, "dismiss", None, recommendation_id="r"),
            reaction("ada", 2, "dismiss", item, decision_id="d"),
        )
        is None
    )
    assert item in items_after(shop, click("ada", 3, "i4"))
    assert sample(shop, "crm_events_total", topic="feedback") == 2
    counts = shop.models.feedback.counts()
    assert (counts["dismiss", "other"], counts["dismiss", "decision"]) == (1, 1)


def test_a_repeated_feedback_counts_once(shop: ShopInMemory) -> None:
    shown = [reaction("ada", 10, "impression", "i3")] * 5
    assert "i3" in items_after(shop, *shown, click("ada", 20, "i3"))
    assert sample(shop, "crm_events_duplicate_total", topic="feedback") == 4


def test_feedback_neither_moves_event_time_nor_holds_it_back(shop: ShopInMemory) -> None:
    shop.feed([click("ada", 0, "i3")], NOW_MS)
    before = shop.partition.progress.watermark_ms
    shop.feed([reaction("ada", 50 * DAY_S, "impression", "i3")], NOW_MS)
    assert shop.partition.progress.watermark_ms == before
    shop.partition.ends["feedback"] += 1_000
    shop.feed([click("ada", DAY_S, "i3")], NOW_MS)
    assert shop.partition.progress.watermark_ms == before + DAY_MS
    shop.feed([reaction("ada", 1, "impression", "i4")], NOW_MS)
    assert sample(shop, "crm_events_late_total", topic="feedback") is None


def test_only_reactions_to_the_engines_own_lists_make_the_rates(shop: ShopInMemory) -> None:
    record = last_list(shop, click("ada", 0, "i3"))
    assert record is not None
    own = {"recommendation_id": record["recommendation_id"]}
    items = [item["item_id"] for item in record["items"]]
    events = [reaction("ada", n, "impression", item, **own) for n, item in enumerate(items)]
    events += [reaction("ada", 20, "click", items[0], **own)]
    events += [reaction("ada", 30 + n, "click", items[1], recommendation_id="x") for n in range(9)]
    shop.feed(events, NOW_MS)
    assert shop.models.feedback.counts()["click", "hybrid"] == 1
    assert shop.models.feedback.counts()["click", "other"] == 9
    quality = shop.models.quality()
    expected = pytest.approx(1 / len(items), rel=1e-3)
    assert quality["recommendations", "click_through_rate"] == expected
    assert quality["recommendations", "conversion_rate"] == 0


def rates_of(*runs: list[int], looks_back: int = 50) -> ReactionRates:
    rates = ReactionRates(looks_back)
    for run in runs:
        rates.learn_many(np.array(run, np.uint8))
    return rates


@given(st.lists(st.integers(0, 3), max_size=200), st.integers(1, 30))
def test_rates_are_those_of_a_plain_loop_however_feedback_is_cut(
    outcomes: list[int], batch: int
) -> None:
    sums = [0.0] * 4
    for outcome in outcomes:
        if outcome == Reaction.IMPRESSION:
            sums = [each * (1 - 1 / 50) for each in sums]
        sums[outcome] += 1
    rates = rates_of(*(outcomes[i : i + batch] for i in range(0, len(outcomes), batch)))
    expected = sums[Reaction.CLICK] / sums[Reaction.IMPRESSION] if 0 in outcomes else 0.0
    assert rates.quality()["click_through_rate"] == pytest.approx(expected)


def test_rates_follow_what_happens_now() -> None:
    rates = rates_of([0, 1] * 500, [0] * 500)
    assert rates.quality()["click_through_rate"] < 0.001


def test_workers_rates_come_to_be_the_same() -> None:
    one, two = rates_of([0, 0, 1], looks_back=10_000), rates_of([0, 3, 0], looks_back=10_000)
    deltas = [travelled(rates.take_delta()) for rates in (one, two)]
    one.apply_delta(deltas[1])
    two.apply_delta(deltas[0])
    for rates in (one, two):
        assert rates.take_delta() == {}
        assert rates.quality()["click_through_rate"] == pytest.approx(1 / 4, rel=1e-3)
        assert rates.quality()["dismiss_rate"] == pytest.approx(1 / 4, rel=1e-3)


def test_a_delta_of_rates_that_does_not_fit_changes_nothing() -> None:
    rates = rates_of([0, 1])
    before = rates.quality()
    for wrong in (
        {"counts": np.full(4, -1)},
        {"counts": np.zeros(3, np.int64)},
        {"x": np.zeros(4)},
    ):
        with pytest.raises(StateMismatchError):
            rates.apply_delta(wrong)
    assert rates.quality() == before


class PlainMemory:
    """What a row remembers of one customer, as lists of items, newest first."""

    def __init__(self, days: int, most: int, window_days: int) -> None:
        self.days_s, self.most, self.window_s = days * DAY_S, most, window_days * DAY_S
        self.dismissed: list[tuple[str, int]] = []
        self.shown: list[tuple[str, int, int]] = []

    def take(self, outcome: int, item: str, ts_s: int) -> None:
        if outcome == Reaction.DISMISS:
            last_s = max([ts_s, *(at_s for name, at_s in self.dismissed if name == item)])
            others = [entry for entry in self.dismissed if entry[0] != item]
            self.dismissed = [(item, last_s), *others][:DISMISSED_LENGTH]
        elif outcome == Reaction.IMPRESSION:
            self._show(item, ts_s)
        else:
            self.dismissed = [e for e in self.dismissed if e[0] != item or e[1] > ts_s]
            self.shown = [e for e in self.shown if e[0] != item or e[1] > ts_s]

    def _show(self, item: str, ts_s: int) -> None:
        since_s, count = ts_s, 0
        for name, started_s, counted in self.shown:
            if name == item and ts_s <= started_s - self.window_s:
                return
            if name == item and ts_s < started_s + self.window_s:
                since_s, count = started_s, counted
        others = [entry for entry in self.shown if entry[0] != item]
        self.shown = [(item, since_s, count + 1), *others][:SHOWN_LENGTH]

    def excluded(self, as_of_s: int) -> list[str]:
        dismissed = [item for item, at_s in self.dismissed if as_of_s < at_s + self.days_s]
        tired_of = [
            item
            for item, since_s, count in self.shown
            if self.most and count >= self.most and as_of_s < since_s + self.window_s
        ]
        return dismissed + tired_of


def batch_of(rows: Any, reactions: list[tuple[int, int, int, int]]) -> Batch[FeedbackColumns]:
    """Return (slot, outcome, item, hours) as a decoded batch."""
    n = len(reactions)
    names = [f"customer-{slot}" for slot, *_ in reactions]
    columns = FeedbackColumns(
        positions=np.arange(n),
        offsets=np.arange(n),
        timestamps_ms=np.zeros(n, np.int64),
        ts_ms=np.array([START_TS_MS + hours * 3_600_000 for *_, hours in reactions], np.int64),
        customers=names,
        already_forwarded=np.zeros(n, np.bool_),
        event_ids=names,
        event_keys=hash_strings(names),
        outcomes=np.array([outcome for _, outcome, *_ in reactions], np.uint8),
        item_ids=[f"item-{item}" for _, _, item, _ in reactions],
        recommendation_ids=[None] * n,
        decision_ids=[None] * n,
    )
    slots = np.array([slot for slot, *_ in reactions], np.int64)
    return Batch("feedback", 0, columns, rows, slots)


reactions = st.tuples(
    st.integers(0, 2), st.integers(0, 3), st.integers(0, 45), st.integers(0, 24 * 20)
)


@settings(deadline=None)
@given(
    st.lists(reactions, max_size=250),
    st.integers(1, 40),
    st.integers(0, 3),
    st.integers(0, 24 * 30),
)
def test_a_row_remembers_what_plain_lists_would(
    drawn: list[tuple[int, int, int, int]], batch: int, most: int, as_of_hours: int
) -> None:
    feedback = Feedback(dismissed_days=9, max_impressions=most, impression_window_days=4)
    plain = [PlainMemory(9, most, 4) for _ in range(3)]
    rows = np.zeros(3, np.dtype([("feedback", feedback.row_dtype)]))
    for start in range(0, len(drawn), batch):
        feedback.on_feedback(batch_of(rows, drawn[start : start + batch]))
    for slot, outcome, item, hours in drawn:
        plain[slot].take(outcome, f"item-{item}", START_TS_MS // 1000 + hours * 3_600)
    as_of_ms = START_TS_MS + as_of_hours * 3_600_000
    found = feedback.excluded_many(rows, np.array([2, 0, 1]), as_of_ms)
    expected = [plain[slot].excluded(as_of_ms // 1000) for slot in (2, 0, 1)]
    assert found.shape == (3, max(map(len, expected)))
    for keys, items in zip(found, expected, strict=True):
        assert keys[: len(items)].tolist() == hash_strings(items).tolist()
        assert not keys[len(items) :].any()


def test_the_count_of_impressions_stops_at_its_bound() -> None:
    feedback = Feedback(dismissed_days=1, max_impressions=255, impression_window_days=365)
    rows = np.zeros(3, np.dtype([("feedback", feedback.row_dtype)]))
    slot = np.array([1])
    feedback.on_feedback(batch_of(rows, [(1, 0, 5, 0)] * 254))
    assert feedback.excluded_many(rows, slot, START_TS_MS).shape == (1, 0)
    for _ in range(2):
        feedback.on_feedback(batch_of(rows, [(1, 0, 5, 0)] * 300))
        assert feedback.excluded_many(rows, slot, START_TS_MS).shape == (1, 1)
