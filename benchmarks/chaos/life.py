"""One engine in this process, for as long as it lives: started, struck at a step, buried.

It runs in a thread with a loop of its own, so it can die as a process does, or stand still while
others go on. Around the engine is what a worker has: deliveries, checkpoints, walks. Only Faust,
the web server and the models' store are missing.
"""

import asyncio
import contextlib
import threading
from collections.abc import Callable, Coroutine, Mapping, Set
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, TypeVar

from aiokafka import AIOKafkaProducer
from faust.types import TP

from benchmarks.chaos.driver import Driver
from benchmarks.chaos.facts import SOURCE_TOPICS
from benchmarks.chaos.power import MortalLoop
from benchmarks.report import BenchmarkError
from state.errors import StateError
from streams import duties, worker
from streams.engine import Engine
from streams.loading import Promise
from streams.metrics import Metrics
from streams.outbox import Publisher
from streams.settings import Settings
from streams.steps import Step
from streams.web import profile_of

FREEZE_SECONDS = 60.0
JOIN_SECONDS = 60.0
ASK_SECONDS = 60.0
Result = TypeVar("Result")


class Blow(StrEnum):
    """What happens at a step."""

    CUT = "cut"
    STOP = "stop"
    FREEZE = "freeze"


@dataclass(frozen=True, slots=True)
class Doom:
    """At a step of a partition, for the n-th time, the blow falls."""

    step: Step
    partition: int
    times: int
    blow: Blow


@dataclass(frozen=True, slots=True)
class Ground:
    """What every life of a run has in common; `promise` without its steps."""

    cluster_id: str
    promise: Promise
    partitions: int


