"""A chunk's way through the engine: applied, or whatever else becomes of it."""

from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import replace
from typing import TYPE_CHECKING

from state.errors import RowsFullError, StateError
from streams.caution import MAX_POISON
from streams.errors import StreamsError
from streams.partitions import HoleError, OpenPartition, describe_failure
from streams.sweeps import SweepError
from streams.transport import Chunk

if TYPE_CHECKING:
    from streams.engine import Engine

log = logging.getLogger(__name__)

MAX_WAITING_BYTES = 64 << 20
"""A partition whose outbox holds more waits for the broker before it applies more."""
LISTS_AT_ONCE = 1_024
ROOM_SECONDS = 0.1
PATIENCE_SECONDS = 30.0
"""How long a batch looks for room, beyond the time for which a customer's list may be held back."""


class Processing:
    """Applies chunks to the engine's open partitions.

    Parameters
    ----------
    engine
        Whose partitions these are; it reopens and checkpoints them.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    async def process(self, chunk: Chunk) -> None:
        """Apply a chunk; whatever goes wrong ends in a reopen or a failure, never in an error.

        A chunk of a partition that is not open is dropped: opening it ends with a seek.
        """
        engine = self._engine
        patience = engine.settings.recommend_every_seconds + PATIENCE_SECONDS
        deadline = time.monotonic() + patience
        try:
            while (partition := engine.partitions.get(chunk.partition)) and partition.is_open:
                if partition.outbox.waiting_bytes > MAX_WAITING_BYTES:
                    await self._send_waiting(partition)
                elif self._try(partition, chunk, is_last_try=time.monotonic() > deadline):
                    return
                else:
                    await self._make_room(partition)
        except Exception as error:  # noqa: BLE001 - the agent's boundary: Faust acks what raised
            engine.fail(error)

    def _try(self, partition: OpenPartition, chunk: Chunk, *, is_last_try: bool) -> bool:
        """Apply a chunk; return False where there is no room for its customers yet."""
        engine = self._engine
        started = time.perf_counter()
        try:
            applied = self._apply(partition, chunk)
        except HoleError as hole:
            self._seek_back(partition, hole)
        except RowsFullError as error:
            if not is_last_try:
                return False
            engine.fail(error)
        except (StateError, SweepError) as error:
            engine.fail(error)
        except Exception as error:  # noqa: BLE001 - an outcome's error is a dead letter, in the end
            self._isolate(partition, chunk, error)
        else:
            if applied:
                seconds = time.perf_counter() - started
                engine.metrics.batch_size.observe(applied)
                engine.metrics.batch_seconds.labels(chunk.topic).observe(seconds)
                engine.wake.set()
        return True

    async def _send_waiting(self, partition: OpenPartition) -> None:
        """Send the outputs that wait: with a checkpoint where they are part of its transaction."""
        if self._engine.promise.guarantee.exactly_once:
            await self._engine.checkpoint(partition)
        else:
            await self._engine.publisher.publish(partition.outbox)

    async def _make_room(self, partition: OpenPartition) -> None:
        """Pay the lists that are due, so that rows may leave memory after a checkpoint."""
        if not partition.pay_lists(LISTS_AT_ONCE, int(time.time() * 1000), wide=False):
            await asyncio.sleep(ROOM_SECONDS)  # what is owed may have to wait for its time
        await self._engine.checkpoint(partition)

    def _apply(self, partition: OpenPartition, chunk: Chunk) -> int:
        now_ms = int(time.time() * 1000)
        caution = self._engine.caution(partition.number)
        if chunk.start >= caution.careful_until.get(chunk.topic, 0):
            return partition.apply(chunk, now_ms)
        applied, start = 0, chunk.start
        for record in chunk.records:
            end = record.offset + 1
            try:
                single = replace(chunk, start=start, end=end, records=(record,))
                applied += partition.apply(single, now_ms)
            except (HoleError, StateError, SweepError):
                raise
            except Exception as error:
                caution.poison[chunk.topic, record.offset] = describe_failure(error)
                raise
            start = end
        if start < chunk.end:  # offsets at the end that hold no record
            applied += partition.apply(replace(chunk, start=start, records=()), now_ms)
        return applied

    def _isolate(self, partition: OpenPartition, chunk: Chunk, error: Exception) -> None:
        """Reopen, and apply record by record up to where it went wrong."""
        log.error(
            "applying %s-%d, offsets %d to %d, raised; going back to the last checkpoint",
            chunk.topic, chunk.partition, chunk.start, chunk.end, exc_info=error,
        )  # fmt: skip
        caution = self._engine.caution(partition.number)
        caution.be_careful(chunk.topic, chunk.end)
        if len(caution.poison) > MAX_POISON:
            self._engine.fail(
                StreamsError(
                    f"{len(caution.poison)} records of partition {partition.number} made an "
                    f"outcome raise, the last one with: {error}"
                )
            )
        self._engine.reopen(partition)

    def _seek_back(self, partition: OpenPartition, hole: HoleError) -> None:
        if not partition.is_seeking:
            log.warning("seeking back over a hole in %s", hole)
            partition.is_seeking = True
            self._engine.spawn(self._engine.seek(partition))
