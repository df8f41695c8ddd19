"""Test-then-learn: every order is predicted before any of its lines is learned, once, in time."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.recommend.data import Stream
from benchmarks.recommend.measures import Measures, best, place_of, ranked
from benchmarks.recommend.methods import Method, Question

WARM_UP_SHARE = 0.1
"""The first lines of the stream are learned and not scored."""
BATCH_LINES = 1_000
NONE = np.empty(0, np.int32)


@dataclass
class Past:
    """What the stream has shown so far."""

    item_lines: NDArray[np.int64]
    customer_lines: NDArray[np.int64]
    had: list[set[int]]
    known: int = 0
    total: int = 0

    def pass_over(self, stream: Stream, start: int, end: int) -> None:
        """Take an order for seen."""
        customer = int(stream.customers[start])
        items = stream.items[start:end]
        np.add.at(self.item_lines, items, 1)
        self.customer_lines[customer] += end - start
        self.had[customer].update(items.tolist())
        self.known = max(self.known, int(items.max()) + 1)
        self.total += end - start


def evaluate(
    stream: Stream,
    method: Method,
    *,
    repeats: bool,
    tell: Callable[[float], None],
) -> dict[str, Any]:
    """Run a method over a stream.

    Parameters
    ----------
    repeats
        Whether items that a customer has had are candidates, and taking one again counts; else
        only what a customer takes for the first time is scored.
    tell
        Told now and then how much of the stream is done, 0..1.

    Returns
    -------
    The measures of `Measures.figures`, and ``score_microseconds``, the mean over all questions.
    """
    customers = len(stream.customer_ids)
    past = Past(
        np.zeros(len(stream.item_ids), np.int64),
        np.zeros(customers, np.int64),
        [set() for _ in range(customers)],
    )
    measures = Measures(len(stream))
    warm_up = int(len(stream) * WARM_UP_SHARE)
    learned, questions, seconds = 0, 0, 0.0
    for number, (start, end) in enumerate(pairwise(stream.starts.tolist())):
        targets = targets_of(stream, past, start, end, repeats=repeats)
        if start >= warm_up and targets:
            if learned < start:
                method.learn(learned, start)
                learned = start
            question = question_of(stream, past, start, repeats=repeats)
            begun = time.perf_counter()
            scored = method.score(question)
            seconds += time.perf_counter() - begun
            questions += 1
            items, scores = ranked(scored, question)
            measures.add_list(best(items, scores), past.item_lines, past.total)
            for item in targets:
                measures.add_line(
                    place_of(items, scores, item),
                    start,
                    int(past.item_lines[item]),
                    int(past.customer_lines[question.customer]),
                )
        past.pass_over(stream, start, end)
        if number % 1024 == 0:
            tell(start / len(stream))
    return {
        **measures.figures(past.known),
        "score_microseconds": 1e6 * seconds / max(1, questions),
    }


def learning_microseconds(stream: Stream, method: Method) -> float:
    """Have a fresh method learn the stream in batches; return the time per line."""
    begun, seconds = 0, 0.0
    for end in stream.starts[1:].tolist():
        if end - begun >= BATCH_LINES or end == len(stream):
            clock = time.perf_counter()
            method.learn(begun, end)
            seconds += time.perf_counter() - clock
            begun = end
    return 1e6 * seconds / len(stream)


def targets_of(stream: Stream, past: Past, start: int, end: int, *, repeats: bool) -> list[int]:
    """Return the items of an order that are to be predicted, each once."""
    items = dict.fromkeys(stream.items[start:end].tolist())
    if repeats:
        return list(items)
    had = past.had[stream.customers[start]]
    return [item for item in items if item not in had]


def question_of(stream: Stream, past: Past, start: int, *, repeats: bool) -> Question:
    """Return what is asked before an order."""
    customer = int(stream.customers[start])
    had = past.had[customer]
    barred = NONE if repeats else np.fromiter(had, np.int32, len(had))
    return Question(customer, int(stream.ts_ms[start]), past.known, barred)
