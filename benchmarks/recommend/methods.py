"""What a method of recommendation must be able to do to be judged."""

from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from benchmarks.recommend.data import Stream


class Scored(NamedTuple):
    """What a method thinks of the items, the higher the better.

    Attributes
    ----------
    items
        int32[k], the candidates; None for all items known so far, by number.
    scores
        float64[k]. NaN and minus infinity recommend nothing.
    """

    items: NDArray[np.int32] | None
    scores: NDArray[np.float64]


class Question(NamedTuple):
    """For whom, when, and what is not asked for.

    Attributes
    ----------
    customer
        By number.
    ts_ms
        Now.
    known
        So many items were in the stream so far; they are those with the lowest numbers.
    barred
        int32, items that must not be recommended; empty where repeats count.
    """

    customer: int
    ts_ms: int
    known: int
    barred: NDArray[np.int32]


class Method(Protocol):
    """Learns a stream order by order, and can be asked in between.

    It gets the whole stream when it is made and may look at nothing behind what it was told to
    learn.
    """

    def score(self, question: Question) -> Scored:
        """Say what to recommend."""

    def learn(self, start: int, end: int) -> None:
        """Learn the lines from `start` to before `end`: one or more whole orders, in turn."""


class Maker(Protocol):
    """Makes a method for a stream."""

    def __call__(self, stream: Stream, seed: int) -> Method:
        """Return a method that has learned nothing."""
