"""Baselines that count: popularity, and the customer's own habits."""

import numpy as np

from benchmarks.recommend.data import Stream
from benchmarks.recommend.methods import Question, Scored

DECAY_PER_LINE = 0.9995
OWN_HALF_LIFE_MS = 90 * 86_400_000.0
# Of an item that the customer has not had: below all that were, by popularity among themselves.
_STRANGE = 1e-9
_TOO_LARGE = 1e200


class Popularity:
    """How often each item was taken; `decay` is what a count keeps at each further line."""

    def __init__(self, stream: Stream, decay: float = 1.0) -> None:
        self._stream = stream
        self._counts = np.zeros(len(stream.item_ids))
        # Instead of shrinking all counts at each line, later lines count for more.
        self._growth = 1.0 / decay
        self._one = 1.0

    def score(self, question: Question) -> Scored:
        """Return the counts."""
        del question
        return Scored(None, self._counts)

    def learn(self, start: int, end: int) -> None:
        """Count."""
        for item in self._stream.items[start:end].tolist():
            self._counts[item] += self._one
            self._one *= self._growth
            if self._one > _TOO_LARGE:
                self._counts /= self._one
                self._one = 1.0


class OwnFrequency:
    """How often the customer took each item, decayed by time; others by popularity behind them."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self._popularity = Popularity(stream)
        self._own: list[dict[int, tuple[float, int]]] = [{} for _ in stream.customer_ids]

    def weights(self, question: Question) -> dict[int, float]:
        """Return the decayed counts of what the customer has had."""
        return {
            item: count * 0.5 ** ((question.ts_ms - at) / OWN_HALF_LIFE_MS)
            for item, (count, at) in self._own[question.customer].items()
        }

    def score(self, question: Question) -> Scored:
        """Return the decayed counts, or a little of the popularity."""
        counts = self._popularity.score(question).scores
        scores = _STRANGE * counts / max(1.0, float(counts.max()))
        for item, weight in self.weights(question).items():
            scores[item] = max(weight, 2 * _STRANGE)
        return Scored(None, scores)

    def learn(self, start: int, end: int) -> None:
        """Count the items of an order for its customer."""
        stream = self._stream
        for line in range(start, end):
            own, item = self._own[stream.customers[line]], int(stream.items[line])
            now = int(stream.ts_ms[line])
            count, at = own.get(item, (0.0, now))
            own[item] = (count * 0.5 ** ((now - at) / OWN_HALF_LIFE_MS) + 1.0, now)
        self._popularity.learn(start, end)
