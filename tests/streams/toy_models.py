"""Models that count exactly, workers that exchange them in one process, and ways to die."""

import asyncio
import secrets
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
from aiokafka import AIOKafkaProducer
from numpy.typing import NDArray
from prometheus_client import CollectorRegistry, Counter, Gauge

from operators.errors import StateMismatchError
from state.arrays import ArrayStore
from streams.errors import PublishError
from streams.model_sync import ModelSync, Pace
from streams.model_topic import ModelTopic
from streams.settings import Settings

WAIT_SECONDS = 20.0
CLUSTER = "one-cluster"


class ToyModels:
    """A count per key, and a weight per key that moves by powers of two: sums are exact."""

    def __init__(self, keys: int = 4) -> None:
        self._live: dict[str, NDArray[Any]] = {
            "toy/counts": np.zeros(keys, np.int64),
            "toy/weights": np.ones(keys, np.float64),
        }
        self._known = self._copy()

    def learn(self, key: int, times: int = 1) -> None:
        self._live["toy/counts"][key] += times
        self._live["toy/weights"][key] += 0.125 * times

    @property
    def counts(self) -> list[int]:
        return [int(count) for count in self._live["toy/counts"]]

    def bytes(self) -> bytes:
        return b"".join(array.tobytes() for array in self._live.values())

    def _copy(self) -> dict[str, NDArray[Any]]:
        return {name: array.copy() for name, array in self._live.items()}

    def copy_arrays(self) -> dict[str, NDArray[Any]]:
        return self._copy()

    def load_arrays(self, saved: Mapping[str, NDArray[Any]], /) -> None:
        for name, array in self._live.items():  # one after another, as the real ones do
            self._require_fit({name: saved[name]})
            np.copyto(array, saved[name])
        self._known = self._copy()

    def take_delta(self) -> dict[str, NDArray[Any]]:
        delta = {name: array - self._known[name] for name, array in self._live.items()}
        self._known = self._copy()
        return delta if any(array.any() for array in delta.values()) else {}

    def apply_delta(self, delta: Mapping[str, NDArray[Any]], /) -> None:
        self._require_fit(delta)  # all of it first
        for name, array in self._live.items():
            array += delta[name]
            self._known[name] += delta[name]

    def _require_fit(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        for name, array in arrays.items():
            if name not in self._live or array.shape != self._live[name].shape:
                keys = len(self._live["toy/counts"])
                raise StateMismatchError(f"ToyModels of {keys} keys cannot take in those of others")


class ToyMetrics:
    """The series of the exchange, in a registry of their own."""

    def __init__(self) -> None:
        registry = CollectorRegistry()
        self.model_syncs = Counter("syncs", "-", ("direction",), registry=registry)
        self.model_sync_bytes = Counter("sync_bytes", "-", ("direction",), registry=registry)
        self.model_sync_gaps = Counter("gaps", "-", registry=registry)
        self.model_sync_refused = Counter("refused", "-", registry=registry)
        self.model_staleness = Gauge("staleness", "-", registry=registry)
        self._registry = registry

    def of(self, name: str, **labels: str) -> float:
        return self._registry.get_sample_value(name, labels) or 0.0


class DiedError(Exception):
    """What a process does not survive."""


class FrailTopic(ModelTopic):
    """The real topic, but the worker dies, or the broker is gone, around a chosen record."""

    dies_before: int | None = None
    dies_after: int | None = None
    loses_receipts_from: int | None = None
    written = 0

    async def write(self, partition: int, incarnation: str, value: bytes) -> None:
        self.written += 1
        if self.written == self.dies_before:
            raise DiedError
        await super().write(partition, incarnation, value)
        if self.written == self.dies_after:
            raise DiedError
        if self.loses_receipts_from is not None and self.written >= self.loses_receipts_from:
            raise PublishError("the receipt was lost")


class FrailStore(ArrayStore):
    """The real file, but the worker dies before it is written."""

    dies = False

    def save(self, arrays: Mapping[str, NDArray[Any]], version: int) -> None:
        if self.dies:
            raise DiedError
        super().save(arrays, version)


class ToyWorker:
    """One incarnation of a worker that reads the topic all the time and exchanges when told to."""

    def __init__(
        self,
        settings: Settings,
        topic: str,
        producer: AIOKafkaProducer,
        path: Path,
        *,
        keys: int = 4,
        leads: bool = False,
        pace: Pace | None = None,
        cluster_id: str = CLUSTER,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.models = ToyModels(keys)
        self.metrics = ToyMetrics()
        self.topic = FrailTopic(settings, topic, producer)
        self.store = FrailStore(path)
        self.incarnation = secrets.token_hex(8)
        self.leads = leads
        self.sync = ModelSync(
            self.models,
            self.store,
            self.topic,
            cluster_id=cluster_id,
            incarnation=self.incarnation,
            leads=lambda: self.leads,
            metrics=self.metrics,
            pace=pace or Pace(),
            clock=clock,
        )
        self._reading: asyncio.Task[None] | None = None

    async def start(self) -> None:
        await self.sync.start()
        self._reading = asyncio.ensure_future(self.sync.read_forever())

    async def exchange(self, *, save: bool = False, snapshot: bool = False) -> None:
        await self.sync.exchange(save=save, snapshot=snapshot)

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait until `condition` holds; an error while reading fails the test at once."""
        deadline = time.monotonic() + WAIT_SECONDS
        while not condition():
            assert self._reading is not None
            if self._reading.done():
                self._reading.result()
            assert time.monotonic() < deadline, f"still {self.models.counts}"
            await asyncio.sleep(0.01)

    async def until_learned(self, key: int, times: int) -> None:
        await self.until(lambda: self.models.counts[key] == times)

    async def until_counts(self, *counts: int) -> None:
        await self.until(lambda: self.models.counts == list(counts))

    @asynccontextmanager
    async def exchanging(self) -> AsyncIterator[None]:
        """Exchange at the worker's pace for as long as the block lasts."""
        exchanging = asyncio.ensure_future(self.sync.exchange_forever())
        try:
            yield
            assert not exchanging.done(), exchanging
        finally:
            exchanging.cancel()
            await asyncio.wait({exchanging})

    @property
    def sent(self) -> float:
        """How many deltas the broker has acknowledged."""
        return self.metrics.of("syncs_total", direction="out")

    @property
    def taken_in(self) -> float:
        """How many deltas of others were applied."""
        return self.metrics.of("syncs_total", direction="in")

    async def end(self) -> None:
        """Leave without a last exchange, as a crash does."""
        if self._reading is not None:
            self._reading.cancel()
            with suppress(asyncio.CancelledError):
                await self._reading
        await self.sync.stop()


class ToyShop:
    """A topic of a test's own, and the workers on it."""

    def __init__(
        self, settings: Settings, topic: str, producer: AIOKafkaProducer, directory: Path
    ) -> None:
        self.settings = settings
        self.topic = topic
        self.producer = producer
        self._directory = directory
        self._running: list[ToyWorker] = []

    def path(self, name: str) -> Path:
        return self._directory / name / "models"

    async def worker(self, name: str, **choices: Any) -> ToyWorker:
        """Start an incarnation of the worker whose data directory is `name`."""
        worker = ToyWorker(self.settings, self.topic, self.producer, self.path(name), **choices)
        await worker.start()
        self._running.append(worker)
        return worker

    async def crash(self, worker: ToyWorker) -> None:
        self._running.remove(worker)
        await worker.end()

    async def end(self) -> None:
        for worker in list(self._running):
            await self.crash(worker)


@asynccontextmanager
async def open_shop(
    settings: Settings, topic: str, directory: Path, **producer_options: Any
) -> AsyncIterator[ToyShop]:
    producer = AIOKafkaProducer(
        bootstrap_servers=settings.bootstrap_servers(), acks="all", **producer_options
    )
    await producer.start()
    shop = ToyShop(settings, topic, producer, directory)
    try:
        yield shop
    finally:
        await shop.end()
        await producer.stop()
