"""The oracle of the chaos harness, by small cases that were worked out by hand."""

import base64
import json
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from benchmarks.chaos.facts import (
    FORWARDED_HEADER,
    SERIAL_HEADER,
    Deed,
    Erasure,
    Fact,
    Poison,
    Statement,
    home_of,
)
from benchmarks.chaos.oracle import Oracle, Place, Tally
from benchmarks.chaos.verdict import DAY_MS, Judge, Verdict
from benchmarks.report import BenchmarkError
from streams.partitioner import partition_of

PARTITIONS = 4
ADA, BOB, EVE = home_of("ada", 4), home_of("bob", 4), home_of("eve", 4)


@dataclass(frozen=True)
class Lying:
    """A record as it lies in a topic."""

    topic: str
    partition: int
    offset: int
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes], ...] = ()


LEDGER: list[Fact] = [
    Deed("clicks", "ada", "e0", 9_000, cart=True),
    Deed("clicks", "ada", "e0", 9_000, cart=True),
    Deed("clicks", "ada", "e1", 7_000),
    Deed("purchases", "ada", "e2", 8_000, pieces=3, amount=96),
    Deed("chats", "bob", "e3", 5_000, conversation="talk"),
    Poison("decode"),
    Statement("ada", 1_000),
    Statement("ada", 2_000),
    Deed("clicks", "eve", "e4", 4_000),
    Erasure("eve"),
    Deed("clicks", "eve", "e5", 6_000, life=1),
    Deed("clicks", "bob", "never-arrived", 1),
]


def lying(serial: int, topic: str, partition: int, offset: int, *, copied: bool = False) -> Lying:
    headers = [(SERIAL_HEADER, str(serial).encode())]
    if copied:
        headers.append((FORWARDED_HEADER, b"2"))
    return Lying(topic, partition, offset, b"k", b"{", tuple(headers))


ASTRAY = (BOB + 1) % PARTITIONS
LOG = [
    lying(0, "clicks", ADA, 0),
    lying(1, "clicks", ADA, 1),
    lying(2, "clicks", ADA, 2),
    lying(3, "purchases", ADA, 0),
    lying(4, "chats", ASTRAY, 0),
    lying(4, "chats", BOB, 7, copied=True),
    lying(5, "clicks", 3, 50),
    lying(6, "customers", ADA, 0),
    lying(7, "customers", ADA, 1),
    lying(8, "clicks", EVE, 60),
    lying(9, "customers", EVE, 10),
    lying(10, "clicks", EVE, 61),
]


def test_the_truth_is_what_was_worked_out_by_hand() -> None:
    oracle = Oracle(LEDGER, PARTITIONS)
    oracle.take_all(LOG)
    expected = oracle.finish(range(11))
    assert expected.tallies == {
        "ada": Tally(2, 1, 1, 3, 1.5, 0, 7_000, 9_000, 2_000),
        "bob": Tally(0, 0, 0, 0, 0, 1, 5_000, 5_000, None),
        "eve": Tally(1, 0, 0, 0, 0, 0, 6_000, 6_000, None),
    }
    assert set(expected.chats) == {"e3"}
    assert {name: letter.stage for name, letter in expected.letters.items()} == {
        "clicks-3-50": "decode"
    }
    assert {str(place) for place in expected.triggers} == {
        f"clicks-{ADA}-0",
        f"clicks-{ADA}-2",
        f"purchases-{ADA}-0",
        f"chats-{BOB}-7",
        f"clicks-{EVE}-60",
        f"clicks-{EVE}-61",
    }
    assert expected.forwards == {4: [1, 1]}


def test_customers_are_placed_where_the_product_places_them() -> None:
    names = ["ada", "kundin-ä5", "90014", "x" * 255, "日本"]
    assert [home_of(name, 7) for name in names] == [partition_of(name, 7) for name in names]


def test_a_record_that_the_broker_lost_is_not_blamed_on_the_engine() -> None:
    oracle = Oracle(LEDGER, PARTITIONS)
    oracle.take_all(LOG[:-1])
    with pytest.raises(BenchmarkError, match="lost 1 acknowledged"):
        oracle.finish(range(11))


def test_a_record_that_nobody_sent_is_refused() -> None:
    with pytest.raises(BenchmarkError, match="nobody sent"):
        Oracle(LEDGER, PARTITIONS).take(Lying("clicks", 0, 0, None, b"{}"))


# A result, right in everything, and what becomes of the verdict when it is not.


