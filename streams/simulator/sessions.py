"""Draws the sessions of a short block of event time, as columns.

A session is one customer's visit: clicks around one category, companions of what was just seen,
perhaps a cart and an order, perhaps a chat. Everything is drawn for a whole block at once.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from streams.simulator.behaviour import CART, FADING, SEARCH, SEGMENTS
from streams.simulator.truth import Truth

CLICKS_PER_SESSION = 4
COMPANION_SHARE = 0.45
PREFERRED_SHARE = 0.85
ACTIVITY_SHAPE = 1.5
LEAST_FADED = 0.1
LINE_COUNTS = np.array([0.60, 0.85, 1.0])
PROMOTION_FACTOR = 0.8
# Row k - 1: cumulative odds of a customer's first, second and third of k preferred categories.
PREFERENCE_ODDS = np.array([[1.0, 1.0, 1.0], [0.65, 1.0, 1.0], [0.55, 0.85, 1.0]])
ACTION_ODDS = np.array([np.cumsum(s.actions) / sum(s.actions) for s in SEGMENTS])
SESSION_RATE = np.array([s.session_rate for s in SEGMENTS])
PURCHASE_WEIGHT = np.array([s.purchase_weight for s in SEGMENTS])
PROMOTION_SHARE = np.array([s.promotion_share for s in SEGMENTS])
MOST_UNITS = np.array([s.most_units for s in SEGMENTS])
CHAT_WEIGHT = np.array([s.chat_weight for s in SEGMENTS])

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Clicks:
    """Columns of clicks; `item` is -1 on a search; `session` is the number within the block."""

    customer: Ints
    session: Ints
    ts_ms: Ints
    action: Ints
    item: Ints
    category: Ints
    dwell_ms: Ints


@dataclass(frozen=True)
class Purchases:
    """Columns of orders and their lines; ``line_count`` cuts the flat line columns into orders."""

    customer: Ints
    ts_ms: Ints
    promotion: NDArray[np.bool_]
    line_count: Ints
    line_item: Ints
    line_units: Ints
    line_price: Floats


@dataclass(frozen=True)
class Chats:
    """Columns of chats; `item` is what the message speaks of."""

    customer: Ints
    ts_ms: Ints
    item: Ints


@dataclass(frozen=True)
class Visits:
    """Columns of sessions: who, when, around what, with how many clicks."""

    customer: Ints
    start_ms: Ints
    category: Ints
    focus: Ints
    clicks: Ints
    buys: NDArray[np.bool_]


@dataclass(frozen=True)
class BlockPlan:
    """How much happens in a block of event time [start_ms, end_ms)."""

    number: int
    start_ms: int
    end_ms: int
    clicks: int
    purchases: int
    chats: int


class SessionSampler:
    """Draws blocks of sessions from a planted world.

    Parameters
    ----------
    truth
        The world.
    start_ts_ms, span_ms
        When simulated time begins, and after how long fading customers have faded.
    longest_ms
        Longest session, in milliseconds of event time.
    """

    def __init__(self, truth: Truth, start_ts_ms: int, span_ms: int, longest_ms: int) -> None:
        self._truth = truth
        self._start_ts_ms = start_ts_ms
        self._span_ms = span_ms
        self._longest_ms = longest_ms
        rng = np.random.default_rng([truth.seed, 1])
        size = len(truth.customer_ids)
        self._rate = SESSION_RATE[truth.segment] * rng.gamma(ACTIVITY_SHAPE, 1.0, size)
        self._preferred_count = (truth.preferred >= 0).sum(axis=1)
        categories = len(truth.category_names)
        # The weights of a category sum to 1, so the running sum's whole part is the category.
        self._item_ends = np.cumsum(truth.item_weight)
        sizes = np.bincount(truth.item_category, minlength=categories)
        self._category_end = np.cumsum(sizes)
        self._category_start = self._category_end - sizes
        popularity = np.arange(1, categories + 1) ** -0.5
        self._category_odds = np.cumsum(popularity / popularity.sum())
        bundle = truth.item_bundle
        self._bundle_start = np.searchsorted(bundle, bundle)
        self._bundle_size = np.searchsorted(bundle, bundle, side="right") - self._bundle_start

    def draw(self, rng: np.random.Generator, plan: BlockPlan) -> tuple[Clicks, Purchases, Chats]:
        """Draw the block's events; exactly as many of each kind as the plan says."""
        visits = self._visits(rng, plan)
        clicks, last_ms = self._clicks(rng, visits)
        purchases = self._purchases(rng, visits, last_ms)
        return clicks, purchases, self._chats(rng, visits, plan.chats)

    def _active_customers(self, rng: np.random.Generator, plan: BlockPlan, count: int) -> Ints:
        truth = self._truth
        alive = truth.arrive_ts_ms <= plan.start_ms
        alive &= truth.stop_ts_ms >= plan.end_ms + self._longest_ms
        progress = min((plan.start_ms - self._start_ts_ms) / self._span_ms, 1.0)
        fade = np.where(truth.segment == FADING, 1.0 - (1.0 - LEAST_FADED) * progress, 1.0)
        odds = np.cumsum(self._rate * alive * fade)
        drawn: Ints = np.searchsorted(odds, rng.random(count) * odds[-1], side="right")
        return np.minimum(drawn, len(odds) - 1)

    def _categories(self, rng: np.random.Generator, customer: Ints) -> Ints:
        odds = PREFERENCE_ODDS[self._preferred_count[customer] - 1]
        rank = (rng.random(len(customer))[:, None] >= odds).sum(axis=1)
        preferred = self._truth.preferred[customer, np.minimum(rank, 2)].astype(np.int64)
        anything = np.searchsorted(self._category_odds, rng.random(len(customer)), side="right")
        anything = np.minimum(anything, len(self._category_odds) - 1)
        return np.where(rng.random(len(customer)) < PREFERRED_SHARE, preferred, anything)

    def _items(self, rng: np.random.Generator, category: Ints) -> Ints:
        drawn = np.searchsorted(self._item_ends, category + rng.random(len(category)), side="right")
        return np.clip(drawn, self._category_start[category], self._category_end[category] - 1)

    def _visits(self, rng: np.random.Generator, plan: BlockPlan) -> Visits:
        count = max(plan.clicks // CLICKS_PER_SESSION, plan.purchases, plan.chats, 1)
        customer = self._active_customers(rng, plan, count)
        category = self._categories(rng, customer)
        lengths = np.ones(count, np.int64) if plan.clicks >= count else np.zeros(count, np.int64)
        odds = rng.exponential(1.0, count)
        lengths += rng.multinomial(plan.clicks - int(lengths.sum()), odds / odds.sum())
        # The largest of log-weights plus Gumbel noise: a weighted draw without replacement.
        score = np.log(PURCHASE_WEIGHT[self._truth.segment[customer]]) + rng.gumbel(size=count)
        buys = np.zeros(count, bool)
        if plan.purchases:
            buys[np.argpartition(score, count - plan.purchases)[count - plan.purchases :]] = True
        return Visits(
            customer=customer,
            start_ms=np.sort(rng.integers(plan.start_ms, plan.end_ms, count)),
            category=category,
            focus=self._items(rng, category),
            clicks=lengths,
            buys=buys,
        )

    def _click_times(self, rng: np.random.Generator, visits: Visits) -> tuple[Ints, Ints]:
        """Return the time of each click, and the time of each session's last click."""
        ends = np.cumsum(visits.clicks)
        starts = ends - visits.clicks
        # Nobody clicks on without a look at what is there.
        gaps = self._longest_ms / 40 * (0.25 + rng.exponential(0.75, int(ends[-1])))
        passed = np.concatenate([[0.0], np.cumsum(gaps)])
        whole = passed[ends] - passed[starts]
        shrink = np.minimum(1.0, 0.8 * self._longest_ms / np.maximum(whole, 1e-9))
        session = np.repeat(np.arange(len(visits.clicks)), visits.clicks)
        offset = (passed[1:] - passed[starts][session]) * shrink[session]
        last = visits.start_ms + (whole * shrink).astype(np.int64)
        return visits.start_ms[session] + offset.astype(np.int64), last

    def _clicks(self, rng: np.random.Generator, visits: Visits) -> tuple[Clicks, Ints]:
        ts_ms, last_ms = self._click_times(rng, visits)
        count = len(ts_ms)
        session = np.repeat(np.arange(len(visits.clicks)), visits.clicks)
        ends = np.cumsum(visits.clicks)
        position = np.arange(count)
        is_first = position == (ends - visits.clicks)[session]
        category = visits.category[session]
        fresh = np.where(is_first, visits.focus[session], self._items(rng, category))
        follows = (rng.random(count) < COMPANION_SHARE) & ~is_first
        anchor = fresh[np.maximum.accumulate(np.where(follows, 0, position))]
        hop = rng.integers(0, np.iinfo(np.int32).max, count) % self._bundle_size[anchor]
        item = np.where(follows, self._bundle_start[anchor] + hop, fresh)
        odds = ACTION_ODDS[self._truth.segment[visits.customer[session]]]
        action = (rng.random(count)[:, None] >= odds[:, :-1]).sum(axis=1)
        carts = (position == ends[session] - 1) & visits.buys[session]
        action[carts] = CART
        item[carts] = visits.focus[session[carts]]
        item[action == SEARCH] = -1
        dwell = rng.lognormal(9.0, 0.8, count).astype(np.int64)
        customer = visits.customer[session]
        return Clicks(customer, session, ts_ms, action, item, category, dwell), last_ms

    def _purchases(self, rng: np.random.Generator, visits: Visits, last_ms: Ints) -> Purchases:
        chosen = np.flatnonzero(visits.buys)
        customer = visits.customer[chosen]
        segment = self._truth.segment[customer]
        focus = visits.focus[chosen]
        size = self._bundle_size[focus]
        line_count = 1 + (rng.random(len(chosen))[:, None] >= LINE_COUNTS[:-1]).sum(axis=1)
        line_count = np.minimum(line_count, size)
        order = np.repeat(np.arange(len(chosen)), line_count)
        step = np.arange(len(order)) - (np.cumsum(line_count) - line_count)[order]
        start = self._bundle_start[focus]
        item = start[order] + ((focus - start)[order] + step) % size[order]
        promotion = rng.random(len(chosen)) < PROMOTION_SHARE[segment]
        factor = np.where(promotion, PROMOTION_FACTOR, 1.0)[order]
        units = 1 + (rng.random(len(order)) * MOST_UNITS[segment][order]).astype(np.int64)
        pause = np.minimum(
            rng.exponential(self._longest_ms / 40, len(chosen)), 0.19 * self._longest_ms
        )
        return Purchases(
            customer=customer,
            ts_ms=last_ms[chosen] + 1 + pause.astype(np.int64),
            promotion=promotion,
            line_count=line_count,
            line_item=item,
            line_units=units,
            line_price=np.round(self._truth.item_price[item] * factor, 2),
        )

    def _chats(self, rng: np.random.Generator, visits: Visits, count: int) -> Chats:
        odds = np.cumsum(CHAT_WEIGHT[self._truth.segment[visits.customer]])
        chosen = np.searchsorted(odds, rng.random(count) * odds[-1], side="right")
        offset = (rng.random(count) * self._longest_ms).astype(np.int64)
        return Chats(
            visits.customer[chosen], visits.start_ms[chosen] + offset, visits.focus[chosen]
        )
