"""The customer's profile: exact counts, and the twelve features that other outcomes read."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from operators.kernel import kernel
from operators.vocabulary import Vocabulary
from streams.batches import Batch, OutputRecord
from streams.catalog import Catalog
from streams.columns import (
    Action,
    ChatColumns,
    ClickColumns,
    CustomerColumns,
    PurchaseColumns,
)
from streams.outcomes.base import NOTHING, Outcome

DAY_MS = 86_400_000
CATEGORY_SLOTS = 8
ATTRIBUTES = {
    "age_group": "age_groups",
    "region": "regions",
    "membership_level": "membership_levels",
}
"""Attributes kept in the row, and the columns they come from."""

FEATURES = (
    "recency_days",
    "orders",
    "spend",
    "repurchase_interval_days",
    "average_order_value",
    "categories_bought",
    "promotion_share",
    "sessions",
    "clicks",
    "carts_per_click",
    "chats",
    "age_days",
)
"""The features, in order; amounts and counts as log(1 + x), so that a few heavy buyers do not
swallow the scale."""

ROW_DTYPE = np.dtype(
    [
        ("first_seen_ts", "i8"),
        ("last_seen_ts", "i8"),
        ("last_click_ts", "i8"),
        ("first_order_ts", "i8"),
        ("last_order_ts", "i8"),
        ("clicks", "i8"),
        ("carts", "i8"),
        ("orders", "i8"),
        ("promotions", "i8"),
        ("chats", "i8"),
        ("sessions", "i8"),
        ("items_bought", "f8"),
        ("spend", "f8"),
        ("bought_categories", "u8", 2),
        ("categories", "u8", CATEGORY_SLOTS),
        ("category_weights", "f4", CATEGORY_SLOTS),
        ("signup_ts", "i8"),
        *((name, "u8") for name in ATTRIBUTES),
        ("refusals", "u1"),
    ],
    align=True,
)


@kernel
def _see(
    first: NDArray[np.int64],
    last: NDArray[np.int64],
    counts: NDArray[np.int64],
    slots: NDArray[np.int64],
    ts_ms: NDArray[np.int64],
) -> None:  # pragma: no cover - compiled
    """Count events and widen the span of time in which the customer was seen."""
    for i in range(len(slots)):
        slot = slots[i]
        counts[slot] += 1
        if first[slot] == 0 or ts_ms[i] < first[slot]:
            first[slot] = ts_ms[i]
        last[slot] = max(last[slot], ts_ms[i])


@kernel
def _count_sessions(
    last_click: NDArray[np.int64],
    sessions: NDArray[np.int64],
    slots: NDArray[np.int64],
    ts_ms: NDArray[np.int64],
    gap_ms: int,
) -> None:  # pragma: no cover - compiled
    """Open a session where a click comes more than `gap_ms` after the newest one before it."""
    for i in range(len(slots)):
        slot = slots[i]
        if last_click[slot] == 0 or ts_ms[i] > last_click[slot] + gap_ms:
            sessions[slot] += 1
        last_click[slot] = max(last_click[slot], ts_ms[i])


@kernel
def _count_orders(
    first: NDArray[np.int64],
    last: NDArray[np.int64],
    promotions: NDArray[np.int64],
    items_bought: NDArray[np.float64],
    spend: NDArray[np.float64],
    slots: NDArray[np.int64],
    ts_ms: NDArray[np.int64],
    promotion: NDArray[np.bool_],
    quantity: NDArray[np.float64],
    amount: NDArray[np.float64],
) -> None:  # pragma: no cover - compiled
    """Sum what was bought and widen the span of time in which it was."""
    for i in range(len(slots)):
        slot = slots[i]
        if first[slot] == 0 or ts_ms[i] < first[slot]:
            first[slot] = ts_ms[i]
        last[slot] = max(last[slot], ts_ms[i])
        promotions[slot] += promotion[i]
        items_bought[slot] += quantity[i]
        spend[slot] += amount[i]


@kernel
def _weigh_categories(
    keys: NDArray[np.uint64],
    weights: NDArray[np.float32],
    slots: NDArray[np.int64],
    categories: NDArray[np.uint64],
    gains: NDArray[np.float32],
) -> None:  # pragma: no cover - compiled
    """Keep the heaviest categories of each customer (Space-Saving, Metwally et al. 2005)."""
    for i in range(len(slots)):
        if categories[i] == 0:
            continue
        row_keys, row_weights = keys[slots[i]], weights[slots[i]]
        lightest = 0
        for j in range(CATEGORY_SLOTS):
            if row_keys[j] == categories[i]:
                lightest = j
                break
            if row_weights[j] < row_weights[lightest]:
                lightest = j
        row_keys[lightest] = categories[i]
        row_weights[lightest] += gains[i]


def features_many(rows: NDArray[np.void], slots: NDArray[np.int64], as_of_ms: int) -> Any:
    """Compute the twelve features of the customers in `slots`, as of a moment of event time.

    Parameters
    ----------
    rows
        Rows with a ``profile`` field.
    slots
        int64 (n,).
    as_of_ms
        Event time, ms; not before the newest event in these rows.

    Returns
    -------
    float32 (n, 12), finite, in the order of `FEATURES`.
    """
    profile = rows["profile"][slots]
    orders = profile["orders"]
    bought = orders > 0
    span_days = (profile["last_order_ts"] - profile["first_order_ts"]) / DAY_MS
    result = np.empty((len(slots), len(FEATURES)), np.float32)
    result[:, 0] = np.maximum(0, as_of_ms - profile["last_seen_ts"]) / DAY_MS
    result[:, 1] = np.log1p(orders)
    result[:, 2] = np.log1p(profile["spend"])
    result[:, 3] = np.log1p(np.where(orders > 1, span_days / np.maximum(orders - 1, 1), 0.0))
    result[:, 4] = np.log1p(np.where(bought, profile["spend"] / np.maximum(orders, 1), 0.0))
    result[:, 5] = distinct_categories(profile["bought_categories"])
    result[:, 6] = np.where(bought, profile["promotions"] / np.maximum(orders, 1), 0.0)
    result[:, 7] = np.log1p(profile["sessions"])
    result[:, 8] = np.log1p(profile["clicks"])
    result[:, 9] = profile["carts"] / np.maximum(profile["clicks"], 1)
    result[:, 10] = np.log1p(profile["chats"])
    result[:, 11] = np.maximum(0, as_of_ms - profile["first_seen_ts"]) / DAY_MS
    return result


def distinct_categories(bits: NDArray[np.uint64]) -> NDArray[np.float64]:
    """Estimate distinct categories from 128-bit maps (linear counting, Whang et al. 1990).

    Within one of the truth up to about 40 categories; a full map reads as 621.

    Examples
    --------
    >>> distinct_categories(np.array([[3, 0], [0, 0]], np.uint64)).round(1).tolist()
    [2.0, 0.0]
    """
    zeros = 128 - np.bitwise_count(bits).sum(axis=1, dtype=np.float64)
    estimates: NDArray[np.float64] = -128 * np.log(np.maximum(zeros, 1) / 128) + 0.0
    return estimates


class Profile(Outcome):
    """Counts what a customer did; exact, for every event applied.

    Parameters
    ----------
    catalog
        Says which category an item is in, where the event does not.
    names
        Vocabulary of categories and attribute values, shared by the worker.
    session_gap_ms
        A click later than this after the one before opens a session.
    """

    name = "profile"

    def __init__(self, catalog: Catalog, names: Vocabulary, session_gap_ms: int) -> None:
        self.row_dtype = ROW_DTYPE
        self._catalog = catalog
        self._names = names
        self._session_gap_ms = session_gap_ms

    def on_clicks(self, batch: Batch[ClickColumns]) -> list[OutputRecord]:
        """Count clicks, carts and sessions; weigh the categories looked at."""
        profile, columns = batch.rows["profile"], batch.columns
        self._see(batch, "clicks")
        _count_sessions(
            profile["last_click_ts"],
            profile["sessions"],
            batch.slots,
            columns.ts_ms,
            self._session_gap_ms,
        )
        carts = columns.actions == Action.CART
        if carts.any():
            np.add.at(profile["carts"], batch.slots[carts], 1)
        categories = self._catalog.category_keys(columns.item_ids)
        gains = np.where(carts, 3, 1).astype(np.float32)
        self._weigh(batch.rows, batch.slots, categories, gains)
        return NOTHING

    def on_purchases(self, batch: Batch[PurchaseColumns]) -> list[OutputRecord]:
        """Count orders, items and money; weigh the categories bought."""
        profile, columns, slots = batch.rows["profile"], batch.columns, batch.slots
        self._see(batch, "orders")
        _count_orders(
            profile["first_order_ts"],
            profile["last_order_ts"],
            profile["promotions"],
            profile["items_bought"],
            profile["spend"],
            slots,
            columns.ts_ms,
            columns.promotion,
            columns.quantity,
            columns.amount,
        )
        self._weigh_lines(batch)
        return NOTHING

    def _weigh_lines(self, batch: Batch[PurchaseColumns]) -> None:
        columns = batch.columns
        slots = batch.slots[columns.line_event]
        categories = self._catalog.category_keys(columns.line_items)
        named = [i for i, category in enumerate(columns.line_categories) if category]
        if named:
            indices = self._names.learn_many([str(columns.line_categories[i]) for i in named])
            kept = indices >= 0
            categories[np.array(named)[kept]] = self._names.keys[indices[kept]]
        self._weigh(batch.rows, slots, categories, np.full(len(slots), 5, np.float32))
        known = categories != 0
        bits = categories[known] % np.uint64(128)
        words = (bits // np.uint64(64)).astype(np.int64)
        np.bitwise_or.at(
            batch.rows["profile"]["bought_categories"],
            (slots[known], words),
            np.uint64(1) << (bits % np.uint64(64)),
        )

    def on_chats(self, batch: Batch[ChatColumns]) -> list[OutputRecord]:
        """Count chat messages, whoever sent them."""
        self._see(batch, "chats")
        return NOTHING

    def on_customers(self, batch: Batch[CustomerColumns]) -> list[OutputRecord]:
        """Keep a customer's latest attributes and consent."""
        profile, columns = batch.rows["profile"], batch.columns
        for attribute, column in ATTRIBUTES.items():
            values: list[str | None] = getattr(columns, column)
            profile[attribute][batch.slots] = [self._name_key(value) for value in values]
        profile["signup_ts"][batch.slots] = columns.signup_ts_ms
        profile["refusals"][batch.slots] = columns.refusals
        return NOTHING

    def _name_key(self, value: str | None) -> int:
        if not value:
            return 0
        index = int(self._names.learn_many([value])[0])
        return int(self._names.keys[index]) if index >= 0 else 0

    def _see(self, batch: Batch[Any], counter: str) -> None:
        profile = batch.rows["profile"]
        _see(
            profile["first_seen_ts"],
            profile["last_seen_ts"],
            profile[counter],
            batch.slots,
            batch.columns.ts_ms,
        )

    @staticmethod
    def _weigh(
        rows: NDArray[np.void],
        slots: NDArray[np.int64],
        categories: NDArray[np.uint64],
        gains: NDArray[np.float32],
    ) -> None:
        profile = rows["profile"]
        _weigh_categories(
            profile["categories"], profile["category_weights"], slots, categories, gains
        )

    def describe(self, row: NDArray[np.void], features: NDArray[np.float32]) -> dict[str, Any]:
        """Return the counts, attributes and favourite categories of one customer."""
        profile = row["profile"]
        return {
            "first_seen_ts": int(profile["first_seen_ts"]) or None,
            "last_seen_ts": int(profile["last_seen_ts"]) or None,
            "clicks": int(profile["clicks"]),
            "carts": int(profile["carts"]),
            "orders": int(profile["orders"]),
            "items_bought": _plain(float(profile["items_bought"])),
            "spend": round(float(profile["spend"]), 6),
            "chats": int(profile["chats"]),
            "sessions": int(profile["sessions"]),
            "recency_days": round(float(features[0]), 3),
            "signup_ts": int(profile["signup_ts"]) or None,
            **{name: self._name_of(int(profile[name])) for name in ATTRIBUTES},
            "top_categories": self._top_categories(profile),
        }

    def _name_of(self, key: int) -> str | None:
        index = int(self._names.indices_of_keys(np.array([key], np.uint64))[0])
        return self._names.ids[index] if index >= 0 else None

    def _top_categories(self, profile: NDArray[np.void]) -> list[dict[str, Any]]:
        weights = profile["category_weights"]
        total = float(weights.sum())
        order = np.argsort(-weights, kind="stable")
        named = ((self._name_of(int(profile["categories"][i])), float(weights[i])) for i in order)
        return [
            {"category": name, "share": round(weight / total, 4)}
            for name, weight in named
            if name is not None and weight > 0
        ]


def _plain(value: float) -> int | float:
    """Write a whole number of pieces as an integer."""
    return int(value) if value.is_integer() else round(value, 6)
