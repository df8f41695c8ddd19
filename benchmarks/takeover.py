"""How long a partition stands still when its worker is killed, and how long everybody else's does.

Two workers share eight partitions on Apache Kafka; each keeps a warm copy of the other's state
(``--standby 1``), and the group gives a member up after ten seconds of silence. Under a steady
load one of them is killed (SIGKILL).

Take-over
    From the kill until a list arrives that an event sent after it has triggered, in each of the
    partitions that the killed worker had; the slowest counts.
Pause
    The longest time from then on without any list in a partition that the other worker had all the
    time: it must stop when the group deals its partitions anew.

A round is valid when everybody who did anything got a list, and the profiles of a sample are
exact, though a worker died amid them.
"""

from __future__ import annotations

import asyncio
import os
import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import msgspec

from benchmarks.listener import Heard, ListenerPlan
from benchmarks.processes import Child, kafka
from benchmarks.report import BenchmarkError, Options, Report, Spread
from benchmarks.rounds import Scale, check_profiles, prepare
from benchmarks.scrape import WorkerClient
from benchmarks.sender import Plan, Sent
from benchmarks.tally import check_lists
from streams.partitioner import partitions_of
from streams.ports import free_port
from streams.settings import Settings

FULL = Scale(20_000, 2_000, 400, 5_000, 1_000, rate=400, steady_seconds=45, rounds=3)
QUICK = Scale(4_000, 400, 80, 1_000, 400, rate=200, steady_seconds=30, rounds=1)
SESSION_SECONDS = 10
KILL_AFTER_SECONDS = 8.0
READY_SECONDS = 300.0
SETTLE_SECONDS = 60.0
POLL_SECONDS = 0.1


@dataclass(frozen=True)
class Outage:
    """What one round found; seconds."""

    takeover_seconds: float
    pause_seconds: float
    problems: list[str]


@dataclass(frozen=True)
class Member:
    """A worker, and how to ask it."""

    child: Child
    client: WorkerClient


def run(options: Options) -> Report:
    """Carry out all rounds and summarise them."""
    scale = QUICK if options.quick else FULL
    outages = []
    for number in range(1, scale.rounds + 1):
        options.tell(f"round {number} of {scale.rounds}")
        outages.append(run_round(scale, options))
    return summarise(options.seed, outages)


def run_round(scale: Scale, options: Options) -> Outage:
    """Kill one of two workers under load, on a fresh broker."""
    with tempfile.TemporaryDirectory(prefix="crm-takeover-") as directory:
        logs = Path(directory)
        with kafka(logs) as url:
            settings = Settings(broker=url)
            asyncio.run(prepare(settings))
            plan = msgspec.json.encode(ListenerPlan(broker=url, topic="recommendations")).decode()
            with Child("listener", ["benchmarks.listener", plan], logs, piped=True) as listener:
                listener.read_line()
                with member("doomed", url, logs) as doomed, member("heir", url, logs) as heir:
                    return suffer(scale, options, settings, logs, (doomed, heir), listener)


@contextmanager
def member(name: str, url: str, logs: Path) -> Iterator[Member]:
    """Run a worker with standby copies."""
    port = free_port()
    arguments = ["streams", "worker", "--broker", url, "--web-port", str(port), "--standby", "1"]
    chosen = logs / f"{name}.toml"
    chosen.write_text(f"session_timeout_seconds = {SESSION_SECONDS}\n")
    arguments += ["--config", str(chosen), "--data-dir", str(logs / name)]
    with Child(name, arguments, logs) as child:
        client = WorkerClient(port)
        yield Member(child, client)
        client.close()


