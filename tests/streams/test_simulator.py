from collections import Counter, defaultdict
from itertools import islice, pairwise
from typing import Any

import msgspec
import numpy as np
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streams.errors import SettingsError
from streams.records import CatalogItem, Chat, Click, Customer, Purchase
from streams.simulator import INTENTS, NEVER, SEGMENT_NAMES, Simulator
from streams.simulator.simulator import TimeOrder

START = 1_700_000_000_000
TYPES: dict[str, Any] = {
    "clicks": Click,
    "purchases": Purchase,
    "chats": Chat,
    "catalog": CatalogItem,
    "customers": Customer,
}


def small(seed: int = 3, **changes: Any) -> Simulator:
    arguments: dict[str, Any] = {
        "start_ts_ms": START,
        "customers": 400,
        "items": 300,
        "categories": 12,
        "clicks": 8_000,
        "purchases": 900,
        "chats": 500,
    }
    return Simulator(seed, **(arguments | changes))


@pytest.fixture(scope="module")
def simulator() -> Simulator:
    return small()


@pytest.fixture(scope="module")
def by_topic(simulator: Simulator) -> dict[str, list[dict[str, Any]]]:
    records = defaultdict(list)
    for topic, _, record in simulator.events():
        records[topic].append(record)
    return records


def test_the_same_seed_gives_the_same_bytes() -> None:
    assert list(small().batches()) == list(small().batches())


def test_another_seed_shares_no_event_id() -> None:
    ids = [{r["event_id"] for _, _, r in small(seed).traffic()} for seed in (3, 4)]
    assert not ids[0] & ids[1]


def test_another_run_has_the_same_world_but_other_events() -> None:
    first, second = small(run=0), small(run=1)
    assert first.truth.customer_ids == second.truth.customer_ids
    assert first.truth.item_ids == second.truth.item_ids
    assert (first.truth.segment == second.truth.segment).all()
    events = [[record for _, _, record in simulator.traffic()] for simulator in (first, second)]
    ids = [{record["event_id"] for record in records} for records in events]
    assert not ids[0] & ids[1]
    texts = [[record["text"] for record in records if "text" in record] for records in events]
    assert texts[0] != texts[1]
    chat = next(record for record in events[1] if "sentiment" in record)
    assert np.sign(chat["sentiment"]) == second.truth.sentiment_of(chat)


@settings(max_examples=25, deadline=None)
@given(
    counts=st.tuples(*[st.integers(0, 500)] * 3),
    customers=st.integers(1, 50),
    items=st.integers(2, 60),
    span_ms=st.integers(60_000, 10**10),
)
def test_every_count_is_exact_and_every_id_unique(
    counts: tuple[int, int, int], customers: int, items: int, span_ms: int
) -> None:
    clicks, purchases, chats = counts
    simulator = small(
        customers=customers,
        items=items,
        categories=2,
        clicks=clicks,
        purchases=purchases,
        chats=chats,
        span_ms=span_ms,
    )
    events = list(simulator.traffic())
    found = Counter(topic for topic, _, _ in events)
    assert [found["clicks"], found["purchases"], found["chats"]] == [clicks, purchases, chats]
    assert len({record["event_id"] for _, _, record in events}) == sum(counts)
    times = [record["ts"] for _, _, record in events]
    assert times == sorted(times)
    assert all(START <= ts < START + span_ms for ts in times)


def test_every_record_fits_the_contract(by_topic: dict[str, list[dict[str, Any]]]) -> None:
    assert set(by_topic) == set(TYPES)
    for topic, records in by_topic.items():
        for record in records:
            msgspec.convert(record, TYPES[topic])
    assert all(("item_id" in r) != (r["action"] == "search") for r in by_topic["clicks"])


def test_the_key_is_the_customer_or_the_item(simulator: Simulator) -> None:
    for topic, key, record in simulator.events():
        assert key == record["item_id" if topic == "catalog" else "customer_id"]


