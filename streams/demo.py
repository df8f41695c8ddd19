"""The demo: a broker, a worker, traffic and a consumer of what comes out, on this machine."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys
import tempfile
import time
from collections import deque
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
import orjson
from aiokafka import AIOKafkaConsumer
from prometheus_client.parser import text_string_to_metric_families

from streams.admin import create_topics
from streams.broker import EmbeddedBroker
from streams.errors import StreamsError
from streams.ports import free_port
from streams.replay import BulkSender, Line, producer
from streams.settings import Settings, environment_with
from streams.simulator import Simulator

CUSTOMERS = 5_000
ITEMS = 2_000
SPAN_DAYS = 120
EVENTS_PER_DAY = 4_000
YEARS_AGO = 5
CHURN_HORIZON_DAYS = 14
DEFAULT_RATE = 2_500.0
DAY_MS = 86_400_000
SEND_SECONDS = 0.05
READY_TIMEOUT_SECONDS = 180.0
DRAIN_TIMEOUT_SECONDS = 120.0
LATENCIES_KEPT = 200_000
OUTPUTS = ("recommendations", "alerts", "segments", "chat-insights", "dead-letters")


@dataclass(slots=True)
class Progress:
    """What the demo has seen so far; the view draws it.

    Attributes
    ----------
    stage
        What is going on, in words.
    sent, applied, lag
        Events sent to the broker, applied by the worker, and waiting.
    outputs
        Records seen by topic.
    latencies_seconds
        From the broker's timestamp of a list's newest event to the list's arrival here; the
        latest `LATENCIES_KEPT`.
    recommendations, alerts
        The newest few.
    """

    stage: str = "starting"
    started: float = field(default_factory=time.monotonic)
    sent: int = 0
    applied: int = 0
    lag: int = 0
    events_per_second: float = 0.0
    outputs: dict[str, int] = field(default_factory=lambda: dict.fromkeys(OUTPUTS, 0))
    latencies_seconds: deque[float] = field(default_factory=lambda: deque(maxlen=LATENCIES_KEPT))
    recommendations: deque[dict[str, Any]] = field(default_factory=lambda: deque(maxlen=6))
    alerts: deque[dict[str, Any]] = field(default_factory=lambda: deque(maxlen=6))
    web_url: str = ""
    broker_url: str = ""

    def latency_seconds(self, quantile: float) -> float:
        """Return a quantile of the latencies; NaN before the first list."""
        if not self.latencies_seconds:
            return float("nan")
        return float(np.quantile(np.array(self.latencies_seconds), quantile))


@dataclass(frozen=True, slots=True)
class Limits:
    """When the traffic ends, and how fast it is.

    Attributes
    ----------
    seconds, events
        Either ends the traffic; None means never.
    rate
        Events per second.
    """

    seconds: float | None = None
    events: int | None = None
    rate: float = DEFAULT_RATE


async def run_demo(limits: Limits, web_port: int, progress: Progress) -> None:
    """Run everything until a limit or a cancellation, then end in order.

    Parameters
    ----------
    web_port
        Of the worker; 0 takes a free one.
    progress
        Kept current.

    Raises
    ------
    StreamsError
        Where the broker or the worker does not come up, or dies.
    """
    with tempfile.TemporaryDirectory(prefix="crm-streams-demo-") as directory:
        async with EmbeddedBroker() as broker:
            settings = Settings(
                broker=broker.url,
                data_dir=Path(directory) / "data",
                web_port=web_port or free_port(),
            )
            progress.broker_url = broker.url
            progress.web_url = f"http://{settings.web_host}:{settings.web_port}"
            progress.stage = "creating topics"
            await create_topics(settings)
            async with _worker(settings, progress), producer(settings) as client:
                senders = _Senders(client, settings.partitions)
                await _run_traffic(limits, settings, senders, progress)


async def _run_traffic(
    limits: Limits, settings: Settings, senders: _Senders, progress: Progress
) -> None:
    simulator = Simulator(
        int(time.time()),
        start_ts_ms=int(time.time() * 1000) - YEARS_AGO * 365 * DAY_MS,
        customers=CUSTOMERS,
        items=ITEMS,
        clicks=int(0.9 * EVENTS_PER_DAY * SPAN_DAYS),
        purchases=int(0.08 * EVENTS_PER_DAY * SPAN_DAYS),
        chats=int(0.02 * EVENTS_PER_DAY * SPAN_DAYS),
        span_ms=SPAN_DAYS * DAY_MS,
    )
    async with _listening(settings, progress), _scraping(progress):
        progress.stage = "loading the catalogue"
        for topic, records in simulator.reference_batches():
            await senders.send(topic, records)
        progress.stage, progress.started = "running", time.monotonic()
        try:
            await _send(simulator, limits, senders, progress)
        finally:
            progress.stage = "draining"
            await senders.settle()
            await _drained(progress)
            progress.stage = "stopping"


class _Senders:
    """A bulk sender for each topic, made when it is first needed."""

    def __init__(self, client: Any, partitions: int) -> None:
        self._client = client
        self._partitions = partitions
        self._by_topic: dict[str, BulkSender] = {}

    async def send(self, topic: str, records: list[tuple[bytes, bytes]]) -> None:
        if topic not in self._by_topic:
            partitions = 1 if topic == "catalog" else self._partitions
            self._by_topic[topic] = BulkSender(self._client, topic, partitions)
        await self._by_topic[topic].send([Line(key.decode(), value, 0) for key, value in records])

    async def settle(self) -> None:
        for sender in self._by_topic.values():
            await sender.settle()


async def _send(
    simulator: Simulator, limits: Limits, senders: _Senders, progress: Progress
) -> None:
    """Send traffic at the set rate until a limit is reached."""
    per_turn = max(1, int(limits.rate * SEND_SECONDS))
    batches = simulator.batches(per_turn, endless=True)
    while True:
        elapsed = time.monotonic() - progress.started
        if limits.seconds is not None and elapsed >= limits.seconds:
            return
        if progress.sent >= elapsed * limits.rate:
            await asyncio.sleep(SEND_SECONDS / 2)
            continue
        topic, records = next(batches)
        if limits.events is not None:
            records = records[: limits.events - progress.sent]
        await senders.send(topic, records)
        progress.sent += len(records)
        if limits.events is not None and progress.sent >= limits.events:
            return


@contextlib.asynccontextmanager
async def _worker(settings: Settings, progress: Progress) -> AsyncIterator[None]:
    """Run a worker in a process of its own; its log goes to a file beside its data."""
    settings.data_dir.mkdir(parents=True)
    log_path = settings.data_dir.parent / "worker.log"
    command = [sys.executable, "-m", "streams", "worker", "--broker", settings.broker]
    command += ["--data-dir", str(settings.data_dir), "--web-port", str(settings.web_port)]
    environment = environment_with(
        {"session_timeout_seconds": 6, "churn_horizon_days": CHURN_HORIZON_DAYS}
    )
    with log_path.open("wb") as output:
        process = await asyncio.create_subprocess_exec(
            *command, stdout=output, stderr=output, env=environment, start_new_session=True
        )
        try:
            progress.stage = "starting the worker (the first time, kernels are compiled)"
            await _ready(process, progress.web_url, log_path)
            yield
        finally:
            if process.returncode is None:
                process.send_signal(signal.SIGTERM)
            await process.wait()


async def _ready(process: asyncio.subprocess.Process, url: str, log_path: Path) -> None:
    deadline = time.monotonic() + READY_TIMEOUT_SECONDS
    async with aiohttp.ClientSession() as session:
        while time.monotonic() < deadline:
            if process.returncode is not None:
                break
            with contextlib.suppress(aiohttp.ClientError):
                async with session.get(f"{url}/readyz") as answer:
                    if answer.status == 200:
                        return
            await asyncio.sleep(0.1)
    raise StreamsError(f"the worker did not come up: {_last_words(log_path)}")


def _last_words(log_path: Path) -> str:
    lines = log_path.read_text(errors="replace").strip().splitlines()
    return " | ".join(lines[-3:]) or "it said nothing"


@contextlib.asynccontextmanager
async def _background(work: Any) -> AsyncIterator[None]:
    task = asyncio.ensure_future(work)
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


@contextlib.asynccontextmanager
async def _listening(settings: Settings, progress: Progress) -> AsyncIterator[None]:
    """Read the output topics as a CRM would."""
    consumer = AIOKafkaConsumer(
        *OUTPUTS,
        bootstrap_servers=settings.bootstrap_servers(),
        auto_offset_reset="earliest",
        fetch_max_wait_ms=100,
        **settings.client_security(),
    )
    await consumer.start()
    try:
        async with _background(_listen(consumer, progress)):
            yield
    finally:
        await consumer.stop()


async def _listen(consumer: AIOKafkaConsumer, progress: Progress) -> None:
    while True:
        fetched = await consumer.getmany(timeout_ms=200)
        now = time.time()
        for tp, records in fetched.items():
            progress.outputs[tp.topic] += len(records)
            if tp.topic == "recommendations":
                for record in records:
                    parsed = orjson.loads(record.value)
                    caused_ms = parsed["trigger"]["timestamp"]
                    progress.latencies_seconds.append(max(0.0, now - caused_ms / 1000))
                progress.recommendations.append(parsed)
            elif tp.topic == "alerts":
                progress.alerts.extend(orjson.loads(record.value) for record in records[-2:])


@contextlib.asynccontextmanager
async def _scraping(progress: Progress) -> AsyncIterator[None]:
    """Read the worker's metrics twice a second."""
    async with aiohttp.ClientSession() as session, _background(_scrape(session, progress)):
        yield


