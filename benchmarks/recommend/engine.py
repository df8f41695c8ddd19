"""The engine's own recommender, as a worker runs it."""

import numpy as np

from benchmarks.recommend.data import Stream
from benchmarks.recommend.methods import Question, Scored
from operators.content import words_of
from operators.hashing import hash_strings
from operators.hybrid import Hybrid, Options, Part

LIST_LENGTH = 100
"""So many are asked for; what comes behind them counts as a miss."""
CAPACITY = 50_000
WHOLE_STREAM = 1_000_000_000
"""Tests that the figures of the members look back on."""


def as_a_worker(*, repeats: bool) -> Options:
    """Return the options of a worker that has time to learn the fusion from every order."""
    return Options(repeats=repeats, test_share=1.0, quality_tests=WHOLE_STREAM)


def without_fusion(options: Options) -> Options:
    """Return options under which everything but the fusion learns."""
    return options._replace(test_share=0.0)


class EngineHybrid:
    """`operators.hybrid.Hybrid`, with each line an event; it numbers items as the stream does.

    What the catalogue says of an item is told when the item first comes, as its entry would be.

    Parameters
    ----------
    options
        Of the hybrid.
    """

    def __init__(self, stream: Stream, seed: int, options: Options) -> None:
        self._stream = stream
        self._hybrid = Hybrid(max(CAPACITY, len(stream.item_ids)), seed, options)
        self._rows = np.zeros(len(stream.customer_ids), self._hybrid.row_dtype)
        self._ids = [stream.item_ids[item] for item in stream.items.tolist()]
        self._groups = np.repeat(
            np.arange(len(stream.starts) - 1, dtype=np.int32), np.diff(stream.starts)
        )
        orders = hash_strings([f"order {number}" for number in range(len(stream.starts) - 1)])
        self._keys = orders[self._groups]
        self._known = 0

    def members(self) -> dict[str, float]:
        """Return the hit rate at 10 of each part of the hybrid alone, over all that was tested."""
        quality = self._hybrid.quality()
        return {part.name.lower(): quality[f"{part.name.lower()}_hit_rate_at_10"] for part in Part}

    def score(self, question: Question) -> Scored:
        """Return the hybrid's list."""
        lists = self._hybrid.rank_many(
            self._rows,
            np.array([question.customer]),
            LIST_LENGTH,
            now_ms=question.ts_ms,
            exclude_bought=False,
            excluded=question.barred[np.newaxis],
            explained=0,
        )
        items = lists.items[0]
        items = items[items >= 0]
        # The order counts: scores may be equal after rounding.
        return Scored(items, -np.arange(len(items), dtype=np.float64))

    def learn(self, start: int, end: int) -> None:
        """Learn the lines as one batch."""
        stream, part = self._stream, slice(start, end)
        newest = int(stream.items[part].max()) + 1
        for item in range(self._known, newest):
            self._hybrid.set_words(stream.item_ids[item], words_of([stream.item_texts[item]]))
        self._known = max(self._known, newest)
        self._hybrid.learn_many(
            self._rows,
            stream.customers[part].astype(np.int64),
            self._ids[part],
            np.ones(end - start, np.float32),
            stream.ts_ms[part],
            self._keys[part],
            groups=self._groups[part],
            bought=stream.has_orders,
        )
