import asyncio
import json
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from click.testing import CliRunner
from rich.console import Console

from benchmarks import machine, pipeline, rounds, transport
from benchmarks.__main__ import main
from benchmarks.listener import Heard, ListenerPlan
from benchmarks.processes import Child
from benchmarks.report import (
    BenchmarkError,
    Options,
    Report,
    as_json,
    print_tables,
)
from benchmarks.rounds import Round, Scale
from benchmarks.sender import Plan
from benchmarks.takeover import Outage, outage_of
from benchmarks.tally import Tally
from benchmarks.transport_side import Counted, Counter
from streams.broker import EmbeddedBroker
from streams.partitioner import partition_of
from streams.settings import Settings

TINY = Scale(800, 80, 20, customers=200, items=100, rate=200, steady_seconds=1, rounds=1)


def no_tell(line: str) -> None:
    del line


# What is reported


def some_round(**changes: Any) -> Round:
    latency: dict[str, float | int | None] = {"p50": 0.02, "p99": 0.1, "max": 0.2, "lists": 500}
    whole = Round(
        events=1_000,
        events_per_second=60_000.0,
        applied_events_per_second=70_000.0,
        startup_seconds=5.0,
        preload_seconds=0.1,
        offered_events_per_second=4_999.0,
        worst_send_delay_seconds=0.01,
        latency=latency,
        latency_not_held=latency,
        peak_memory_bytes=2**28,
        lists=700,
        alerts=3,
        problems=[],
    )
    return replace(whole, **changes)


def test_the_pipeline_report_has_the_keys_of_the_contract() -> None:
    found = [
        some_round(events_per_second=50_000.0),
        some_round(events_per_second=70_000.0, peak_memory_bytes=2**29),
        some_round(),
    ]
    report = pipeline.summarise(TINY, 5, found)
    answer = json.loads(as_json(report, machine.facts()))
    assert answer["benchmark"] == "pipeline"
    assert answer["valid"] is True
    assert answer["events"] == 1_000
    assert answer["events_per_second"] == 60_000
    assert answer["rounds"] == 3
    assert answer["latency_seconds"] == {"p50": 0.02, "p99": 0.1, "max": 0.2, "lists": 1_500}
    assert answer["offered_events_per_second"] == 200
    assert answer["peak_memory_bytes"] == 2**29
    assert (answer["lists"], answer["alerts"], answer["seed"]) == (700, 3, 5)
    assert len(answer["by_round"]) == 3


def test_a_problem_of_any_round_makes_the_report_invalid() -> None:
    report = pipeline.summarise(TINY, 1, [some_round(), some_round(problems=["lost one"])])
    assert report.problems == ["round 2: lost one"]
    assert json.loads(as_json(report, {}))["valid"] is False


def test_a_round_without_lists_or_memory_figures_is_reported_too() -> None:
    empty: dict[str, float | int | None] = {"p50": None, "p99": None, "max": None, "lists": 0}
    lone = some_round(latency=empty, latency_not_held=empty, peak_memory_bytes=None)
    report = pipeline.summarise(TINY, 1, [lone])
    assert report.figures["latency_seconds"]["p99"] is None
    assert ("peak memory", "unknown", "worker") in report.rows


def test_the_transport_report_has_the_keys_of_the_contract() -> None:
    counted = {
        "plain": [Counted(50, 49, 0.5, []), Counted(50, 49, 0.49, [])],
        "batch": [Counted(1_000, 980, 0.1, []), Counted(1_001, 980, 0.098, ["offset 7 after 5"])],
    }
    report = transport.summarise(1, counted, transport.Scale(1_000, 50, 2))
    assert report.figures["batch_events_per_second"] == pytest.approx(9_900)
    assert report.figures["plain_events_per_second"] == pytest.approx(99)
    assert report.problems == [
        "batch, round 2: offset 7 after 5",
        "batch, round 2: 1001 events counted, 1000 sent",
    ]


def test_a_missed_or_repeated_offset_is_a_problem() -> None:
    told: list[Counted] = []
    counter = Counter(30, told.append)
    for start, end in ((0, 10), (10, 20), (15, 25)):
        counter.count(3, start, end)
    assert told[0].events == 30
    assert told[0].timed_events == 20
    assert told[0].problems == ["partition 3: offset 15 after 20"]


