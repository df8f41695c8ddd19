"""A partition in this process, fed with simulated traffic: no broker, everything else real."""

from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import orjson

from state.partition import Identity, Partition, SharedOptions
from state.rows import KeyedRows
from streams.decode import CatalogChange, decode_catalog_item
from streams.metrics import Metrics
from streams.models import Models
from streams.outbox import Output
from streams.partitions import OpenPartition, owed
from streams.settings import Settings
from streams.simulator import Simulator
from streams.sources import SOURCES
from streams.transport import Chunk
from streams.warmup import MadeUpRecord

CHUNK = 500


class ShopInMemory:
    """One open partition that owns every customer, its models and what came out of it."""

    def __init__(self, directory: Path, max_rows: int = 100_000, **settings: Any) -> None:
        self.settings = Settings(partitions=1, recommend_every_seconds=0, **settings)
        self.models = Models(self.settings)
        self.metrics = Metrics("test")
        identity = Identity("test", tuple(SOURCES), 0, 1, "test")
        self.store = Partition.open(
            directory / "0",
            identity=identity,
            layout=self.models.row_dtype,
            options=SharedOptions(),
        )
        progress = self.store.progress
        progress.offsets.update(dict.fromkeys(SOURCES, 0))
        self.partition = OpenPartition(
            0,
            self.store,
            KeyedRows(self.models.row_dtype, max_rows=max_rows, cold=self.store, pinned=owed),
            progress,
            dict.fromkeys(SOURCES, 0),
            models=self.models,
            settings=self.settings,
            metrics=self.metrics,
            poison={},
        )
        self.outputs: dict[str, list[dict[str, Any]]] = defaultdict(list)
        self._waiting: dict[str, list[tuple[bytes, bytes]]] = defaultdict(list)

    def read_catalog(self, simulator: Simulator) -> None:
        for topic, key, record in simulator.reference():
            if topic == "catalog":
                change = decode_catalog_item(MadeUpRecord(0, 0, key.encode(), orjson.dumps(record)))
                assert isinstance(change, CatalogChange)
                self.models.catalog.apply(change)

    def feed(self, events: Iterable[tuple[str, str, dict[str, Any]]], now_ms: int) -> None:
        """Apply events in their order, in chunks; then pay every list."""
        for count, (topic, key, record) in enumerate(events, start=1):
            self._waiting[topic].append((key.encode(), orjson.dumps(record)))
            if count % CHUNK == 0:
                self._apply(now_ms)
        self._apply(now_ms)

    def _apply(self, now_ms: int) -> None:
        for topic, records in self._waiting.items():
            start = self.partition.progress.offsets[topic]
            made = tuple(
                MadeUpRecord(start + i, now_ms, key, value)
                for i, (key, value) in enumerate(records)
            )
            end = start + len(made)
            self.partition.apply(Chunk(topic, 0, start, end, made, end), now_ms)
        self._waiting.clear()
        self.collect()

    def pay(self, now_ms: int) -> None:
        while self.partition.pay_lists(1_000, now_ms):
            self.collect()

    def collect(self) -> None:
        for (topic, _), outputs in self.partition.outbox.take_waiting().items():
            self.keep(topic, outputs)

    def keep(self, topic: str, outputs: Iterable[Output]) -> None:
        self.outputs[topic] += [orjson.loads(each.value or b"{}") for each in outputs]