class Life:
    """An engine in a thread, with partitions of its own.

    Parameters
    ----------
    ground, settings
        What it lives on.
    numbers
        The partitions that it processes.
    doom
        What strikes it, if anything.
    standbys
        The partitions of which it keeps a copy.

    Attributes
    ----------
    struck
        Set when the doom has come.
    ended
        Set when nothing runs any more.
    failure
        Why it ended, where that was not planned.
    """

    def __init__(
        self,
        ground: Ground,
        settings: Settings,
        numbers: Set[int],
        doom: Doom | None = None,
        standbys: Set[int] = frozenset(),
    ) -> None:
        self.settings = settings
        self.struck = threading.Event()
        self.ended = threading.Event()
        self.failure: BaseException | None = None
        self._ground = ground
        self._numbers = numbers
        self._standbys = standbys
        self._doom = doom
        self._seen = 0
        self._cut_asked = False
        self._thaw = threading.Event()
        self._stop_asked = asyncio.Event()
        self._engine: Engine | None = None
        self._driver: Driver | None = None
        self._loop = MortalLoop()
        self._thread = threading.Thread(target=self._run, name="life", daemon=True)

    def start(self) -> "Life":
        """Begin to live."""
        self._thread.start()
        return self

    # What is asked from outside; any thread.

    @property
    def is_ready(self) -> bool:
        """Whether all its partitions are open."""
        engine = self._engine
        return engine is not None and engine.is_ready and not self.ended.is_set()

    def durable(self) -> dict[tuple[str, int], int]:
        """Return up to where the open partitions' topics are durable."""
        engine = self._engine
        if engine is None:
            return {}
        places = [(topic, number) for topic in SOURCE_TOPICS for number in self._numbers]
        found = {place: engine.durable_offset(TP(*place)) for place in places}
        return {place: offset for place, offset in found.items() if offset is not None}

    def is_idle(self) -> bool:
        """Tell whether nothing is waiting: no record, no list, no output, no change."""
        engine = self._engine
        return self.is_ready and engine is not None and not any(
            sum(partition.lags().values())
            or partition.lists_owed()
            or partition.outbox.waiting
            or partition.changed
            for partition in list(engine.partitions.values())
        )  # fmt: skip

    def plight(self) -> str:
        """Say in a line what it is doing, for a report of a stall."""
        engine = self._engine
        if engine is None:
            return "it is not started yet"
        parts = {
            number: {"lags": part.lags(), "owed": part.lists_owed(), "open": part.is_open}
            for number, part in list(engine.partitions.items())
        }
        opening = sorted(set(engine.assigned) - set(engine.partitions))
        return f"opening {opening}, open {parts}, failure {engine.failure!r}"

    def arm(self, doom: Doom) -> None:
        """Have a doom strike from now on."""
        self._seen = 0
        self._doom = doom

    def cut_power(self) -> None:
        """End it at once, wherever it is; returns when nothing of it runs any more."""
        self._cut_asked = True
        self._thaw.set()
        with contextlib.suppress(RuntimeError):  # the loop is closed: it has ended already
            self._loop.call_soon_threadsafe(self._loop.cut_power)
        self._join()

    def stop(self) -> None:
        """End it in order, as SIGTERM does."""
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._stop_asked.set)
        self._join()

    def thaw(self) -> None:
        """Let it go on from where it was frozen."""
        self._thaw.set()

    async def share(self, numbers: Set[int], standbys: Set[int] = frozenset()) -> None:
        """Hand over what is to go, and own exactly `numbers` from now on."""
        await self._ask(lambda: self._share(numbers, standbys))

    async def profiles(self, homes: Mapping[str, int]) -> dict[str, dict[str, Any] | None]:
        """Return what the REST interface would answer about customers, given their partitions."""
        return await self._ask(lambda: self._profiles(homes))

    # The life itself; its own thread.

    async def _ask(self, work: Callable[[], Coroutine[Any, Any, Result]]) -> Result:
        """Have something done in the life's own thread.

        Raises
        ------
        BenchmarkError
            Where it ends over that, or takes too long.
        """
        asked = asyncio.run_coroutine_threadsafe(work(), self._loop)
        await asyncio.wait({asyncio.wrap_future(asked)}, timeout=ASK_SECONDS)
        if asked.cancelled() or not asked.done():
            raise BenchmarkError(f"an engine does not do as it is asked: {self.plight()}")
        return asked.result()

    def _join(self) -> None:
        self._thread.join(JOIN_SECONDS)
        if self._thread.is_alive():
            raise BenchmarkError(f"an engine does not end: {self.plight()}")

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self.failure = self._loop.live(self._live) or self.failure
        finally:
            self._close_stores()
            self._loop.close()
            self.ended.set()

    def _close_stores(self) -> None:
        """Give the directories free, as the end of a process does."""
        if self._engine is not None:
            stores = self._engine.openings._stores
            for number in stores.numbers():
                # A store that was struck in the middle of opening is closed all the same.
                with contextlib.suppress(StateError):
                    stores.close(number)

    def _on_step(self, step: Step, partition: int) -> None:
        self._loop.require_power()
        doom = self._doom
        if doom is None or (doom.step, doom.partition) != (step, partition):
            return
        self._seen += 1
        if self._seen != doom.times:
            return
        self.struck.set()
        if doom.blow is Blow.STOP:
            self._stop_asked.set()
        elif doom.blow is Blow.FREEZE:
            self._thaw.wait(FREEZE_SECONDS)
        if doom.blow is Blow.CUT or self._cut_asked:
            self._loop.cut_power()
            self._loop.require_power()

    async def _live(self) -> None:
        settings, ground = self.settings, self._ground
        producer = AIOKafkaProducer(
            bootstrap_servers=settings.bootstrap_servers(),
            acks="all",
            max_batch_size=worker.BATCH_BYTES,
            max_request_size=worker.REQUEST_BYTES,
        )
        metrics = Metrics("chaos")
        promise = Promise(ground.promise.guarantee, ground.promise.tombstones_ms, self._on_step)
        engine = Engine(settings, ground.cluster_id, metrics, Publisher(producer, metrics), promise)
        driver = Driver(settings, engine)
        try:
            await producer.start()
            await driver.start()
            self._driver, self._engine = driver, engine
            await self._work(engine, driver)
        finally:
            await driver.stop()
            await producer.stop()

    async def _work(self, engine: Engine, driver: Driver) -> None:
        """Live until asked to stop, or until the engine fails; then end in order."""
        engine.attach(driver)
        driver.assign(self._numbers)
        engine.assign(self._numbers, self._standbys)
        delivery = duties.Delivery(engine)
        duty = asyncio.gather(
            delivery.run(),
            duties.checkpoint_until_stopped(engine, delivery),
            duties.walk_until_stopped(engine),
        )
        feeding = asyncio.ensure_future(driver.run())
        waits = [asyncio.ensure_future(each.wait()) for each in (self._stop_asked, engine.failed)]
        everything: list[asyncio.Future[Any]] = [*waits, feeding, duty]
        await asyncio.wait(everything, return_when=asyncio.FIRST_COMPLETED)
        engine.stopping.set()
        engine.wake.set()
        try:
            await duty
            await engine.checkpoint_all()
        finally:
            for each in (*waits, feeding):
                each.cancel()
            for partition in engine.open_partitions():
                partition.is_open = False
            await engine.stop()
        self.failure = engine.failure
        if feeding.done() and not feeding.cancelled():
            feeding.result()

    async def _share(self, numbers: Set[int], standbys: Set[int]) -> None:
        assert self._engine is not None
        assert self._driver is not None
        await self._engine.hand_over()
        self._numbers, self._standbys = numbers, standbys
        self._driver.assign(numbers)
        self._engine.assign(numbers, standbys)
        await self._driver.reposition(self._engine.next_offsets())

    async def _profiles(self, homes: Mapping[str, int]) -> dict[str, dict[str, Any] | None]:
        assert self._engine is not None
        return {name: profile_of(self._engine, name, home) for name, home in homes.items()}
