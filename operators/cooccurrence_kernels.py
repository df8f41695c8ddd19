"""The kernels of `operators.cooccurrence`; its class says what they compute."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from operators.decay import advance, forward_weight, merge_clock
from operators.kernel import kernel


class CooccurrenceState(NamedTuple):
    """Arrays of `ItemCooccurrence`, for kernels.

    Attributes
    ----------
    neighbours
        int32[capacity, neighbours], items that go with each item, -1 where free (at the end).
    weights
        float32[capacity, neighbours], forward-decayed weight of each.
    totals
        float64[capacity], weight ever given to each item's neighbours, evicted ones included.
    clock
        int64[CLOCK_SIZE], see `operators.decay`.
    known_weights, known_totals
        The part of `weights` (of the neighbour that has the place now) and of `totals` that the
        other replicas have been told of.
    recency
        float64[depth], what the context item at each place counts, newest first.
    rate
        Decay per millisecond.
    backward
        Share of the weight that the context item gets as a neighbour of the event's item.
    """

    neighbours: NDArray[np.int32]
    weights: NDArray[np.float32]
    totals: NDArray[np.float64]
    clock: NDArray[np.int64]
    known_weights: NDArray[np.float32]
    known_totals: NDArray[np.float64]
    recency: NDArray[np.float64]
    rate: float
    backward: float


@kernel
def least_of(weights: NDArray[np.float32]) -> int:
    """First place of the least weight."""
    place, least = 0, weights[0]
    for other in range(1, len(weights)):
        if weights[other] < least:
            place, least = other, weights[other]
    return place


@kernel
def add_pair(
    neighbours: NDArray[np.int32],
    weights: NDArray[np.float32],
    known: NDArray[np.float32],
    item: int,
    neighbour: int,
    weight: float,
) -> None:
    """Add `weight` to one neighbour of `item`; a full list gives up its least (Space-Saving).

    What a newcomer inherits is not its own, so it counts for known and is never told.
    """
    length = neighbours.shape[1]
    place = 0
    while place < length and neighbours[item, place] != neighbour and neighbours[item, place] >= 0:
        place += 1
    if place == length:
        place = least_of(weights[item])
        known[item, place] = weights[item, place]
    neighbours[item, place] = neighbour
    weights[item, place] += np.float32(weight)


@kernel
def scale_pairs(state: CooccurrenceState, factor: float) -> None:
    """Multiply every weight by `factor`, when the landmark of the decay moves."""
    for item in range(len(state.totals)):
        state.totals[item] *= factor
        state.known_totals[item] *= factor
        for place in range(state.weights.shape[1]):
            state.weights[item, place] *= np.float32(factor)
            state.known_weights[item, place] *= np.float32(factor)


@kernel
def learn_cooccurrence(
    state: CooccurrenceState, item: int, context: NDArray[np.int32], weight: float, ts_ms: int
) -> None:
    """Pair one event's item with the items of its context."""
    factor = advance(state.clock, ts_ms, state.rate)
    if factor != 1.0:
        scale_pairs(state, factor)
    # Arrays are named outside the loop: taking one out of a tuple costs reference counts.
    neighbours, weights, totals = state.neighbours, state.weights, state.totals
    known = state.known_weights
    recency, capacity = state.recency, len(state.totals)
    if item < 0 or item >= capacity or weight <= 0.0:
        return
    amount = weight * forward_weight(state.clock, ts_ms, state.rate)
    for position in range(min(len(context), len(recency))):
        before = context[position]
        if before < 0:
            break
        if before != item and before < capacity:
            part = amount * recency[position]
            totals[before] += part
            add_pair(neighbours, weights, known, before, item, part)
            if state.backward > 0.0:
                totals[item] += part * state.backward
                add_pair(neighbours, weights, known, item, before, part * state.backward)


