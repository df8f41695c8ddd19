"""Settings of `operators.hybrid`, and what a question may look at by them."""

from typing import NamedTuple

import numpy as np

from operators.errors import ParameterError
from operators.question import Limits, fading


class Options(NamedTuple):
    """Settings of `Hybrid`.

    Attributes
    ----------
    history_length
        Items kept per customer.
    factors
        Length of the vectors, a multiple of 4.
    negatives
        Negatives drawn per event.
    neighbours
        Most neighbours kept per item, a power of two.
    repeats
        Whether customers take again what they had; where they do not, it teaches nothing, and no
        list has it.
    filter_bits
        Of the filter that knows what a customer had (`History`), where they do not take it again.
    also_candidates, near_candidates, popular_candidates, hot_candidates
        Candidates by co-occurrence, by vectors, of all time, and of these days, besides the
        customer's own items; no list is longer than all of them.
    context_items
        Newest items of a customer whose neighbours are looked at.
    smoothing
        Events of an item without neighbours that count as much as popularity does.
    scanned_items
        Up to so many items, all are scored by their vectors at each question.
    test_share
        Share of the orders that are ranked before they are learned, 0..1; they make `quality`
        and teach the fusion.
    quality_tests
        Tests that `quality` looks back on, about.
    """

    history_length: int = 96
    factors: int = 32
    negatives: int = 16
    neighbours: int = 512
    repeats: bool = True
    filter_bits: int = 16_384
    also_candidates: int = 150
    near_candidates: int = 100
    popular_candidates: int = 50
    hot_candidates: int = 30
    context_items: int = 32
    smoothing: float = 10.0
    scanned_items: int = 50_000
    test_share: float = 1 / 128
    quality_tests: int = 2000


def require_options(options: Options) -> None:
    """Refuse settings out of range."""
    counts = options[6:11]
    if min(counts) < 0 or options.also_candidates < 1 or options.popular_candidates < 1:
        raise ParameterError("also_candidates and popular_candidates must be at least 1")
    if not (0.0 <= options.test_share <= 1.0 and options.quality_tests >= 1):
        raise ParameterError("test_share must be in [0, 1] and quality_tests at least 1")
    if not 0.0 < options.smoothing < np.inf:
        raise ParameterError(f"smoothing must be above 0, is {options.smoothing}")


def limits_of(options: Options) -> Limits:
    """Return the limits of a question that looks at all it may."""
    by_lag, by_place = fading()
    return Limits(
        options.also_candidates,
        options.near_candidates,
        options.popular_candidates,
        options.hot_candidates,
        options.history_length,
        options.context_items,
        options.smoothing,
        options.scanned_items,
        by_lag,
        by_place,
    )


def narrowed(limits: Limits) -> Limits:
    """Return the limits of a question that has to be quick.

    To score all items by their vectors costs the same however few are wanted: it does not.
    """
    return limits._replace(
        also=min(limits.also, 24),
        near=0,
        popular=min(limits.popular, 16),
        hot=min(limits.hot, 6),
        own=min(limits.own, 16),
        context=min(limits.context, 4),
    )