def test_the_tables_show_rows_machine_and_problems() -> None:
    console = Console(record=True, width=120, file=Path("/dev/null").open("w"))  # noqa: SIM115
    report = Report("pipeline", {}, [("events", "12", "of them")], ["one is missing"])
    print_tables(report, machine.facts(), console)
    text = console.export_text()
    console.file.close()
    assert "NOT VALID" in text
    assert "of them" in text
    assert "numpy" in text
    assert "one is missing" in text


def test_the_machine_is_described() -> None:
    facts = machine.facts()
    assert facts["cores"] >= 1
    assert facts["memory_bytes"] > 2**20
    assert facts["versions"]["numpy"] == np.__version__


# The command


def run_command(monkeypatch: pytest.MonkeyPatch, result: Report | Exception, *flags: str) -> Any:
    def run(options: Options) -> Report:
        assert options.seed == 9
        options.tell("working")
        if isinstance(result, Exception):
            raise result
        return result

    monkeypatch.setattr(transport, "run", run)
    return CliRunner().invoke(main, ["transport", "--seed", "9", *flags])


def test_json_prints_one_object_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    answer = run_command(monkeypatch, Report("transport", {"x": 1}, []), "--json")
    assert answer.exit_code == 0
    assert json.loads(answer.stdout)["x"] == 1
    assert answer.stdout.count("\n") == 1
    assert answer.stderr == ""


def test_an_invalid_run_exits_with_1(monkeypatch: pytest.MonkeyPatch) -> None:
    report = Report("transport", {}, [], ["events missing"])
    answer = run_command(monkeypatch, report, "--json")
    assert answer.exit_code == 1
    assert json.loads(answer.stdout)["problems"] == ["events missing"]
    assert run_command(monkeypatch, report).exit_code == 1