@kernel
def learn_cooccurrences(
    state: CooccurrenceState,
    items: NDArray[np.int32],
    contexts: NDArray[np.int32],
    weights: NDArray[np.float32],
    ts_ms: NDArray[np.int64],
) -> None:
    """Learn many events, one after another."""
    for i in range(len(items)):
        learn_cooccurrence(state, items[i], contexts[i], weights[i], ts_ms[i])


class PairsDelta(NamedTuple):
    """What was added to the pairs of some items, for kernels; see `ItemCooccurrence.take_delta`."""

    items: NDArray[np.int32]
    totals: NDArray[np.float64]
    ends: NDArray[np.int64]
    neighbours: NDArray[np.int32]
    weights: NDArray[np.float32]
    clock: NDArray[np.int64]


@kernel
def count_added(state: CooccurrenceState) -> tuple[int, int]:
    """How many items have gained weight since they were last taken, and neighbours of these."""
    weights, known = state.weights, state.known_weights
    items, pairs = 0, 0
    for item in range(len(state.totals)):
        if state.totals[item] != state.known_totals[item]:
            items += 1
            for place in range(weights.shape[1]):
                pairs += weights[item, place] > known[item, place]
    return items, pairs


@kernel
def take_added(state: CooccurrenceState, delta: PairsDelta) -> None:
    """Write what `count_added` counted to `delta`; then it is known."""
    weights, known, neighbours = state.weights, state.known_weights, state.neighbours
    items, pairs = 0, 0
    for item in range(len(state.totals)):
        if state.totals[item] != state.known_totals[item]:
            for place in range(weights.shape[1]):
                if weights[item, place] > known[item, place]:
                    delta.neighbours[pairs] = neighbours[item, place]
                    delta.weights[pairs] = weights[item, place] - known[item, place]
                    pairs += 1
                known[item, place] = weights[item, place]
            delta.items[items] = item
            delta.totals[items] = state.totals[item] - state.known_totals[item]
            delta.ends[items] = pairs
            state.known_totals[item] = state.totals[item]
            items += 1
    delta.clock[:] = state.clock


@kernel
def add_row(
    neighbours: NDArray[np.int32],
    weights: NDArray[np.float32],
    known: NDArray[np.float32],
    added: NDArray[np.int32],
    gained: NDArray[np.floating],
    places: NDArray[np.int32],
) -> None:
    """Add to one item's list as `add_pair` does, one after another, and take it for known.

    `places` has room for every item and is all 0; here it holds each neighbour's place plus one.
    """
    used = 0
    while used < len(neighbours) and neighbours[used] >= 0:
        places[neighbours[used]] = used + 1
        used += 1
    for k in range(len(added)):
        if added[k] < 0 or added[k] >= len(places):
            continue
        place = places[added[k]] - 1
        if place < 0:
            place = used
            if used < len(neighbours):
                used += 1
            else:
                place = least_of(weights)
                places[neighbours[place]] = 0
                known[place] = weights[place]
            neighbours[place] = added[k]
            places[added[k]] = place + 1
        weights[place] += np.float32(gained[k])
        known[place] += np.float32(gained[k])
    for place in range(used):
        places[neighbours[place]] = 0


@kernel
def add_pairs(state: CooccurrenceState, delta: PairsDelta) -> None:
    """Add what another replica added by its own clock."""
    factor, theirs = merge_clock(state.clock, delta.clock, state.rate)
    if factor != 1.0:
        scale_pairs(state, factor)
    neighbours, weights, known = state.neighbours, state.weights, state.known_weights
    gained = delta.weights * theirs
    places = np.zeros(len(state.totals), np.int32)
    start = 0
    for k in range(len(delta.items)):
        item, end = delta.items[k], delta.ends[k]
        if 0 <= item < len(places):
            state.totals[item] += delta.totals[k] * theirs
            state.known_totals[item] += delta.totals[k] * theirs
            added = delta.neighbours[start:end]
            add_row(neighbours[item], weights[item], known[item], added, gained[start:end], places)
        start = end
