"""A real worker on a real broker: events in, exact profiles, lists, alerts and dead letters out."""

import asyncio
import base64
import json
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from streams.admin import create_topics
from streams.broker import EmbeddedBroker
from streams.partitioner import partition_of
from streams.settings import Settings
from tests.streams.workers import (
    PARTITIONS,
    START_TS_MS,
    Sent,
    WorkerProcess,
    chat,
    click,
    order,
    reaction,
    read,
    running,
    send,
)


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, WorkerProcess]]:
    """One broker with topics and one worker, for all tests of this module."""
    broker = EmbeddedBroker()
    asyncio.run(broker.start())
    asyncio.run(create_topics(Settings(broker=broker.url, partitions=PARTITIONS)))
    worker = WorkerProcess(broker.url, tmp_path_factory.mktemp("shop") / "data")
    with running(worker):
        yield broker.url, worker
    asyncio.run(broker.stop())


async def give(shop: tuple[str, WorkerProcess], *records: Sent) -> WorkerProcess:
    """Send events and wait until all of them are applied and paid for."""
    url, worker = shop
    before = sum(worker.metric("crm_events_total", topic=t) for t in TOPICS)
    await send(url, records)
    await asyncio.to_thread(worker.applied, int(before) + len(records))
    return worker


TOPICS = ("clicks", "purchases", "chats")


async def test_a_profile_counts_every_event_exactly(shop: tuple[str, WorkerProcess]) -> None:
    worker = await give(
        shop,
        *(click("ada", n) for n in range(7)),
        click("ada", 8, action="cart"),
        order("ada", 9, ("mug", 2, 2.5), ("cup", 1, 4.0)),
        order("ada", 10, ("mug", 3, 1.0)),
        chat("ada", 11, "where is my parcel?"),
    )
    profile = worker.profile("ada")
    assert {
        name: profile[name]
        for name in ("clicks", "carts", "orders", "items_bought", "spend", "chats")
    } == {"clicks": 8, "carts": 1, "orders": 2, "items_bought": 6, "spend": 12.0, "chats": 1}
    assert profile["first_seen_ts"] == START_TS_MS
    assert profile["last_seen_ts"] == START_TS_MS + 11_000
    assert profile["forecast"] is None


async def test_a_click_is_answered_with_a_list_that_names_its_trigger(
    shop: tuple[str, WorkerProcess],
) -> None:
    url, _ = shop
    await give(shop, *(click("bea", n, item) for n, item in enumerate(("a1", "a2", "a3"))))
    await give(shop, click("cleo", 1, "a1"))
    lists = [each for each in await read(url, "recommendations") if each["customer_id"] == "cleo"]
    newest = lists[-1]
    assert newest["trigger"]["topic"] == "clicks"
    assert newest["trigger"]["event_id"] == "c-cleo-1"
    assert newest["trigger"]["partition"] == partition_of("cleo", PARTITIONS)
    assert [item["rank"] for item in newest["items"]] == list(range(1, len(newest["items"]) + 1))
    assert all(item["reasons"] for item in newest["items"])
    assert len({each["recommendation_id"] for each in lists}) == len(lists)


async def test_what_was_just_bought_or_is_unavailable_is_not_recommended(
    shop: tuple[str, WorkerProcess],
) -> None:
    url, worker = shop
    gone = {"item_id": "gone", "title": "Gone", "available": False}
    catalog = worker.metric("crm_events_total", topic="catalog")
    await send(url, [("catalog", "gone", gone)])
    await asyncio.to_thread(
        worker.until,
        "the catalogue is read",
        lambda: worker.metric("crm_events_total", topic="catalog") > catalog,
    )
    await give(shop, *(click("dan", n, item) for n, item in enumerate(("gone", "b1", "b2") * 3)))
    await give(shop, click("eve", 1, "b1"), order("eve", 2, ("b2", 1, 9.0)))
    await give(shop, click("eve", 3, "b1"))
    lists = [each for each in await read(url, "recommendations") if each["customer_id"] == "eve"]
    items = {item["item_id"] for item in lists[-1]["items"]}
    assert items
    assert not items & {"gone", "b2"}


