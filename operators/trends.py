"""How popular items are: over all time, of late, and at each point of a customer's history."""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from operators.arrays import load_into
from operators.batches import require_lengths
from operators.deltas import Expected, require_delta, require_within
from operators.errors import ParameterError, require_finite
from operators.kernel import kernel

POSITIONS = 10
TOTAL, KNOWN = 0, 1
_TOO_LARGE = 1e200


class TrendState(NamedTuple):
    """Arrays of `Trends`, for kernels.

    Attributes
    ----------
    counts
        float64[capacity], all weight ever.
    recent
        float64[capacity, half-lives], forward-decayed weight.
    units
        float64[half-lives], what one event adds to `recent` now.
    sums
        float64[half-lives], sums of `recent`.
    growth
        float64[half-lives], by how much a unit grows at each event.
    positions, position_sums
        float32[capacity, POSITIONS] and float64[POSITIONS], weight by how much history the
        customer had.
    first, last
        float64[capacity], how many events there had been at the item's first and newest.
    totals
        float64[2], events ever; items ever counted.
    top
        int32[1 + half-lives, top_size], items by `counts` and by each level of `recent`, most
        first, -1 where there are fewer.
    ranks
        int32[1 + half-lives, capacity], place of each item in `top` plus one; 0 where it is not
        there.
    added, added_recent, added_positions, added_events
        What the other replicas have not been told of.
    """

    counts: NDArray[np.float64]
    recent: NDArray[np.float64]
    units: NDArray[np.float64]
    sums: NDArray[np.float64]
    growth: NDArray[np.float64]
    positions: NDArray[np.float32]
    position_sums: NDArray[np.float64]
    first: NDArray[np.float64]
    last: NDArray[np.float64]
    totals: NDArray[np.float64]
    top: NDArray[np.int32]
    ranks: NDArray[np.int32]
    added: NDArray[np.float64]
    added_recent: NDArray[np.float64]
    added_positions: NDArray[np.float32]
    added_events: NDArray[np.float64]


@kernel
def history_position(lines: int) -> int:
    """Bucket of a customer's history: 0, 1, 2-3, 4-7, …, 256 and more."""
    position = 0
    while lines > 0 and position < POSITIONS - 1:
        lines //= 2
        position += 1
    return position


@kernel
def promote(
    counts: NDArray[np.float64], top: NDArray[np.int32], ranks: NDArray[np.int32], item: int
) -> None:
    """Bring an item whose count has grown to its place in `top`; the others keep their order."""
    place = ranks[item] - 1
    if place < 0:
        place = len(top) - 1
        if top[place] >= 0:
            if counts[top[place]] >= counts[item]:
                return
            ranks[top[place]] = 0
    while place > 0 and (top[place - 1] < 0 or counts[top[place - 1]] < counts[item]):
        top[place] = top[place - 1]
        if top[place] >= 0:
            ranks[top[place]] = place + 1
        place -= 1
    top[place] = item
    ranks[item] = place + 1


@kernel
def promote_in_all(state: TrendState, item: int) -> None:
    """Bring an item that was counted to its place in each top list."""
    top, ranks = state.top, state.ranks
    promote(state.counts, top[0], ranks[0], item)
    # Undecayed against one growing unit, recent counts only ever grow, too.
    for level in range(len(state.units)):
        promote(state.recent[:, level], top[1 + level], ranks[1 + level], item)


@kernel
def pass_events(state: TrendState, events: float) -> None:
    """Let everything counted so far be older by so many events."""
    for level in range(len(state.units)):
        state.units[level] *= state.growth[level] ** events
        if state.units[level] > _TOO_LARGE:
            scale = 1.0 / state.units[level]
            for item in range(len(state.counts)):
                state.recent[item, level] *= scale
                state.added_recent[item, level] *= scale
            state.sums[level] *= scale
            state.units[level] = 1.0


@kernel
def meet_item(state: TrendState, item: int) -> None:
    """Note when an item was first and last seen."""
    if state.last[item] == 0.0:
        state.first[item] = state.totals[TOTAL]
        state.totals[KNOWN] += 1.0
    state.last[item] = state.totals[TOTAL]


