"""The parts of the chaos harness: what it sends, what it plans, how it kills and measures."""

import asyncio
import os
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from benchmarks.chaos.facts import EVENT_TOPICS, Deed, Erasure, Parcel, Poison, home_of
from benchmarks.chaos.plan import AT_STEP, OF_BROKER, Disk, Fault, Kind, Planner, steps_of
from benchmarks.chaos.power import MortalLoop, PowerCutError
from benchmarks.chaos.recovery import STALL_SECONDS, Durable, Recoveries
from benchmarks.chaos.traffic import Traffic
from streams.deduplication import WINDOW
from streams.guarantee import LOCAL_ONLY, Guarantee
from streams.ports import free_port
from streams.rejects import Stage
from streams.sources import SOURCES
from streams.steps import Step

ROOT = Path(__file__).resolve().parents[1]
PARTITIONS = 4
EXACTLY = Guarantee(changelog=True, exactly_once=True)
AT_LEAST = Guarantee(changelog=True, exactly_once=False)
NOW_MS = 1_800_000_000_000


# Traffic


def parcels_of(seed: int, events: int, *, erases: bool = True) -> tuple[Traffic, list[Parcel]]:
    traffic = Traffic(seed, PARTITIONS, erases=erases)
    return traffic, [parcel for _ in range(events) for parcel in traffic.draw()]


def test_the_same_seed_sends_the_same_records() -> None:
    assert parcels_of(3, 500)[1] == parcels_of(3, 500)[1]
    assert parcels_of(3, 500)[1] != parcels_of(4, 500)[1]


def as_record(parcel: Parcel) -> Any:
    return SimpleNamespace(
        offset=parcel.serial,
        timestamp=NOW_MS,
        key=parcel.key,
        value=parcel.value,
        headers=parcel.all_headers,
    )


def test_the_engine_takes_every_deed_for_what_the_ledger_says_and_refuses_all_poison() -> None:
    traffic, parcels = parcels_of(5, 4_000)
    stages = Counter[str]()
    for parcel in parcels:
        fact = traffic.ledger[parcel.serial]
        decoded = SOURCES[parcel.topic].decode([as_record(parcel)], NOW_MS)
        if isinstance(fact, Poison) and decoded.rejects:
            assert decoded.rejects[0].stage == fact.stage
            stages[fact.stage] += 1
        elif isinstance(fact, Poison):
            # What is wrong with it is where it lies.
            assert parcel.partition != home_of(decoded.columns.customers[0], PARTITIONS)
            assert decoded.columns.already_forwarded.all()
        elif isinstance(fact, Deed):
            columns = decoded.columns
            assert (columns.customers, columns.event_ids) == ([fact.customer], [fact.event_id])
            assert columns.ts_ms.tolist() == [fact.ts_ms]
            if fact.topic == "purchases":
                assert columns.quantity.tolist() == [fact.pieces]
                assert columns.amount.tolist() == [fact.amount / 64]
    assert set(stages) == {Stage.DECODE, Stage.VALIDATE}


def test_a_repeat_comes_while_the_engine_remembers_the_event() -> None:
    traffic, parcels = parcels_of(6, 20_000)
    seen: dict[tuple[str, str], list[str]] = {}
    repeats = 0
    for parcel in parcels:
        fact = traffic.ledger[parcel.serial]
        if isinstance(fact, Deed):
            ids = seen.setdefault((fact.customer, fact.topic), [])
            if fact.event_id in ids:
                repeats += 1
                assert fact.event_id in ids[-WINDOW[fact.topic] :]
            else:
                ids.append(fact.event_id)
    assert repeats > 500


def test_who_has_records_astray_never_does_more_than_the_engine_remembers() -> None:
    traffic, parcels = parcels_of(7, 20_000)
    astray: set[str] = set()
    ids: dict[tuple[str, str], set[str]] = {}
    for parcel in parcels:
        fact = traffic.ledger[parcel.serial]
        if isinstance(fact, Deed):
            ids.setdefault((fact.customer, fact.topic), set()).add(fact.event_id)
            if parcel.partition != home_of(fact.customer, PARTITIONS):
                astray.add(fact.customer)
    assert len(astray) > 100
    assert all(
        len(ids.get((customer, topic), ())) <= WINDOW[topic]
        for customer in astray
        for topic in EVENT_TOPICS
    )


def test_who_leaves_does_nothing_more_until_erased_and_returns_in_another_life() -> None:
    traffic, parcels = parcels_of(8, 5_000)
    leaving = list(traffic.leaving)
    assert len(leaving) > 5
    tombstone = traffic.erase(leaving[0])
    assert (tombstone.value, traffic.ledger[tombstone.serial]) == (None, Erasure(leaving[0]))
    returned = [parcel for customer in leaving for parcel in traffic.come_back(customer)]
    assert len(returned) > 0
    facts = [traffic.ledger[parcel.serial] for parcel in returned]
    assert all(isinstance(fact, Deed) and fact.life == 1 for fact in facts)
    before = {f.event_id for p in parcels if isinstance(f := traffic.ledger[p.serial], Deed)}
    assert not before & {fact.event_id for fact in facts if isinstance(fact, Deed)}


def test_nobody_is_erased_where_that_would_not_be_exact() -> None:
    traffic, _ = parcels_of(9, 3_000, erases=False)
    assert not traffic.leaving
    assert not any(name.startswith("doomed") for name in traffic.customers())


# Plans


