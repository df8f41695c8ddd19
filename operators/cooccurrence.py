"""Which items follow which: item-to-item counts that know recency and age."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from operators.arrays import load_into
from operators.batches import require_lengths
from operators.decay import CLOCK_SIZE, advance, decay_rate, forward_weight
from operators.errors import ParameterError, require_finite
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
    recency: NDArray[np.float64]
    rate: float
    backward: float


@kernel
def add_pair(
    neighbours: NDArray[np.int32],
    weights: NDArray[np.float32],
    item: int,
    neighbour: int,
    weight: float,
) -> None:
    """Add `weight` to one neighbour of `item`; a full list gives up its least (Space-Saving)."""
    length = neighbours.shape[1]
    place = 0
    while place < length and neighbours[item, place] != neighbour and neighbours[item, place] >= 0:
        place += 1
    if place == length:
        place = 0
        for other in range(1, length):
            if weights[item, other] < weights[item, place]:
                place = other
    neighbours[item, place] = neighbour
    weights[item, place] += np.float32(weight)


@kernel
def scale_pairs(state: CooccurrenceState, factor: float) -> None:
    """Multiply every weight by `factor`, when the landmark of the decay moves."""
    for item in range(len(state.totals)):
        state.totals[item] *= factor
        for place in range(state.weights.shape[1]):
            state.weights[item, place] *= np.float32(factor)


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
            add_pair(neighbours, weights, before, item, part)
            if state.backward > 0.0:
                totals[item] += part * state.backward
                add_pair(neighbours, weights, item, before, part * state.backward)


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


class ItemCooccurrence:
    """For each item, the items that customers touched next, with the weight of each.

    An event of item i, with the context c_0, c_1, … (the customer's items before it, newest
    first), adds to the weight of i among the neighbours of each c_j

        ``W[c_j, i] += w · recency^j · 2^(age / half_life)``

    and the share `backward` of that to W[i, c_j]. The age is by forward decay (`operators.decay`).
    ``W[c, i] / total[c]`` estimates the probability that i follows c.

    Each item keeps a bounded list. A neighbour that is new to a full list takes the place of the
    least one and inherits its weight (Space-Saving), so that a neighbour with more than
    ``1 / neighbours`` of the weight is never missed; a weight can be too large by at most the
    least in the list.

    Parameters
    ----------
    capacity
        Items, indices 0..capacity-1; others are ignored.
    neighbours
        Length of each item's list, at least 1.
    recency
        What each step back in the context counts against the one before it, above 0, at most 1.
    depth
        Context items used, newest first, at least 1.
    half_life_seconds
        Time in which a pair loses half its weight.
    backward
        Share that the reverse direction gets, 0..1.

    Examples
    --------
    >>> pairs = ItemCooccurrence(capacity=4, neighbours=2)
    >>> pairs.learn_many(
    ...     np.array([1, 2], np.int32), np.array([[0], [0]], np.int32),
    ...     np.array([3.0, 1.0], np.float32), np.zeros(2, np.int64),
    ... )
    >>> neighbours, shares = pairs.neighbours_many(np.array([0], np.int32))
    >>> neighbours.tolist(), shares.tolist()
    ([[1, 2]], [[0.75, 0.25]])

    References
    ----------
    Linden, G., Smith, B. and York, J. (2003). Amazon.com recommendations: item-to-item
    collaborative filtering. IEEE Internet Computing.
    Metwally, A., Agrawal, D. and El Abbadi, A. (2005). Efficient computation of frequent and
    top-k elements in data streams. ICDT.
    """

    def __init__(
        self,
        capacity: int,
        neighbours: int = 64,
        recency: float = 0.8,
        depth: int = 8,
        half_life_seconds: float = 365 * 86_400.0,
        backward: float = 0.5,
    ) -> None:
        if capacity < 1 or neighbours < 1 or depth < 1:
            raise ParameterError("capacity, neighbours and depth must be at least 1")
        if not (0.0 < recency <= 1.0 and 0.0 <= backward <= 1.0):
            raise ParameterError("recency must be in (0, 1] and backward in [0, 1]")
        if not 0.001 <= half_life_seconds < np.inf:
            raise ParameterError("half_life_seconds must be above 0 and finite")
        self.state = CooccurrenceState(
            neighbours=np.full((capacity, neighbours), -1, np.int32),
            weights=np.zeros((capacity, neighbours), np.float32),
            totals=np.zeros(capacity),
            clock=np.zeros(CLOCK_SIZE, np.int64),
            recency=np.power(recency, np.arange(depth), dtype=np.float64),
            rate=decay_rate(half_life_seconds * 1000.0),
            backward=backward,
        )

    def learn_many(
        self,
        items: NDArray[np.int32],
        contexts: NDArray[np.int32],
        weights: NDArray[np.float32],
        ts_ms: NDArray[np.int64],
    ) -> None:
        """Pair each event's item with its context, in turn.

        Parameters
        ----------
        items
            int32[n]; -1 is skipped.
        contexts
            int32[n, length], newest first, -1 padded.
        weights
            float32[n], finite; events of weight 0 or below pair nothing.
        ts_ms
            int64[n], event times.

        Raises
        ------
        NotFiniteError, ParameterError
            Where a weight is NaN or infinite, or lengths differ.
        """
        require_finite("weights", weights)
        require_lengths(
            "ItemCooccurrence", len(items), contexts=contexts, weights=weights, ts_ms=ts_ms
        )
        learn_cooccurrences(self.state, items, contexts, weights, ts_ms)

    def neighbours_many(
        self, items: NDArray[np.int32]
    ) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
        """Return each item's neighbours and their shares of its weight.

        Returns
        -------
        neighbours, shares
            int32[n, neighbours], greatest share first, -1 padded; float32 of the same shape,
            0 where padded. An item of -1 has none.
        """
        known = (items >= 0)[:, np.newaxis]
        weights = np.where(known, self.state.weights[items], np.float32(0))
        order = np.argsort(-weights, axis=1, kind="stable")
        neighbours = np.where(known, self.state.neighbours[items], np.int32(-1))
        totals = np.maximum(self.state.totals[items], 1e-300)[:, np.newaxis]
        shares = (np.take_along_axis(weights, order, 1) / totals).astype(np.float32)
        return np.take_along_axis(neighbours, order, 1), shares

    def arrays(self) -> dict[str, NDArray[Any]]:
        """All state, the live arrays by name."""
        return {name: getattr(self.state, name) for name in STATE_ARRAYS}

    def load_arrays(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Copy in what `arrays` of an equally configured operator returned.

        Raises
        ------
        StateMismatchError
            Where names, shapes or dtypes differ.
        """
        load_into(self.arrays(), arrays)


STATE_ARRAYS = ("neighbours", "weights", "totals", "clock")
