"""Many workers learn one model: what each has learned goes to all the others as deltas.

Every worker holds a whole replica of the models. Every `Pace.sync_seconds` it takes what its
replica has learned since it last did, and writes that to the models' topic; what the others wrote
it adds to its own as it comes. So others' learning arrives after one such interval and the time of
the delivery (a tenth of a second while the broker answers and nobody is behind).

A delta carries the incarnation that wrote it (one run of one process) and its number. A ledger says
by these what is in the arrays: a delta that comes twice is not added twice, one's own is not added
at all, and a missing number is learning that was lost: logged and counted. The next delta is not
taken before the last one is acknowledged; until then it is kept, and written again, whole and with
the same number, until it is.

**What is saved** is one moment without an ``await``: a delta is taken, the arrays are copied, the
ledger is written down. Nothing is done with the copy before that delta is acknowledged. So neither
the file nor a snapshot ever holds learning that the others will not get. A file is the whole of
what the others need not send again, its ledger is a part of it, and it is replaced at once.

**A worker that dies**

- before the delta is acknowledged: what it learned since the delta before is lost, for all alike.
  Parts of the delta that were written are dropped by all.
- after that, before the file is replaced: the older file's ledger has neither the delta nor its
  offset, so that the next incarnation reads it from the topic as if another had written it.
- after that: the file's ledger has the delta's number, the position before it: when it is read
  again it is known.
- in the middle of a snapshot: its parts never become whole, and the one before counts.

So a crash loses at most what was learned since the last acknowledged delta, one interval while the
broker answers. It repeats nothing by itself; events that are applied again after a crash, because
no checkpoint had them, are learned again.

**A worker that starts** takes the file or the newest whole snapshot, whichever leads further in
the deltas, and reads these from there to their end before it processes anything. A file of another
cluster, or of a topic that was made anew since, leads nowhere: it is loaded where there is no
snapshot, and the worker that writes snapshots then writes one at once.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from aiokafka.errors import KafkaError

from operators.errors import OperatorError
from state.errors import StateError
from streams.errors import PublishError
from streams.model_intake import Intake, Replica, SyncMetrics
from streams.model_ledger import LEDGER_ARRAY, Ledger
from streams.model_records import ArraySet, Origin, UnreadableRecordError, encode
from streams.model_topic import DELTAS, SNAPSHOTS, ModelTopic
from streams.threads import in_thread
from streams.topics import MODELS

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from state.arrays import ArrayStore

log = logging.getLogger(__name__)

RETRY_SECONDS = 1.0
EARLY_SNAPSHOT_BYTES = MODELS.kept_bytes // 4
"""A snapshot is written before its time where so many bytes of deltas came since the last, so
that its position is still in the topic when somebody needs it."""
SNAPSHOT_SHARE = 8
"""Deltas that take less than one such part of a snapshot's bytes are not worth another one."""


@dataclass(frozen=True, slots=True)
class Pace:
    """How often things are done, each at the first exchange after its time.

    Attributes
    ----------
    sync_seconds
        From the end of one exchange to the start of the next.
    save_seconds
        Between two saves of the file.
    snapshot_seconds
        Between two snapshots, where enough was learned meanwhile to be worth one.
    """

    sync_seconds: float = 5.0
    save_seconds: float = 15.0
    snapshot_seconds: float = 300.0


