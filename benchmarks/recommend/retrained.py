"""Batch models as others run them: trained anew on all lines so far, at every part of the stream.

Between two trainings they know nothing of what has happened since; who was not there at the last
one gets what is popular.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix
from threadpoolctl import threadpool_limits

from benchmarks.recommend.counting import Popularity
from benchmarks.recommend.data import Stream
from benchmarks.recommend.methods import Question, Scored
from benchmarks.report import BenchmarkError

SHARE = 0.05
"""A training follows each such share of the stream's lines."""
FACTORS = 64

Train = Callable[[csr_matrix, int], tuple[NDArray[Any], NDArray[Any]]]


def train_als(lines: csr_matrix, seed: int) -> tuple[NDArray[Any], NDArray[Any]]:
    """Fit implicit's ALS (Hu, Koren and Volinsky, 2008); return customers' and items' vectors."""
    with _installed():
        from implicit.als import AlternatingLeastSquares
    # It complains of threads below its own.
    with threadpool_limits(1, "blas"):
        model = AlternatingLeastSquares(factors=FACTORS, random_state=seed, num_threads=1)
        model.fit(lines, show_progress=False)
    return np.asarray(model.user_factors), np.asarray(model.item_factors)


def train_bpr(lines: csr_matrix, seed: int) -> tuple[NDArray[Any], NDArray[Any]]:
    """Fit implicit's BPR (Rendle and others, 2009); return customers' and items' vectors."""
    with _installed():
        from implicit.bpr import BayesianPersonalizedRanking
    model = BayesianPersonalizedRanking(factors=FACTORS, random_state=seed, num_threads=1)
    model.fit(lines, show_progress=False)
    return np.asarray(model.user_factors), np.asarray(model.item_factors)


@contextmanager
def _installed() -> Iterator[None]:
    try:
        yield
    except ImportError as error:
        raise BenchmarkError(
            f"{error}: it comes with the developers' packages, make dev"
        ) from error


class Retrained:
    """A model that is trained in batches."""

    def __init__(self, stream: Stream, seed: int, train: Train) -> None:
        self._stream = stream
        self._seed = seed
        self._train = train
        self._popularity = Popularity(stream)
        self._customers = self._items = np.empty((0, FACTORS))
        self._was_there = np.zeros(len(stream.customer_ids), np.bool_)
        self._trained_at = 0

    def score(self, question: Question) -> Scored:
        """Return the inner products; for who is new, the counts."""
        if not self._was_there[question.customer]:
            return self._popularity.score(question)
        scores = np.full(len(self._stream.item_ids), -np.inf)
        scores[: len(self._items)] = self._items @ self._customers[question.customer]
        return Scored(None, scores)

    def learn(self, start: int, end: int) -> None:
        """Count, and train when it is time."""
        self._popularity.learn(start, end)
        if end - self._trained_at >= SHARE * len(self._stream):
            self._train_on(end)

    def _train_on(self, end: int) -> None:
        stream = self._stream
        customers, items = stream.customers[:end], stream.items[:end]
        shape = (int(customers.max()) + 1, int(items.max()) + 1)
        lines = csr_matrix((np.ones(end, np.float32), (customers, items)), shape)
        self._customers, self._items = self._train(lines, self._seed)
        self._was_there[:] = False
        self._was_there[customers] = True
        self._trained_at = end