def test_a_run_that_cannot_be_carried_out_is_one_line_on_stderr(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    answer = run_command(monkeypatch, BenchmarkError("the worker ended"), "--json")
    assert answer.exit_code == 1
    assert answer.stdout == ""
    assert answer.stderr == "Error: the worker ended\n"


# Processes


def test_a_child_is_watched_and_ended(tmp_path: Path) -> None:
    with Child("sleeper", ["timeit", "-n1", "-r1", "while True: pass"], tmp_path) as child:
        child.require_alive()
        if sys.platform == "linux":
            assert (child.peak_memory_bytes() or 0) > 0
        assert child.stop() != 0
        with pytest.raises(BenchmarkError, match="sleeper ended with status"):
            child.require_alive()


def test_a_child_that_fails_tells_its_last_words(tmp_path: Path) -> None:
    with (
        Child("broken", ["no_such_module_anywhere"], tmp_path, piped=True) as child,
        pytest.raises(BenchmarkError, match="No module named no_such_module_anywhere"),
    ):
        child.read_line()


def plan_for(url: str, rate: int | None) -> Plan:
    now_ms = time.time_ns() // 1_000_000
    traffic = TINY.backlog(3, now_ms) if rate is None else TINY.steady(3, now_ms)
    return Plan(broker=url, partitions=8, traffic=traffic, catalog=True, rate=rate, limit=400)


async def test_what_is_sent_lies_where_and_when_the_sender_says(tmp_path: Path) -> None:
    async with EmbeddedBroker() as broker:
        await rounds.prepare(Settings(broker=broker.url))
        backlog = await asyncio.to_thread(rounds.send, plan_for(broker.url, None), tmp_path, "a")
        steady = await asyncio.to_thread(rounds.send, plan_for(broker.url, 400), tmp_path, "b")
        records = await read_all(broker.url, 800)
    by_id = {record["event_id"]: stamp for record, stamp in records}
    assert len(by_id) == 800
    assert backlog.tally.total == steady.tally.total == 400
    assert backlog.sent_ms == {}
    assert set(steady.sent_ms) < set(by_id)
    assert all(by_id[event_id] == sent for event_id, sent in steady.sent_ms.items())
    assert 0.9 < steady.seconds < 10
    expected = Tally()
    for record, _ in records:
        expected.add(record.pop("topic"), record)
    backlog.tally.merge(steady.tally)
    assert backlog.tally.events == expected.events


async def read_all(url: str, count: int) -> list[tuple[dict[str, Any], int]]:
    consumer = AIOKafkaConsumer(
        "clicks",
        "purchases",
        "chats",
        bootstrap_servers=Settings(broker=url).bootstrap_servers(),
        auto_offset_reset="earliest",
    )
    found: list[tuple[dict[str, Any], int]] = []
    async with consumer:
        while len(found) < count:
            record = await asyncio.wait_for(consumer.getone(), 10)
            assert record.partition == partition_of(record.key.decode(), 8)
            found.append((json.loads(record.value) | {"topic": record.topic}, record.timestamp))
    return found


async def test_the_listener_notes_every_list(tmp_path: Path) -> None:
    async with EmbeddedBroker() as broker:
        await rounds.prepare(Settings(broker=broker.url))
        plan = ListenerPlan(broker=broker.url, topic="clicks")
        arguments = ["benchmarks.listener", msgspec.json.encode(plan).decode()]

        def listen() -> Heard:
            with Child("listener", arguments, tmp_path, piped=True) as listener:
                listener.read_line()
                listener.send_line("stop")
                return msgspec.json.decode(listener.read_line(), type=Heard)

        await send_lists(broker.url, 50)
        heard = await asyncio.to_thread(listen)
    assert sorted(heard.event_ids) == sorted(f"e{i}" for i in range(50))
    assert set(heard.customers) == {"ada"}
    assert max(heard.arrived_ms) <= time.time() * 1_000


async def send_lists(url: str, count: int) -> None:
    async with AIOKafkaProducer(
        bootstrap_servers=Settings(broker=url).bootstrap_servers()
    ) as producer:
        for i in range(count):
            record = {"customer_id": "ada", "trigger": {"event_id": f"e{i}"}}
            await producer.send_and_wait("clicks", json.dumps(record).encode(), b"ada")


# The whole


def test_a_tiny_transport_run_is_valid() -> None:
    scale = transport.Scale(clicks=3_000, plain_clicks=500, rounds=1)
    options = Options(quick=True, seed=2, tell=no_tell)
    report = transport.summarise(2, transport.run_rounds(scale, options), scale)
    assert report.problems == []
    assert report.figures["batch_events_per_second"] > 0


def test_a_tiny_pipeline_run_is_valid(monkeypatch: pytest.MonkeyPatch) -> None:
    # The embedded broker keeps a new member waiting for half of this.
    monkeypatch.setenv("CRM_SESSION_TIMEOUT_SECONDS", "3")
    options = Options(quick=True, seed=2, tell=no_tell)
    report = pipeline.summarise(TINY, 2, pipeline.run_rounds(TINY, options))
    assert report.problems == []
    assert report.figures["events"] == 1_100
    assert report.figures["lists"] >= 150


def test_a_takeover_is_the_slowest_lost_partition_and_a_pause_the_longest_silence_elsewhere() -> (
    None
):
    def in_partition(number: int) -> str:
        return next(f"c{i}" for i in range(100) if partition_of(f"c{i}", 2) == number)

    lost, kept = in_partition(0), in_partition(1)
    heard = Heard(
        customers=[kept, lost, kept, lost, kept],
        event_ids=["early", "before", "k1", "after", "k2"],
        arrived_ms=[900.0, 1_500.0, 2_000.0, 9_000.0, 4_500.0],
    )
    # What was sent before the kill and came after it is no proof that the partition goes on.
    sent_ms = {"early": 800, "before": 950, "k1": 1_800, "after": 2_000, "k2": 4_000}
    found = outage_of(heard, sent_ms, 1_000.0, {0}, 2, [])
    assert found == Outage(takeover_seconds=8.0, pause_seconds=2.5, problems=[])
    with pytest.raises(BenchmarkError, match=r"no list came from partitions \[0\]"):
        outage_of(heard, {**sent_ms, "after": 0}, 1_000.0, {0}, 2, [])