@pytest.mark.parametrize("guarantee", [EXACTLY, AT_LEAST, LOCAL_ONLY])
def test_every_step_is_struck_and_the_same_seed_plans_the_same(guarantee: Guarantee) -> None:
    def plan() -> list[Fault]:
        return Planner(4, guarantee, restartable=guarantee.changelog).plan(20, PARTITIONS)

    faults = plan()
    assert faults == plan()
    struck = {fault.step for fault in faults if not fault.on_worker and fault.step is not None}
    assert struck == set(steps_of(guarantee))
    assert all((fault.step is None) or fault.kind in AT_STEP for fault in faults)


def test_steps_are_those_of_the_guarantee() -> None:
    assert Step.OUTPUTS_SENT not in steps_of(EXACTLY)
    assert set(steps_of(AT_LEAST)) == set(Step)
    assert Step.FENCED not in steps_of(LOCAL_ONLY)


def test_without_a_changelog_no_disk_is_lost_and_no_broker_restarted() -> None:
    faults = Planner(1, LOCAL_ONLY, restartable=False).plan(300, PARTITIONS)
    assert {fault.disk for fault in faults} == {Disk.SAME}
    assert not {fault.kind for fault in faults} & {*OF_BROKER, Kind.ZOMBIE}


def test_one_fault_of_ten_strikes_a_worker() -> None:
    faults = Planner(1, EXACTLY, restartable=True).plan(200, PARTITIONS)
    assert Counter(fault.on_worker for fault in faults) == {False: 180, True: 20}
    assert {fault.kind for fault in faults} == set(Kind)


# Recoveries


def test_a_recovery_lasts_until_what_was_sent_before_the_fault_is_durable() -> None:
    now = [100.0]
    durable = Durable()
    recoveries = Recoveries(durable, lambda: now[0])
    recoveries.note("kill", {("clicks", 0): 10, ("chats", 1): 5})
    now[0] += 2
    durable.learn({("clicks", 0): 12})
    recoveries.look(str)
    assert not recoveries.is_over
    now[0] += 1
    durable.learn({("chats", 1): 5})
    recoveries.look(str)
    assert recoveries.is_over
    assert recoveries.seconds == [("kill", 3.0)]
    assert recoveries.stalls == []


def test_a_recovery_of_more_than_half_a_minute_is_one_stall_that_says_what_waits() -> None:
    now = [0.0]
    recoveries = Recoveries(Durable(), lambda: now[0])
    recoveries.note("kill", {("clicks", 0): 10})
    for _ in range(3):
        now[0] += STALL_SECONDS
        recoveries.look(lambda: "partition 0 is being opened")
    assert recoveries.stalls == [
        "after kill: waiting {'clicks-0': 10}; partition 0 is being opened"
    ]


# Power


def test_after_the_power_is_cut_nothing_more_is_sent_or_written(tmp_path: Path) -> None:
    heard = bytearray()
    connections = [0]
    file = tmp_path / "written"
    cut_at: list[int] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connections[0] += 1
        while data := await reader.read(1_000):
            heard.extend(data)
        writer.close()

    async def listen() -> None:
        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        loop = MortalLoop()
        ended: list[BaseException | None] = []

        async def chatter() -> None:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
            try:
                for number in range(1_000):
                    writer.write(b"x")
                    await writer.drain()
                    await asyncio.to_thread(file.write_text, str(number))
                    await asyncio.sleep(0.001)
            finally:
                # As a client that reconnects; on its way out it must not get anywhere either.
                await asyncio.open_connection("127.0.0.1", port)

        async def live() -> None:
            tasks = [asyncio.ensure_future(chatter()) for _ in range(3)]
            await asyncio.sleep(0.1)
            loop.cut_power()
            cut_at.append(1)
            for task in tasks:
                await task

        def run() -> None:
            asyncio.set_event_loop(loop)
            ended.append(loop.live(live))
            loop.close()

        thread = threading.Thread(target=run)
        thread.start()
        await asyncio.to_thread(thread.join, 10)
        assert ended == [None]
        await asyncio.sleep(0.05)
        before = (len(heard), connections[0], file.read_text())
        await asyncio.sleep(0.1)
        assert (len(heard), connections[0], file.read_text()) == before
        server.close()
        await server.wait_closed()

    asyncio.run(listen())
    assert connections[0] == 3
    assert heard
    assert cut_at


def test_without_power_nothing_goes_on() -> None:
    loop = MortalLoop()
    loop.require_power()
    loop.cut_power()
    with pytest.raises(PowerCutError):
        loop.require_power()
    loop.close()


# Worker processes

LONELY = """
import sys, time
from pathlib import Path
from benchmarks.chaos.workers import WorkerProcess
worker = WorkerProcess("w", {"broker": sys.argv[1]}, Path(sys.argv[2]), standby=False)
worker.start()
print(worker._popen.pid, flush=True)
time.sleep(60)
"""


def is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
        # One that has ended is still there until somebody asks how; the state follows the name.
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0] != "Z"
    except ProcessLookupError:
        return False
    except OSError:  # a system without /proc
        return True


def test_a_worker_does_not_outlive_a_harness_that_was_killed(tmp_path: Path) -> None:
    nowhere = f"kafka://127.0.0.1:{free_port()}"
    command = [sys.executable, "-c", LONELY, nowhere, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=ROOT) as harness:
        assert harness.stdout is not None
        pid = int(harness.stdout.readline())
        assert is_running(pid)
        harness.kill()
    deadline = time.monotonic() + 20
    while is_running(pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not is_running(pid)
