"""What is counted of each prediction, and what comes of it."""

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.recommend.methods import Question, Scored

PLACES = 10
COLD_ITEM_LINES = 10
"""An item of fewer lines before is cold."""
COLD_CUSTOMER_LINES = 5
"""A customer of fewer lines before is cold."""
PERIODS = 20
"""Points of the curve over time."""


@dataclass
class Sums:
    """Sums over lines."""

    lines: int = 0
    hits: int = 0
    gain: float = 0.0
    reciprocal: float = 0.0

    def add(self, place: float) -> None:
        """Count a line whose item came at a place from 1 on; infinity for a miss."""
        self.lines += 1
        self.reciprocal += 1.0 / place
        if place <= PLACES:
            self.hits += 1
            self.gain += 1.0 / math.log2(1.0 + place)

    def rate(self) -> float:
        """Return the hit rate; 0 without a line."""
        return self.hits / max(1, self.lines)


@dataclass
class Measures:
    """Running measures of one method on one stream.

    Attributes
    ----------
    everything, known
        All scored lines, and those whose item had been in the stream before.
    cold_items, cold_customers
        Lines of items, and of customers, of whom little was known.
    periods
        All scored lines by time.
    """

    lines_in_all: int
    everything: Sums = field(default_factory=Sums)
    known: Sums = field(default_factory=Sums)
    cold_items: Sums = field(default_factory=Sums)
    cold_customers: Sums = field(default_factory=Sums)
    periods: list[Sums] = field(default_factory=lambda: [Sums() for _ in range(PERIODS)])
    shown: set[int] = field(default_factory=set)
    novelty: float = 0.0
    shown_count: int = 0

    def add_line(self, place: float, at: int, item_lines: int, customer_lines: int) -> None:
        """Count one scored line.

        Parameters
        ----------
        place
            Of its item among what was recommended, from 1; infinity for a miss.
        at
            The line's number in the stream.
        item_lines, customer_lines
            Lines of this item, and of this customer, before its order.
        """
        self.everything.add(place)
        self.periods[at * PERIODS // self.lines_in_all].add(place)
        if item_lines:
            self.known.add(place)
        if item_lines < COLD_ITEM_LINES:
            self.cold_items.add(place)
        if customer_lines < COLD_CUSTOMER_LINES:
            self.cold_customers.add(place)

    def add_list(self, items: NDArray[np.int32], item_lines: NDArray[np.int64], total: int) -> None:
        """Count a list that would have been shown: its items and how unexpected they are."""
        self.shown.update(items.tolist())
        shares = np.maximum(item_lines[items], 1) / max(1, total)
        self.novelty += float(-np.log2(shares).sum())
        self.shown_count += len(items)

    def figures(self, known_items: int) -> dict[str, Any]:
        """Return the measures by name.

        Parameters
        ----------
        known_items
            Items in the stream at its end.
        """
        lines = max(1, self.everything.lines)
        return {
            "lines": self.everything.lines,
            "hr_at_10": self.everything.rate(),
            "ndcg_at_10": self.everything.gain / lines,
            "mrr": self.everything.reciprocal / lines,
            "coverage": len(self.shown) / max(1, known_items),
            "novelty_bits": self.novelty / max(1, self.shown_count),
            "known_item_lines": self.known.lines,
            "known_item_hr_at_10": self.known.rate(),
            "cold_item_lines": self.cold_items.lines,
            "cold_item_hr_at_10": self.cold_items.rate(),
            "cold_customer_lines": self.cold_customers.lines,
            "cold_customer_hr_at_10": self.cold_customers.rate(),
            "hr_at_10_over_time": [each.rate() if each.lines else None for each in self.periods],
        }


def ranked(scored: Scored, question: Question) -> tuple[NDArray[np.int32], NDArray[np.float64]]:
    """Return what may be recommended: items and scores, those that cannot be left out.

    Examples
    --------
    >>> scored = Scored(None, np.array([0.5, np.nan, 0.7, 0.9]))
    >>> ranked(scored, Question(0, 0, known=3, barred=np.array([2], np.int32)))
    (array([0], dtype=int32), array([0.5]))
    """
    if scored.items is None:
        items = np.arange(question.known, dtype=np.int32)
        scores = np.array(scored.scores[: question.known], np.float64)
        scores[question.barred[question.barred < question.known]] = -np.inf
    else:
        items, scores = scored.items, np.array(scored.scores, np.float64)
        scores[np.isin(items, question.barred) | (items >= question.known)] = -np.inf
    possible = scores > -np.inf  # a NaN is not
    return items[possible], scores[possible]


def place_of(items: NDArray[np.int32], scores: NDArray[np.float64], item: int) -> float:
    """Return the place of an item, from 1; ties count against it. Infinity where it is not there.

    Examples
    --------
    >>> place_of(np.array([4, 7, 9], np.int32), np.array([1.0, 2.0, 1.0]), 9)
    3.0
    """
    own = np.flatnonzero(items == item)
    if not len(own):
        return math.inf
    return float(np.count_nonzero(scores >= scores[own[0]]))


def best(items: NDArray[np.int32], scores: NDArray[np.float64]) -> NDArray[np.int32]:
    """Return up to `PLACES` items with the highest scores."""
    if len(items) <= PLACES:
        return items
    return items[np.argpartition(scores, len(scores) - PLACES)[-PLACES:]]
