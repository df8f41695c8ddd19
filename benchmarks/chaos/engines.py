"""The first part of a chaos run: engines in this process, struck at steps and at any moment."""

import asyncio
import shutil
from collections.abc import Iterator, Set
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from benchmarks.chaos.life import Blow, Doom, Ground, Life
from benchmarks.chaos.plan import OPENING, Disk, Fault, Kind
from benchmarks.chaos.scene import PARTITIONS, POLL_SECONDS, Scene
from benchmarks.chaos.verdict import Verdict
from benchmarks.report import BenchmarkError
from streams import recovery

ALL = frozenset(range(PARTITIONS))
DISKS_KEPT = 4
WARM_SECONDS = 1.5
MOST_GIVEN_UP = 5
PAGE_RECORDS = 20
ZOMBIE_SECONDS = 0.8
"""Less than a fenced engine waits before it opens the partition again (`streams.caution`): in a
group it would have been told by then that the partition is another's."""


class Engines:
    """One engine at a time, now and then two; each fault strikes the one that is alive.

    Parameters
    ----------
    scene
        What it happens on.
    ground
        What every engine has in common.
    """

    def __init__(self, scene: Scene, ground: Ground) -> None:
        self._scene = scene
        self._ground = ground
        self._disks = [self._new_disk(0)]
        self._made = 1
        self._life: Life | None = None
        self._guest: Life | None = None
        self._given_up = 0

    @property
    def last_disk(self) -> Path:
        """The disk of the engine that lives, or lived last."""
        return self._disks[-1]

    async def suffer_all(self, faults: list[Fault]) -> None:
        """Live through the faults, one after the other."""
        with _small_pages():
            await self._suffer_all(faults)

    async def _suffer_all(self, faults: list[Fault]) -> None:
        watching = asyncio.ensure_future(self._watch())
        try:
            await self._ready()
            await asyncio.sleep(WARM_SECONDS)
            for fault in faults:
                await self._suffer(fault)
            await self._ready()
            await self._scene.until_recovered(self._plight)
        finally:
            watching.cancel()

    async def check(self) -> Verdict:
        """Work everything off and hold it against the oracle; traffic must be paused."""
        scene = self._scene
        watching = asyncio.ensure_future(self._watch())
        try:
            life = await self._live()
            ends = scene.sender.ends()
            await scene.until_steady(
                "everything worked off",
                lambda: life.is_idle() and scene.durable.covers(ends),
                self._plight,
            )
            return await scene.judge(await life.profiles(scene.homes()))
        finally:
            watching.cancel()

    async def end(self) -> None:
        """End in order what lives; leave only the last disk."""
        await self._stop()
        for disk in self._disks[:-1]:
            shutil.rmtree(disk, ignore_errors=True)

    async def abandon(self) -> None:
        """End at once whatever lives."""
        for life in (self._life, self._guest):
            if life is not None:
                await asyncio.to_thread(life.cut_power)

    # Lives and disks.

    def _new_disk(self, number: int) -> Path:
        return self._scene.home / f"engine-{number}"

    def _take_disk(self, which: Disk) -> Path:
        """Make a disk the current one: the last one again, an older one, or an empty one."""
        if which is Disk.EMPTY or (which is Disk.STALE and len(self._disks) == 1):
            self._disks.append(self._new_disk(self._made))
            self._made += 1
        elif which is Disk.STALE:
            self._disks.append(self._disks.pop(0))
        while len(self._disks) > DISKS_KEPT:
            shutil.rmtree(self._disks.pop(0), ignore_errors=True)
        return self._disks[-1]

    def _begin(
        self,
        which: Disk,
        doom: Doom | None = None,
        numbers: Set[int] = ALL,
        standbys: Set[int] = frozenset(),
    ) -> Life:
        settings = replace(self._scene.settings, data_dir=self._take_disk(which))
        return Life(self._ground, settings, numbers, doom, standbys).start()

    async def _live(self, which: Disk = Disk.SAME) -> Life:
        """Return the engine that lives; begin one where none does."""
        life = self._life
        if life is not None and life.ended.is_set():
            self._bury(life)
            life = None
        if life is None:
            life = self._life = self._begin(which)
        return life

    def _bury(self, life: Life) -> None:
        """Forget an engine that has ended; note where that was not planned."""
        self._life = None
        if life.failure is not None:
            self._scene.problems.append(f"an engine gave up: {life.failure!r}")
            self._given_up += 1
        if self._given_up > MOST_GIVEN_UP:
            raise BenchmarkError(f"engines give up again and again: {life.failure!r}")

    async def _stop(self) -> None:
        if self._life is not None:
            await asyncio.to_thread(self._life.stop)
            self._bury(self._life)

    async def _cut(self) -> None:
        if self._life is not None:
            await asyncio.to_thread(self._life.cut_power)
            self._bury(self._life)

    async def _ready(self) -> Life:
        """Return a living engine that has all partitions open."""
        life = await self._live()
        await self._scene.until(
            "an engine with open partitions",
            lambda: life.is_ready or life.ended.is_set(),
            self._plight,
        )
        return life if life.is_ready else await self._ready()

    def _plight(self) -> str:
        lives = [life for life in (self._life, self._guest) if life is not None]
        return "; ".join(life.plight() for life in lives) or "no engine lives"

    async def _watch(self) -> None:
        while True:
            for life in (self._life, self._guest):
                if life is not None:
                    self._scene.durable.learn(life.durable())
            self._scene.recoveries.look(self._plight)
            await asyncio.sleep(POLL_SECONDS)

    # Faults.

    async def _suffer(self, fault: Fault) -> None:
        if fault.calm:
            await self._ready()
            await self._scene.until_recovered(self._plight)
        if fault.kind in (Kind.KILL_AT_STEP, Kind.STOP_AT_STEP):
            await self._strike(fault)
        elif fault.kind in (Kind.KILL, Kind.STOP):
            await self._end_soon(fault)
        elif fault.kind is Kind.ZOMBIE:
            await self._freeze(fault)
        elif fault.kind is Kind.REBALANCE:
            await self._rebalance(fault)
        else:
            await self._ready()
            await self._scene.end_broker(fault)
            await self._scene.start_broker()

    async def _strike(self, fault: Fault) -> None:
        """Have an engine killed or stopped at a step; for a step of opening, a new one."""
        assert fault.step is not None
        blow = Blow.CUT if fault.kind is Kind.KILL_AT_STEP else Blow.STOP
        doom = Doom(fault.step, fault.place, fault.times, blow)
        if fault.step in OPENING:
            await (self._stop() if fault.calm else self._cut())
            life = self._life = self._begin(fault.disk, doom)
        else:
            life = await self._live(fault.disk)
            life.arm(doom)
        await self._struck(fault, life)
        await self._scene.until("the end of an engine", life.ended.is_set, self._plight)
        self._bury(life)

    async def _struck(self, fault: Fault, life: Life) -> None:
        await self._scene.until(
            fault.name, lambda: life.struck.is_set() or life.ended.is_set(), self._plight
        )
        if life.struck.is_set():
            self._scene.note(fault)

    async def _end_soon(self, fault: Fault) -> None:
        life = await self._live(fault.disk)
        await asyncio.sleep(fault.delay_seconds)
        self._scene.note(fault)
        await asyncio.to_thread(life.cut_power if fault.kind is Kind.KILL else life.stop)
        self._bury(life)

    async def _freeze(self, fault: Fault) -> None:
        """Have an engine stand still at a step, another take over, and the first one go on."""
        assert fault.step is not None
        life = await self._ready()
        life.arm(Doom(fault.step, fault.place, fault.times, Blow.FREEZE))
        await self._struck(fault, life)
        self._guest = life
        try:
            self._life = self._begin(Disk.EMPTY if fault.disk is Disk.SAME else fault.disk)
            await self._ready()
            await asyncio.sleep(fault.delay_seconds)
            life.thaw()
            await asyncio.sleep(min(fault.delay_seconds, ZOMBIE_SECONDS))
        finally:
            await asyncio.to_thread(life.cut_power)
            self._guest = None

    async def _rebalance(self, fault: Fault) -> None:
        """Have a part of the partitions go to another engine, where there can be one, and back."""
        life = await self._ready()
        kept = frozenset(number for number in ALL if (number + fault.place) % 2)
        rest = ALL - kept
        self._scene.note(fault)
        if not self._scene.has_changelog:
            await life.share(kept)
            await asyncio.sleep(fault.delay_seconds)
            await life.share(ALL)
            return
        await life.share(kept, standbys=rest)
        current = self._disks[-1]
        guest = self._guest = self._begin(Disk.EMPTY, numbers=rest, standbys=kept)
        # The first engine goes on with its own disk, which must stay the current one.
        self._disks.remove(current)
        self._disks.append(current)
        try:
            await self._scene.until("a second engine", lambda: guest.is_ready, guest.plight)
            await asyncio.sleep(fault.delay_seconds)
        finally:
            await asyncio.to_thread(guest.cut_power if fault.place % 2 else guest.stop)
            self._guest = None
        await life.share(ALL)


@contextmanager
def _small_pages() -> Iterator[None]:
    """Have the changelog read in pages so small that even a young one has several."""
    size = recovery.PAGE_RECORDS
    recovery.PAGE_RECORDS = PAGE_RECORDS
    try:
        yield
    finally:
        recovery.PAGE_RECORDS = size
