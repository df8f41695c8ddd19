"""Faults by the hundred, and an oracle that counts what they have cost.

Traffic is sent all the time: events of some hundred customers, out of order within the allowed
lateness, a share of them twice, some in a partition that is not their customer's, poison, and
tombstones. Meanwhile

engines in this process
    (nine of ten faults) are killed and stopped in order at every named step of opening a partition
    and of a checkpoint and at any moment; begin again on the same disk, an older one or none; stand
    still at a step of a checkpoint until another has taken over, and go on then; share partitions
    with another one;
worker processes
    (the others) are killed and stopped at any moment, and by themselves at a step; stand still
    for longer than the group waits; others join and leave; the broker is stopped and killed.

Where there is no changelog, as on the embedded broker, no disk is lost and nobody is erased; that
broker is not restarted, as its records end with it.

What must have come of all that is computed from the records as they lie in the topics, by code
that the engine does not share: every customer's counts, sums and times; an insight for every
chat; a dead letter for every poison record; lists and alerts with a cause that is one, and each
once; every customer with a list. It is held against what is found twice: when the engines have
worked off everything, and when the worker processes have. What counts as lost, applied twice and
duplicated stands in `benchmarks.chaos.verdict`; recovery is the time from a fault until everything
that was sent before it is durable, and what takes longer than half a minute is a stall.
"""

import asyncio
import logging
import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import Progress

from benchmarks.chaos.engines import Engines
from benchmarks.chaos.fleet import Fleet
from benchmarks.chaos.life import Ground
from benchmarks.chaos.plan import Fault, Planner
from benchmarks.chaos.recovery import Durable, Recoveries
from benchmarks.chaos.scene import (
    EMBEDDED,
    KAFKA,
    PARTITIONS,
    Broker,
    Scene,
    chosen_settings,
    keep_statements,
    running_broker,
)
from benchmarks.chaos.sender import Sender
from benchmarks.chaos.traffic import Traffic
from benchmarks.chaos.verdict import Verdict
from benchmarks.report import BenchmarkError, Options, Report, Spread
from streams.admin import cluster_id, create_topics, tombstones_ms
from streams.guarantee import EXACTLY_ONCE, find_guarantee
from streams.loading import Promise
from streams.settings import Settings
from streams.steps import go_on
from streams.topics import CHANGELOG
from streams.warmup import compile_kernels

FLAGS = frozenset({"faults", "workers", "broker", "guarantee"})
FULL_FAULTS, QUICK_FAULTS = 200, 15
WORKERS = 2
RATE = 300
"""Events per second: all of it shares two cores."""
LOG_FORMAT = "%(asctime)s %(threadName)s %(levelname)s %(name)s: %(message)s"


@dataclass(frozen=True, slots=True)
class Choice:
    """What the run is to be; `guarantee` is None where the broker has but one."""

    seed: int
    faults: int
    workers: int
    broker: str
    guarantee: str | None

    @classmethod
    def of(cls, options: Options) -> "Choice":
        """Read the flags.

        Raises
        ------
        BenchmarkError
            Where they contradict each other.
        """
        chosen = options.chosen
        broker = chosen.get("broker", KAFKA)
        guarantee = chosen.get("guarantee")
        if broker == EMBEDDED and guarantee == EXACTLY_ONCE:
            raise BenchmarkError("the embedded broker has no transactions: nothing is exactly once")
        return cls(
            seed=options.seed,
            faults=chosen.get("faults", QUICK_FAULTS if options.quick else FULL_FAULTS),
            workers=chosen.get("workers", WORKERS),
            broker=broker,
            guarantee=None if broker == EMBEDDED else guarantee or EXACTLY_ONCE,
        )


@dataclass(frozen=True, slots=True)
class Result:
    """What a run found: the worse of the two verdicts, and what was noted on the way."""

    choice: Choice
    verdict: Verdict
    recoveries: Recoveries
    problems: list[str]
    records: int
    customers: int