class ModelSync:
    """Exchanges what this worker's models learn for what the others' do.

    Call `start` before anything is learned; then run `exchange_forever` and `read_forever`, which
    may be cancelled at any time without loss; in the end, when nothing more is learned, `finish`
    and `stop`.

    Parameters
    ----------
    models
        The replica, just built: all replicas begin with the same arrays.
    store
        The worker's own file.
    topic
        Not started yet; it is started and stopped here.
    cluster_id
        Of the broker; a position in a file made on another cluster means nothing.
    incarnation
        Names this run of the process; drawn at random, at most 64 characters.
    leads
        Whether this worker is the one that writes snapshots.
    metrics
        Where the exchange is counted.
    pace
        How often things are done.
    clock
        Seconds, monotonic.
    """

    def __init__(
        self,
        models: Replica,
        store: ArrayStore,
        topic: ModelTopic,
        *,
        cluster_id: str,
        incarnation: str,
        leads: Callable[[], bool],
        metrics: SyncMetrics,
        pace: Pace,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._models = models
        self._store = store
        self._topic = topic
        self._cluster_id = cluster_id
        self._incarnation = incarnation
        self._leads = leads
        self._metrics = metrics
        self._pace = pace
        self._clock = clock
        self._intake = Intake(models, topic, metrics, clock)
        self._sequence = 0
        self._unsent: tuple[Origin, Mapping[str, NDArray[Any]]] | None = None
        self._saved_at_seconds = clock()
        self._snapshots = 0
        self._snapshot_at_seconds = clock()
        self._snapshot_bytes = 0
        self._saved_ledger = b""
        self._bytes_sent = 0
        self._bytes_in_snapshot = 0
        self._base_is_ours_alone = False

    # Starting.

    async def start(self) -> None:
        """Load what leads furthest, and take in all deltas from there to their end.

        Raises
        ------
        StateMismatchError, StateError
            Where the file does not fit the models, as after a change of settings, or is damaged.
        TopicsError
            Where the topic is missing or has one partition only.
        BrokerUnavailableError
            No broker answers, or it fell silent.
        """
        await self._topic.start()
        begin, end = await self._topic.bounds(DELTAS)
        await self._load(end)
        await self._intake.catch_up(begin, end)

    async def _load(self, end: int) -> None:
        saved = await in_thread(self._store.load)
        ledger = Ledger.of(saved, self._cluster_id, end)
        reached = -1 if ledger is None else ledger.position
        snapshot = await self._topic.newest_snapshot(beyond=reached)
        if snapshot is not None and await self._load_snapshot(snapshot):
            return
        if not saved:
            return
        saved.pop(LEDGER_ARRAY, None)
        self._models.load_arrays(saved)
        if ledger is None:
            self._base_is_ours_alone = True
        else:
            self._intake.ledger = ledger
        log.info("the models are as last saved here")

    async def _load_snapshot(self, snapshot: ArraySet) -> bool:
        """Load a snapshot; tell whether it fits. Where it does not, all stays as it was."""
        before = self._models.copy_arrays()
        origin = snapshot.origin
        try:
            arrays = await in_thread(snapshot.arrays)
            # It may lead beyond the end that was asked for before it was written.
            ledger = Ledger.of(arrays, self._cluster_id, origin.position)
            if ledger is None:
                raise UnreadableRecordError("it is not about the deltas of this topic")
            del arrays[LEDGER_ARRAY]
            self._models.load_arrays(arrays)
        except (UnreadableRecordError, OperatorError) as error:
            self._models.load_arrays(before)
            self._intake.refuse(origin.incarnation, f"its snapshot {origin.sequence}: {error}")
            return False
        self._intake.ledger = ledger
        log.info("the models are those of a snapshot by worker run %s", origin.incarnation)
        return True

    # Running.

    async def read_forever(self) -> None:
        """Take in what the others write, as it comes."""
        while True:
            try:
                await self._intake.read()
            except KafkaError as error:
                log.warning("the models' topic cannot be read: %r; trying again", error)
                await asyncio.sleep(RETRY_SECONDS)

    async def exchange_forever(self) -> None:
        """Write what is learned here, save it and write snapshots, each at its pace."""
        while True:
            await asyncio.sleep(self._pace.sync_seconds)
            rested_seconds = self._clock() - self._saved_at_seconds
            save, snapshot = rested_seconds >= self._pace.save_seconds, self._snapshot_is_due()
            try:
                await self.exchange(save=save, snapshot=snapshot)
            except (PublishError, StateError) as error:
                log.warning("exchange of the models: %s; trying again", error)

    async def finish(self, seconds: float) -> None:
        """Write what was learned since the last exchange, and save, in at most `seconds`.

        `exchange_forever` must have ended.
        """
        try:
            async with asyncio.timeout(seconds):
                await self.exchange(save=True, snapshot=False)
        except (PublishError, StateError, TimeoutError) as error:
            log.warning(
                "the last exchange of the models did not succeed (%r): what was learned since the "
                "one before it is lost", error,
            )  # fmt: skip

    async def stop(self) -> None:
        """Leave the broker."""
        await self._topic.stop()

    async def exchange(self, *, save: bool, snapshot: bool) -> None:
        """Write a delta of what was learned here; where asked for, save and write a snapshot.

        Raises
        ------
        PublishError
            Where the broker did not acknowledge a record. Then nothing was saved either; the
            delta is kept.
        StateError
            Where the file cannot be written.
        """
        await self._publish()  # what an earlier exchange did not bring home
        # From here to the copies there is no await: they are of one moment.
        self._take()
        copies = self._copies() if save or snapshot else {}
        bytes_taken, position = self._intake.bytes_taken, self._intake.ledger.position
        await self._publish()
        if save:
            await self._save(copies)
        if snapshot:
            await self._write_snapshot(copies, position)
            self._bytes_in_snapshot = bytes_taken + self._bytes_sent

    def _take(self) -> None:
        delta = self._models.take_delta()
        if not delta:
            return
        self._sequence += 1
        origin = Origin(self._incarnation, self._sequence, self._intake.ledger.position)
        self._intake.ledger.note(origin)
        self._unsent = origin, delta

    def _copies(self) -> dict[str, NDArray[Any]]:
        ledger = self._intake.ledger.as_array(self._cluster_id)
        return {**self._models.copy_arrays(), LEDGER_ARRAY: ledger}

    async def _publish(self) -> None:
        if self._unsent is None:
            return
        origin, delta = self._unsent
        self._bytes_sent += await self._write(DELTAS, delta, origin)
        self._unsent = None
        self._metrics.model_syncs.labels("out").inc()

    async def _write(
        self, partition: int, arrays: Mapping[str, NDArray[Any]], origin: Origin
    ) -> int:
        """Write a set part by part; return how many bytes it took."""
        written = 0
        parts = encode(arrays, origin)
        while value := await in_thread(next, parts, b""):
            await self._topic.write(partition, origin.incarnation, value)
            self._metrics.model_sync_bytes.labels("out").inc(len(value))
            written += len(value)
        return written

    async def _save(self, copies: Mapping[str, NDArray[Any]]) -> None:
        ledger = copies[LEDGER_ARRAY].tobytes()
        if ledger != self._saved_ledger:  # else nothing was learned, here or elsewhere
            await in_thread(self._store.save, copies, self._store.version + 1)
            self._saved_ledger = ledger
        self._saved_at_seconds = self._clock()

    def _snapshot_is_due(self) -> bool:
        if not self._leads():
            return False
        learned = self._bytes_sent + self._intake.bytes_taken - self._bytes_in_snapshot
        if self._base_is_ours_alone or learned >= EARLY_SNAPSHOT_BYTES:
            return True
        rested_seconds = self._clock() - self._snapshot_at_seconds
        is_worth_it = learned > self._snapshot_bytes // SNAPSHOT_SHARE
        return is_worth_it and rested_seconds >= self._pace.snapshot_seconds

    async def _write_snapshot(self, copies: Mapping[str, NDArray[Any]], position: int) -> None:
        self._snapshots += 1
        origin = Origin(self._incarnation, self._snapshots, position)
        self._snapshot_bytes = await self._write(SNAPSHOTS, copies, origin)
        self._snapshot_at_seconds = self._clock()
        self._base_is_ours_alone = False
        log.info("wrote a snapshot of the models, %d bytes", self._snapshot_bytes)
