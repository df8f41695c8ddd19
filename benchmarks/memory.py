"""A worker's memory over millions of events of ever new customers, with a cap on rows.

Every click is of a customer who was never seen. The worker on Apache Kafka may hold 100,000
customers in memory, so all others lie on disk. Its resident memory is read once a second; events
are sent no faster than it takes them. The slope is that of a straight line through the readings
of the second half of the run; the noise is their standard deviation about that line.

A run is valid when every event was applied once, rows in memory stayed under the cap, and a
sample of the customers, most of them on disk, have their click.
"""

from __future__ import annotations

import asyncio
import re
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.processes import Child, kafka
from benchmarks.report import BenchmarkError, Options, Report
from benchmarks.rounds import STALL_SECONDS, STARTUP_SECONDS
from benchmarks.scrape import WorkerClient
from streams.admin import create_topics
from streams.ports import free_port
from streams.replay import BulkSender, Line, producer
from streams.settings import Settings
from streams.topics import CLICKS

CAP = 100_000
STEP = 10_000
MOST_AHEAD = 50_000
SAMPLED_CUSTOMERS = 50
ITEMS = 1_000
FULL_EVENTS, QUICK_EVENTS = 10_000_000, 300_000


@dataclass(frozen=True)
class Readings:
    """What was read, one entry a second: events applied and resident bytes."""

    applied: NDArray[np.float64]
    resident: NDArray[np.float64]

    def slope(self) -> tuple[float, float]:
        """Return bytes per event over the second half, and the noise about the line in bytes."""
        half = self.applied >= self.applied[-1] / 2
        events, resident = self.applied[half], self.resident[half]
        line = np.polyfit(events, resident, 1)
        return float(line[0]), float(np.std(resident - np.polyval(line, events)))


def run(options: Options) -> Report:
    """Carry the run out."""
    events = QUICK_EVENTS if options.quick else FULL_EVENTS
    with tempfile.TemporaryDirectory(prefix="crm-memory-") as directory:
        logs = Path(directory)
        config = logs / "worker.toml"
        config.write_text(f"max_customers = {CAP}\n")
        with kafka(logs) as url:
            settings = Settings(broker=url)
            asyncio.run(create_topics(settings))
            port = free_port()
            arguments = ["streams", "worker", "--config", str(config), "--broker", url]
            arguments += ["--web-port", str(port), "--data-dir", str(logs / "data")]
            with Child("worker", arguments, logs) as worker:
                client = WorkerClient(port)
                readings = asyncio.run(feed(settings, worker, client, events, options))
                problems = check(client, events, options.seed)
                client.close()
                if worker.stop() != 0:
                    problems.append(f"the worker failed: {worker.last_words()}")
    return summarise(events, readings, problems)


async def feed(
    settings: Settings, worker: Child, client: WorkerClient, events: int, options: Options
) -> Readings:
    """Send all events, a little ahead of the worker, and read its memory until it is done."""
    applied: list[float] = []
    resident: list[float] = []
    sent, moved = 0, time.monotonic()
    async with producer(settings) as kafka_producer:
        sender = BulkSender(kafka_producer, CLICKS.name, settings.partitions)
        while True:
            worker.require_alive()
            sample = await asyncio.to_thread(client.sample)
            now = sample.applied if sample is not None else 0.0
            if not applied or now > applied[-1]:
                moved = time.monotonic()
                applied.append(now)
                resident.append(resident_bytes(worker.pid))
                options.tell(f"{now:,.0f} of {events:,} events, {resident[-1] / 2**20:,.0f} MiB")
            elif time.monotonic() - moved > (STALL_SECONDS if applied[-1] else STARTUP_SECONDS):
                raise BenchmarkError(f"nothing moves any more: {sample}")
            if sample is not None and sample.is_drained(events):
                return Readings(np.array(applied), np.array(resident))
            while sent < min(events, now + MOST_AHEAD):
                await sender.send([click(n) for n in range(sent, sent + STEP)])
                sent += STEP
            await sender.settle()
            await asyncio.sleep(1)


def click(number: int) -> Line:
    """Make the only click of customer `number`."""
    customer = f"customer-{number:09d}"
    ts_ms = time.time_ns() // 1_000_000
    value = (
        f'{{"event_id":"e{number}","customer_id":"{customer}","ts":{ts_ms},'
        f'"action":"view","item_id":"item-{number % ITEMS}"}}'
    )
    return Line(customer, value.encode(), ts_ms)


def resident_bytes(pid: int) -> int:
    """Return the resident memory of a process.

    Raises
    ------
    BenchmarkError
        Where the system has no ``/proc``.
    """
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError as error:
        raise BenchmarkError(f"this system does not tell a process's memory: {error}") from error
    found = re.search(r"^VmRSS:\s+(\d+) kB$", status, re.MULTILINE)
    return int(found[1]) * 1024 if found else 0


def check(client: WorkerClient, events: int, seed: int) -> list[str]:
    """Ask for some customers, most of whom are on disk."""
    problems = []
    sample = client.sample()
    if sample is None or sample.applied != events or sample.duplicates or sample.rejected:
        problems.append(f"{events:,} events sent, the worker tells {sample}")
    for number in np.random.default_rng(seed).integers(0, events, SAMPLED_CUSTOMERS).tolist():
        profile = client.profile(f"customer-{number:09d}")
        if profile is None or profile["clicks"] != 1:
            problems.append(f"customer {number} has {profile and profile['clicks']} clicks, not 1")
    return problems


def summarise(events: int, readings: Readings, problems: list[str]) -> Report:
    """Turn the readings into a report."""
    slope, noise = readings.slope()
    grown = slope * readings.applied[-1] / 2
    figures = {
        "events": events,
        "max_customers": CAP,
        "bytes_per_event": slope,
        "grown_bytes_second_half": grown,
        "noise_bytes": noise,
        "peak_resident_bytes": float(readings.resident.max()),
        "readings": len(readings.applied),
    }
    rows = [
        ("events", f"{events:,}", f"each of a new customer; {CAP:,} rows may be in memory"),
        ("peak memory", f"{readings.resident.max() / 2**20:,.0f} MiB", "resident"),
        ("slope", f"{slope:.2f} bytes/event", "over the second half"),
        ("grown", f"{grown / 2**20:,.1f} MiB", f"in the second half; noise {noise / 2**20:.1f}"),
    ]
    return Report("memory", figures, rows, problems)