def test_batches_hold_the_same_records_as_the_traffic(simulator: Simulator) -> None:
    batches = list(simulator.batches(100))
    assert max(len(pairs) for _, pairs in batches) <= 100
    for topic in ("clicks", "purchases", "chats"):
        encoded = [pair for name, pairs in batches if name == topic for pair in pairs]
        plain = [
            (key.encode(), orjson.dumps(record))
            for name, key, record in simulator.traffic()
            if name == topic
        ]
        assert encoded == plain


def test_reference_batches_hold_the_whole_catalog_and_all_customers(simulator: Simulator) -> None:
    sizes: Counter[str] = Counter()
    for topic, pairs in simulator.reference_batches(128):
        assert len(pairs) <= 128
        sizes[topic] += len(pairs)
    assert sizes == {"catalog": 300, "customers": 400}


def test_nobody_acts_before_arriving_or_after_stopping(
    simulator: Simulator, by_topic: dict[str, list[dict[str, Any]]]
) -> None:
    truth = simulator.truth
    churners = int((truth.stop_ts_ms != NEVER).sum())
    assert 0.02 < churners / 400 < 0.3
    for topic in ("clicks", "purchases", "chats"):
        for record in by_topic[topic]:
            customer = truth.customer_index[record["customer_id"]]
            assert truth.arrive_ts_ms[customer] <= record["ts"] < truth.stop_ts_ms[customer]
            assert not truth.has_stopped(record["customer_id"], record["ts"])


def test_customers_mostly_act_in_the_categories_they_prefer(
    simulator: Simulator, by_topic: dict[str, list[dict[str, Any]]]
) -> None:
    truth = simulator.truth
    hits = [
        truth.category_of(r["item_id"]) in truth.categories_of(r["customer_id"])
        for r in by_topic["clicks"]
        if "item_id" in r
    ]
    assert np.mean(hits) > 0.8
    assert all(1 <= len(truth.categories_of(name)) <= 3 for name in truth.customer_ids)


def test_items_of_a_bundle_follow_each_other(
    simulator: Simulator, by_topic: dict[str, list[dict[str, Any]]]
) -> None:
    sessions = defaultdict(list)
    for record in by_topic["clicks"]:
        if "item_id" in record:
            sessions[record["session_id"]].append(record["item_id"])
    bundle = simulator.truth.item_bundle
    index = simulator.truth.item_index
    pairs = [
        bundle[index[a]] == bundle[index[b]]
        for items in sessions.values()
        for a, b in pairwise(items)
    ]
    assert np.mean(pairs) > 0.4
    some = by_topic["purchases"][0]["items"][0]["item_id"]
    assert some not in simulator.truth.companions_of(some)
    assert 1 <= len(simulator.truth.companions_of(some)) <= 3


def test_what_is_bought_was_in_the_cart_and_comes_with_companions(
    simulator: Simulator, by_topic: dict[str, list[dict[str, Any]]]
) -> None:
    carts = defaultdict(set)
    for record in by_topic["clicks"]:
        if record["action"] == "cart":
            carts[record["customer_id"]].add(record["item_id"])
    bought = [
        order["items"][0]["item_id"] in carts[order["customer_id"]]
        for order in by_topic["purchases"]
    ]
    assert np.mean(bought) > 0.9
    for order in by_topic["purchases"]:
        first, *rest = [line["item_id"] for line in order["items"]]
        assert set(rest) <= simulator.truth.companions_of(first)
        assert len(set(rest)) == len(rest)


def test_segments_differ_as_planted(
    simulator: Simulator, by_topic: dict[str, list[dict[str, Any]]]
) -> None:
    truth = simulator.truth
    customers = Counter(truth.segment_of(name) for name in truth.customer_ids)
    orders: Counter[str] = Counter()
    promoted: Counter[str] = Counter()
    for order in by_topic["purchases"]:
        segment = truth.segment_of(order["customer_id"])
        orders[segment] += 1
        promoted[segment] += order["promotion"]
    assert set(customers) == set(SEGMENT_NAMES)
    rate = {name: orders[name] / customers[name] for name in SEGMENT_NAMES}
    assert rate["champions"] > 2 * rate["regulars"] > 4 * rate["window_shoppers"]
    assert promoted["bargain_hunters"] / orders["bargain_hunters"] > 0.7
    assert promoted["champions"] / orders["champions"] < 0.3