@kernel
def meet_item_elsewhere(state: TrendState, item: int, ages: NDArray[np.float64]) -> None:
    """Note when an item was first and last seen by another replica, so many events ago."""
    total = state.totals[TOTAL]
    first, last = max(total - ages[0], 1.0), max(total - ages[1], 1.0)
    if state.last[item] == 0.0:
        state.first[item] = first
        state.totals[KNOWN] += 1.0
    state.first[item] = min(state.first[item], first)
    state.last[item] = max(state.last[item], last)


@kernel
def learn_trend(state: TrendState, item: int, weight: float, position: int) -> None:
    """Count one event."""
    if item < 0 or item >= len(state.counts) or weight <= 0.0:
        return
    pass_events(state, 1.0)
    state.totals[TOTAL] += 1.0
    state.added_events[0] += 1.0
    meet_item(state, item)
    state.counts[item] += weight
    state.added[item] += weight
    for level in range(len(state.units)):
        amount = weight * state.units[level]
        state.recent[item, level] += amount
        state.added_recent[item, level] += amount
        state.sums[level] += amount
    state.positions[item, position] += np.float32(weight)
    state.added_positions[item, position] += np.float32(weight)
    state.position_sums[position] += weight
    promote_in_all(state, item)


@kernel
def learn_trends(
    state: TrendState,
    items: NDArray[np.int32],
    weights: NDArray[np.float32],
    positions: NDArray[np.int64],
) -> None:
    """Count many events in turn."""
    for i in range(len(items)):
        learn_trend(state, items[i], weights[i], positions[i])


@kernel
def add_trends(
    state: TrendState,
    items: NDArray[np.int32],
    counts: NDArray[np.float64],
    recent: NDArray[np.float64],
    positions: NDArray[np.float32],
    ages: NDArray[np.float64],
    events: float,
) -> None:
    """Add what another replica counted."""
    pass_events(state, events)
    state.totals[TOTAL] += events
    for k in range(len(items)):
        item = items[k]
        if item < 0 or item >= len(state.counts):
            continue
        meet_item_elsewhere(state, item, ages[k])
        state.counts[item] += counts[k]
        for level in range(len(state.units)):
            state.recent[item, level] += recent[k, level] * state.units[level]
            state.sums[level] += recent[k, level] * state.units[level]
        for position in range(POSITIONS):
            state.positions[item, position] += positions[k, position]
            state.position_sums[position] += positions[k, position]
        promote_in_all(state, item)