@dataclass
class Result:
    """What an engine has made of `LOG`."""

    log: list[Lying] = field(default_factory=lambda: list(LOG))
    outputs: list[Lying] = field(default_factory=list)
    profiles: dict[str, dict[str, Any] | None] = field(default_factory=dict)

    def add(self, topic: str, partition: int, key: str, record: dict[str, Any]) -> None:
        value = json.dumps(record).encode()
        self.outputs.append(Lying(topic, partition, len(self.outputs), key.encode(), value))

    def judge(self, *, exactly_once: bool = True) -> Verdict:
        oracle = Oracle(LEDGER, PARTITIONS)
        oracle.take_all(self.log)
        judge = Judge(oracle.finish(range(11)), PARTITIONS, exactly_once=exactly_once)
        for output in self.outputs:
            judge.take(output)
        return judge.judge(self.profiles)

    def find(self, topic: str) -> Lying:
        return next(output for output in self.outputs if output.topic == topic)

    def change(self, topic: str, **fields: Any) -> Lying:
        """Return the first output of a topic with some fields of its value changed."""
        found = self.find(topic)
        changed = json.loads(found.value or b"") | fields
        return replace(found, value=json.dumps(changed).encode(), offset=99)


def list_of(place: Place, customer: str, event_id: str) -> dict[str, Any]:
    trigger = {**place._asdict(), "event_id": event_id, "timestamp": 1}
    identifier = f"recommendation-{place}"
    return {"recommendation_id": identifier, "customer_id": customer, "trigger": trigger}


@pytest.fixture
def right() -> Result:
    result = Result()
    names = ("clicks", "carts", "orders", "items_bought", "spend", "chats")
    times = ("first_seen_ts", "last_seen_ts", "signup_ts")
    for customer, values in {
        "ada": (2, 1, 1, 3, 1.5, 0, 7_000, 9_000, 2_000),
        "bob": (0, 0, 0, 0, 0.0, 1, 5_000, 5_000, None),
        "eve": (1, 0, 0, 0, 0.0, 0, 6_000, 6_000, None),
    }.items():
        result.profiles[customer] = dict(zip((*names, *times), values, strict=True))
    result.profiles["nobody"] = None
    insight = {"event_id": "e3", "customer_id": "bob", "conversation_id": "talk", "ts": 5_000}
    insight |= {"sentiment": -0.9, "escalate": True}
    result.add("chat-insights", BOB, "bob", insight)
    place = Place("chats", BOB, 7)
    trigger = {**place._asdict(), "event_id": "e3"}
    alert = {"alert_id": f"sentiment_escalation-{place}", "customer_id": "bob", "ts": 5_000}
    result.add("alerts", BOB, "bob", alert | {"kind": "sentiment_escalation", "trigger": trigger})
    letter = {"id": "clicks-3-50", "topic": "clicks", "partition": 3, "offset": 50, "ts": 1}
    letter |= {"stage": "decode", "key": "k", "value": base64.b64encode(b"{").decode()}
    result.add("dead-letters", 0, "clicks", letter | {"value_bytes": 1})
    result.add("recommendations", ADA, "ada", list_of(Place("clicks", ADA, 2), "ada", "e1"))
    result.add("recommendations", BOB, "bob", list_of(place, "bob", "e3"))
    result.add("recommendations", EVE, "eve", list_of(Place("clicks", EVE, 61), "eve", "e5"))
    result.add("segments", ADA, "ada", {"customer_id": "ada", "ts": 1, "segment": "loyal"})
    return result


def counts(verdict: Verdict) -> tuple[int, int, int]:
    return verdict.lost, verdict.applied_twice, verdict.duplicate_outputs


@pytest.mark.parametrize("exactly_once", [True, False])
def test_a_right_result_has_nothing_wrong(right: Result, exactly_once: bool) -> None:
    verdict = right.judge(exactly_once=exactly_once)
    assert verdict == Verdict()


def set_profile(customer: str, **fields: Any) -> Callable[[Result], None]:
    def change(result: Result) -> None:
        profile = result.profiles[customer]
        assert profile is not None
        profile.update(fields)

    return change


def without(topic: str) -> Callable[[Result], None]:
    def change(result: Result) -> None:
        result.outputs.remove(result.find(topic))

    return change


def again(topic: str, **fields: Any) -> Callable[[Result], None]:
    return lambda result: result.outputs.append(result.change(topic, **fields))


def in_place_of(topic: str, **fields: Any) -> Callable[[Result], None]:
    def change(result: Result) -> None:
        changed = result.change(topic, **fields)
        result.outputs[result.outputs.index(result.find(topic))] = changed

    return change


def elsewhere(topic: str, **fields: Any) -> Callable[[Result], None]:
    """Have an output lie in another partition, or under another key."""

    def change(result: Result) -> None:
        found = result.find(topic)
        result.outputs[result.outputs.index(found)] = replace(found, **fields)

    return change


def logged(*records: Lying) -> Callable[[Result], None]:
    return lambda result: result.log.extend(records)


def forget(customer: str) -> Callable[[Result], None]:
    return lambda result: result.profiles.update({customer: None})


def churn_alert(result: Result, customer: str, sweep_ts: int, ts: int = 5) -> None:
    """Add an alert of the first day."""
    record = {"alert_id": f"churn_risk-{customer}-1", "customer_id": customer, "ts": ts}
    record |= {"kind": "churn_risk", "trigger": {"sweep_ts": sweep_ts, "partition": 0}}
    result.add("alerts", home_of(customer, PARTITIONS), customer, record)