def test_popularity_within_a_category_falls_with_rank(
    simulator: Simulator, by_topic: dict[str, list[dict[str, Any]]]
) -> None:
    truth = simulator.truth
    clicks = Counter(r["item_id"] for r in by_topic["clicks"] if "item_id" in r)
    first = np.flatnonzero(truth.item_category == 0)
    counts = [clicks[truth.item_ids[item]] for item in first]
    assert sum(counts[:5]) > 3 * sum(counts[-5:])


def test_labels_agree_with_the_planted_mood_and_intent(
    simulator: Simulator, by_topic: dict[str, list[dict[str, Any]]]
) -> None:
    truth = simulator.truth
    labelled = [chat for chat in by_topic["chats"] if "sentiment" in chat]
    assert 0.2 < len(labelled) / len(by_topic["chats"]) < 0.4
    for chat in labelled:
        assert np.sign(chat["sentiment"]) == truth.sentiment_of(chat)
        assert chat["intent"] == truth.intent_of(chat)
    assert {truth.intent_of(chat) for chat in by_topic["chats"]} == set(INTENTS)


def test_messages_vary_and_churners_turn_negative() -> None:
    simulator = small(chats=6_000)
    truth = simulator.truth
    chats = [record for topic, _, record in simulator.traffic() if topic == "chats"]
    assert len({chat["text"] for chat in chats}) > 2_500
    moods = defaultdict(list)
    for chat in chats:
        stop = truth.stop_ts_ms[truth.customer_index[chat["customer_id"]]]
        is_sour = stop != NEVER and chat["ts"] >= stop - truth.sour_ms
        moods[is_sour].append(truth.sentiment_of(chat))
    assert np.mean(moods[True]) < -0.4
    assert np.mean(moods[False]) > -0.2


def test_duplicates_repeat_a_record_under_its_id() -> None:
    simulator = small(duplicate_share=0.2)
    events = [record for topic, _, record in simulator.traffic() if topic == "clicks"]
    by_id = defaultdict(list)
    for record in events:
        by_id[record["event_id"]].append(record)
    assert len(by_id) == 8_000
    assert 0.15 < len(events) / 8_000 - 1 < 0.25
    assert all(record == copies[0] for copies in by_id.values() for record in copies)


def test_late_events_stay_within_the_bound() -> None:
    simulator = small(late_share=0.1, late_by_ms=30_000)
    behind = []
    latest = 0
    for _, _, record in simulator.traffic():
        latest = max(latest, record["ts"])
        behind.append(latest - record["ts"])
    assert 0.05 < np.mean(np.array(behind) > 0) < 0.15
    assert max(behind) <= 30_000


def test_an_endless_simulation_begins_like_the_finite_one_and_goes_on() -> None:
    finite = list(small().traffic())
    endless = list(islice(small().traffic(endless=True), 20_000))
    # The last sessions of the span mingle with the first ones after it.
    assert endless[:8_000] == finite[:8_000]
    ids = [record["event_id"] for _, _, record in endless]
    assert len(set(ids)) == 20_000


@pytest.mark.parametrize(
    "changes",
    [
        {"customers": 0},
        {"items": 5, "categories": 6},
        {"categories": 0},
        {"clicks": -1},
        {"span_ms": 59_999},
        {"duplicate_share": 1.5},
        {"late_share": -0.1},
        {"late_by_ms": 0},
    ],
)
def test_an_argument_outside_its_range_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(SettingsError, match="simulator: "):
        small(**changes)


def test_a_negative_seed_is_refused() -> None:
    with pytest.raises(SettingsError, match="seed"):
        small(seed=-1)


def test_events_held_back_come_out_in_order_and_once() -> None:
    held = TimeOrder()
    held.add(np.array([30, 10]), [("t", "a", {}), ("t", "b", {})])
    held.add(np.array([10, 20]), [("t", "c", {}), ("t", "d", {})])
    assert [event[1] for event in held.take_before(20)] == ["b", "c"]
    assert [event[1] for event in held.take_before(None)] == ["d", "a"]
    assert held.take_before(None) == []
