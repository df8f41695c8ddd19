"""Candidates of one customer and their features: the inner loop of `operators.hybrid`.

Candidates are the best of the items that go with the customer's recent ones, the most popular
items, and the recent items themselves. Each is described by one number per part.
"""

import math
from enum import IntEnum
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from operators.cooccurrence import CooccurrenceState
from operators.decay import unit_now
from operators.draws import SIZE
from operators.factor_kernels import FactorColumns, FactorState, customer_state, dot
from operators.history import HistoryColumns
from operators.kernel import kernel
from operators.popularity import TOP_SIZE, PopularityState, smoothing
from operators.vocabulary import KeyTable

# Events of an item without neighbours that count as much as popularity does (Dirichlet prior).
BACK_OFF = 5.0
BARRED = -1
RECENT_STEP = 0.8


class Part(IntEnum):
    """What speaks for an item; also the order of the features."""

    POPULAR = 0
    """Many customers touch it these days."""
    ALSO_VIEWED = 1
    """It goes with an item that the customer touched of late."""
    TASTE = 2
    """It lies near the customer's own vector and recent items."""
    RECENT = 3
    """The customer touched it of late."""


POPULAR, ALSO_VIEWED, TASTE, RECENT = (int(part) for part in Part)
FEATURES = len(Part)


class Parts(NamedTuple):
    """The state of all parts, for kernels."""

    popularity: PopularityState
    cooccurrence: CooccurrenceState
    factors: FactorState


class Rows(NamedTuple):
    """The customers' columns, for kernels."""

    history: HistoryColumns
    factors: FactorColumns


class Limits(NamedTuple):
    """How many candidates: `also` by co-occurrence, and `popular` ones."""

    also: int
    popular: int


class Scratch(NamedTuple):
    """Room for the candidates of one customer.

    Attributes
    ----------
    places
        For each item its place in `items` plus one; 0 where it was not met, BARRED where it must
        not be. All 0 between customers.
    items, shares, chosen
        Items met, the weight of each by co-occurrence, and whether it is a candidate.
    order
        Shares again, to be partitioned.
    candidates, candidate_shares, features, scores
        The candidates, side by side.
    state
        The customer's vector.
    """

    places: NDArray[np.int32]
    items: NDArray[np.int32]
    shares: NDArray[np.float64]
    chosen: NDArray[np.uint8]
    order: NDArray[np.float64]
    candidates: NDArray[np.int32]
    candidate_shares: NDArray[np.float64]
    features: NDArray[np.float64]
    scores: NDArray[np.float64]
    state: NDArray[np.float32]


@kernel
def make_scratch(parts: Parts, known: int, length: int, limits: Limits) -> Scratch:
    """Room for customers with `length` recent items, while there are up to `known` items."""
    also = len(parts.cooccurrence.recency) * parts.cooccurrence.neighbours.shape[1]
    met = also + limits.popular + length
    kept = limits.also + limits.popular + length
    return Scratch(
        np.zeros(known, np.int32),
        np.empty(met, np.int32),
        np.empty(met),
        np.empty(met, np.uint8),
        np.empty(met),
        np.empty(kept, np.int32),
        np.empty(kept),
        np.empty((kept, FEATURES)),
        np.empty(kept),
        np.empty(parts.factors.inputs.shape[1], np.float32),
    )


@kernel
def mark_items(places: NDArray[np.int32], items: NDArray[np.int32], mark: int) -> None:
    """Write `mark` to the places of `items`; -1 ends them."""
    for k in range(len(items)):
        if items[k] < 0:
            break
        if items[k] < len(places):
            places[items[k]] = mark


@kernel
def context_weight(pairs: CooccurrenceState, context: NDArray[np.int32]) -> float:
    """Sum of the recency weights of the context's items."""
    total = 0.0
    for position in range(min(len(context), len(pairs.recency))):
        if context[position] < 0:
            break
        total += pairs.recency[position]
    return total


@kernel
def meet_neighbours(
    scratch: Scratch,
    pairs: CooccurrenceState,
    barred: NDArray[np.uint8],
    context: NDArray[np.int32],
) -> tuple[int, float]:
    """Meet all neighbours of the context.

    Returns
    -------
    met, back_off
        How many were met, and the share of the probability that is left to popularity.
    """
    # Arrays are named outside the loops: taking one out of a tuple costs reference counts.
    places, items, shares = scratch.places, scratch.items, scratch.shares
    neighbours, weights = pairs.neighbours, pairs.weights
    prior = BACK_OFF * unit_now(pairs.clock, pairs.rate)
    total = context_weight(pairs, context)
    met = 0
    back_off = 0.0 if total > 0.0 else 1.0
    for position in range(min(len(context), len(pairs.recency))):
        item = context[position]
        if item < 0:
            break
        scale = pairs.recency[position] / total / (pairs.totals[item] + prior)
        back_off += scale * prior
        for k in range(neighbours.shape[1]):
            other = neighbours[item, k]
            if other < 0:
                break
            place = places[other]
            if place > 0:
                shares[place - 1] += scale * weights[item, k]
            elif place == 0 and barred[other] == 0:
                items[met] = other
                shares[met] = scale * weights[item, k]
                met += 1
                places[other] = met
    return met, back_off