async def test_what_a_customer_dismisses_is_missing_from_the_next_list(
    shop: tuple[str, WorkerProcess],
) -> None:
    url, worker = shop

    async def last_list() -> dict[str, Any]:
        lists = await read(url, "recommendations")
        found: dict[str, Any] = [each for each in lists if each["customer_id"] == "gus"][-1]
        return found

    await give(shop, *(click(f"f{n}", n, f"d{n % 5}") for n in range(25)), click("gus", 1, "d1"))
    before = await last_list()
    dismissed = before["items"][0]["item_id"]
    about = {"recommendation_id": before["recommendation_id"]}
    await send(url, [reaction("gus", 2, "dismiss", dismissed, **about)])
    await asyncio.to_thread(
        worker.until,
        "the feedback is applied and shown",
        lambda: (
            worker.metric("crm_feedback_total", outcome="dismiss", strategy="hybrid") == 1
            and worker.metric("crm_lists_owed") == 0
        ),
    )
    after = await last_list()
    assert after["trigger"]["topic"] == "feedback"
    assert after["items"]
    assert dismissed not in {item["item_id"] for item in after["items"]}
    assert worker.metric("crm_model_quality", model="recommendations", metric="dismiss_rate") == 0


async def give_rules(shop: tuple[str, WorkerProcess], *rules: tuple[str, Any]) -> None:
    """Send rules and wait until each is read or refused."""
    url, worker = shop

    def read_rules() -> float:
        return worker.metric("crm_events_total", topic="rules") + worker.metric(
            "crm_events_rejected_total", topic="rules"
        )

    before = read_rules()
    await send(url, [("rules", rule_id, rule) for rule_id, rule in rules])
    await asyncio.to_thread(
        worker.until, "the rules are read", lambda: read_rules() == before + len(rules)
    )


async def test_rules_act_until_a_tombstone_and_a_bad_one_is_refused(
    shop: tuple[str, WorkerProcess],
) -> None:
    url, worker = shop
    pin = {"rule_id": "pin", "action": "pin", "item_id": "pinned", "customer_id": "una"}
    bad = {"rule_id": "pin", "action": "pin"}
    await give(shop, *(click("uwe", n, item) for n, item in enumerate(("d1", "d2", "d3"))))
    await give_rules(shop, ("pin", pin), ("pin", bad), ("other", b"{"))
    assert "rules: record at offset 1: a rule speaks of exactly one of" in worker.log
    await give(shop, click("una", 1, "d1"))
    await give_rules(shop, ("pin", None))
    await give(shop, click("una", 2, "d1"))
    lists = [each for each in await read(url, "recommendations") if each["customer_id"] == "una"]
    assert lists[0]["items"][0] == {
        "item_id": "pinned", "rank": 1, "score": 0.0, "reasons": ["picked for you"],
        "rules": ["pin"],
    }  # fmt: skip
    assert lists[0]["rules"] == ["pin"]
    assert "pinned" not in {item["item_id"] for item in lists[-1]["items"]}
    assert "rules" not in lists[-1]


async def test_a_furious_message_is_read_and_escalated(shop: tuple[str, WorkerProcess]) -> None:
    url, _ = shop
    await give(
        shop,
        chat("fay", 1, "This is terrible, awful service. I hate it, worst shop ever!"),
        chat("fay", 2, "Thank you, that was great, I love it!"),
        chat("fay", 3, "I am sorry, this is terrible, awful, horrible", sender="agent"),
    )
    insights = {each["event_id"]: each for each in await read(url, "chat-insights")}
    assert insights["t-fay-1"]["label"] == "negative"
    assert insights["t-fay-1"]["escalate"] is True
    assert insights["t-fay-2"]["label"] == "positive"
    assert insights["t-fay-3"]["escalate"] is False
    alerts = [each for each in await read(url, "alerts") if each["customer_id"] == "fay"]
    assert [(each["kind"], each["trigger"]["event_id"]) for each in alerts] == [
        ("sentiment_escalation", "t-fay-1")
    ]
    assert 0 <= alerts[0]["score"] <= 1


