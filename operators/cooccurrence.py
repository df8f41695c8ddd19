"""Which items go with which: weights of item pairs, in bounded rows of neighbours."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from operators.arrays import load_into
from operators.batches import require_lengths
from operators.cooccurrence_kernels import (
    PairsDelta,
    add_pairs,
    count_added,
    learn_orders_many,
    learn_pairs_many,
    take_added,
)
from operators.cooccurrence_rows import (
    CHANNELS,
    FREED,
    SMALLEST,
    USED,
    Channel,
    CooccurrenceState,
)
from operators.deltas import Expected, require_delta, require_ends, require_within
from operators.errors import ParameterError, require_finite

__all__ = ["CHANNELS", "Channel", "CooccurrenceState", "ItemCooccurrence"]

# The longest row.
MOST_NEIGHBOURS = 1 << 16
# Up to here a float32 counts in ones.
MOST_HORIZON = float(1 << 24)
# Slots of the pool per item; and how many there may be, so that an int32 names each row.
POOL_PER_ITEM = 48
MOST_POOL = SMALLEST * ((1 << 31) - 2)
# Above what any number of events adds up to: beyond, a sum no longer changes.
MOST_TOLD = 2.0**80


class ItemCooccurrence:
    """For each item, the items that customers touched with it, and how much by each channel.

    An event of item i and weight w, with the context c_0, c_1, … (the customer's items before
    it, newest first) and the recency r_0, r_1, … adds for each k below `depth`

        ``W[c_k, i] += w · (NEXT: [k = 0], FORWARD: r_k, HISTORY: 1)``
        ``W[i, c_k] += w · (BACKWARD: r_k, HISTORY: 1)``

    and a line i of an order adds w to ORDER of ``W[i, j]`` and ``W[j, i]`` for other lines j. The
    same is added to the totals of the row's item, so that ``W[c, i, channel] / total[c, channel]``
    estimates the probability that i goes with c.

    An item's row is a hash table that starts with 16 slots and doubles up to `neighbours`, as
    long as the pool has room; `operators.cooccurrence_rows` says how. A neighbour may lie at
    eight slots of it. Where the row cannot grow and all eight are taken, a newcomer of weight w
    takes the place of the lightest neighbour there, of weight v, with probability ``w / (w + v)``
    (weights by FORWARD, BACKWARD and ORDER), so that one which comes back often gets in and the
    heavy ones stay (as in Unbiased Space-Saving, Ting 2018; but it inherits nothing). The totals
    keep what is evicted. An item that finds no 16 slots in the pool learns its totals alone.

    Items forget without a clock: as soon as the total of FORWARD and BACKWARD in a row, or that of
    ORDER, passes `horizon`, all the row's weights and totals are halved, so that popular items
    forget and rare ones do not, and a float32 never grows too large to count.

    Parameters
    ----------
    capacity
        Items, indices 0..capacity-1; others are ignored.
    neighbours
        Slots of the longest row, a power of two, 16..65,536.
    depth
        Context items that an event is paired with, newest first, at least 1.
    horizon
        Weight at which an item forgets half, 1..2^24. An event counts no more than this.
    pool_slots
        Slots of all rows together, at least 16 for each item, rounded up to a multiple of 16;
        48 for each item where None. A slot takes 44 bytes, from its first use on.

    Examples
    --------
    >>> pairs = ItemCooccurrence(capacity=4, neighbours=16)
    >>> pairs.learn_many(
    ...     np.array([1, 2], np.int32), np.array([[0], [0]], np.int32), np.ones(1, np.float32),
    ...     np.array([3.0, 1.0], np.float32), np.array([7, 8], np.uint64),
    ... )
    >>> neighbours, shares = pairs.neighbours_many(np.array([0], np.int32), Channel.NEXT)
    >>> neighbours[0, :3].tolist(), shares[0, :3].tolist()
    ([1, 2, -1], [0.75, 0.25, 0.0])

    References
    ----------
    Linden, G., Smith, B. and York, J. (2003). Amazon.com recommendations: item-to-item
    collaborative filtering. IEEE Internet Computing.
    Ting, D. (2018). Data sketches for disaggregated subset sum and frequent item estimation.
    SIGMOD.
    """

    def __init__(
        self,
        capacity: int,
        neighbours: int = 512,
        depth: int = 16,
        horizon: float = 20_000.0,
        pool_slots: int | None = None,
    ) -> None:
        if capacity < 1 or depth < 1:
            raise ParameterError("capacity and depth must be at least 1")
        if not SMALLEST <= neighbours <= MOST_NEIGHBOURS or neighbours & (neighbours - 1):
            raise ParameterError(
                f"neighbours must be a power of two, {SMALLEST}..{MOST_NEIGHBOURS}"
            )
        if not 1.0 <= horizon <= MOST_HORIZON:
            raise ParameterError(f"horizon must be 1..{MOST_HORIZON}")
        slots = POOL_PER_ITEM * capacity if pool_slots is None else pool_slots
        if not SMALLEST * capacity <= slots <= MOST_POOL:
            raise ParameterError(f"pool_slots must be {SMALLEST * capacity}..{MOST_POOL}")
        slots = -(-slots // SMALLEST) * SMALLEST
        largest = neighbours.bit_length() - 1
        # Zeros take no memory before they are written to.
        self.state = CooccurrenceState(
            keys=np.zeros(slots, np.int32),
            weights=np.zeros((slots, CHANNELS), np.float32),
            known=np.zeros((slots, CHANNELS), np.float32),
            starts=np.zeros(capacity, np.int64),
            sizes=np.full(capacity, -1, np.int8),
            totals=np.zeros((capacity, CHANNELS)),
            known_totals=np.zeros((capacity, CHANNELS)),
            pool=np.zeros(FREED + largest + 1, np.int64),
            depth=depth,
            largest=largest,
            horizon=float(horizon),
        )

    def learn_many(
        self,
        items: NDArray[np.int32],
        contexts: NDArray[np.int32],
        recency: NDArray[np.float32],
        weights: NDArray[np.float32],
        event_keys: NDArray[np.uint64],
    ) -> None:
        """Pair each event's item with its context, in turn.

        Parameters
        ----------
        items
            int32[n]; -1 is skipped.
        contexts
            int32[n, length], newest first, -1 padded. An event's own item is skipped in them.
        recency
            float32[length], 0..1, what the context item at each place counts.
        weights
            float32[n], finite; events of weight 0 or below pair nothing.
        event_keys
            uint64[n], what newcomers to full rows are drawn by: another for each event.

        Raises
        ------
        NotFiniteError, ParameterError
            Where a number is NaN or infinite, a recency is out of range, or lengths differ.
        """
        require_finite("weights", weights)
        require_finite("recency", recency)
        require_lengths(
            "ItemCooccurrence", len(items), contexts=contexts, weights=weights, keys=event_keys
        )
        require_lengths("ItemCooccurrence", contexts.shape[1], recency=recency)
        if ((recency < 0.0) | (recency > 1.0)).any():
            raise ParameterError("recency must be in [0, 1]")
        learn_pairs_many(self.state, items, contexts, recency, weights, event_keys)

    def learn_orders_many(
        self,
        items: NDArray[np.int32],
        others: NDArray[np.int32],
        weights: NDArray[np.float32],
        event_keys: NDArray[np.uint64],
    ) -> None:
        """Pair each line's item with those of other lines of its order, in turn.

        Parameters
        ----------
        items, weights, event_keys
            As in `learn_many`.
        others
            int32[n, length], items of the lines before it, -1 padded.

        Raises
        ------
        NotFiniteError, ParameterError
            Where a weight is NaN or infinite, or lengths differ.
        """
        require_finite("weights", weights)
        require_lengths(
            "ItemCooccurrence", len(items), others=others, weights=weights, keys=event_keys
        )
        learn_orders_many(self.state, items, others, weights, event_keys)

    def neighbours_many(
        self, items: NDArray[np.int32], channel: int
    ) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
        """Return each item's neighbours by one channel and their shares of its weight there.

        Returns
        -------
        neighbours, shares
            int32[n, neighbours], greatest share first, the lower index first where equal, -1
            padded; float32 of the same shape, 0 where padded. An item out of range has none.
        """
        state = self.state
        neighbours = np.full((len(items), 1 << state.largest), -1, np.int32)
        shares = np.zeros(neighbours.shape, np.float32)
        for row, item in enumerate(items.tolist()):
            if 0 <= item < len(state.sizes) and state.sizes[item] >= 0:
                start = int(state.starts[item])
                slots = slice(start, start + (1 << int(state.sizes[item])))
                keys, weights = state.keys[slots], state.weights[slots, channel]
                order = np.lexsort((keys, -weights))[: np.count_nonzero(weights)]
                neighbours[row, : len(order)] = keys[order] - 1
                # A sum of float32 may be rounded to above that of float64.
                total = max(float(state.totals[item, channel]), float(weights.max()))
                shares[row, : len(order)] = weights[order] / total
        return neighbours, shares

    def take_delta(self) -> dict[str, NDArray[Any]]:
        """Return what this replica added since the last time; empty where nothing.

        What was added to a neighbour that has lost its place since is told in the totals alone,
        and what was added before an item forgot half is told by half.

        Returns
        -------
        ``items`` int32[n] and ``totals`` float64[n, CHANNELS]; the neighbours of item k end
        before ``ends[k]`` (int64[n]) in ``neighbours`` int32[m] and ``weights``
        float32[m, CHANNELS].
        """
        items, pairs = count_added(self.state)
        if not items:
            return {}
        delta = PairsDelta(
            np.empty(items, np.int32),
            np.empty((items, CHANNELS), np.float64),
            np.empty(items, np.int64),
            np.empty(pairs, np.int32),
            np.empty((pairs, CHANNELS), np.float32),
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
        require_within(owner, delta, "totals", 0.0, MOST_TOLD)
        require_within(owner, delta, "weights", 0.0, MOST_TOLD)
        return checked

    def apply_delta(self, delta: Mapping[str, NDArray[Any]]) -> None:
        """Add what another replica added.

        Rows stay bounded, and items forget, as in learning. Until rows are full, the order in
        which deltas are applied makes no difference but for rounding. Items and neighbours of -1
        are left out.

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
        used = int(self.state.pool[USED])
        np.copyto(self.state.known[:used], self.state.weights[:used])
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


STATE_ARRAYS = ("keys", "weights", "starts", "sizes", "totals", "pool")
DELTA: Expected = {
    "items": (np.int32, ("n",)),
    "totals": (np.float64, ("n", CHANNELS)),
    "ends": (np.int64, ("n",)),
    "neighbours": (np.int32, ("m",)),
    "weights": (np.float32, ("m", CHANNELS)),
}
