"""Which faults a chaos run suffers: drawn from its seed, every named step among them."""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from streams.guarantee import Guarantee
from streams.steps import Step

OPENING = (Step.STORE_OPENED, Step.FENCED, Step.CHANGELOG_PAGE, Step.RECOVERED)
"""Steps of opening a partition; the others are of a checkpoint."""
ONCE = (Step.STORE_OPENED, Step.FENCED, Step.RECOVERED)
"""Steps that an opening passes once; the changelog is read in pages."""
MAX_TIMES = 3
MAX_DELAY_SECONDS = 1.5
WORKER_SHARE = 0.1
MIN_ON_WORKERS = 3
CALM_SHARE = 0.6


class Kind(StrEnum):
    """What is done."""

    KILL_AT_STEP = "kill -9 at a step"
    STOP_AT_STEP = "kill -15 at a step"
    KILL = "kill -9"
    STOP = "kill -15"
    ZOMBIE = "zombie"
    REBALANCE = "rebalance"
    BROKER_STOP = "broker stopped"
    BROKER_KILL = "broker killed"


AT_STEP = (Kind.KILL_AT_STEP, Kind.STOP_AT_STEP, Kind.ZOMBIE)
OF_BROKER = (Kind.BROKER_STOP, Kind.BROKER_KILL)


class Disk(StrEnum):
    """On which disk the one who is struck was started before."""

    SAME = "same"
    STALE = "stale"
    EMPTY = "empty"


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault.

    Attributes
    ----------
    on_worker
        Whether it strikes a worker process, or an engine in this process.
    kind
        What is done.
    step
        At which step, where it is at one.
    place
        Which partition, or which worker.
    times
        The step is struck when it comes for the n-th time, n from 1.
    delay_seconds
        How long to wait first, or in between.
    disk
        What the one who is struck was started on.
    calm
        Whether everything that was sent before is durable when it strikes; else it may strike
        in the middle of the recovery from the fault before.
    """

    on_worker: bool
    kind: Kind
    step: Step | None
    place: int
    times: int
    delay_seconds: float
    disk: Disk
    calm: bool

    @property
    def name(self) -> str:
        """What it is, for people and for counting."""
        who = "worker" if self.on_worker else "engine"
        return f"{who}: {self.kind}" + (f" ({self.step})" if self.step else "")


def steps_of(guarantee: Guarantee) -> list[Step]:
    """Return the steps that come under a guarantee.

    Examples
    --------
    >>> [str(step) for step in steps_of(Guarantee(changelog=False, exactly_once=False))]
    ['store-opened', 'recovered', 'snapshot-taken', 'outputs-sent', 'written']
    """
    only_with_changelog = {Step.FENCED, Step.CHANGELOG_PAGE, Step.CHANGELOG_SENT, Step.COMMITTED}
    steps = [step for step in Step if guarantee.changelog or step not in only_with_changelog]
    return [step for step in steps if not (guarantee.exactly_once and step is Step.OUTPUTS_SENT)]


class Planner:
    """Draws the faults of a run.

    Parameters
    ----------
    seed
        Decides everything.
    guarantee
        Under which the run goes; a disk is only lost where there is a changelog.
    restartable
        Whether the broker keeps its records through a restart.
    """

    def __init__(self, seed: int, guarantee: Guarantee, *, restartable: bool) -> None:
        self._random = random.Random(seed)
        self._guarantee = guarantee
        self._restartable = restartable
        self._steps = steps_of(guarantee)

    def plan(self, count: int, partitions: int) -> list[Fault]:
        """Return `count` faults: first those of engines in this process, then those of workers.

        Examples
        --------
        >>> planner = Planner(1, Guarantee(changelog=True, exactly_once=True), restartable=True)
        >>> faults = planner.plan(100, partitions=4)
        >>> len(faults), sum(fault.on_worker for fault in faults)
        (100, 10)
        """
        on_workers = min(count, max(MIN_ON_WORKERS, round(WORKER_SHARE * count)))
        on_engines = count - on_workers
        # Each step at least once.
        first = [(Kind.KILL_AT_STEP, step) for step in self._steps][:on_engines]
        rest = [self._of_engine() for _ in range(on_engines - len(first))]
        kinds = first + rest
        self._random.shuffle(kinds)
        engine_faults = [self._fault(kind, step, partitions) for kind, step in kinds]
        kinds = [self._of_worker(number) for number in range(on_workers)]
        return engine_faults + [
            self._fault(kind, step, partitions, on_worker=True) for kind, step in kinds
        ]

    def _of_engine(self) -> tuple[Kind, Step | None]:
        weights = {
            Kind.KILL_AT_STEP: 60,
            Kind.STOP_AT_STEP: 8,
            Kind.KILL: 12,
            Kind.STOP: 4,
            Kind.REBALANCE: 6,
        }
        if self._guarantee.changelog:
            weights[Kind.ZOMBIE] = 10
        if self._restartable:
            weights |= {Kind.BROKER_STOP: 1, Kind.BROKER_KILL: 1}
        return self._with_step(self._chosen(weights))

    def _of_worker(self, number: int) -> tuple[Kind, Step | None]:
        """Draw a fault; the first few are one of each kind, the most telling first."""
        weights = {
            Kind.KILL_AT_STEP: 35,
            Kind.KILL: 20,
            Kind.STOP_AT_STEP: 10,
            Kind.STOP: 10,
            Kind.REBALANCE: 10,
        }
        firsts = [Kind.KILL_AT_STEP, Kind.KILL, Kind.STOP, Kind.REBALANCE, Kind.STOP_AT_STEP]
        if self._restartable:
            weights |= {Kind.ZOMBIE: 8, Kind.BROKER_STOP: 4, Kind.BROKER_KILL: 4}
            firsts[2:2] = [Kind.BROKER_KILL, Kind.ZOMBIE]
            firsts.append(Kind.BROKER_STOP)
        kind = firsts[number] if number < len(firsts) else self._chosen(weights)
        # A worker process is frozen from outside, at any moment.
        return (kind, None) if kind is Kind.ZOMBIE else self._with_step(kind)

    def _chosen(self, weights: dict[Kind, int]) -> Kind:
        return self._random.choices(list(weights), list(weights.values()))[0]

    def _with_step(self, kind: Kind) -> tuple[Kind, Step | None]:
        if kind not in AT_STEP:
            return kind, None
        steps: Sequence[Step] = self._steps
        if kind is Kind.ZOMBIE:
            steps = [step for step in self._steps if step not in OPENING]
        return kind, self._random.choice(steps)

    def _fault(
        self, kind: Kind, step: Step | None, partitions: int, *, on_worker: bool = False
    ) -> Fault:
        draw = self._random
        disk = Disk.SAME
        if step is Step.CHANGELOG_PAGE:
            disk = Disk.EMPTY
        elif self._guarantee.changelog:
            disk = draw.choices(list(Disk), (50, 20, 30))[0]
        return Fault(
            on_worker=on_worker,
            kind=kind,
            step=step,
            place=draw.randrange(partitions),
            times=1 if step in ONCE else draw.randint(1, MAX_TIMES),
            delay_seconds=draw.uniform(0, MAX_DELAY_SECONDS),
            disk=disk,
            calm=draw.random() < CALM_SHARE,
        )
