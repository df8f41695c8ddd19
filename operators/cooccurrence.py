"""Which items follow which: item-to-item counts that know recency and age."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from operators.arrays import load_into
from operators.batches import require_lengths
from operators.cooccurrence_kernels import (
    CooccurrenceState,
    PairsDelta,
    add_pairs,
    count_added,
    learn_cooccurrences,
    take_added,
)
from operators.decay import CLOCK_SIZE, decay_rate, require_clock
from operators.deltas import Expected, require_delta, require_ends, require_within
from operators.errors import ParameterError, require_finite

__all__ = ["CooccurrenceState", "ItemCooccurrence"]


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
            known_weights=np.zeros((capacity, neighbours), np.float32),
            known_totals=np.zeros(capacity),
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

    def take_delta(self) -> dict[str, NDArray[Any]]:
        """Return what this replica added since the last time; empty where nothing.

        What was added to a neighbour that has lost its place since is told in the totals alone.

        Returns
        -------
        ``items`` int32[n] and ``totals`` float64[n]; the neighbours of item k end before
        ``ends[k]`` (int64[n]) in ``neighbours`` int32[m] and ``weights`` float32[m]; and the
        ``clock`` that the weights go by.
        """
        items, pairs = count_added(self.state)
        if not items:
            return {}
        delta = PairsDelta(
            np.empty(items, np.int32),
            np.empty(items, np.float64),
            np.empty(items, np.int64),
            np.empty(pairs, np.int32),
            np.empty(pairs, np.float32),
            np.empty(CLOCK_SIZE, np.int64),
        )
        take_added(self.state, delta)
        return delta._asdict()

    def check_delta(self, delta: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Refuse what `add_delta` cannot add; return it as a kernel takes it.

        Raises
        ------
        StateMismatchError
            Where names, shapes or dtypes are not those of `take_delta`, or a number is impossible.
        """
        owner = "ItemCooccurrence"
        checked = require_delta(owner, delta, DELTA)
        require_ends(owner, delta["ends"], len(delta["weights"]))
        require_within(owner, delta, "totals", 0.0)
        require_within(owner, delta, "weights", 0.0)
        require_clock(owner, delta["clock"])
        return checked

    def apply_delta(self, delta: Mapping[str, NDArray[Any]]) -> None:
        """Add what another replica added, and move the clock up to that replica's.

        The lists stay bounded as in learning: a neighbour that is new to a full list takes the
        place of the least and inherits its weight. Until lists are full, the order in which
        deltas are applied makes no difference but for rounding. Items and neighbours of -1 are
        left out.

        Raises
        ------
        StateMismatchError
            As `check_delta`; nothing is changed then.
        """
        if delta:
            self.add_delta(self.check_delta(delta))

    def add_delta(self, checked: Mapping[str, NDArray[Any]]) -> None:
        """Apply what `check_delta` returned."""
        add_pairs(self.state, PairsDelta(**checked))

    def mark_known(self) -> None:
        """Take everything learned so far for told, as after loading."""
        np.copyto(self.state.known_weights, self.state.weights)
        np.copyto(self.state.known_totals, self.state.totals)

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
        self.mark_known()


STATE_ARRAYS = ("neighbours", "weights", "totals", "clock")
DELTA: Expected = {
    "items": (np.int32, ("n",)),
    "totals": (np.float64, ("n",)),
    "ends": (np.int64, ("n",)),
    "neighbours": (np.int32, ("m",)),
    "weights": (np.float32, ("m",)),
    "clock": (np.int64, (CLOCK_SIZE,)),
}
