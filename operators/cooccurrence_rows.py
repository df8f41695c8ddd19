"""Where `operators.cooccurrence` keeps its pairs: small hash tables in one pool of slots.

A row of 2^s slots is a run of the pool that starts at a multiple of SMALLEST slots. A key has
its home where the high bits of a multiplicative hash say (Knuth, 1998, section 6.4) and lies
there or at one of the next PROBES - 1 slots, around the row's end. A slot in use is never freed
alone, so that a free one ends a search. Rows that were outgrown are linked by size through the
first of their keys, and given out again, in halves where no smaller room is left.

References
----------
Knuth, D. (1998). The Art of Computer Programming, vol. 3: Sorting and Searching.
"""

from enum import IntEnum
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from operators.draws import GOLDEN, splitmix64
from operators.kernel import kernel


class Channel(IntEnum):
    """How a neighbour goes with an item; also the order of weights and totals."""

    NEXT = 0
    """It came right after the item."""
    FORWARD = 1
    """It came after the item, weighted by recency."""
    BACKWARD = 2
    """It came before the item, weighted by recency."""
    ORDER = 3
    """It was in the same order."""
    HISTORY = 4
    """It came before or after the item, however long."""


NEXT, FORWARD, BACKWARD, ORDER, HISTORY = (int(channel) for channel in Channel)
CHANNELS = len(Channel)
# A row's first slots, 2^4, and the slots at which a neighbour may lie.
SMALLEST_SIZE = 4
SMALLEST = 1 << SMALLEST_SIZE
PROBES = 8
# Entries of `pool`: slots ever given out, deltas applied, and from FREED on, for each size, one
# more than the place (in units of SMALLEST slots) of the first row that was given back, or 0.
USED, HEARD, FREED = 0, 1, 2


class CooccurrenceState(NamedTuple):
    """Arrays of `operators.cooccurrence.ItemCooccurrence`, for kernels.

    Attributes
    ----------
    keys
        int32[slots], one more than the neighbour, 0 where free.
    weights
        float32[slots, CHANNELS], weight of each neighbour, 0 where free.
    known
        float32[slots, CHANNELS], the part of `weights` that the other replicas were told of.
    starts
        int64[capacity], first slot of each item's row.
    sizes
        int8[capacity], log2 of the row's slots, -1 where an item has no row yet.
    totals, known_totals
        float64[capacity, CHANNELS], all weight of an item, evicted neighbours' included; and the
        part of it that the other replicas were told of.
    pool
        int64[FREED + largest + 1], what was given out; see USED, HEARD and FREED.
    depth
        Context items that an event is paired with.
    largest
        log2 of the slots that a row may have.
    horizon
        Weight at which an item forgets half.
    """

    keys: NDArray[np.int32]
    weights: NDArray[np.float32]
    known: NDArray[np.float32]
    starts: NDArray[np.int64]
    sizes: NDArray[np.int8]
    totals: NDArray[np.float64]
    known_totals: NDArray[np.float64]
    pool: NDArray[np.int64]
    depth: int
    largest: int
    horizon: float


@kernel
def home_of(key: int, size: int) -> int:
    """Place in a row of 2^size slots at which a search for `key` begins."""
    return int(np.int64((np.uint64(key) * GOLDEN) >> np.uint64(64 - size)))


@kernel
def probe(keys: NDArray[np.int32], start: int, size: int, key: int) -> int:
    """Slot of `key` in a row, or the free one where it belongs; -1 where others have its slots."""
    mask, home = (1 << size) - 1, home_of(key, size)
    for step in range(PROBES):
        slot = start + ((home + step) & mask)
        if keys[slot] == key or keys[slot] == 0:
            return slot
    return -1


@kernel
def heft(weights: NDArray[np.float32], slot: int) -> float:
    """Weigh a neighbour against others that want its slot."""
    return float(weights[slot, FORWARD] + weights[slot, BACKWARD] + weights[slot, ORDER])


@kernel
def lightest_of(weights: NDArray[np.float32], start: int, size: int, key: int) -> int:
    """Return the slot of the lightest neighbour where `key` may lie."""
    mask, home = (1 << size) - 1, home_of(key, size)
    lightest, least = start + home, heft(weights, start + home)
    for step in range(1, PROBES):
        slot = start + ((home + step) & mask)
        weight = heft(weights, slot)
        if weight < least:
            lightest, least = slot, weight
    return lightest


@kernel
def give_back(keys: NDArray[np.int32], pool: NDArray[np.int64], start: int, size: int) -> None:
    """Link a row that is all zeros before the others of its size."""
    keys[start] = pool[FREED + size]
    pool[FREED + size] = start // SMALLEST + 1


