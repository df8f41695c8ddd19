"""Turns columns of simulated events into records as the topics carry them."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from streams.simulator import texts
from streams.simulator.behaviour import ACTIONS, CHANNELS, DWELL, SEARCH, SEGMENT_NAMES
from streams.simulator.sessions import Chats, Clicks, Purchases
from streams.simulator.truth import Truth

Record = dict[str, Any]

LABELLED_SHARE = 0.3
CURRENCY = "EUR"
PAYMENT_METHODS = ("card", "paypal", "invoice", "gift_card")
REGIONS = ("north", "south", "east", "west", "abroad")
AGE_GROUPS = ("18-24", "25-34", "35-49", "50-64", "65+")
LEVELS = {"champions": "gold", "regulars": "silver", "fading": "silver"}
NO_MESSAGES_SHARE = 0.1
YEAR_MS = 365 * 86_400_000


def click_records(
    truth: Truth, clicks: Clicks, first_number: int, block: int, rng: np.random.Generator
) -> list[Record]:
    """Write the clicks; running numbers start at `first_number`."""
    names, items = truth.customer_ids, truth.item_ids
    tag = truth.tag
    channels = rng.integers(0, len(CHANNELS), int(clicks.session.max(initial=-1)) + 1).tolist()
    records = [
        {
            "event_id": f"{tag}-c-{number}",
            "customer_id": names[customer],
            "ts": ts,
            "action": ACTIONS[action],
            "item_id": items[item],
            "channel": CHANNELS[channels[session]],
            "session_id": f"{tag}-s-{block}-{session}",
        }
        for number, (customer, ts, action, item, session) in enumerate(
            zip(
                clicks.customer.tolist(),
                clicks.ts_ms.tolist(),
                clicks.action.tolist(),
                clicks.item.tolist(),
                clicks.session.tolist(),
                strict=True,
            ),
            first_number,
        )
    ]
    for i in np.flatnonzero(clicks.action == SEARCH).tolist():
        del records[i]["item_id"]
        records[i]["query"] = truth.category_names[clicks.category[i]]
    for i in np.flatnonzero(clicks.action == DWELL).tolist():
        records[i]["dwell_ms"] = int(clicks.dwell_ms[i])
    return records


def purchase_records(
    truth: Truth, purchases: Purchases, first_number: int, rng: np.random.Generator
) -> list[Record]:
    """Write the orders; running numbers start at `first_number`."""
    categories = truth.item_category[purchases.line_item].tolist()
    lines = [
        {
            "item_id": truth.item_ids[item],
            "quantity": units,
            "unit_price": price,
            "category": truth.category_names[category],
        }
        for item, units, price, category in zip(
            purchases.line_item.tolist(),
            purchases.line_units.tolist(),
            purchases.line_price.tolist(),
            categories,
            strict=True,
        )
    ]
    ends = np.cumsum(purchases.line_count)
    methods = rng.integers(0, len(PAYMENT_METHODS), len(ends)).tolist()
    channels = rng.integers(0, len(CHANNELS), len(ends)).tolist()
    tag = truth.tag
    return [
        {
            "event_id": f"{tag}-p-{number}",
            "customer_id": truth.customer_ids[customer],
            "ts": ts,
            "items": lines[end - count : end],
            "order_id": f"{tag}-order-{number}",
            "currency": CURRENCY,
            "promotion": promotion,
            "payment_method": PAYMENT_METHODS[method],
            "channel": CHANNELS[channel],
        }
        for number, (customer, ts, end, count, promotion, method, channel) in enumerate(
            zip(
                purchases.customer.tolist(),
                purchases.ts_ms.tolist(),
                ends.tolist(),
                purchases.line_count.tolist(),
                purchases.promotion.tolist(),
                methods,
                channels,
                strict=True,
            ),
            first_number,
        )
    ]


def chat_records(
    truth: Truth, chats: Chats, first_number: int, rng: np.random.Generator
) -> list[Record]:
    """Write the chats; a share of them carries the human labels `sentiment` and `intent`."""
    count = len(chats.customer)
    draws = truth.chat_draws(np.arange(first_number, first_number + count))
    moods = truth.moods(draws, chats.customer, chats.ts_ms).tolist()
    strength = np.round(0.6 + 0.4 * rng.random(count), 1).tolist()
    labelled = (rng.random(count) < LABELLED_SHARE).tolist()
    tag = truth.tag
    records: list[Record] = []
    for i, (customer, ts, item, draw) in enumerate(
        zip(
            chats.customer.tolist(),
            chats.ts_ms.tolist(),
            chats.item.tolist(),
            draws.tolist(),
            strict=True,
        )
    ):
        number = first_number + i
        category = truth.category_names[truth.item_category[item]]
        record: Record = {
            "event_id": f"{tag}-h-{number}",
            "customer_id": truth.customer_ids[customer],
            "ts": ts,
            "text": texts.compose(moods[i], draw, truth.item_titles[item], category),
            "conversation_id": f"{tag}-talk-{number}",
            "language": "en",
        }
        if labelled[i]:
            record["sentiment"] = (moods[i] - 1) * strength[i]
            record["intent"] = texts.body_of(moods[i], draw).intent
        records.append(record)
    return records


def catalog_records(truth: Truth) -> Iterator[tuple[str, Record]]:
    """Yield (item id, catalog record) for every item."""
    categories = truth.item_category.tolist()
    for i, item in enumerate(truth.item_ids):
        title = truth.item_titles[i]
        category = truth.category_names[categories[i]]
        yield (
            item,
            {
                "item_id": item,
                "title": title,
                "category": category,
                "tags": [category, *title.lower().split()[:2]],
                "price": float(truth.item_price[i]),
                "available": True,
            },
        )


def customer_records(truth: Truth, start_ts_ms: int) -> Iterator[tuple[str, Record]]:
    """Yield (customer id, customer record) for every customer."""
    rng = np.random.default_rng([truth.seed, 2])
    count = len(truth.customer_ids)
    ages = rng.integers(0, len(AGE_GROUPS), count).tolist()
    regions = rng.integers(0, len(REGIONS), count).tolist()
    silent = (rng.random(count) < NO_MESSAGES_SHARE).tolist()
    earlier = (rng.random(count) * 3 * YEAR_MS).astype(np.int64)
    is_new = truth.arrive_ts_ms > start_ts_ms
    signup = np.where(is_new, truth.arrive_ts_ms, start_ts_ms - earlier).tolist()
    for i, customer in enumerate(truth.customer_ids):
        age, region = AGE_GROUPS[ages[i]], REGIONS[regions[i]]
        yield (
            customer,
            {
                "customer_id": customer,
                "age_group": age,
                "region": region,
                "membership_level": LEVELS.get(SEGMENT_NAMES[truth.segment[i]], "basic"),
                "signup_ts": signup[i],
                "group": {"age_group": age, "region": region},
                "consent": {
                    "recommendations": True,
                    "messages": not silent[i],
                    "profiling": True,
                },
                "max_messages_per_week": 3,
            },
        )
