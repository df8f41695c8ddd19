"""One round of the pipeline benchmark: processes started, a backlog drained, a load offered."""

import asyncio
import tempfile
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np

from benchmarks.latency import latencies_of, summary_of
from benchmarks.listener import Heard, ListenerPlan
from benchmarks.processes import Child, broker
from benchmarks.report import BenchmarkError, Options
from benchmarks.scrape import Sample, WorkerClient
from benchmarks.sender import Plan, Sent, Traffic
from benchmarks.tally import Tally, check_events, check_lists, check_profile
from streams.admin import create_topics, wait_for_broker
from streams.ports import free_port
from streams.settings import Settings

POLL_SECONDS = 0.2
STALL_SECONDS = 60.0
STARTUP_SECONDS = 300.0
SAMPLED_CUSTOMERS = 200
HOUR_MS = 3_600_000
RUN_BACKLOG, RUN_STEADY = 0, 1


@dataclass(frozen=True)
class Scale:
    """How large a run is; `rate` in events per second."""

    clicks: int
    purchases: int
    chats: int
    customers: int
    items: int
    rate: int
    steady_seconds: int
    rounds: int

    def backlog(self, seed: int, now_ms: int) -> Traffic:
        """Return the traffic of the hour before `now_ms`."""
        return Traffic(
            seed=seed,
            run=RUN_BACKLOG,
            start_ts_ms=now_ms - HOUR_MS,
            span_ms=HOUR_MS,
            customers=self.customers,
            items=self.items,
            clicks=self.clicks,
            purchases=self.purchases,
            chats=self.chats,
        )

    def steady(self, seed: int, now_ms: int) -> Traffic:
        """Return an hour of traffic from `now_ms` at the offered rate, in the same mixture."""
        share = self.rate * 3_600 / (self.clicks + self.purchases + self.chats)
        return Traffic(
            seed=seed,
            run=RUN_STEADY,
            start_ts_ms=now_ms,
            span_ms=HOUR_MS,
            customers=self.customers,
            items=self.items,
            clicks=int(self.clicks * share),
            purchases=int(self.purchases * share),
            chats=int(self.chats * share),
        )


@dataclass(frozen=True)
class Drain:
    """How a backlog was worked off; seconds since the first reading that showed events.

    Attributes
    ----------
    first_seen
        Events that the first reading showed; they are not counted in the rates.
    waited_seconds
        From the call to that reading.
    applied_seconds, drained_seconds
        Until all events were applied, and until all lists were paid too.
    last
        The last reading.
    """

    first_seen: float
    waited_seconds: float
    applied_seconds: float
    drained_seconds: float
    last: Sample


@dataclass(frozen=True)
class Round:
    """What one round found."""

    events: int
    events_per_second: float
    applied_events_per_second: float
    startup_seconds: float
    preload_seconds: float
    offered_events_per_second: float
    worst_send_delay_seconds: float
    latency: dict[str, float | int | None]
    latency_not_held: dict[str, float | int | None]
    peak_memory_bytes: int | None
    lists: int
    alerts: int
    problems: list[str]


def wait_until_drained(client: WorkerClient, worker: Child, expected: int, before: float) -> Drain:
    """Read the metrics until `expected` events are applied and nothing is owed.

    Parameters
    ----------
    before
        Events that were applied before; the clock starts when there are more.

    Raises
    ------
    BenchmarkError
        Where the worker ends, or nothing moves for `STALL_SECONDS` (`STARTUP_SECONDS` before
        the first event: the first start on a machine compiles everything).
    """
    called = time.monotonic()
    first: tuple[float, float] | None = None
    applied_at: float | None = None
    moved, state = called, None
    while True:
        worker.require_alive()
        sample = client.sample()
        now = time.monotonic()
        if sample is not None:
            if (sample.applied, sample.owed, sample.lag) != state:
                moved, state = now, (sample.applied, sample.owed, sample.lag)
            if first is None and sample.applied > before:
                first = (now, sample.applied)
            if applied_at is None and sample.applied >= expected:
                applied_at = now
            if first is not None and applied_at is not None and sample.is_drained(expected):
                return Drain(
                    first_seen=first[1],
                    waited_seconds=first[0] - called,
                    applied_seconds=applied_at - first[0],
                    drained_seconds=now - first[0],
                    last=sample,
                )
        patience = STARTUP_SECONDS if first is None else STALL_SECONDS
        if now - moved > patience:
            raise BenchmarkError(
                f"nothing moved for {patience:g} seconds; sent: {expected}, {sample}"
            )
        time.sleep(POLL_SECONDS)


def send(plan: Plan, logs: Path, name: str) -> Sent:
    """Run the load generator with a plan and return what it sent; `name` is for its log."""
    arguments = ["benchmarks.sender", msgspec.json.encode(plan).decode()]
    with Child(name, arguments, logs, piped=True) as child:
        return msgspec.json.decode(child.read_line(), type=Sent)


