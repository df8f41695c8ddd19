"""Sends the harness's traffic all the time, whatever happens to broker and engine."""

import asyncio
import logging
import time
from collections import deque
from typing import Any

from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError

from benchmarks.chaos.facts import Deed, Erasure, Parcel
from benchmarks.chaos.recovery import Durable
from benchmarks.chaos.traffic import Traffic

log = logging.getLogger(__name__)

TICK_SECONDS = 0.02
MAX_OUTSTANDING = 2_000
REQUEST_MS = 60_000
SETTLE_SECONDS = 90.0


class Sender:
    """Draws traffic at a steady rate, sends it, and erases customers when that is exact.

    A customer is erased when all they did is durable, and comes back when the tombstone is. What
    the broker did not acknowledge in the end may be in the topics or not: the oracle reads there.

    Parameters
    ----------
    servers
        Bootstrap servers.
    traffic
        Where records come from.
    durable
        Up to where the engine's state is durable.
    rate
        Events per second.

    Attributes
    ----------
    acknowledged
        Serial numbers of records that the broker has promised to keep.
    """

    def __init__(self, servers: list[str], traffic: Traffic, durable: Durable, rate: int) -> None:
        self.acknowledged: set[int] = set()
        self._traffic = traffic
        self._durable = durable
        self._rate = rate
        self._producer = AIOKafkaProducer(
            bootstrap_servers=servers, acks="all", request_timeout_ms=REQUEST_MS
        )
        self._outstanding = 0
        self._quiet = asyncio.Event()
        self._ends: dict[tuple[str, int], int] = {}
        self._pending: dict[str, int] = {}
        self._reached: dict[str, dict[tuple[str, int], int]] = {}
        self._doubtful: set[str] = set()
        self._erased: deque[str] = deque()
        self._flowing = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Connect and begin."""
        await self._producer.start()
        self._flowing.set()
        self._task = asyncio.ensure_future(self._run())

    async def stop(self) -> None:
        """End."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})
        await self._producer.stop()

    async def pause(self) -> None:
        """Send nothing more; return when nothing is on its way.

        Raises
        ------
        TimeoutError
            Where the broker does not answer.
        """
        self._flowing.clear()
        async with asyncio.timeout(SETTLE_SECONDS):
            await self._quiet.wait()

    def resume(self) -> None:
        """Go on."""
        self._flowing.set()

    def ends(self) -> dict[tuple[str, int], int]:
        """Return the offset after the last acknowledged record, by topic and partition."""
        return dict(self._ends)

    async def _run(self) -> None:
        last = time.monotonic()
        owed = 0.0
        while True:
            await asyncio.sleep(TICK_SECONDS)
            now = time.monotonic()
            # A second's worth at most: there is no hurry after a pause.
            owed = min(owed + (now - last) * self._rate, float(self._rate))
            last = now
            while owed >= 1 and self._flowing.is_set() and self._outstanding < MAX_OUTSTANDING:
                owed -= 1
                for parcel in self._traffic.draw():
                    await self._send(parcel)
            if self._flowing.is_set():
                await self._see_off()

    async def _see_off(self) -> None:
        """Erase who is to be erased, and let those return whose tombstone is durable."""
        leaving, erased = self._traffic.leaving, self._erased
        for line in (leaving, erased):
            while line and line[0] in self._doubtful:
                line.popleft()
        if leaving and self._is_durable(leaving[0]):
            customer = leaving.popleft()
            await self._send(self._traffic.erase(customer))
            erased.append(customer)
        if erased and self._is_durable(erased[0]):
            for parcel in self._traffic.come_back(erased.popleft()):
                await self._send(parcel)

    def _is_durable(self, customer: str) -> bool:
        return not self._pending[customer] and self._durable.covers(self._reached[customer])

    async def _send(self, parcel: Parcel) -> None:
        fact = self._traffic.ledger[parcel.serial]
        watched = fact.customer if isinstance(fact, Deed | Erasure) else None
        try:
            receipt = await self._producer.send(
                parcel.topic,
                parcel.value,
                parcel.key,
                parcel.partition,
                headers=parcel.all_headers,
            )
        except KafkaError as error:
            log.warning("record %d was not sent: %r", parcel.serial, error)
            self._doubtful.add(watched or "")
            return
        self._outstanding += 1
        self._quiet.clear()
        if watched is not None:
            self._pending[watched] = self._pending.get(watched, 0) + 1
        receipt.add_done_callback(lambda done: self._on_receipt(done, parcel.serial, watched))

    def _on_receipt(self, receipt: "asyncio.Future[Any]", serial: int, watched: str | None) -> None:
        self._outstanding -= 1
        if not self._outstanding:
            self._quiet.set()
        if watched is not None:
            self._pending[watched] -= 1
        if receipt.cancelled() or receipt.exception() is not None:
            log.warning("record %d is in doubt: %r", serial, receipt)
            self._doubtful.add(watched or "")
            return
        told = receipt.result()
        place, end = (told.topic, told.partition), told.offset + 1
        self.acknowledged.add(serial)
        self._ends[place] = max(end, self._ends.get(place, 0))
        if watched is not None:
            reached = self._reached.setdefault(watched, {})
            reached[place] = max(end, reached.get(place, 0))
