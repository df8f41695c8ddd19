"""The models find what the simulator has planted."""

from collections import Counter, defaultdict
from collections.abc import Iterator

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from streams.simulator import Event, Simulator
from tests.streams.shop_in_memory import ShopInMemory

DAY_MS = 86_400_000
START_MS = 1_700_000_000_000
DAYS = 120
HORIZON_DAYS = 14
HORIZON_MS = HORIZON_DAYS * DAY_MS
CUT_MS = START_MS + 80 * DAY_MS
"""What comes later is kept from the models, to hold their predictions against."""


def before_the_cut(simulator: Simulator) -> Iterator[Event]:
    return (event for event in simulator.traffic() if event[2]["ts"] <= CUT_MS)


@pytest.fixture(scope="module")
def shop(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[tuple[ShopInMemory, Simulator]]:
    """A third of a year of a small shop, applied from beginning to end."""
    simulator = Simulator(
        3,
        start_ts_ms=START_MS,
        customers=600,
        items=400,
        categories=12,
        clicks=60_000,
        purchases=8_000,
        chats=3_000,
        span_ms=DAYS * DAY_MS,
    )
    shop = ShopInMemory(
        tmp_path_factory.mktemp("planted"), churn_horizon_days=HORIZON_DAYS, segments=5
    )
    shop.read_catalog(simulator)
    shop.feed(before_the_cut(simulator), CUT_MS)
    shop.pay(CUT_MS)
    yield shop, simulator
    shop.store.close()


def test_counts_equal_what_was_sent(shop: tuple[ShopInMemory, Simulator]) -> None:
    rows = shop[0].partition.rows
    profile = rows.data["profile"][rows.occupied()]
    counted = {
        topic: int(profile[name].sum())
        for topic, name in (("clicks", "clicks"), ("purchases", "orders"), ("chats", "chats"))
    }
    assert counted == Counter(topic for topic, _, _ in before_the_cut(shop[1]))


def test_who_will_stay_away_is_told_before_it_happens(
    shop: tuple[ShopInMemory, Simulator],
) -> None:
    shop_now, simulator = shop
    back = {
        who
        for _, who, record in simulator.traffic()
        if CUT_MS < record["ts"] <= CUT_MS + HORIZON_MS
    }
    rows = shop_now.partition.rows
    slots = rows.occupied()
    alive = slots[rows.data["profile"]["last_seen_ts"][slots] > CUT_MS - HORIZON_MS]
    probabilities = rows.data["churn"]["probability"][alive]
    stayed_away = [customer not in back for customer in rows.keys_of(alive)]
    assert sum(stayed_away) >= 20
    assert roc_auc_score(stayed_away, probabilities) > 0.75


def test_churn_alerts_say_why_and_carry_an_id_of_their_own(
    shop: tuple[ShopInMemory, Simulator],
) -> None:
    alerts = [each for each in shop[0].outputs["alerts"] if each["kind"] == "churn_risk"]
    assert alerts
    assert len({each["alert_id"] for each in alerts}) == len(alerts)
    for alert in alerts:
        assert alert["score"] >= 0.7
        contributions = [driver["contribution"] for driver in alert["drivers"]]
        assert contributions == sorted(contributions, reverse=True)
        assert contributions[-1] > 0


def test_lists_follow_the_planted_preferences(shop: tuple[ShopInMemory, Simulator]) -> None:
    shop_now, simulator = shop
    truth = simulator.truth
    last = {each["customer_id"]: each for each in shop_now.outputs["recommendations"]}
    hits, by_chance = [], []
    for customer, record in last.items():
        liked = set(truth.categories_of(customer))
        listed = [truth.category_of(item["item_id"]) for item in record["items"]]
        hits.append(np.mean([category in liked for category in listed]))
        by_chance.append(len(liked) / 12)
    assert len(last) > 500
    assert np.mean(hits) > 0.6
    assert np.mean(hits) > 2.5 * np.mean(by_chance)


def test_moods_are_read_as_they_were_planted(shop: tuple[ShopInMemory, Simulator]) -> None:
    shop_now, simulator = shop
    planted = {
        record["event_id"]: simulator.truth.sentiment_of(record)
        for topic, _, record in simulator.traffic()
        if topic == "chats"
    }
    names = {-1: "negative", 0: "neutral", 1: "positive"}
    later = shop_now.outputs["chat-insights"][1_000:]
    right = [each["label"] == names[round(planted[each["event_id"]])] for each in later]
    assert np.mean(right) > 0.85


def test_segments_part_those_who_buy_from_those_who_look(
    shop: tuple[ShopInMemory, Simulator],
) -> None:
    shop_now, simulator = shop
    rows = shop_now.partition.rows
    slots = rows.occupied()
    labels = rows.data["segments"]["label"][slots]
    assert (labels > 0).all()
    planted = [simulator.truth.segment_of(customer) for customer in rows.keys_of(slots)]
    together: dict[int, Counter[str]] = defaultdict(Counter)
    for label, segment in zip(labels.tolist(), planted, strict=True):
        together[label][segment] += 1
    pure = sum(counts.most_common(1)[0][1] for counts in together.values())
    largest = Counter(planted).most_common(1)[0][1]
    assert pure > 1.2 * largest
    assert len(together) == 5