@kernel
def kth_largest(values: NDArray[np.float64], count: int, k: int) -> float:
    """Find the k-th largest of the first `count` values, reordering them (Hoare, 1961)."""
    low, high, wanted = 0, count - 1, k - 1
    while low < high:
        pivot = values[(low + high) // 2]
        left, right = low, high
        while left <= right:
            while values[left] > pivot:
                left += 1
            while values[right] < pivot:
                right -= 1
            if left <= right:
                values[left], values[right] = values[right], values[left]
                left += 1
                right -= 1
        if wanted <= right:
            high = right
        elif wanted >= left:
            low = left
        else:
            break
    return float(values[wanted])


@kernel
def choose_neighbours(scratch: Scratch, met: int, most: int) -> int:
    """Choose the `most` items met with the largest shares; returns how many."""
    items, shares, chosen = scratch.items, scratch.shares, scratch.chosen
    candidates, candidate_shares = scratch.candidates, scratch.candidate_shares
    floor = -1.0
    spare = 0
    if met > most:
        scratch.order[:met] = shares[:met]
        floor = kth_largest(scratch.order, met, most)
        spare = most
        for place in range(met):
            spare -= shares[place] > floor
    kept = 0
    for place in range(met):
        tied = shares[place] == floor and spare > 0
        chosen[place] = tied or shares[place] > floor
        if chosen[place] != 0:
            spare -= tied
            candidates[kept] = items[place]
            candidate_shares[kept] = shares[place]
            kept += 1
    return kept


@kernel
def choose_item(
    scratch: Scratch, barred: NDArray[np.uint8], met: int, kept: int, item: int
) -> tuple[int, int]:
    """Meet and choose one item, unless it is barred or chosen; returns items met, candidates."""
    place = scratch.places[item]
    if place == BARRED or barred[item] != 0:
        return met, kept
    if place == 0:
        scratch.items[met] = item
        scratch.shares[met] = 0.0
        scratch.chosen[met] = 0
        met += 1
        scratch.places[item] = met
        place = met
    if scratch.chosen[place - 1] == 0:
        scratch.chosen[place - 1] = 1
        scratch.candidates[kept] = item
        scratch.candidate_shares[kept] = scratch.shares[place - 1]
        kept += 1
    return met, kept


@kernel
def gather(
    scratch: Scratch,
    parts: Parts,
    context: NDArray[np.int32],
    excluded: NDArray[np.int32],
    bought: NDArray[np.int32],
    limits: Limits,
) -> tuple[int, float]:
    """Gather one customer's candidates.

    Returns
    -------
    kept, back_off
        How many candidates there are, and what `meet_neighbours` left to popularity.
    """
    barred, top, places = parts.popularity.barred, parts.popularity.top, scratch.places
    mark_items(places, excluded, BARRED)
    mark_items(places, bought, BARRED)
    met, back_off = meet_neighbours(scratch, parts.cooccurrence, barred, context)
    kept = choose_neighbours(scratch, met, limits.also)
    popular = 0
    for rank in range(parts.popularity.sizes[TOP_SIZE]):
        if popular == limits.popular:
            break
        popular += places[top[rank]] != BARRED
        met, kept = choose_item(scratch, barred, met, kept, top[rank])
    for position in range(len(context)):
        if context[position] < 0:
            break
        met, kept = choose_item(scratch, barred, met, kept, context[position])
    for place in range(met):
        places[scratch.items[place]] = 0
    mark_items(places, excluded, 0)
    mark_items(places, bought, 0)
    return kept, back_off


@kernel
def describe(
    scratch: Scratch,
    parts: Parts,
    rows: Rows,
    slot: int,
    context: NDArray[np.int32],
    kept: int,
    back_off: float,
) -> None:
    """Fill the features of the candidates, and the customer's vector in ``scratch.state``."""
    candidates, features, z = scratch.candidates, scratch.features, scratch.state
    counts, shares = parts.popularity.counts, scratch.candidate_shares
    outputs, biases = parts.factors.outputs, parts.factors.biases
    customer_state(parts.factors, rows.factors, slot, context, z)
    bias = parts.factors.normalizer[0] + rows.factors.biases[slot]
    prior, total = smoothing(parts.popularity)
    for k in range(kept):
        item = candidates[k]
        share = (counts[item] + prior) / total
        features[k, POPULAR] = math.log(share)
        features[k, ALSO_VIEWED] = math.log(shares[k] + back_off * share)
        features[k, TASTE] = dot(z, outputs[item]) + biases[item] + bias
        features[k, RECENT] = 0.0
    weight = 1.0
    for position in range(len(context)):
        if context[position] < 0:
            break
        for k in range(kept):
            if candidates[k] == context[position]:
                features[k, RECENT] = weight
        weight *= RECENT_STEP


@kernel
def also_viewed_cause(pairs: CooccurrenceState, context: NDArray[np.int32], item: int) -> int:
    """Return the context item that gives `item` most of its share, or -1."""
    neighbours, weights = pairs.neighbours, pairs.weights
    prior = BACK_OFF * unit_now(pairs.clock, pairs.rate)
    best, cause = 0.0, -1
    for position in range(min(len(context), len(pairs.recency))):
        before = context[position]
        if before < 0:
            break
        place = 0
        while place < neighbours.shape[1] and neighbours[before, place] != item:
            place += 1
        if place < neighbours.shape[1]:
            share = weights[before, place] / (pairs.totals[before] + prior)
            share *= pairs.recency[position]
            if share > best:
                best, cause = share, before
    return int(cause)


@kernel
def taste_cause(factors: FactorState, context: NDArray[np.int32], item: int) -> int:
    """Return the context item whose vector speaks most for `item`, or -1."""
    if item >= factors.sizes[SIZE]:
        return -1
    best, cause = 0.0, -1
    for position in range(min(len(context), len(factors.recency))):
        before = context[position]
        if before < 0:
            break
        part = factors.recency[position] * dot(factors.inputs[before], factors.outputs[item])
        if part > best:
            best, cause = part, before
    return int(cause)


class Everything(NamedTuple):
    """All that a kernel of the hybrid reads: parts, customers' rows, and the items' key table."""

    parts: Parts
    rows: Rows
    table: KeyTable
