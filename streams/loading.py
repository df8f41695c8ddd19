"""A partition's way into memory: its store, its rows, and offsets that the topics bear out."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Mapping
from typing import Protocol

from faust.types import TP

from state.partition import Identity, Partition, SharedOptions
from state.rows import KeyedRows
from streams.caution import Caution
from streams.errors import ForeignStateError
from streams.metrics import Metrics
from streams.models import Models
from streams.partitions import OpenPartition
from streams.reading import end_offset
from streams.settings import Settings
from streams.sources import SOURCES

log = logging.getLogger(__name__)

INITIAL_ROWS = 1024


class Offsets(Protocol):
    """What is asked of the consumer."""

    async def earliest_offsets(self, *partitions: TP) -> Mapping[TP, int]:
        """Return the first offset still there."""

    async def highwaters(self, *partitions: TP) -> Mapping[TP, int]:
        """Return the offset after the last record."""

    async def reposition(self, offsets: Mapping[TP, int]) -> None:
        """Seek."""


class Loader:
    """Opens stores and loads partitions from them.

    Parameters
    ----------
    settings, models, metrics
        The worker's.
    cluster_id
        Of the broker; state made on another cluster is refused.
    """

    def __init__(
        self, settings: Settings, cluster_id: str, models: Models, metrics: Metrics
    ) -> None:
        self._settings = settings
        self._cluster_id = cluster_id
        self._models = models
        self._metrics = metrics
        self._options = SharedOptions()
        self._opening = threading.Lock()

    def open_store(self, number: int) -> Partition:
        """Open the state of a partition on disk; blocks.

        Raises
        ------
        StateError
            Where it cannot be opened, or is not this cluster's.
        """
        identity = Identity(self._cluster_id, tuple(SOURCES), number, self._settings.partitions)
        path = self._settings.data_dir / "partitions" / str(number)
        # One at a time: stores share options, cache and write buffers, and opening takes 20 ms.
        with self._opening:
            return Partition.open(
                path, identity=identity, layout=self._models.row_dtype, options=self._options
            )

    async def load(
        self, number: int, store: Partition, consumer: Offsets, caution: Caution
    ) -> OpenPartition:
        """Load a partition's last checkpoint; a topic it does not know starts at its beginning.

        Raises
        ------
        StateError
            Where the state cannot be read.
        ForeignStateError
            Where it is ahead of the topics.
        """
        rows = KeyedRows(
            self._models.row_dtype,
            max_rows=max(1, self._settings.max_customers // self._settings.partitions),
            initial_rows=INITIAL_ROWS,
        )
        await asyncio.to_thread(store.load_rows, rows)
        progress = store.progress
        tps = [TP(topic, number) for topic in SOURCES]
        starts = await consumer.earliest_offsets(*tps)
        ends = dict(await consumer.highwaters(*tps))
        for tp in tps:
            offset = progress.offsets.setdefault(tp.topic, starts[tp])
            if offset > ends[tp]:
                ends[tp] = await end_offset(self._settings, tp.topic, number, ends[tp])
            progress.offsets[tp.topic] = self.checked(tp, offset, starts[tp], ends[tp])
        return OpenPartition(
            number,
            store,
            rows,
            progress,
            {tp.topic: ends[tp] for tp in tps},
            models=self._models,
            settings=self._settings,
            metrics=self._metrics,
            poison=caution.poison,
        )

    def checked(self, tp: TP, offset: int, start: int, end: int) -> int:
        """Return the offset to go on from; refuse one that the topic never had."""
        if offset > end:
            raise ForeignStateError(
                f"the state of partition {tp.partition} in {self._settings.data_dir} is at offset "
                f"{offset} of {tp.topic}, which ends at {end}: it belongs to another topic; use "
                "another --data-dir, or remove this one to start anew"
            )
        if offset < start:
            log.warning(
                "%s-%d: records %d to %d were deleted by the broker before they were read",
                tp.topic, tp.partition, offset, start,
            )  # fmt: skip
        return max(offset, start)