@kernel
def give_out(keys: NDArray[np.int32], pool: NDArray[np.int64], size: int) -> int:
    """Start of a row of 2^size slots whose keys and weights are zeros; -1 where there is none."""
    used, found = int(pool[USED]), size
    if pool[FREED + size] == 0 and used + (1 << size) <= len(keys):
        pool[USED] = used + (1 << size)
        return used
    while FREED + found < len(pool) and pool[FREED + found] == 0:
        found += 1
    if FREED + found == len(pool):
        return -1
    start = (int(pool[FREED + found]) - 1) * SMALLEST
    pool[FREED + found] = keys[start]
    keys[start] = 0
    while found > size:
        found -= 1
        give_back(keys, pool, start + (1 << found), found)
    return start


@kernel
def move_row(state: CooccurrenceState, start: int, size: int, to: int, to_size: int) -> None:
    """Move a row's neighbours to an empty row; where one finds no place, the lightest goes."""
    keys, weights, known = state.keys, state.weights, state.known
    for slot in range(start, start + (1 << size)):
        key = keys[slot]
        if key != 0:
            place = probe(keys, to, to_size, key)
            if place < 0:
                place = lightest_of(weights, to, to_size, key)
            if keys[place] == 0 or heft(weights, place) < heft(weights, slot):
                keys[place] = key
                weights[place, :] = weights[slot, :]
                known[place, :] = known[slot, :]
            keys[slot] = 0
            weights[slot, :] = np.float32(0.0)
            known[slot, :] = np.float32(0.0)


@kernel
def grow_row(state: CooccurrenceState, item: int) -> bool:
    """Give an item its first row, or one twice as long; False where it may not or there is none."""
    start, size = int(state.starts[item]), int(np.int64(state.sizes[item]))
    larger = size + 1 if size >= 0 else SMALLEST_SIZE
    if larger > state.largest:
        return False
    to = give_out(state.keys, state.pool, larger)
    if to < 0:
        return False
    # An operator that was loaded over another still knows what the other had here.
    state.known[to : to + (1 << larger), :] = np.float32(0.0)
    if size >= 0:
        move_row(state, start, size, to, larger)
        give_back(state.keys, state.pool, start, size)
    state.starts[item] = to
    state.sizes[item] = larger
    return True


@kernel
def make_room(
    state: CooccurrenceState, item: int, neighbour: int, amount: float, key: np.uint64
) -> int:
    """Slot for a neighbour that `slot_of` finds none for; -1 where it gets none.

    The row grows, or else the newcomer of weight w takes the place of the lightest, of weight v,
    with probability w / (w + v).
    """
    while grow_row(state, item):
        slot = probe(state.keys, state.starts[item], state.sizes[item], neighbour + 1)
        if slot >= 0:
            state.keys[slot] = neighbour + 1
            return slot
    if state.sizes[item] < 0:
        return -1
    slot = lightest_of(state.weights, state.starts[item], state.sizes[item], neighbour + 1)
    word = splitmix64(splitmix64(key ^ np.uint64(item)) ^ np.uint64(neighbour))
    uniform = np.float64(word >> np.uint64(11)) / 9007199254740992.0
    if uniform * (amount + heft(state.weights, slot)) >= amount:
        return -1
    state.keys[slot] = neighbour + 1
    state.weights[slot, :] = np.float32(0.0)
    state.known[slot, :] = np.float32(0.0)
    return slot


@kernel
def slot_of(
    keys: NDArray[np.int32],
    starts: NDArray[np.int64],
    sizes: NDArray[np.int8],
    item: int,
    neighbour: int,
) -> int:
    """Slot of an item's neighbour, written down where its place was free; -1 where it has none.

    `make_room` stands apart: to hand on the whole state takes as long as all the rest.
    """
    # Of an int8, int() is an int8 to numba.
    size = int(np.int64(sizes[item]))
    if size < 0:
        return -1
    slot = probe(keys, starts[item], size, neighbour + 1)
    if slot >= 0:
        keys[slot] = neighbour + 1
    return slot


@kernel
def find_slot(state: CooccurrenceState, item: int, neighbour: int) -> int:
    """Slot of an item's neighbour, -1 where it is none. Nothing is written."""
    size = int(np.int64(state.sizes[item]))
    if size < 0:
        return -1
    slot = probe(state.keys, state.starts[item], size, neighbour + 1)
    return slot if slot >= 0 and state.keys[slot] == neighbour + 1 else -1