class Trends:
    """Counts of items at several speeds of forgetting, which go by events and not by time.

    With a half-life of h events, an event that lies n events back counts ``2^(-n / h)``. All
    counts are kept undecayed against a growing unit (forward decay), so that an event costs the
    same however many items there are. The same events are counted by how much history their
    customer had before them: newcomers choose other things than old hands.

    Replicas add what they counted; what one of them counted is then as old as the other's newest
    event, and everything else is older by the number of events that were told.

    Parameters
    ----------
    capacity
        Items, indices 0..capacity-1; others are ignored.
    half_lives_events
        Each at least 1.
    top_size
        Length of the lists of the most counted items, at least 1.

    Examples
    --------
    >>> trends = Trends(capacity=4, half_lives_events=(1.0,))
    >>> trends.learn_many(np.array([2, 2, 0], np.int32), np.ones(3, np.float32), np.zeros(3, int))
    >>> trends.state.counts.tolist(), trends.recent_many(np.array([0, 2]))[:, 0].tolist()
    ([1.0, 0.0, 2.0, 0.0], [1.0, 0.75])

    References
    ----------
    Cormode, G., Shkapenyuk, V., Srivastava, D. and Xu, B. (2009). Forward decay: a practical time
    decay model for streaming systems. ICDE.
    """

    def __init__(
        self,
        capacity: int,
        half_lives_events: tuple[float, ...] = (1_000.0, 10_000.0),
        top_size: int = 256,
    ) -> None:
        if capacity < 1 or top_size < 1:
            raise ParameterError("capacity and top_size must be at least 1")
        if not half_lives_events or not all(1.0 <= h < np.inf for h in half_lives_events):
            raise ParameterError(f"half-lives must be at least 1 event, are {half_lives_events}")
        levels = len(half_lives_events)
        self.state = TrendState(
            counts=np.zeros(capacity),
            recent=np.zeros((capacity, levels)),
            units=np.ones(levels),
            sums=np.zeros(levels),
            growth=np.array([math.exp2(1.0 / h) for h in half_lives_events]),
            positions=np.zeros((capacity, POSITIONS), np.float32),
            position_sums=np.zeros(POSITIONS),
            first=np.zeros(capacity),
            last=np.zeros(capacity),
            totals=np.zeros(2),
            top=np.full((1 + levels, top_size), -1, np.int32),
            ranks=np.zeros((1 + levels, capacity), np.int32),
            added=np.zeros(capacity),
            added_recent=np.zeros((capacity, levels)),
            added_positions=np.zeros((capacity, POSITIONS), np.float32),
            added_events=np.zeros(1),
        )
        self._expected: Expected = {
            "items": (np.int32, ("n",)),
            "counts": (np.float64, ("n",)),
            "recent": (np.float64, ("n", levels)),
            "positions": (np.float32, ("n", POSITIONS)),
            "ages": (np.float64, ("n", 2)),
            "events": (np.float64, (1,)),
        }

    def learn_many(
        self,
        items: NDArray[np.int32],
        weights: NDArray[np.float32],
        positions: NDArray[np.int64],
    ) -> None:
        """Count events in turn.

        Parameters
        ----------
        items
            int32[n]; -1 is skipped.
        weights
            float32[n], finite; events of weight 0 or below are not counted.
        positions
            int64[n], 0..POSITIONS-1: `history_position` of the customer's lines before.

        Raises
        ------
        NotFiniteError, ParameterError
            Where a weight is NaN or infinite, lengths differ or a position is out of range.
        """
        require_finite("weights", weights)
        require_lengths("Trends", len(items), weights=weights, positions=positions)
        if len(positions) and not 0 <= positions.min() <= positions.max() < POSITIONS:
            raise ParameterError(f"a position lies outside 0..{POSITIONS - 1}")
        learn_trends(self.state, items, weights, positions)

    def recent_many(self, items: NDArray[np.int32]) -> NDArray[np.float64]:
        """Decayed counts as of the newest event, in events: float64[n, half-lives]."""
        recent: NDArray[np.float64] = self.state.recent[items] / self.state.units
        return recent

    def take_delta(self) -> dict[str, NDArray[Any]]:
        """Return what this replica counted since the last time; empty where nothing.

        Returns
        -------
        ``items`` int32[n], and of each ``counts`` float64[n], ``recent`` float64[n, half-lives] in
        events of now, ``positions`` float32[n, POSITIONS] and ``ages`` float64[n, 2], events since
        its first and its newest one; ``events`` float64[1], how many events it were.
        """
        state = self.state
        items = np.flatnonzero(state.added).astype(np.int32)
        if not len(items):
            return {}
        delta = {
            "items": items,
            "counts": state.added[items],
            "recent": state.added_recent[items] / state.units,
            "positions": state.added_positions[items],
            "ages": state.totals[TOTAL] - np.column_stack([state.first[items], state.last[items]]),
            "events": state.added_events.copy(),
        }
        self.mark_known()
        return delta

    def check_delta(self, delta: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Refuse what `add_delta` cannot add; return it as a kernel takes it.

        Raises
        ------
        StateMismatchError
            Where names, shapes or dtypes are not those of `take_delta`, or a number is impossible.
        """
        checked = require_delta("Trends", delta, self._expected)
        for name in ("counts", "recent", "positions", "ages", "events"):
            require_within("Trends", delta, name, 0.0)
        return checked

    def apply_delta(self, delta: Mapping[str, NDArray[Any]]) -> None:
        """Add what another replica counted; items of -1 or beyond the capacity are left out.

        Raises
        ------
        StateMismatchError
            As `check_delta`; nothing is changed then.
        """
        if delta:
            self.add_delta(self.check_delta(delta))

    def add_delta(self, checked: Mapping[str, NDArray[Any]]) -> None:
        """Apply what `check_delta` returned."""
        add_trends(
            self.state,
            checked["items"],
            checked["counts"],
            checked["recent"],
            checked["positions"],
            checked["ages"],
            float(checked["events"][0]),
        )

    def mark_known(self) -> None:
        """Take everything counted so far for told, as after loading."""
        state = self.state
        for array in (state.added, state.added_recent, state.added_positions, state.added_events):
            array.fill(0.0)

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


STATE_ARRAYS = tuple(
    name for name in TrendState._fields if name != "growth" and not name.startswith("added")
)