async def test_a_repeated_event_is_counted_and_not_applied(
    shop: tuple[str, WorkerProcess],
) -> None:
    url, worker = shop
    await give(shop, click("gil", 1), click("gil", 2))
    duplicates = worker.metric("crm_events_duplicate_total", topic="clicks")
    await send(url, [click("gil", 1), click("gil", 2)])
    await give(shop, click("gil", 3))
    assert worker.profile("gil")["clicks"] == 3
    assert worker.metric("crm_events_duplicate_total", topic="clicks") == duplicates + 2


async def test_a_record_in_another_partition_is_forwarded_once_and_applied_there(
    shop: tuple[str, WorkerProcess],
) -> None:
    url, worker = shop
    wrong = (partition_of("hal", PARTITIONS) + 1) % PARTITIONS
    topic, _, record = click("hal", 1)
    before = worker.metric("crm_events_forwarded_total", topic="clicks")
    again = {**record, "event_id": "x"}
    await send(url, [(topic, None, record), (topic, "hal", again)], partition=wrong)
    await give(shop, click("hal", 2))
    await asyncio.to_thread(
        worker.until, "both are home", lambda: worker.profile("hal")["clicks"] == 3
    )
    assert worker.metric("crm_events_forwarded_total", topic="clicks") == before + 2


DEEP = b'{"a":' * 20_000 + b"1" + b"}" * 20_000
BAD_RECORDS: dict[str, tuple[bytes | str | None, Any]] = {
    "broken_json": ("ian", b'{"event_id":'),
    "empty": ("ian", b""),
    "tombstone": ("ian", None),
    "not_utf8": ("ian", b'{"event_id":"\xff\xfe"}'),
    "deep": ("ian", DEEP),
    "missing_id": ("ian", {"customer_id": "ian", "ts": START_TS_MS, "action": "view"}),
    "empty_id": ("ian", {**click("ian", 1)[2], "event_id": ""}),
    "wrong_type": ("ian", {**click("ian", 1)[2], "ts": [1]}),
    "unknown_action": ("ian", {**click("ian", 1)[2], "action": "teleport"}),
    "too_early": ("ian", {**click("ian", 1)[2], "ts": 1}),
    "negative": ("ian", {**click("ian", 1)[2], "ts": -5}),
    "far_ahead": ("ian", {**click("ian", 1)[2], "ts": 99_999_999_999_999}),
    "other_key": ("joe", click("ian", 1)[2]),
}


async def test_every_kind_of_bad_record_becomes_one_dead_letter_and_harms_no_neighbour(
    shop: tuple[str, WorkerProcess],
) -> None:
    url, worker = shop
    home = partition_of("ian", PARTITIONS)
    long_text = chat("ian", 5, "x" * 1_000_000)[2]
    long_order = order("ian", 6, *[("mug", 1, 1.0)] * 10_000)[2]
    nan_order = b'{"event_id":"n","customer_id":"ian","ts":1700000000000,"items":[{"item_id":"a","quantity":NaN}]}'  # noqa: E501 - one record
    mixed: list[Sent] = []
    for number, (key, value) in enumerate(BAD_RECORDS.values()):
        mixed += [click("ian", 100 + number), ("clicks", key, value)]
    mixed += [("chats", "ian", long_text), ("purchases", "ian", long_order)]
    mixed += [("purchases", "ian", nan_order)]
    before = len(await read(url, "dead-letters"))
    await send(url, mixed, partition=home)
    await give(shop, click("ian", 200), chat("ian", 201, "hello"), order("ian", 202, ("a", 1, 1.0)))
    await asyncio.to_thread(
        worker.until,
        "all letters are written",
        lambda: (
            worker.metric("crm_outputs_total", topic="dead-letters")
            >= before + len(BAD_RECORDS) + 3
        ),
    )
    letters = (await read(url, "dead-letters"))[before:]
    assert len(letters) == len(BAD_RECORDS) + 3
    assert len({letter["id"] for letter in letters}) == len(letters)
    assert {letter["stage"] for letter in letters} == {"decode", "validate"}
    assert worker.profile("ian")["clicks"] == len(BAD_RECORDS) + 1
    by_size = {letter["value_bytes"]: letter for letter in letters}
    text_size = len(json.dumps(long_text).encode())
    assert len(base64.b64decode(by_size[text_size]["value"])) == 256 * 1024


