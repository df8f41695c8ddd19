"""The second part of a chaos run: worker processes, killed, frozen, joined by others, left."""

import asyncio
import contextlib
import shutil
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

from aiokafka import TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaError

from benchmarks.chaos.facts import SOURCE_TOPICS
from benchmarks.chaos.plan import Disk, Fault, Kind
from benchmarks.chaos.scene import PARTITIONS, Scene
from benchmarks.chaos.verdict import Verdict
from benchmarks.chaos.workers import WorkerProcess

LOOK_SECONDS = 0.25
ANSWER_MS = 5_000
FROZEN_SECONDS = 5.0
"""Longer than the group waits for a silent member."""
MARKS_SECONDS = 0.5
ALL = set(range(PARTITIONS))


class Fleet:
    """So many workers, one of which each fault strikes; who is down is started before the next.

    Parameters
    ----------
    scene
        What it happens on.
    count
        How many workers there are when all is well.
    disk
        A disk that the first one starts on.
    """

    def __init__(self, scene: Scene, count: int, disk: Path) -> None:
        self._scene = scene
        # Every other one keeps warm copies: recovery with and without them is in every run.
        self._workers = [
            WorkerProcess(
                f"worker-{number}",
                scene.chosen,
                scene.home,
                standby=scene.has_changelog and number % 2 == 0,
            )
            for number in range(count)
        ]
        self._guest = WorkerProcess("guest", scene.chosen, scene.home, standby=False)
        if disk.exists():
            shutil.copytree(disk, self._workers[0].disk)
        self._open: set[int] = set()
        self._in: set[str] = set()
        self._looks = 0
        self._waiting: list[float | None] = []
        # Whose end is no surprise.
        self._spared: set[str] = set()

    async def suffer_all(self, faults: list[Fault]) -> None:
        """Live through the faults, one after the other."""
        async with self._watched():
            await self._all_open()
            for fault in faults:
                await self._suffer(fault)
            await self._all_open()
            await self._scene.until_recovered(self._plight)

    async def check(self) -> Verdict:
        """Work everything off, end in order, and hold it against the oracle; traffic is paused."""
        scene = self._scene
        ends = scene.sender.ends()
        async with self._watched():
            await self._all_open()
            await scene.until_steady(
                "everything worked off",
                lambda: (
                    self._open == ALL
                    and not any(each is None or each for each in self._waiting)
                    and scene.durable.covers(ends)
                ),
                self._plight,
            )
            profiles = await asyncio.to_thread(self._profiles)
        for worker in self._workers:
            await self._stop(worker)
        return await scene.judge(profiles)

    async def abandon(self) -> None:
        """End at once whatever runs."""
        for worker in (*self._workers, self._guest):
            await asyncio.to_thread(worker.kill)

    # What is going on.

    @contextlib.asynccontextmanager
    async def _watched(self) -> AsyncIterator[None]:
        """Keep what is known of workers and group current while the block lasts."""
        admin = AIOKafkaAdminClient(
            bootstrap_servers=self._scene.settings.bootstrap_servers(),
            request_timeout_ms=ANSWER_MS,
        )
        await admin.start()
        watches = (self._watch_group(admin), self._watch_workers())
        tasks = [asyncio.ensure_future(each) for each in watches]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
            await admin.close()

    async def _watch_group(self, admin: AIOKafkaAdminClient) -> None:
        """Workers commit what is durable: that is how far they have got."""
        scene = self._scene
        places = [TopicPartition(topic, n) for topic in SOURCE_TOPICS for n in range(PARTITIONS)]
        while True:
            # The attribute is what aiokafka fails to find where it is told of an error.
            with contextlib.suppress(KafkaError, TimeoutError, AttributeError):
                async with asyncio.timeout(ANSWER_MS / 1000):
                    told = await admin.list_consumer_group_offsets(
                        scene.settings.app_id, partitions=places
                    )
                scene.durable.learn(
                    {(tp.topic, tp.partition): max(0, at.offset) for tp, at in told.items()}
                )
            scene.recoveries.look(self._plight)
            await asyncio.sleep(LOOK_SECONDS)

    async def _watch_workers(self) -> None:
        while True:
            for worker in (*self._workers, self._guest):
                status = None if worker.name in self._spared else worker.take_status()
                if status is not None:
                    self._scene.problems.append(
                        f"{worker.name} ended with status {status}: {worker.last_words()}"
                    )
            workers = (*self._workers, self._guest)
            told = {each.name: await asyncio.to_thread(each.partitions) for each in workers}
            held = {name: numbers for name, numbers in told.items() if numbers is not None}
            self._in = set(held)
            self._open = set[int]().union(*held.values())
            self._looks += 1
            running = [worker for worker in workers if worker.is_up]
            self._waiting = [await asyncio.to_thread(worker.waiting) for worker in running]
            await asyncio.sleep(LOOK_SECONDS)

    def _plight(self) -> str:
        words = " || ".join(
            f"{worker.name}: {worker.last_words()}" for worker in self._workers if worker.is_up
        )
        return f"open are {sorted(self._open)}, waiting {self._waiting}; {words}"

    def _profiles(self) -> dict[str, dict[str, Any] | None]:
        """Ask the workers in turn about everybody: whoever is asked must answer."""
        found: dict[str, dict[str, Any] | None] = {}
        for number, customer in enumerate(sorted(self._scene.homes())):
            found[customer] = self._workers[number % len(self._workers)].profile(customer)
        return found

    # Faults.

    async def _all_open(self, but: WorkerProcess | None = None, disk: Disk = Disk.SAME) -> None:
        """Start whoever is down, and wait until all are in and every partition is open."""
        wanted = [worker for worker in self._workers if worker is not but]
        for worker in wanted:
            if not worker.is_up:
                worker.take_status()
                self._start(worker, disk)
        if wanted:
            names = {worker.name for worker in wanted}
            # What is known now, and what a look under way will tell, may be of before.
            enough = self._looks + 2
            await self._scene.until(
                "partitions open on workers",
                lambda: self._looks >= enough and self._open == ALL and names <= self._in,
                self._plight,
            )

    def _start(self, worker: WorkerProcess, disk: Disk, *doom: Any) -> None:
        """Start a worker on its own disk, or on none; a stale one is what a stop leaves."""
        if disk is Disk.EMPTY and self._scene.has_changelog:
            worker.lose_disk()
        self._spared.discard(worker.name)
        worker.start(*doom)

    async def _stop(self, worker: WorkerProcess, *, early: bool = False) -> None:
        """Stop a worker; it must end well, or was not yet so far as to end in any other way."""
        self._spared.add(worker.name)
        status = await asyncio.to_thread(worker.stop)
        allowed = (0, -signal.SIGTERM, None) if early else (0, None)
        if status not in allowed:
            self._scene.problems.append(
                f"{worker.name} ended with status {status} after SIGTERM: {worker.last_words()}"
            )

    async def _suffer(self, fault: Fault) -> None:
        worker = self._workers[fault.place % len(self._workers)]
        if fault.kind in (Kind.KILL_AT_STEP, Kind.STOP_AT_STEP):
            await self._strike(fault, worker)
            return
        await self._all_open(disk=fault.disk)
        if fault.calm:
            await self._scene.until_recovered(self._plight)
        await asyncio.sleep(fault.delay_seconds)
        deeds: dict[Kind, Callable[[Fault, WorkerProcess], Awaitable[None]]] = {
            Kind.KILL: self._kill,
            Kind.STOP: self._terminate,
            Kind.ZOMBIE: self._freeze,
            Kind.REBALANCE: self._invite,
        }
        if fault.kind in deeds:
            await deeds[fault.kind](fault, worker)
        else:
            await self._restart_broker(fault)

    async def _kill(self, fault: Fault, worker: WorkerProcess) -> None:
        self._scene.note(fault)
        self._spared.add(worker.name)
        await asyncio.to_thread(worker.kill)

    async def _terminate(self, fault: Fault, worker: WorkerProcess) -> None:
        self._scene.note(fault)
        await self._stop(worker)

    async def _freeze(self, fault: Fault, worker: WorkerProcess) -> None:
        """Have a worker stand still until others have taken over, and go on then."""
        self._scene.note(fault)
        worker.signal(signal.SIGSTOP)
        try:
            await asyncio.sleep(FROZEN_SECONDS)
        finally:
            worker.signal(signal.SIGCONT)

    async def _restart_broker(self, fault: Fault) -> None:
        """End the broker amid transactions, though not while it ends one itself.

        Kafka 4.3 forgets to write the marks of a commit that it has acknowledged if it dies before
        it has, and is the only replica (`streams.recovery.require_settled`). So it gets a moment in
        which nobody asks it for more.
        """
        up = [worker for worker in (*self._workers, self._guest) if worker.is_up]
        for worker in up:
            worker.signal(signal.SIGSTOP)
        try:
            await asyncio.sleep(MARKS_SECONDS)
            await self._scene.end_broker(fault)
        finally:
            for worker in up:
                worker.signal(signal.SIGCONT)
        await self._scene.start_broker()

    async def _invite(self, fault: Fault, worker: WorkerProcess) -> None:
        """Have another worker join, and leave; all partitions are dealt anew each time."""
        del worker
        self._scene.note(fault)
        self._start(self._guest, fault.disk)
        await self._scene.until("another worker", self._is_in, self._guest.last_words)
        await asyncio.sleep(fault.delay_seconds)
        await self._stop(self._guest)

    def _is_in(self) -> bool:
        return self._guest.partitions() is not None or not self._guest.is_up

    async def _strike(self, fault: Fault, worker: WorkerProcess) -> None:
        """Restart a worker so that it ends itself at a step."""
        await self._all_open(but=worker)
        if worker.is_up:
            await self._stop(worker, early=True)
        number = signal.SIGKILL if fault.kind is Kind.KILL_AT_STEP else signal.SIGTERM
        self._start(worker, fault.disk, fault.step, int(number), fault.times)
        # It is expected to end; how, is looked at below.
        self._spared.add(worker.name)
        started = time.monotonic()
        await self._scene.until(fault.name, lambda: not worker.is_up, worker.last_words)
        self._scene.note(fault)
        status = worker.take_status()
        if status != (-signal.SIGKILL if number is signal.SIGKILL else 0):
            self._scene.problems.append(
                f"{worker.name} ended with status {status} at {fault.step} after "
                f"{time.monotonic() - started:.0f} s: {worker.last_words()}"
            )