def suffer(
    scale: Scale,
    options: Options,
    settings: Settings,
    logs: Path,
    workers: tuple[Member, Member],
    listener: Child,
) -> Outage:
    """Offer a load, kill the first worker amid it, and measure what the listener heard."""
    doomed, heir = workers
    wait_until_shared(workers, settings.partitions)
    plan = Plan(
        broker=settings.broker,
        partitions=settings.partitions,
        traffic=scale.steady(options.seed, time.time_ns() // 1_000_000),
        catalog=True,
        rate=scale.rate,
        limit=scale.rate * scale.steady_seconds,
    )
    arguments = ["benchmarks.sender", msgspec.json.encode(plan).decode()]
    with Child("sender", arguments, logs, piped=True) as sender:
        wait_until_applied(workers, scale.rate)
        time.sleep(KILL_AFTER_SECONDS)
        lost = doomed.client.partitions()
        options.tell(f"killing the worker of partitions {sorted(lost)}")
        killed_ms = time.time() * 1_000
        os.kill(doomed.child.pid, signal.SIGKILL)
        sent = msgspec.json.decode(sender.read_line(), type=Sent)
    wait_until_settled(heir, set(range(settings.partitions)))
    listener.send_line("stop")
    heard = msgspec.json.decode(listener.read_line(), type=Heard)
    problems = check_lists(sent.tally, set(heard.customers))
    problems += check_profiles(heir.client, sent.tally, options.seed)
    return outage_of(heard, sent.sent_ms, killed_ms, lost, settings.partitions, problems)


def outage_of(
    heard: Heard,
    sent_ms: dict[str, int],
    killed_ms: float,
    lost: set[int],
    partitions: int,
    problems: list[str],
) -> Outage:
    """Find out who waited for how long."""
    places = partitions_of(heard.customers, partitions).tolist()
    first_after: dict[int, float] = {}
    arrivals: dict[int, list[float]] = {number: [killed_ms] for number in range(partitions)}
    for place, event_id, arrived_ms in zip(places, heard.event_ids, heard.arrived_ms, strict=True):
        if arrived_ms >= killed_ms:
            arrivals[place].append(arrived_ms)
        if sent_ms.get(event_id, 0) >= killed_ms:
            first_after.setdefault(place, arrived_ms)
    silent = sorted(set(range(partitions)) - set(first_after))
    if silent:
        raise BenchmarkError(f"no list came from partitions {silent} after the kill")
    kept = set(range(partitions)) - lost
    return Outage(
        takeover_seconds=max(first_after[number] - killed_ms for number in lost) / 1_000,
        pause_seconds=max(
            later - earlier for number in kept for earlier, later in pairwise(arrivals[number])
        )
        / 1_000,
        problems=problems,
    )


def wait_until_shared(workers: tuple[Member, Member], partitions: int) -> None:
    """Wait until both workers have their half of the partitions open."""
    half = partitions // 2
    wait_for(
        "both workers are ready",
        lambda: all(len(each.client.partitions()) == half for each in workers),
        READY_SECONDS,
        *workers,
    )


def wait_until_applied(workers: tuple[Member, Member], count: int) -> None:
    """Wait until the load has begun to be worked off."""

    def has_begun() -> bool:
        samples = [each.client.sample() for each in workers]
        return sum(sample.applied for sample in samples if sample is not None) >= count

    wait_for("the load is worked off", has_begun, SETTLE_SECONDS, *workers)


def wait_until_settled(heir: Member, numbers: set[int]) -> None:
    """Wait until the one that is left has all partitions and nothing is waiting."""

    def is_settled() -> bool:
        sample = heir.client.sample()
        is_idle = sample is not None and sample.lag == 0 and sample.owed == 0
        return is_idle and heir.client.partitions() == numbers

    wait_for("the other worker has everything", is_settled, SETTLE_SECONDS, heir)
    time.sleep(1.0)  # the last checkpoint's lists


def wait_for(what: str, condition: Callable[[], bool], seconds: float, *workers: Member) -> None:
    """Poll until a condition holds.

    Raises
    ------
    BenchmarkError
        Where a worker ends or that takes too long.
    """
    deadline = time.monotonic() + seconds
    while not condition():
        for worker in workers:
            worker.child.require_alive()
        if time.monotonic() > deadline:
            raise BenchmarkError(f"{what}: not within {seconds:g} seconds")
        time.sleep(POLL_SECONDS)


def summarise(seed: int, outages: list[Outage]) -> Report:
    """Turn the rounds into a report."""
    takeover = Spread.of([each.takeover_seconds for each in outages])
    pause = Spread.of([each.pause_seconds for each in outages])
    figures = {
        "seed": seed,
        "rounds": len(outages),
        "session_timeout_seconds": SESSION_SECONDS,
        "takeover_seconds": takeover.median,
        "pause_seconds": pause.median,
        "by_round": {
            "takeover_seconds": [each.takeover_seconds for each in outages],
            "pause_seconds": [each.pause_seconds for each in outages],
        },
    }
    rows = [
        ("take-over", takeover.shown(digits=1, unit=" s"), "from the kill, slowest partition"),
        ("pause", pause.shown(digits=1, unit=" s"), "of the other worker's own partitions"),
    ]
    problems = [
        f"round {number}: {problem}"
        for number, each in enumerate(outages, 1)
        for problem in each.problems
    ]
    return Report("takeover", figures, rows, problems)
