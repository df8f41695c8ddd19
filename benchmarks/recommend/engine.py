"""The engine's own recommender, as a worker runs it."""

import numpy as np

from benchmarks.recommend.data import Stream
from benchmarks.recommend.methods import Question, Scored
from operators.hashing import hash_strings
from operators.hybrid import Hybrid

LIST_LENGTH = 100
"""So many are asked for; what comes behind them counts as a miss."""
CAPACITY = 50_000


class EngineHybrid:
    """`operators.hybrid.Hybrid`, with each line an event; it numbers items as the stream does."""

    def __init__(self, stream: Stream, seed: int) -> None:
        self._stream = stream
        self._hybrid = Hybrid(max(CAPACITY, len(stream.item_ids)), seed)
        self._rows = np.zeros(len(stream.customer_ids), self._hybrid.row_dtype)
        self._ids = [stream.item_ids[item] for item in stream.items.tolist()]
        self._groups = np.repeat(
            np.arange(len(stream.starts) - 1, dtype=np.int32), np.diff(stream.starts)
        )
        self._keys = hash_strings([f"line {number}" for number in range(len(stream))])

    def score(self, question: Question) -> Scored:
        """Return the hybrid's list."""
        lists = self._hybrid.rank_many(
            self._rows,
            np.array([question.customer]),
            LIST_LENGTH,
            exclude_bought=False,
            excluded=question.barred[np.newaxis],
        )
        items = lists.items[0]
        items = items[items >= 0]
        # The order counts: scores may be equal after rounding.
        return Scored(items, -np.arange(len(items), dtype=np.float64))

    def learn(self, start: int, end: int) -> None:
        """Learn the lines as one batch."""
        stream, part = self._stream, slice(start, end)
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
