"""What a worker does beside applying chunks: deliver, checkpoint, sweep, show itself."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time

from rich.console import Console
from rich.progress import Progress, TaskID

from streams.engine import Engine
from streams.outbox import Outbox
from streams.partitions import OpenPartition

log = logging.getLogger(__name__)

LISTS_PER_TURN = 64
TURN_SECONDS = 0.02
INTERVAL_BEHIND_SECONDS = 0.5
IDLE_SECONDS = 0.25
GATHER_SECONDS = 0.005
MAX_CREDIT_SECONDS = 0.05
WIDE_SHARE = 0.02
"""Of the worker's time, so much may go into lists that are looked for among all candidates; what
is left over of it is for others. So a list is as good as it gets while few are asked for."""
OBSERVE_SECONDS = 5.0
BAR_SECONDS = 0.2
WALK_EVERY_SECONDS = 0.1
"""A step takes 5 ms: some 5,000 customers a second for a twentieth of the worker's time."""


class Delivery:
    """Pays owed lists and sends what is in the outboxes, as soon as the loop is free.

    Exactly once, a partition's lists are paid right before its checkpoint, which takes them along:
    earlier would not be sooner. While there is a backlog, lists take at most a set share of the
    worker's time, so that events are learned first; once it is drained, whatever is owed is paid.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._share = engine.settings.list_share_while_behind
        self._credit = 0.0
        self._wide_credit = 0.0
        self._next = 0
        self._earned_at = self._widened_at = time.perf_counter()

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
            started = time.perf_counter()
            more = self.pay()
            self.send()
            if more:
                engine.wake.set()
                await asyncio.sleep(0)
            else:
                await pause(engine, self._gather(time.perf_counter() - started))

    def _gather(self, turn_seconds: float) -> float:
        """Return how long to wait for more before the next turn.

        The first event after a quiet moment is answered at once. Under load many are answered
        together, in few requests; the busier, the more of them.
        """
        if self._engine.promise.guarantee.exactly_once:
            return self._engine.settings.checkpoint_seconds
        return max(GATHER_SECONDS, turn_seconds)

    def _pause(self) -> float:
        waits = [p.lists.seconds_until_due() for p in self._engine.partitions.values()]
        return min((wait for wait in waits if wait is not None), default=IDLE_SECONDS)

    def send(self) -> None:
        """Have every outbox sent that is not being sent already; none waits for another.

        Exactly once, outputs go with the next checkpoint.
        """
        if self._engine.promise.guarantee.exactly_once:
            return
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
        more = self._pay_until(started + limit, self._engine.open_partitions())
        if behind:
            self._credit -= time.perf_counter() - started
        return more and not behind

    def pay_before_checkpoint(self, partition: OpenPartition) -> None:
        """Pay the lists that a checkpoint, about to begin, is to take along."""
        if self._engine.promise.guarantee.exactly_once and not self._engine.is_behind:
            self._pay_until(time.perf_counter() + TURN_SECONDS, [partition])

    def _pay_until(self, deadline: float, waiting: list[OpenPartition]) -> bool:
        """Serve partitions in turn until nothing is due or time is up; tell which it was."""
        now_ms = int(time.time() * 1000)
        first = self._next % max(1, len(waiting))
        waiting = waiting[first:] + waiting[:first]
        while waiting:
            for partition in list(waiting):
                if self._pay_some(partition, now_ms) < LISTS_PER_TURN:
                    waiting.remove(partition)
                if time.perf_counter() >= deadline:
                    # The next turn begins with another partition, so that none waits for ever.
                    self._next += 1
                    return bool(waiting)
        return False

    def _pay_some(self, partition: OpenPartition, now_ms: int) -> int:
        """Pay a partition's next lists, wide ones while there is time for them."""
        started = time.perf_counter()
        earned = (started - self._widened_at) * WIDE_SHARE
        self._wide_credit = min(self._wide_credit + earned, MAX_CREDIT_SECONDS)
        self._widened_at = started
        wide = self._wide_credit > 0.0 and not self._engine.is_behind
        paid = partition.pay_lists(LISTS_PER_TURN, now_ms, wide=wide)
        if wide and paid:
            self._wide_credit -= time.perf_counter() - started
        return paid


async def pause(engine: Engine, seconds: float) -> None:
    """Wait for `seconds`, or until the worker stops."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await engine.stopping.wait()


async def checkpoint_until_stopped(engine: Engine, delivery: Delivery) -> None:
    """Checkpoint every partition once in the set interval, spread evenly over it.

    Together they would be in each other's way, and under exactly once the outputs wait for them.
    While there is a backlog, less often: its events have waited anyway, and a row that several of
    them change is written once.
    """
    turn = 0
    while not engine.stopping.is_set():
        partitions = engine.open_partitions()
        interval = engine.settings.checkpoint_seconds
        if engine.is_behind:
            interval = max(interval, INTERVAL_BEHIND_SECONDS)
        await pause(engine, interval / max(1, len(partitions)))
        turn += 1
        if partitions:
            partition = partitions[turn % len(partitions)]
            delivery.pay_before_checkpoint(partition)
            engine.begin_checkpoint(partition)


async def walk_until_stopped(engine: Engine) -> None:
    """Sweep customers whose rows are on disk: one small step of one partition at a time."""
    turn = 0
    while not engine.stopping.is_set():
        await pause(engine, WALK_EVERY_SECONDS)
        partitions = engine.open_partitions()
        for _ in partitions:
            turn += 1
            if partitions[turn % len(partitions)].walk_cold():
                break


async def show_recovery(engine: Engine) -> None:
    """Show how far partitions are recovered, on a terminal; until the worker is ready."""
    console = Console(stderr=True)
    if not console.is_terminal:
        return  # the log tells it there
    with Progress(console=console, transient=True) as bars:
        tasks: dict[int, TaskID] = {}
        while not engine.is_ready:
            for number, share in engine.openings.recovering.items():
                if number not in tasks:
                    tasks[number] = bars.add_task(f"recovering partition {number}", total=1.0)
                bars.update(tasks[number], completed=share)
            for number in set(tasks) - set(engine.openings.recovering):
                bars.remove_task(tasks.pop(number))
            await asyncio.sleep(BAR_SECONDS)


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
        for labels, total in engine.models.feedback.counts().items():
            engine.metrics.feedback.labels(*labels).inc(total - counted.get(labels, 0))
            counted[labels] = total
        await asyncio.sleep(OBSERVE_SECONDS)
