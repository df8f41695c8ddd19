"""How far the state is durable, and how long it takes after each fault: seconds and stalls."""

import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass

STALL_SECONDS = 30.0

Places = Mapping[tuple[str, int], int]


class Durable:
    """Up to which offset each topic partition is durable; never goes back.

    Examples
    --------
    >>> durable = Durable()
    >>> durable.learn({("clicks", 0): 7})
    >>> durable.learn({("clicks", 0): 5})
    >>> durable.covers({("clicks", 0): 7}), durable.covers({("clicks", 0): 8})
    (True, False)
    """

    def __init__(self) -> None:
        self._offsets: dict[tuple[str, int], int] = {}

    def learn(self, offsets: Places) -> None:
        """Take in what is known now."""
        for place, offset in offsets.items():
            self._offsets[place] = max(offset, self._offsets.get(place, 0))

    def covers(self, ends: Places) -> bool:
        """Tell whether everything below these offsets is durable."""
        return all(self._offsets.get(place, 0) >= end for place, end in ends.items())

    def missing(self, ends: Places) -> dict[str, int]:
        """Return how many records below these offsets are not durable, where there are any."""
        behind = {place: end - self._offsets.get(place, 0) for place, end in ends.items()}
        return {f"{topic}-{number}": n for (topic, number), n in behind.items() if n > 0}


@dataclass(slots=True)
class _Open:
    """A fault from which there is no recovery yet."""

    name: str
    since: float
    ends: Places
    is_stalled: bool = False


class Recoveries:
    """The time from each fault until everything sent before it is durable.

    Other faults in between are part of that time.

    Parameters
    ----------
    durable
        Kept up to date by others.
    clock
        Seconds, monotonic.

    Attributes
    ----------
    seconds
        One figure a recovery, with the name of the fault.
    stalls
        What took longer than `STALL_SECONDS`.
    """

    def __init__(self, durable: Durable, clock: Callable[[], float] = time.monotonic) -> None:
        self.seconds: list[tuple[str, float]] = []
        self.stalls: list[str] = []
        self.kinds: Counter[str] = Counter()
        self._durable = durable
        self._clock = clock
        self._open: list[_Open] = []

    def note(self, name: str, ends: Places) -> None:
        """Note that a fault has come, with the ends of what was sent by then."""
        self.kinds[name] += 1
        self._open.append(_Open(name, self._clock(), dict(ends)))

    def look(self, plight: Callable[[], str]) -> None:
        """See what is over, and what takes too long; `plight` tells what is going on then."""
        now = self._clock()
        for fault in list(self._open):
            if self._durable.covers(fault.ends):
                self._open.remove(fault)
                self.seconds.append((fault.name, now - fault.since))
            elif now - fault.since > STALL_SECONDS and not fault.is_stalled:
                fault.is_stalled = True
                waiting = self._durable.missing(fault.ends)
                self.stalls.append(f"after {fault.name}: waiting {waiting}; {plight()}")

    @property
    def is_over(self) -> bool:
        """Whether there is a recovery from every fault."""
        return not self._open