def run(options: Options) -> Report:
    """Carry the run out on a broker of its own, and report."""
    choice = Choice.of(options)
    home = Path(tempfile.mkdtemp(prefix="crm-chaos-"))
    where = f"seed {choice.seed}, logs in {home}"
    try:
        with _logging_to(home / "engines.log"), _progress(choice.faults) as advance:
            result = asyncio.run(_carry_out(choice, home, options, advance))
    except BenchmarkError as error:
        _leave_logs(home)
        raise BenchmarkError(f"{error} ({where})") from error
    except BaseException:
        shutil.rmtree(home)
        raise
    report = summarise(result)
    if report.problems:
        _leave_logs(home)
        return replace(report, problems=[*report.problems, where])
    shutil.rmtree(home)
    return report


async def _carry_out(choice: Choice, home: Path, options: Options, advance: Any) -> Result:
    def on_fault(name: str) -> None:
        options.tell(name)
        advance()

    options.tell("starting a broker")
    async with (
        running_broker(choice.broker) as broker,
        _scene(choice, broker, home, on_fault) as (scene, ground, faults),
    ):
        return await _live_through(choice, scene, ground, faults, options)


@asynccontextmanager
async def _scene(
    choice: Choice, broker: Broker, home: Path, on_fault: Any
) -> AsyncIterator[tuple[Scene, Ground, list[Fault]]]:
    """Set everything up: topics, kernels, traffic that flows."""
    chosen = chosen_settings(broker, choice.guarantee)
    settings = Settings(**chosen, data_dir=home / "unused")
    await create_topics(settings)
    if choice.broker == KAFKA:
        await keep_statements(settings)
    guarantee = await find_guarantee(settings)
    compile_kernels(settings)
    kept_ms = 0
    if guarantee.changelog:
        kept_ms = await tombstones_ms(settings, CHANGELOG.name_of(settings))
    ground = Ground(await cluster_id(settings), Promise(guarantee, kept_ms, go_on), PARTITIONS)
    planner = Planner(choice.seed, guarantee, restartable=choice.broker == KAFKA)
    durable = Durable()
    traffic = Traffic(choice.seed, PARTITIONS, erases=guarantee.changelog)
    scene = Scene(
        broker=broker,
        settings=settings,
        home=home,
        traffic=traffic,
        sender=Sender(settings.bootstrap_servers(), traffic, durable, RATE),
        durable=durable,
        recoveries=Recoveries(durable),
        exactly_once=guarantee.exactly_once,
        has_changelog=guarantee.changelog,
        chosen=chosen,
        on_fault=on_fault,
    )
    await scene.sender.start()
    try:
        yield scene, ground, planner.plan(choice.faults, PARTITIONS)
    finally:
        await scene.sender.stop()


async def _live_through(
    choice: Choice, scene: Scene, ground: Ground, faults: list[Fault], options: Options
) -> Result:
    """Suffer the faults of both parts, each followed by a look at everything."""
    verdicts = []
    engines = Engines(scene, ground)
    try:
        await engines.suffer_all([fault for fault in faults if not fault.on_worker])
        await scene.sender.pause()
        options.tell("checking what the engines have done")
        verdicts.append(await engines.check())
        options.tell(f"engines: {verdicts[-1]}")
        await engines.end()
    finally:
        await engines.abandon()
    scene.sender.resume()
    options.tell("starting workers")
    fleet = Fleet(scene, choice.workers, engines.last_disk)
    try:
        await fleet.suffer_all([fault for fault in faults if fault.on_worker])
        await scene.sender.pause()
        options.tell("checking what the workers have done")
        verdicts.append(await fleet.check())
        options.tell(f"workers: {verdicts[-1]}")
    finally:
        await fleet.abandon()
    return Result(
        choice,
        worst_of(verdicts),
        scene.recoveries,
        scene.problems,
        len(scene.traffic.ledger),
        len(scene.homes()),
    )