def churn_alerts(*sweeps_ts: int) -> Callable[[Result], None]:
    def change(result: Result) -> None:
        for sweep_ts in sweeps_ts:
            churn_alert(result, "ada", sweep_ts)

    return change


COPY = LOG[5]
WRONG: dict[str, tuple[Callable[[Result], None], tuple[int, int, int]]] = {
    "an event is lost": (set_profile("ada", clicks=1), (1, 0, 0)),
    "an event is applied twice": (set_profile("ada", orders=2), (0, 1, 0)),
    "one event counts in place of another": (set_profile("ada", spend=1.25), (1, 1, 0)),
    "an event's time is lost": (set_profile("ada", last_seen_ts=8_000), (1, 1, 0)),
    "what the CRM said is lost": (set_profile("ada", signup_ts=1_000), (1, 1, 0)),
    "a customer is lost": (forget("ada"), (3, 0, 0)),
    "an erased life comes back": (set_profile("eve", clicks=2, first_seen_ts=4_000), (0, 1, 0)),
    "nobody is somebody": (set_profile("bob", clicks=1), (0, 1, 0)),
    "an insight comes twice": (again("chat-insights"), (0, 0, 1)),
    "an insight is missing": (without("chat-insights"), (1, 0, 0)),
    "an insight is about nothing": (again("chat-insights", event_id="e9"), (0, 0, 1)),
    "an insight is about another": (in_place_of("chat-insights", ts=1), (1, 0, 1)),
    "a dead letter is missing": (without("dead-letters"), (1, 0, 0)),
    "a dead letter comes twice": (again("dead-letters", ts=2), (0, 0, 1)),
    "a good record is buried": (again("dead-letters", offset=51, id="clicks-3-51"), (0, 0, 1)),
    "a dead letter is of another stage": (in_place_of("dead-letters", stage="process"), (1, 0, 1)),
    "a dead letter holds something else": (in_place_of("dead-letters", value="eA=="), (1, 0, 1)),
    "a list comes twice": (again("recommendations"), (0, 0, 1)),
    "a customer has no list": (without("recommendations"), (1, 0, 0)),
    "a list has no cause": (again("recommendations", trigger={"topic": "x"}), (0, 0, 1)),
    "a list lies elsewhere": (elsewhere("recommendations", partition=(ADA + 1) % 4), (0, 0, 1)),
    "a list has another's key": (elsewhere("recommendations", key=b"bob"), (0, 0, 1)),
    "nobody was alerted": (without("alerts"), (1, 0, 0)),
    "an alert comes twice": (again("alerts"), (0, 0, 1)),
    "a churn alert comes twice": (churn_alerts(DAY_MS, DAY_MS), (0, 0, 1)),
    "a churn alert is of another day": (churn_alerts(2 * DAY_MS), (0, 0, 1)),
    "a move is told twice": (again("segments"), (0, 0, 1)),
    "a record is forwarded twice": (logged(replace(COPY, offset=8)), (0, 0, 1)),
    "a record is forwarded astray": (
        logged(replace(COPY, partition=ASTRAY, offset=8)),
        (0, 0, 2),
    ),
}


@pytest.mark.parametrize("what", WRONG)
def test_what_is_wrong_is_found(right: Result, what: str) -> None:
    spoil, found = WRONG[what]
    spoil(right)
    verdict = right.judge()
    assert counts(verdict) == found
    assert verdict.differences


def test_a_record_that_was_not_forwarded_is_lost(right: Result) -> None:
    right.log.remove(COPY)
    verdict = right.judge()
    assert verdict.lost >= 1
    assert any("was not forwarded" in difference for difference in verdict.differences)


def test_at_least_once_an_output_may_repeat_with_the_same_cause(right: Result) -> None:
    for topic in ("chat-insights", "alerts", "segments"):
        again(topic)(right)
    again("dead-letters", ts=2)(right)
    again("recommendations", items=["another"])(right)
    logged(replace(COPY, offset=8))(right)
    verdict = right.judge(exactly_once=False)
    assert counts(verdict) == (0, 0, 0)
    assert verdict.repeats == 6


@pytest.mark.parametrize(
    ("topic", "fields"),
    [
        ("chat-insights", {"sentiment": 0.5}),
        ("alerts", {"severity": "info"}),
        ("dead-letters", {"error": "another"}),
    ],
)
def test_at_least_once_a_repeat_must_say_the_same(
    right: Result, topic: str, fields: dict[str, Any]
) -> None:
    again(topic, **fields)(right)
    assert right.judge(exactly_once=False).duplicate_outputs == 1


def test_who_was_erased_may_be_alerted_to_anew(right: Result) -> None:
    churn_alert(right, "eve", DAY_MS, ts=1)
    churn_alert(right, "eve", DAY_MS + 5, ts=2)
    assert right.judge() == Verdict()


def test_the_first_differing_customer_is_told(right: Result) -> None:
    set_profile("bob", chats=0)(right)
    set_profile("ada", clicks=1, carts=0)(right)
    first = right.judge().differences[0]
    assert first == "customer ada: clicks: expected 2, found 1, carts: expected 1, found 0"
