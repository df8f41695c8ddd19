"""A worker's state back after a loss: from the changelog alone, and from the local disk.

1,000,000 customers with rows of 400 bytes lie in eight partitions of the changelog on Apache
Kafka, written by the engine's own producers, one transaction with a marker per 5,000 rows. All
partitions are recovered side by side in one process, as a worker with all of them does it.

From the changelog
    The data directory is empty. The clock runs from the opening of the first store until the last
    partition has all rows in its local store and in memory and takes its first event.
From the disk
    The same directory is opened again. The changelog's end is asked for, and nothing is missing.

A round is valid when every row is in memory, with the bytes that were written, and the offsets
are those of the last marker.
"""

from __future__ import annotations

import asyncio
import gc
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import uvloop

from benchmarks.kafka import KafkaBroker
from benchmarks.report import BenchmarkError, Options, Report, Spread
from state.changelog import encode
from state.partition import Identity, Partition, Progress, SharedOptions
from state.rows import KeyedRows
from streams.admin import create_topics, tombstones_ms
from streams.changelog import TransactionalProducer
from streams.recovery import reader_of
from streams.settings import Settings
from streams.steps import go_on
from streams.topics import CHANGELOG

LAYOUT = np.dtype([("number", "i8"), ("values", "f4", (98,))])
PARTITIONS = 8
TRANSACTION_ROWS = 5_000
TOPIC = "clicks"


@dataclass(frozen=True)
class Scale:
    """How much is recovered, and how often."""

    rows: int
    rounds: int


FULL, QUICK = Scale(1_000_000, 3), Scale(40_000, 1)


@dataclass(frozen=True)
class Recovered:
    """One partition as it came back."""

    store: Partition
    rows: KeyedRows
    records: int


def run(options: Options) -> Report:
    """Write the changelog once, recover from it in several rounds, and summarise."""
    # The loop that a worker runs on.
    return uvloop.run(_run(QUICK if options.quick else FULL, options))


async def _run(scale: Scale, options: Options) -> Report:
    async with KafkaBroker() as broker:
        settings = Settings(broker=broker.url, partitions=PARTITIONS)
        await create_topics(settings)
        options.tell("writing the changelog")
        per_partition = scale.rows // PARTITIONS
        await asyncio.gather(
            *(write(settings, number, per_partition) for number in range(PARTITIONS))
        )
        from_changelog: list[float] = []
        from_disk: list[float] = []
        for number in range(1, scale.rounds + 1):
            with tempfile.TemporaryDirectory() as directory:
                for what, seconds in (("changelog", from_changelog), ("disk", from_disk)):
                    options.tell(f"round {number} of {scale.rounds}: from the {what}")
                    seconds.append(await timed(settings, Path(directory), per_partition))
    return summarise(scale, from_changelog, from_disk)


async def write(settings: Settings, number: int, count: int) -> None:
    """Write one partition of the changelog as checkpoints of `TRANSACTION_ROWS` customers."""
    rows = KeyedRows(LAYOUT, max_rows=count)
    producer = TransactionalProducer(settings, f"recovery-{number}")
    try:
        await producer.start()
        for first in range(0, count, TRANSACTION_ROWS):
            last = min(first + TRANSACTION_ROWS, count)
            slots = rows.claim([f"customer-{number}-{i:09d}" for i in range(first, last)])
            rows.data["number"][slots] = np.arange(first, last)
            rows.data["values"][slots] = np.float32(number)
            rows.mark_dirty(slots)
            records = encode(rows.take_snapshot(), Progress({TOPIC: last}), LAYOUT)
            changelog = CHANGELOG.name_of(settings)
            size = len(slots) * LAYOUT.itemsize
            await producer.write(
                records, changelog, number, {}, size=size, before_commit=lambda: None
            )
            rows.settle()
    finally:
        await producer.discard()


async def timed(settings: Settings, directory: Path, per_partition: int) -> float:
    """Recover all partitions and take an event in each; return the seconds that it took."""
    gc.collect()
    options = SharedOptions()
    kept_ms = await tombstones_ms(settings, CHANGELOG.name_of(settings))
    started = time.perf_counter()
    recovered = await asyncio.gather(
        *(recover(settings, directory, options, number, kept_ms) for number in range(PARTITIONS))
    )
    for each in recovered:
        each.rows.mark_dirty(each.rows.claim(["a customer who was never seen"]))
    seconds = time.perf_counter() - started
    for number, each in enumerate(recovered):
        check(each, number, per_partition)
        each.store.close()
    return seconds


async def recover(
    settings: Settings, directory: Path, options: SharedOptions, number: int, kept_ms: int
) -> Recovered:
    """Bring one partition back, as `streams.loading` does it."""
    identity = Identity("recovery", (TOPIC,), number, PARTITIONS, "recovery")
    path = directory / str(number)
    store = await asyncio.to_thread(
        Partition.open, path, identity=identity, layout=LAYOUT, options=options
    )
    async with reader_of(settings, number, LAYOUT, go_on) as reader:
        bounds = await reader.bounds(kept_ms)
        rows = KeyedRows(LAYOUT, max_rows=2 * FULL.rows, cold=store)
        await asyncio.to_thread(store.load_rows, rows)
        records = await reader.read(store, rows, bounds, lambda _: None)
    return Recovered(store, rows, records)


def check(recovered: Recovered, number: int, expected: int) -> None:
    """Compare what came back with what was written.

    Raises
    ------
    BenchmarkError
        Where it differs.
    """
    slots = recovered.rows.slots_of([f"customer-{number}-{i:09d}" for i in range(expected)])
    rows = recovered.rows.data[slots]
    right = (slots >= 0).all() and (rows["number"] == np.arange(expected)).all()
    if not right or not (rows["values"] == number).all():
        raise BenchmarkError(f"partition {number} did not come back as it was written")
    if recovered.store.progress.offsets != {TOPIC: expected}:
        raise BenchmarkError(f"partition {number}: offsets {recovered.store.progress.offsets}")


def summarise(scale: Scale, from_changelog: list[float], from_disk: list[float]) -> Report:
    """Turn the rounds into a report."""
    log, disk = Spread.of(from_changelog), Spread.of(from_disk)
    figures = {
        "rows": scale.rows,
        "row_bytes": LAYOUT.itemsize,
        "from_changelog_seconds": log.median,
        "from_disk_seconds": disk.median,
        "rounds": scale.rounds,
        "by_round": {"from_changelog_seconds": from_changelog, "from_disk_seconds": from_disk},
    }
    shown = [
        ("rows", f"{scale.rows:,}", f"of {LAYOUT.itemsize} bytes, {scale.rounds} rounds"),
        ("from the changelog", log.shown(digits=2, unit=" s"), "empty disk, to the first event"),
        ("from the disk", disk.shown(digits=2, unit=" s"), "nothing missing, to the first event"),
    ]
    return Report("recovery", figures, shown)
