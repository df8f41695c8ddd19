"""Explicit ratings: each is predicted before it is learned, by the engine's operator and river's.

Both start knowing nothing. What they expect is brought between the lowest and the highest rating
so far. All ratings count, the first ones, too.
"""

import math
import time
from typing import Any

import numpy as np

from benchmarks.recommend.data import Stream
from benchmarks.recommend.factors import tutorial_biased_mf
from operators.ratings import RatingBiases

BATCH_LINES = 1_000


def compare(stream: Stream, seed: int) -> dict[str, dict[str, float]]:
    """Return the root mean squared error and the microseconds per rating of both; empty without."""
    rated = np.flatnonzero(~np.isnan(stream.ratings))
    if not len(rated):
        return {}
    return {"ours": _ours(stream, rated), "river_biased_mf": _rivers(stream, rated, seed)}


def _figures(squares: float, count: int, seconds: float) -> dict[str, float]:
    return {"rmse": math.sqrt(squares / count), "microseconds_per_event": 1e6 * seconds / count}


def _ours(stream: Stream, rated: np.ndarray[Any, Any]) -> dict[str, float]:
    # One that is thrown away: the clock shall not see the kernel compiled.
    RatingBiases(1).learn_many(
        np.zeros(1, RatingBiases.row_dtype),
        np.zeros(1, np.int64),
        np.zeros(1, np.int32),
        np.ones(1),
    )
    model = RatingBiases(len(stream.item_ids))
    rows = np.zeros(len(stream.customer_ids), model.row_dtype)
    squares, begun = 0.0, time.perf_counter()
    for at in range(0, len(rated), BATCH_LINES):
        part = rated[at : at + BATCH_LINES]
        ratings = stream.ratings[part].astype(np.float64)
        customers = stream.customers[part].astype(np.int64)
        expected = model.learn_many(rows, customers, stream.items[part], ratings)
        squares += float(np.sum((ratings - expected) ** 2))
    return _figures(squares, len(rated), time.perf_counter() - begun)


def _rivers(stream: Stream, rated: np.ndarray[Any, Any], seed: int) -> dict[str, float]:
    model = tutorial_biased_mf(seed)
    customers, items = stream.customers[rated].tolist(), stream.items[rated].tolist()
    ratings = stream.ratings[rated].astype(np.float64).tolist()
    squares, lowest, highest, begun = 0.0, 0.0, 0.0, time.perf_counter()
    for number, (customer, item, rating) in enumerate(zip(customers, items, ratings, strict=True)):
        told = float(model.predict_one(customer, item))  # type: ignore[no-untyped-call] # river's
        squares += (rating - min(max(told, lowest), highest)) ** 2
        lowest = rating if number == 0 else min(lowest, rating)
        highest = rating if number == 0 else max(highest, rating)
        model.learn_one(customer, item, rating)  # type: ignore[no-untyped-call] # river's
    return _figures(squares, len(rated), time.perf_counter() - begun)
