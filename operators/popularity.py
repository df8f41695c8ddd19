"""What everybody looks at these days."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from operators.arrays import load_into
from operators.batches import require_lengths
from operators.decay import (
    CLOCK_SIZE,
    advance,
    decay_rate,
    forward_weight,
    merge_clock,
    require_clock,
    unit_now,
)
from operators.deltas import Expected, require_delta, require_within
from operators.errors import ParameterError, require_finite
from operators.kernel import kernel

TOP_SIZE, SEEN = 0, 1


class PopularityState(NamedTuple):
    """Arrays of `DecayedPopularity`, for kernels.

    Attributes
    ----------
    counts
        float64[capacity], forward-decayed counts by item.
    total
        float64[1], their sum.
    top
        int32[top_size], the most popular eligible items, best first.
    ranks
        int32[capacity], place of each item in `top` plus one; 0 where it is not there.
    barred
        uint8[capacity], 1 where an item must not appear in `top`.
    sizes
        int64[2], entries of `top` in use and items ever counted.
    clock
        int64[CLOCK_SIZE], see `operators.decay`.
    added
        float64[capacity], the part of `counts` that other replicas have not been told of.
    rate
        Decay per millisecond.
    smoothing
        Events that an item is taken to have had before its first.
    """

    counts: NDArray[np.float64]
    total: NDArray[np.float64]
    top: NDArray[np.int32]
    ranks: NDArray[np.int32]
    barred: NDArray[np.uint8]
    sizes: NDArray[np.int64]
    clock: NDArray[np.int64]
    added: NDArray[np.float64]
    rate: float
    smoothing: float


@kernel
def promote(state: PopularityState, item: int) -> None:
    """Bring an item whose count has grown to its place in `top`; the others keep their order."""
    count = state.counts[item]
    place = state.ranks[item] - 1
    if place < 0:
        if state.sizes[TOP_SIZE] < len(state.top):
            place = state.sizes[TOP_SIZE]
            state.sizes[TOP_SIZE] += 1
        else:
            place = len(state.top) - 1
            if state.counts[state.top[place]] >= count:
                return
            state.ranks[state.top[place]] = 0
    while place > 0 and state.counts[state.top[place - 1]] < count:
        state.top[place] = state.top[place - 1]
        state.ranks[state.top[place]] = place + 1
        place -= 1
    state.top[place] = item
    state.ranks[item] = place + 1


@kernel
def scale_counts(state: PopularityState, factor: float) -> None:
    """Multiply every count by `factor`, when the landmark of the decay moves."""
    state.sizes[SEEN] = 0
    for item in range(len(state.counts)):
        state.counts[item] *= factor
        state.added[item] *= factor
        state.sizes[SEEN] += state.counts[item] > 0.0
    state.total[0] *= factor


@kernel
def add_count(state: PopularityState, item: int, amount: float) -> None:
    """Add to one item's stored count."""
    if state.counts[item] == 0.0:
        state.sizes[SEEN] += 1
    state.counts[item] += amount
    state.total[0] += amount
    if state.barred[item] == 0:
        promote(state, item)


@kernel
def learn_popularity(state: PopularityState, item: int, weight: float, ts_ms: int) -> None:
    """Count one event."""
    factor = advance(state.clock, ts_ms, state.rate)
    if factor != 1.0:
        scale_counts(state, factor)
    if item < 0 or item >= len(state.counts) or weight <= 0.0:
        return
    amount = weight * forward_weight(state.clock, ts_ms, state.rate)
    state.added[item] += amount
    add_count(state, item, amount)


@kernel
def add_counts(
    state: PopularityState,
    items: NDArray[np.int32],
    counts: NDArray[np.float64],
    clock: NDArray[np.int64],
) -> None:
    """Add what another replica counted by its own clock."""
    factor, theirs = merge_clock(state.clock, clock, state.rate)
    if factor != 1.0:
        scale_counts(state, factor)
    for k in range(len(items)):
        amount = counts[k] * theirs
        if 0 <= items[k] < len(state.counts) and amount > 0.0:
            add_count(state, items[k], amount)


@kernel
def rebuild_top(state: PopularityState) -> None:
    """Find `top` anew from all counts, after an item was barred or admitted."""
    state.ranks[:] = 0
    state.sizes[TOP_SIZE] = 0
    for item in range(len(state.counts)):
        if state.counts[item] > 0.0 and state.barred[item] == 0:
            promote(state, item)


@kernel
def smoothing(state: PopularityState) -> tuple[float, float]:
    """Prior count and total: an event is of item i with chance ``(counts[i] + prior) / total``."""
    prior = state.smoothing * unit_now(state.clock, state.rate)
    return prior, state.total[0] + prior * (state.sizes[SEEN] + 1)


@kernel
def learn_popularities(
    state: PopularityState,
    items: NDArray[np.int32],
    weights: NDArray[np.float32],
    ts_ms: NDArray[np.int64],
) -> None:
    """Count many events, one after another."""
    for i in range(len(items)):
        learn_popularity(state, items[i], weights[i], ts_ms[i])