def check_worker(client: WorkerClient, tally: Tally, last: Sample, seed: int) -> list[str]:
    """Hold the worker's metrics and a sample of its profiles against the tally."""
    problems = check_events(tally, last.events)
    for what, count in (("rejected", last.rejected), ("taken for duplicates", last.duplicates)):
        if count:
            problems.append(f"{count:.0f} events {what}")
    return problems + check_profiles(client, tally, seed)


def check_profiles(client: WorkerClient, tally: Tally, seed: int) -> list[str]:
    """Hold a sample of the worker's profiles against the tally."""
    problems = []
    names = sorted(tally.customers)
    chosen = np.random.default_rng(seed).permutation(len(names))[:SAMPLED_CUSTOMERS]
    for place in chosen.tolist():
        name = names[place]
        problems += check_profile(name, tally.customers[name], client.profile(name))
    return problems


def check_heard(tally: Tally, heard: Heard, last: Sample) -> list[str]:
    """Hold the lists that the listener heard against the tally and the worker's own count."""
    problems = check_lists(tally, set(heard.customers))
    published = last.outputs.get("recommendations", 0)
    if published != len(heard.customers):
        problems.append(f"{published:.0f} lists published, {len(heard.customers)} heard")
    return problems


@dataclass(frozen=True)
class Setup:
    """On what a round runs: how a broker is started, and further arguments of the worker."""

    start_broker: Callable[[Path], AbstractContextManager[str]] = broker
    worker_arguments: tuple[str, ...] = ()


def run_round(scale: Scale, options: Options, setup: Setup) -> Round:
    """Carry out one round on a fresh broker with a fresh data directory."""
    with tempfile.TemporaryDirectory(prefix="crm-pipeline-") as directory:
        logs = Path(directory)
        with setup.start_broker(logs) as url:
            settings = Settings(broker=url)
            asyncio.run(prepare(settings))
            listening = ListenerPlan(broker=url, topic="recommendations")
            arguments = ["benchmarks.listener", msgspec.json.encode(listening).decode()]
            with Child("listener", arguments, logs, piped=True) as listener:
                listener.read_line()
                return run_phases(scale, options, setup, settings, logs, listener)


async def prepare(settings: Settings) -> None:
    """Wait for the broker and create the topics."""
    await wait_for_broker(settings)
    await create_topics(settings)


def run_phases(
    scale: Scale,
    options: Options,
    setup: Setup,
    settings: Settings,
    logs: Path,
    listener: Child,
) -> Round:
    """Preload the backlog, start the worker, drain it, then offer the steady load."""
    now_ms = time.time_ns() // 1_000_000
    plan = Plan(
        broker=settings.broker,
        partitions=settings.partitions,
        traffic=scale.backlog(options.seed, now_ms),
        catalog=True,
        rate=None,
        limit=scale.clicks + scale.purchases + scale.chats,
    )
    options.tell("sending the backlog")
    backlog = send(plan, logs, "sender-backlog")
    options.tell(f"draining {backlog.tally.total:,} events")
    port = free_port()
    arguments = ["streams", "worker", "--broker", settings.broker, "--web-port", str(port)]
    arguments += ["--data-dir", str(logs / "data"), *setup.worker_arguments]
    with Child("worker", arguments, logs) as worker:
        client = WorkerClient(port)
        drain = wait_until_drained(client, worker, backlog.tally.total, 0)
        options.tell(f"offering {scale.rate:,} events/s for {scale.steady_seconds} s")
        plan = msgspec.structs.replace(
            plan,
            traffic=scale.steady(options.seed, now_ms),
            catalog=False,
            rate=scale.rate,
            limit=scale.rate * scale.steady_seconds,
        )
        steady = send(plan, logs, "sender-steady")
        tally = backlog.tally
        backlog_events = tally.total
        tally.merge(steady.tally)
        wait_until_drained(client, worker, tally.total, -1)
        options.tell("checking")
        listener.send_line("stop")
        heard = msgspec.json.decode(listener.read_line(), type=Heard)
        # Read after the listener has heard the last list: paying one is a little ahead of sending.
        last = wait_until_drained(client, worker, tally.total, -1).last
        problems = check_worker(client, tally, last, options.seed)
        problems += check_heard(tally, heard, last)
        peak_memory_bytes = worker.peak_memory_bytes()
        client.close()
        status = worker.stop()
        if status != 0:
            problems.append(f"the worker ended with status {status}: {worker.last_words()}")
    counted = backlog_events - drain.first_seen
    latencies = latencies_of(heard, steady.sent_ms, settings.recommend_every_seconds * 1_000)
    return Round(
        events=tally.total,
        events_per_second=counted / max(drain.drained_seconds, POLL_SECONDS),
        applied_events_per_second=counted / max(drain.applied_seconds, POLL_SECONDS),
        startup_seconds=drain.waited_seconds,
        preload_seconds=backlog.seconds,
        offered_events_per_second=steady.tally.total / steady.seconds,
        worst_send_delay_seconds=steady.worst_delay_seconds,
        latency=summary_of(latencies.all_lists),
        latency_not_held=summary_of(latencies.not_held),
        peak_memory_bytes=peak_memory_bytes,
        lists=len(heard.customers),
        alerts=int(last.outputs.get("alerts", 0)),
        problems=problems,
    )
