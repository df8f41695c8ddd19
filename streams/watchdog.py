"""Ends the worker where it has work, and does none of it. Consumers are known to die quietly."""

from __future__ import annotations

import asyncio
import faulthandler
import logging
import time
from collections.abc import Callable, Mapping

from aiokafka import AIOKafkaConsumer
from aiokafka.errors import KafkaError
from faust.types import TP

from streams.engine import Engine
from streams.errors import StalledError

log = logging.getLogger(__name__)

OPENING_LIMITS = 10
"""Joining the group, or opening a partition, may take this many times as long as a stall: there may
be much to hand over, and to load."""
BLOCKED_LIMITS = 4
"""So many times as long may one call keep the loop, as a sweep of very many customers."""


class Watchdog:
    """Looks again and again whether every topic partition moves that has records waiting.

    The ends of the topics are asked for over a connection of its own: records waiting, and for
    `watchdog_seconds` nothing of them made durable, is a stall. So is a partition that does not
    get open, and a group that is never joined. A broker that does not answer is not. A loop that
    is blocked cannot look at all: then the process ends with a traceback of every thread.

    Parameters
    ----------
    engine
        The worker's.
    clock
        Returns seconds, monotonic.
    """

    def __init__(self, engine: Engine, clock: Callable[[], float] = time.monotonic) -> None:
        self._engine = engine
        self._clock = clock
        self._limit_seconds = engine.settings.watchdog_seconds
        self._durable: dict[TP, int] = {}
        self._moved_at: dict[TP, float] = {}
        self._missing_since: dict[int | None, float] = {}
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
                faulthandler.dump_traceback_later(BLOCKED_LIMITS * self._limit_seconds, exit=True)
                await asyncio.sleep(self._limit_seconds / 4)
                await self.look()
        finally:
            faulthandler.cancel_dump_traceback_later()
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
            self._moved_at.clear()
            self._missing_since.clear()
            return
        self._judge_topics(durable, ends)
        self._judge_partitions()

    def _judge_topics(self, durable: Mapping[TP, int], ends: Mapping[TP, int]) -> None:
        """Find topic partitions that wait and do not move, each by itself."""
        now = self._clock()
        stuck: dict[str, int] = {}
        for tp, offset in durable.items():
            waiting = ends.get(tp, 0) - offset
            if waiting <= 0 or self._durable.get(tp) != offset:
                self._moved_at[tp] = now
            elif now - self._moved_at.setdefault(tp, now) >= self._limit_seconds:
                stuck[f"{tp.topic}-{tp.partition}"] = waiting
        # Those that are missing just now are not forgotten: opening again is no progress.
        self._durable.update(durable)
        if stuck:
            self._engine.fail(
                StalledError(f"no progress for {self._limit_seconds:.0f} seconds, waiting: {stuck}")
            )

    def _judge_partitions(self) -> None:
        """Find partitions that are this worker's and do not get open; None stands for all."""
        engine = self._engine
        missing: set[int | None] = {n for n in engine.assigned if n not in engine.partitions}
        if not engine.was_assigned:
            missing.add(None)
        now = self._clock()
        for number in set(self._missing_since) - missing:
            del self._missing_since[number]
        limit = OPENING_LIMITS * self._limit_seconds
        stuck = [n for n in missing if now - self._missing_since.setdefault(n, now) >= limit]
        if None in stuck:
            engine.fail(StalledError("the consumer group was not joined"))
        elif stuck:
            engine.fail(StalledError(f"partitions {stuck} do not get open"))
