"""The item-to-item baseline: what goes with the customer's last items, the latest first."""

import numpy as np

from benchmarks.recommend.counting import OwnFrequency, Popularity
from benchmarks.recommend.data import Stream
from benchmarks.recommend.methods import Question, Scored

RECENT_ITEMS = 10
RECENCY = 0.8
# Of an item that goes with none: behind all that do, by popularity among themselves.
_STRANGE = 1e-9


class ItemToItem:
    """Co-occurrence counts of items within a customer's last ones, and within an order.

    An item's score is ``Σ_k RECENCY^k · count(recent_k, item) / sqrt(n(recent_k) · n(item))``
    (Linden, Smith and York, 2003, with the cosine of Sarwar and others, 2001).
    """

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self._pairs: list[dict[int, float]] = [{} for _ in stream.item_ids]
        self._counts = np.zeros(len(stream.item_ids))
        self._recent: list[list[int]] = [[] for _ in stream.customer_ids]
        self._popularity = Popularity(stream)

    def raw(self, question: Question) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
        """Return the scores without anything for items that go with none."""
        scores = np.zeros(len(self._counts))
        weight = 1.0
        for recent in reversed(self._recent[question.customer]):
            pairs = self._pairs[recent]
            if pairs:
                items = np.fromiter(pairs.keys(), np.int64, len(pairs))
                counts = np.fromiter(pairs.values(), np.float64, len(pairs))
                scores[items] += (
                    weight * counts / np.sqrt(self._counts[recent] * self._counts[items])
                )
            weight *= RECENCY
        return scores

    def score(self, question: Question) -> Scored:
        """Return the scores, or a little of the popularity."""
        counts = self._popularity.score(question).scores
        return Scored(None, self.raw(question) + _STRANGE * counts / max(1.0, float(counts.max())))

    def learn(self, start: int, end: int) -> None:
        """Count each item with those before it, those of its own order included."""
        stream = self._stream
        for line in range(start, end):
            recent, item = self._recent[stream.customers[line]], int(stream.items[line])
            for other in recent:
                if other != item:
                    self._pairs[other][item] = self._pairs[other].get(item, 0.0) + 1.0
                    self._pairs[item][other] = self._pairs[item].get(other, 0.0) + 1.0
            self._counts[item] += 1.0
            if item in recent:
                recent.remove(item)
            recent.append(item)
            del recent[:-RECENT_ITEMS]
        self._popularity.learn(start, end)


class OwnAndItemToItem:
    """The customer's own habits and what goes with the last items, each by its largest score."""

    def __init__(self, stream: Stream) -> None:
        self._own = OwnFrequency(stream)
        self._others = ItemToItem(stream)

    def score(self, question: Question) -> Scored:
        """Return the sum of both."""
        others = self._others.score(question).scores
        scores = others / max(1e-300, float(others.max(initial=0.0)))
        own = self._own.weights(question)
        # Habits of decades ago weigh nothing at all.
        most = max(own.values(), default=0.0)
        if most > 0.0:
            for item, weight in own.items():
                scores[item] += weight / most
        return Scored(None, scores)

    def learn(self, start: int, end: int) -> None:
        """Have both learn."""
        self._own.learn(start, end)
        self._others.learn(start, end)
