"""Outcomes on a partition in this process: exact counts, learning at once, sweeps, late events."""

from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from streams.outcomes.profile import FEATURES, distinct_categories, features_many
from streams.web import profile_of
from tests.streams.shop_in_memory import ShopInMemory
from tests.streams.workers import START_TS_MS, Event, chat, click, order

NOW_MS = START_TS_MS + 86_400_000
DAY_S = 86_400


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[ShopInMemory]:
    shop = ShopInMemory(tmp_path)
    yield shop
    shop.store.close()


def profile(shop: ShopInMemory, customer: str) -> dict[str, Any]:
    engine: Any = type("Engine", (), {"partitions": {0: shop.partition}, "models": shop.models})
    found = profile_of(engine, customer, 0)
    assert found is not None
    return found


actions = st.sampled_from(["view", "cart", "search", "dwell", "remove"])
events = st.lists(
    st.tuples(
        st.sampled_from(["ada", "bob", "cy"]),
        st.sampled_from(["click", "order", "chat"]),
        st.integers(0, 80_000),
        actions,
        st.integers(1, 3),
    ),
    min_size=1,
    max_size=60,
)


@settings(
    deadline=None, max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(events)
def test_counts_are_those_of_a_plain_loop_in_whatever_order_events_come(
    tmp_path_factory: pytest.TempPathFactory, drawn: list[tuple[str, str, int, str, int]]
) -> None:
    shop = ShopInMemory(tmp_path_factory.mktemp("counts"))
    truth: dict[str, dict[str, float]] = defaultdict(lambda: defaultdict(float))
    sent: list[Event] = []
    for number, (customer, kind, second, action, quantity) in enumerate(drawn):
        counts = truth[customer]
        ts_ms = START_TS_MS + second * 1000
        seen = [counts["last"], ts_ms] if counts["last"] else [ts_ms]
        counts["first"] = min(counts["first"] or ts_ms, ts_ms)
        counts["last"] = max(seen)
        if kind == "click":
            item = None if action == "search" else "mug"
            sent.append(click(customer, second, action=action, item_id=item, event_id=f"e{number}"))
            counts["clicks"] += 1
            counts["carts"] += action == "cart"
        elif kind == "order":
            topic, key, record = order(customer, second, ("mug", quantity, 2.0), ("cup", 1, 0.5))
            sent.append((topic, key, {**record, "event_id": f"e{number}"}))
            counts["orders"] += 1
            counts["items_bought"] += quantity + 1
            counts["spend"] += 2.0 * quantity + 0.5
        else:
            sent.append(chat(customer, second, "hello", event_id=f"e{number}"))
            counts["chats"] += 1
    shop.feed(sent, NOW_MS)
    for customer, counts in truth.items():
        found = profile(shop, customer)
        for field in ("clicks", "carts", "orders", "items_bought", "spend", "chats"):
            assert found[field] == counts[field], (customer, field)
        assert found["first_seen_ts"] == counts["first"]
        assert found["last_seen_ts"] == counts["last"]
    shop.store.close()


def test_sessions_end_after_half_an_hour_without_a_click(shop: ShopInMemory) -> None:
    moments = (0, 600, 1200, 1200 + 1801, 1200 + 1801 + 1800)
    shop.feed([click("ada", second, event_id=f"e{second}") for second in moments], NOW_MS)
    assert profile(shop, "ada")["sessions"] == 2


def test_favourite_categories_come_from_the_catalogue_and_from_orders(shop: ShopInMemory) -> None:
    from streams.decode import CatalogChange
    from streams.records import CatalogItem

    shop.models.catalog.apply(CatalogChange("mug", CatalogItem(item_id="mug", category="kitchen")))
    topic, key, record = order("ada", 5, ("lamp", 1, 9.0))
    record["items"][0]["category"] = "light"
    shop.feed([click("ada", 1), click("ada", 2), (topic, key, record)], NOW_MS)
    found = profile(shop, "ada")["top_categories"]
    assert [each["category"] for each in found] == ["light", "kitchen"]
    assert sum(each["share"] for each in found) == pytest.approx(1, abs=1e-3)


def test_features_are_finite_and_as_documented(shop: ShopInMemory) -> None:
    shop.feed([order("ada", 0, ("mug", 1, 10.0)), order("ada", 2 * DAY_S // 3, ("mug", 1, 30.0))],
              NOW_MS)  # fmt: skip
    rows = shop.partition.rows
    slots = rows.slots_of(["ada"])
    (row,) = features_many(rows.data, slots, START_TS_MS + DAY_S * 1000)
    told = dict(zip(FEATURES, row.tolist(), strict=True))
    assert told["recency_days"] == pytest.approx(1 / 3, abs=1e-4)
    assert told["orders"] == pytest.approx(np.log1p(2))
    assert told["average_order_value"] == pytest.approx(np.log1p(20))
    assert told["repurchase_interval_days"] == pytest.approx(np.log1p(2 / 3), abs=1e-4)
    assert np.isfinite(row).all()


def test_the_estimate_of_distinct_categories_is_close(shop: ShopInMemory) -> None:
    draw = np.random.default_rng(0)
    for count in (1, 5, 20, 40):
        bits = np.zeros((1, 2), np.uint64)
        for key in draw.integers(0, 128, count):
            bits[0, key // 64] |= np.uint64(1) << np.uint64(key % 64)
        assert abs(distinct_categories(bits)[0] - count) <= max(1.5, 0.2 * count)


def test_the_event_that_triggers_a_list_shapes_that_very_list(shop: ShopInMemory) -> None:
    pairs = [(f"t{n}", f"c{n}") for n in range(8)]
    events: list[Event] = []
    for n in range(400):
        tea, cup = pairs[n % len(pairs)]
        events += [click(f"buyer-{n}", n, tea, event_id=f"a{n}"),
                   click(f"buyer-{n}", n, cup, event_id=f"b{n}")]  # fmt: skip
    shop.feed(events, NOW_MS)
    shop.pay(NOW_MS)
    shop.outputs.clear()
    shop.feed([click("newcomer", 9_000, "t3")], NOW_MS)
    shop.pay(NOW_MS)
    (record,) = shop.outputs["recommendations"]
    assert record["trigger"]["event_id"] == "c-newcomer-9000"
    first = next(item for item in record["items"] if item["item_id"] != "t3")
    assert first["item_id"] == "c3"
    assert any("t3" in reason for reason in first["reasons"])


def test_a_list_equal_to_the_last_one_is_not_made_again(shop: ShopInMemory) -> None:
    shop.feed([click("ada", 1, "a"), click("bob", 2, "b"), chat("ada", 3, "hello")], NOW_MS)
    shop.pay(NOW_MS)
    made = len(shop.outputs["recommendations"])
    shop.feed([chat("ada", 4, "hello again")], NOW_MS)
    shop.pay(NOW_MS)
    assert len(shop.outputs["recommendations"]) == made
    assert shop.partition.lists_owed() == 0


def test_a_customer_is_told_apart_only_when_the_segment_changes(shop: ShopInMemory) -> None:
    events: list[Event] = []
    for n in range(300):
        who = f"c{n % 100}"
        price = 500.0 if n % 2 else 2.0
        events.append(order(who, n * 3_000, ("mug", 1, price)))
    shop.feed(events, START_TS_MS + 300 * 3_000_000)
    changes = shop.outputs["segments"]
    assert changes
    for change in changes:
        assert change["segment"] is not None
        assert set(change["features"]) == set(FEATURES)
    by_customer: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for change in changes:
        by_customer[change["customer_id"]].append(change)
    assert all(each[0]["previous"] is None for each in by_customer.values())


def test_late_events_count_and_are_counted_as_late(shop: ShopInMemory) -> None:
    shop.feed([click("ada", 50_000)], NOW_MS)
    shop.feed([click("ada", 10, event_id="late")], NOW_MS)
    assert profile(shop, "ada")["clicks"] == 2
    late = shop.metrics.registry.get_sample_value("crm_events_late_total", {"topic": "clicks"})
    assert late == 1


def leaves(columns: Any, slots: Any) -> list[bytes]:
    """Return the bytes of each innermost field, without the padding between them."""
    if columns.dtype.names is None:
        return [columns[slots].tobytes()]
    return [leaf for name in columns.dtype.names for leaf in leaves(columns[name], slots)]


def test_a_cut_in_the_middle_of_a_chunk_changes_nothing(tmp_path: Path) -> None:
    events = [click(f"c{n % 7}", n * 30, f"i{n % 11}", event_id=f"e{n}") for n in range(200)]
    whole, parts = ShopInMemory(tmp_path / "whole"), ShopInMemory(tmp_path / "parts")
    whole.feed(events, NOW_MS)
    for start in range(0, 200, 13):
        parts.feed(events[start : start + 13], NOW_MS)
    ours, theirs = whole.partition.rows, parts.partition.rows
    names = sorted(ours.keys_of(ours.occupied()))
    for field in ("seen", "profile", "churn", "recommendations"):
        left = leaves(ours.data[field], ours.slots_of(names))
        right = leaves(theirs.data[field], theirs.slots_of(names))
        assert left == right, field
    whole.store.close()
    parts.store.close()