async def _scrape(session: aiohttp.ClientSession, progress: Progress) -> None:
    while True:
        await asyncio.sleep(0.5)
        before, moment = progress.applied, time.monotonic()
        with contextlib.suppress(aiohttp.ClientError):
            async with session.get(f"{progress.web_url}/metrics") as answer:
                totals = totals_of(await answer.text())
            progress.applied = int(totals.get("crm_events_total", 0))
            progress.lag = int(totals.get("crm_consumer_lag", 0) + totals.get("crm_lists_owed", 0))
            rate = (progress.applied - before) / (time.monotonic() - moment + 0.5)
            progress.events_per_second += 0.3 * (rate - progress.events_per_second)


def totals_of(text: str) -> dict[str, float]:
    r"""Sum the samples of each series in Prometheus' text format, over the event topics.

    Examples
    --------
    >>> totals_of('# TYPE crm_events counter\ncrm_events_total{topic="clicks"} 3.0\n')
    {'crm_events_total': 3.0}
    """
    totals: dict[str, float] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if sample.labels.get("topic") not in {"customers", "catalog", "rules"}:
                totals[sample.name] = totals.get(sample.name, 0) + sample.value
    return totals


async def _drained(progress: Progress) -> None:
    """Wait until the worker has applied what was sent and has paid what it owes."""
    for _ in range(int(DRAIN_TIMEOUT_SECONDS)):
        await asyncio.sleep(1.0)
        if not progress.lag and progress.applied >= progress.sent:
            return