def worst_of(verdicts: list[Verdict]) -> Verdict:
    """Return the largest of each count: the second look sees what the first one saw.

    Examples
    --------
    >>> worst_of([Verdict(lost=1), Verdict(lost=1, repeats=7)])
    Verdict(lost=1, applied_twice=0, duplicate_outputs=0, repeats=7, differences=[])
    """
    return Verdict(
        lost=max(each.lost for each in verdicts),
        applied_twice=max(each.applied_twice for each in verdicts),
        duplicate_outputs=max(each.duplicate_outputs for each in verdicts),
        repeats=max(each.repeats for each in verdicts),
        differences=next((each.differences for each in verdicts if each.differences), []),
    )


def summarise(result: Result) -> Report:
    """Turn what was found into a report; it is valid where nothing is lost, doubled or broken."""
    choice, verdict, recoveries = result.choice, result.verdict, result.recoveries
    seconds = [each for _, each in recoveries.seconds]
    slowest = max(recoveries.seconds, key=lambda each: each[1], default=("", 0.0))
    figures = {
        "seed": choice.seed,
        "broker": choice.broker,
        "guarantee": choice.guarantee or "at_least_once",
        "workers": choice.workers,
        "faults": recoveries.kinds.total(),
        "lost": verdict.lost,
        "applied_twice": verdict.applied_twice,
        "duplicate_outputs": verdict.duplicate_outputs,
        "repeated_outputs": verdict.repeats,
        "stalls": len(recoveries.stalls),
        "max_recovery_seconds": slowest[1],
        "median_recovery_seconds": Spread.of(seconds).median if seconds else 0.0,
        "slowest_recovery": slowest[0],
        "records": result.records,
        "customers": result.customers,
        "faults_by_kind": dict(sorted(recoveries.kinds.items())),
    }
    problems = [
        f"{name} is {figures[name]}"
        for name in ("lost", "applied_twice", "duplicate_outputs")
        if figures[name]
    ]
    problems += verdict.differences
    problems += result.problems
    problems += [f"stall: {stall}" for stall in recoveries.stalls]
    return Report("chaos", figures, _rows(figures), problems)


def _rows(figures: dict[str, Any]) -> list[tuple[str, str, str]]:
    """Write the table for people."""
    slowest = f"after {figures['slowest_recovery']}"
    under = f"{figures['guarantee']} on {figures['broker']}, seed {figures['seed']}"
    rows = [
        ("faults", f"{figures['faults']:,}", under),
        ("records sent", f"{figures['records']:,}", f"of {figures['customers']:,} customers"),
        ("lost", str(figures["lost"]), ""),
        ("applied twice", str(figures["applied_twice"]), ""),
        ("duplicate outputs", str(figures["duplicate_outputs"]), ""),
        ("repeated outputs", f"{figures['repeated_outputs']:,}", "same id, same cause: allowed"),
        ("stalls", str(figures["stalls"]), "over 30 s"),
        ("recovery, median", f"{figures['median_recovery_seconds']:.1f} s", ""),
        ("recovery, longest", f"{figures['max_recovery_seconds']:.1f} s", slowest),
    ]
    return rows + [(name, str(count), "") for name, count in figures["faults_by_kind"].items()]


@contextmanager
def _progress(faults: int) -> Iterator[Any]:
    """Show a bar on a terminal; give what moves it on."""
    console = Console(stderr=True)
    with Progress(console=console, disable=not console.is_terminal, transient=True) as progress:
        task = progress.add_task("faults", total=faults)
        yield lambda: progress.advance(task)


@contextmanager
def _logging_to(path: Path) -> Iterator[None]:
    """Have what engines in this process log go to a file, and nothing of it elsewhere."""
    handler = logging.FileHandler(path)
    handler.setFormatter(logging.Formatter(LOG_FORMAT))
    root, level = logging.getLogger(), logging.getLogger().level
    root.addHandler(handler)
    root.setLevel(logging.INFO)
    try:
        yield
    finally:
        root.removeHandler(handler)
        root.setLevel(level)
        handler.close()


def _leave_logs(home: Path) -> None:
    """Remove the disks, so that the logs remain."""
    for path in home.iterdir():
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