class DecayedPopularity:
    """Exponentially decayed event counts of items, and the list of the most popular.

    The count of item i at time T is the sum over its events e of

        ``weight_e · 2^(-(T - ts_e) / half_life)``

    kept by forward decay (see `operators.decay`, also for what the clock does with times far in
    the future). Since decay is one factor for all items, an item can only rise by an event of its
    own; so the list of the most popular is kept exact by moving the one item up that was counted.
    Items with equal counts stand in the order in which they reached it, or by index after an item
    was barred or let in.

    Parameters
    ----------
    capacity
        Items counted, indices 0..capacity-1; events of others are ignored.
    half_life_seconds
        Time in which an event loses half its weight, above 0.
    top_size
        Length of the list kept, at least 1.
    smoothing
        Events that every item is taken to have had before its first, above 0.

    Examples
    --------
    >>> popularity = DecayedPopularity(capacity=4, half_life_seconds=1.0)
    >>> popularity.learn_many(
    ...     np.array([2, 1, 1], np.int32), np.ones(3, np.float32), np.array([0, 1000, 2000])
    ... )
    >>> popularity.score_many(np.array([1, 2, 3], np.int32)).tolist()
    [1.5, 0.25, 0.0]
    >>> popularity.top(2).tolist()
    [1, 2]

    References
    ----------
    Cormode, G., Shkapenyuk, V., Srivastava, D. and Xu, B. (2009). Forward decay: a practical
    time decay model for streaming systems. ICDE.
    """

    def __init__(
        self,
        capacity: int,
        half_life_seconds: float,
        top_size: int = 512,
        smoothing: float = 0.5,
    ) -> None:
        if capacity < 1 or top_size < 1:
            raise ParameterError("capacity and top_size must be at least 1")
        if not (0.001 <= half_life_seconds < np.inf and 0.0 < smoothing < np.inf):
            raise ParameterError("half_life_seconds and smoothing must be above 0 and finite")
        self.state = PopularityState(
            counts=np.zeros(capacity),
            total=np.zeros(1),
            top=np.zeros(top_size, np.int32),
            ranks=np.zeros(capacity, np.int32),
            barred=np.zeros(capacity, np.uint8),
            sizes=np.zeros(2, np.int64),
            clock=np.zeros(CLOCK_SIZE, np.int64),
            added=np.zeros(capacity),
            rate=decay_rate(half_life_seconds * 1000.0),
            smoothing=smoothing,
        )

    def learn_many(
        self, items: NDArray[np.int32], weights: NDArray[np.float32], ts_ms: NDArray[np.int64]
    ) -> None:
        """Count events in turn.

        Parameters
        ----------
        items
            int32[n]; events with -1 only move the clock.
        weights
            float32[n], finite; events of weight 0 or below are not counted.
        ts_ms
            int64[n], event times.

        Raises
        ------
        NotFiniteError, ParameterError
            Where a weight is NaN or infinite, or lengths differ.
        """
        require_finite("weights", weights)
        require_lengths("DecayedPopularity", len(items), weights=weights, ts_ms=ts_ms)
        learn_popularities(self.state, items, weights, ts_ms)

    def score_many(self, items: NDArray[np.int32]) -> NDArray[np.float64]:
        """Return decayed counts at the newest event time, in events; 0 for -1."""
        unit = unit_now(self.state.clock, self.state.rate)
        return np.where(items >= 0, self.state.counts[items] / unit, 0.0)

    def top(self, n: int) -> NDArray[np.int32]:
        """Return the `n` most popular items that are not barred, best first.

        Fewer where fewer were counted, and never more than `top_size`.
        """
        return self.state.top[: min(n, int(self.state.sizes[TOP_SIZE]))].copy()

    def set_barred(self, item: int, barred: bool) -> None:
        """Keep an item out of `top`, or let it in again; its count goes on either way."""
        if bool(self.state.barred[item]) != barred:
            self.state.barred[item] = barred
            rebuild_top(self.state)

    def take_delta(self) -> dict[str, NDArray[Any]]:
        """Return what this replica counted since the last time; empty where nothing.

        Returns
        -------
        ``items`` int32[n], ``counts`` float64[n] by this replica's clock, and the ``clock``.
        """
        items = np.flatnonzero(self.state.added).astype(np.int32)
        if not len(items):
            return {}
        counts = self.state.added[items]
        self.state.added[items] = 0.0
        return {"items": items, "counts": counts, "clock": self.state.clock.copy()}

    def check_delta(self, delta: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Refuse what `add_delta` cannot add; return it as a kernel takes it.

        Raises
        ------
        StateMismatchError
            Where names, shapes or dtypes are not those of `take_delta`, or a number is impossible.
        """
        owner = "DecayedPopularity"
        checked = require_delta(owner, delta, DELTA)
        require_within(owner, delta, "counts", 0.0)
        require_clock(owner, delta["clock"])
        return checked

    def apply_delta(self, delta: Mapping[str, NDArray[Any]]) -> None:
        """Add what another replica counted, and move the clock up to that replica's.

        The counts then are those of one counter that saw both streams, but for rounding, and for
        late events that one of the replicas had not been late for. Items of -1, and those beyond
        the capacity, only move the clock.

        Raises
        ------
        StateMismatchError
            As `check_delta`; nothing is changed then.
        """
        if delta:
            self.add_delta(self.check_delta(delta))

    def add_delta(self, checked: Mapping[str, NDArray[Any]]) -> None:
        """Apply what `check_delta` returned."""
        add_counts(self.state, checked["items"], checked["counts"], checked["clock"])

    def mark_known(self) -> None:
        """Take everything counted so far for told, as after loading."""
        self.state.added.fill(0.0)

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


STATE_ARRAYS = ("counts", "total", "top", "ranks", "barred", "sizes", "clock")
DELTA: Expected = {
    "items": (np.int32, ("n",)),
    "counts": (np.float64, ("n",)),
    "clock": (np.int64, (CLOCK_SIZE,)),
}
