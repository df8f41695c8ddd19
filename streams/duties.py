"""What a worker does beside applying chunks: deliver, checkpoint, save models, watch itself."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Mapping

from aiokafka import AIOKafkaConsumer
from aiokafka.errors import KafkaError
from faust.types import TP

from state.arrays import ArrayStore
from streams.engine import Engine
from streams.errors import StalledError
from streams.outbox import Outbox

log = logging.getLogger(__name__)

LISTS_PER_TURN = 64
TURN_SECONDS = 0.02
IDLE_SECONDS = 0.25
GATHER_SECONDS = 0.005
MAX_CREDIT_SECONDS = 0.05
OBSERVE_SECONDS = 5.0
OPENING_LIMITS = 10
"""Opening a partition may take this many times as long as a stall: it may hold much."""


class Delivery:
    """Pays owed lists and sends what is in the outboxes, as soon as the loop is free.

    While there is a backlog, lists take at most a set share of the worker's time, so that events
    are learned first; once it is drained, whatever is owed is paid.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._share = engine.settings.list_share_while_behind
        self._credit = 0.0
        self._next = 0
        self._earned_at = time.perf_counter()

    async def run(self) -> None:
        """Deliver until the worker stops; then what was begun is finished."""
        engine = self._engine
        while not engine.stopping.is_set():
            try:
                async with asyncio.timeout(self._pause()):
                    await engine.wake.wait()
            except TimeoutError:
                pass  # a customer's second is over, or it is time to look anyway
            engine.wake.clear()
            more = self.pay()
            self.send()
            if more:
                engine.wake.set()
            # The first event after a quiet moment is answered at once; under load this gathers
            # the outputs of many chunks into few requests.
            await asyncio.sleep(0 if more else GATHER_SECONDS)

    def _pause(self) -> float:
        waits = [p.lists.seconds_until_due() for p in self._engine.partitions.values()]
        return min((wait for wait in waits if wait is not None), default=IDLE_SECONDS)

    def send(self) -> None:
        """Have every outbox sent that is not being sent already; none waits for another."""
        for partition in self._engine.partitions.values():
            outbox = partition.outbox
            if outbox.waiting and not outbox.sending.locked():
                self._engine.spawn(self._publish(outbox))

    async def _publish(self, outbox: Outbox) -> None:
        await self._engine.publisher.publish(outbox)
        if outbox.waiting:
            self._engine.wake.set()

    def pay(self) -> bool:
        """Pay lists for one turn; return whether more could be paid at once."""
        behind = self._engine.is_behind
        started = time.perf_counter()
        earned = (started - self._earned_at) * self._share
        self._credit = min(self._credit + earned, MAX_CREDIT_SECONDS)
        self._earned_at = started
        if behind and self._credit <= 0:
            return False
        limit = min(TURN_SECONDS, self._credit) if behind else TURN_SECONDS
        more = self._pay_until(started + limit)
        if behind:
            self._credit -= time.perf_counter() - started
        return more and not behind

    def _pay_until(self, deadline: float) -> bool:
        """Serve partitions in turn until nothing is due or time is up; tell which it was."""
        now_ms = int(time.time() * 1000)
        waiting = self._engine.open_partitions()
        first = self._next % max(1, len(waiting))
        waiting = waiting[first:] + waiting[:first]
        while waiting:
            for partition in list(waiting):
                if partition.pay_lists(LISTS_PER_TURN, now_ms) < LISTS_PER_TURN:
                    waiting.remove(partition)
                if time.perf_counter() >= deadline:
                    # The next turn begins with another partition, so that none waits for ever.
                    self._next += 1
                    return bool(waiting)
        return False


async def pause(engine: Engine, seconds: float) -> None:
    """Wait for `seconds`, or until the worker stops."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await engine.stopping.wait()


async def checkpoint_until_stopped(engine: Engine) -> None:
    """Checkpoint at the set interval, from the end of one to the start of the next."""
    while not engine.stopping.is_set():
        await pause(engine, engine.settings.checkpoint_seconds)
        await engine.checkpoint_all()


async def save_models_until_stopped(engine: Engine, store: ArrayStore) -> None:
    """Save the shared models at the set interval, and when the worker stops."""
    while not engine.stopping.is_set():
        await pause(engine, engine.settings.models_save_seconds)
        await asyncio.to_thread(store.save, engine.models.copy_arrays(), store.version + 1)


async def observe_forever(engine: Engine) -> None:
    """Keep the models' metrics current."""
    counted: dict[tuple[str, str], float] = {}
    while True:
        for (model, metric), value in engine.models.quality().items():
            engine.metrics.model_quality.labels(model, metric).set(value)
        for name, counter, totals in (
            ("updates", engine.metrics.model_updates, engine.models.updates()),
            ("drifts", engine.metrics.drift, engine.models.drifts()),
        ):
            for model, total in totals.items():
                counter.labels(model).inc(total - counted.get((name, model), 0))
                counted[name, model] = total
        await asyncio.sleep(OBSERVE_SECONDS)


class Watchdog:
    """Ends the worker where it has work, and does none of it.

    Consumers are known to die quietly. So the ends of the topics are asked for over a connection
    of its own: records waiting, and for `watchdog_seconds` nothing of them made durable, is a
    stall. So is a partition that does not get open. A broker that does not answer is not.
    """

    def __init__(self, engine: Engine, clock: Callable[[], float] = time.monotonic) -> None:
        self._engine = engine
        self._clock = clock
        self._limit_seconds = engine.settings.watchdog_seconds
        self._durable: dict[TP, int] = {}
        self._progress_at = clock()
        self._consumer = AIOKafkaConsumer(
            bootstrap_servers=engine.settings.bootstrap_servers(),
            client_id=engine.settings.app_id,
            isolation_level="read_committed",
            **engine.settings.client_security(),
        )

    async def run(self) -> None:
        """Watch for ever, or until there is a stall."""
        await self._consumer.start()
        try:
            while self._engine.failure is None:
                await asyncio.sleep(self._limit_seconds / 4)
                await self.look()
        finally:
            await self._consumer.stop()

    async def look(self) -> None:
        """Compare what is durable with what was at the last look, and with what there is."""
        durable = {
            tp: offset
            for tp in self._engine.next_offsets()
            if (offset := self._engine.durable_offset(tp)) is not None
        }
        try:
            async with asyncio.timeout(self._limit_seconds / 4):
                ends = await self._consumer.end_offsets(list(durable))
        except (KafkaError, TimeoutError) as error:
            log.warning("the broker does not answer: %r", error)
            ends = {}
        waiting = {
            tp: ends[tp] - offset for tp, offset in durable.items() if ends.get(tp, 0) > offset
        }
        if not waiting or any(self._durable.get(tp) != durable[tp] for tp in waiting):
            self._progress_at = self._clock()
        self._durable = durable
        self._judge(waiting)

    def _judge(self, waiting: Mapping[TP, int]) -> None:
        now = self._clock()
        quiet_seconds = now - self._progress_at
        if quiet_seconds >= self._limit_seconds:
            named = {f"{tp.topic}-{tp.partition}": count for tp, count in waiting.items()}
            self._engine.fail(
                StalledError(f"no progress for {quiet_seconds:.0f} seconds, waiting: {named}")
            )
        limit = OPENING_LIMITS * self._limit_seconds
        stuck = [n for n, since in self._engine.opening.items() if now - since >= limit]
        if stuck:
            self._engine.fail(StalledError(f"partitions {stuck} do not get open"))
