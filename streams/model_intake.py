"""What other workers have learned, on its way into this worker's models."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import aclosing
from typing import TYPE_CHECKING, Any, Protocol

from operators.errors import OperatorError
from streams.model_ledger import MAX_INCARNATIONS, Ledger
from streams.model_records import ArraySet, Assembler, UnreadableRecordError
from streams.model_topic import DELTAS, ModelTopic, Received
from streams.threads import in_thread

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from prometheus_client import Counter, Gauge

log = logging.getLogger(__name__)

SILENT_SECONDS = 120.0
"""A delta of which no further part came for so long is given up. A writer that lives has written
the whole of it again by then."""


class Replica(Protocol):
    """The models of one worker."""

    def take_delta(self) -> Mapping[str, NDArray[Any]]:
        """Return what was learned here since the last call; empty where nothing was.

        The arrays stay as they are until the next call.
        """

    def apply_delta(self, delta: Mapping[str, NDArray[Any]], /) -> None:
        """Add what another replica took; raise an `OperatorError` where some of it does not fit."""

    def copy_arrays(self) -> dict[str, NDArray[Any]]:
        """Copy everything; the copies stay as they are until the next call."""

    def load_arrays(self, saved: Mapping[str, NDArray[Any]], /) -> None:
        """Replace everything; raise an `OperatorError` where it does not fit."""


class SyncMetrics(Protocol):
    """Where the exchange is counted; `model_syncs` and `model_sync_bytes` by direction."""

    @property
    def model_syncs(self) -> Counter:
        """Deltas, ``in`` or ``out``."""

    @property
    def model_sync_bytes(self) -> Counter:
        """Bytes of records, ``in`` or ``out``, snapshots included."""

    @property
    def model_sync_gaps(self) -> Counter:
        """Deltas of others that never came."""

    @property
    def model_sync_refused(self) -> Counter:
        """Records and deltas of others that could not be read or did not fit."""

    @property
    def model_staleness(self) -> Gauge:
        """Seconds since all that others had written was taken in."""


class Intake:
    """Reads the deltas and adds to the models what is not in them yet.

    Parameters
    ----------
    models
        The replica.
    topic
        Started.
    metrics
        Where the exchange is counted.
    clock
        Seconds, monotonic.

    Attributes
    ----------
    ledger
        What is in the models; one's own deltas are entered by whoever takes them.
    bytes_taken
        Bytes of others' records so far.
    """

    def __init__(
        self,
        models: Replica,
        topic: ModelTopic,
        metrics: SyncMetrics,
        clock: Callable[[], float],
    ) -> None:
        self._models = models
        self._topic = topic
        self._metrics = metrics
        self._clock = clock
        self._assembler = Assembler()
        self._refused: set[str] = set()
        self._fresh_at_ms = time.time() * 1000
        self.ledger = Ledger()
        self.bytes_taken = 0

    async def catch_up(self, begin: int, end: int) -> None:
        """Take in the deltas from the ledger's position to `end`; `begin` is the first there is.

        Raises
        ------
        BrokerUnavailableError
            Where nothing comes for long.
        """
        start = max(begin, self.ledger.position)
        if self.ledger.position < begin:
            log.warning(
                "the deltas from offset %d to %d are not in the models' topic any more: what was "
                "learned there is missing here", self.ledger.position, begin,
            )  # fmt: skip
        self._topic.follow(DELTAS, start)
        async with aclosing(self._topic.read_to(end)) as batches:
            async for batch in batches:
                await self._take_in(batch)

    async def read(self) -> None:
        """Take in what comes next, or nothing after half a second.

        Raises
        ------
        KafkaError
            Where the broker refuses.
        """
        await self._take_in(await self._topic.read())
        self._fresh_at_ms = self._topic.heard_ms() or self._fresh_at_ms
        self._metrics.model_staleness.set(max(0.0, time.time() - self._fresh_at_ms / 1000))

    def refuse(self, incarnation: str, reason: str) -> None:
        """Count what is left out, and log the first of each incarnation."""
        self._metrics.model_sync_refused.inc()
        if incarnation in self._refused:
            return
        if len(self._refused) == MAX_INCARNATIONS:
            self._refused.clear()
        if incarnation:
            self._refused.add(incarnation)
        log.error(
            "what worker run %s learned is left out here: %s", incarnation or "unknown", reason
        )

    async def _take_in(self, batch: Sequence[Received]) -> None:
        now_seconds = self._clock()
        for offset, value_bytes, part in batch:
            if isinstance(part, UnreadableRecordError):
                self.refuse(part.incarnation, f"the record at offset {offset}: {part}")
                continue
            if self.ledger.has(part.origin):
                continue
            self.bytes_taken += value_bytes
            self._metrics.model_sync_bytes.labels("in").inc(value_bytes)
            delta = self._assembler.add(part, offset, now_seconds)
            if delta is not None:
                await self._apply(delta)
        for origin in self._assembler.give_up(now_seconds - SILENT_SECONDS):
            log.warning(
                "worker run %s did not finish writing its delta %d: it is left out",
                origin.incarnation, origin.sequence,
            )  # fmt: skip
        first = self._assembler.first_offset
        self.ledger.position = self._topic.position if first is None else first

    async def _apply(self, delta: ArraySet) -> None:
        origin = delta.origin
        try:
            self._models.apply_delta(await in_thread(delta.arrays))
        except (UnreadableRecordError, OperatorError) as error:
            self.refuse(origin.incarnation, f"its delta {origin.sequence}: {error}")
        else:
            self._metrics.model_syncs.labels("in").inc()
        missing = self.ledger.note(origin)
        if missing:
            self._metrics.model_sync_gaps.inc(missing)
            log.warning(
                "%d deltas of worker run %s before its delta %d never came: what it learned then "
                "is missing here", missing, origin.incarnation, origin.sequence,
            )  # fmt: skip