async def test_an_unknown_customer_is_a_404_in_the_shape_of_an_error(
    shop: tuple[str, WorkerProcess],
) -> None:
    status, answer = shop[1].get("/v1/customers/nobody%2Fhere")
    assert status == 404
    assert answer["error"]["code"] == "unknown_customer"


async def test_a_customers_attributes_are_kept_and_a_tombstone_erases_the_row(
    shop: tuple[str, WorkerProcess],
) -> None:
    url, worker = shop
    told = {"customer_id": "kim", "region": "north", "membership_level": "gold"}
    await send(url, [("customers", "kim", told)])
    await give(shop, click("kim", 1))
    await asyncio.to_thread(
        worker.until, "told", lambda: worker.profile("kim")["region"] == "north"
    )
    assert worker.profile("kim")["membership_level"] == "gold"
    await send(url, [("customers", "kim", None)])
    await asyncio.to_thread(
        worker.until, "erased", lambda: worker.get("/v1/customers/kim")[0] == 404
    )


async def test_metrics_name_every_series_of_the_contract(shop: tuple[str, WorkerProcess]) -> None:
    await give(shop, click("lee", 1))
    _, text = shop[1].get("/metrics")
    families = {line.split()[2] for line in text.splitlines() if line.startswith("# TYPE crm_")}
    wanted = {
        "crm_events_total", "crm_events_rejected_total", "crm_events_late_total",
        "crm_events_forwarded_total", "crm_events_duplicate_total", "crm_batch_size",
        "crm_batch_seconds", "crm_event_to_output_seconds", "crm_consumer_lag",
        "crm_watermark_seconds", "crm_outputs_total", "crm_lists_owed", "crm_alerts_total",
        "crm_checkpoint_seconds", "crm_checkpoint_rows_total", "crm_checkpoint_failures_total",
        "crm_recovery_seconds", "crm_recovery_rows_total", "crm_recovery_progress",
        "crm_state_rows", "crm_state_bytes", "crm_state_cache_hit_ratio", "crm_model_quality",
        "crm_model_updates_total", "crm_drift_detected_total", "crm_rebalances_total",
        "crm_worker_ready", "crm_build_info",
    }  # fmt: skip
    assert wanted <= families
    assert shop[1].metric("crm_worker_ready") == 1


async def test_offsets_are_committed_to_the_group_for_lag_tools(
    shop: tuple[str, WorkerProcess],
) -> None:
    from aiokafka import AIOKafkaConsumer, TopicPartition

    url, _ = shop
    await give(shop, click("mia", 1))
    consumer = AIOKafkaConsumer(
        bootstrap_servers=url.removeprefix("kafka://"), group_id="crm-streams",
        enable_auto_commit=False,
    )  # fmt: skip
    await consumer.start()
    try:
        tp = TopicPartition("clicks", partition_of("mia", PARTITIONS))
        ends = await consumer.end_offsets([tp])
        for _ in range(50):
            committed = await consumer.committed(tp)
            if committed == ends[tp]:
                break
            await asyncio.sleep(0.2)
        assert committed == ends[tp]
    finally:
        await consumer.stop()


async def test_the_state_can_be_looked_into_while_the_worker_runs(
    shop: tuple[str, WorkerProcess],
) -> None:
    worker = await give(shop, click("nia", 1))
    await asyncio.sleep(1)
    customers = int(worker.metric("crm_state_rows", table="customers"))
    told = {}
    for command in ("info", "verify"):
        finished = await asyncio.to_thread(
            subprocess.run,
            [sys.executable, "-m", "streams", "state", command, "--data-dir", worker.data_dir],
            capture_output=True,
            text=True,
            check=True,
        )
        told[command] = finished.stdout
    assert len(told["info"].splitlines()) == PARTITIONS
    assert "clicks=" in told["info"]
    assert told["verify"].splitlines()[-1] == f"{customers} rows in all"
