"""Counter-based random words, and negatives drawn with them from items of late and from all.

A negative comes, at even odds, from the ring of the latest events' items (so it is drawn by its
popularity as it is now) or evenly from all items. The ring also counts each item in it, so that
the chance of every draw is known exactly.

References
----------
Steele, G., Lea, D. and Flood, C. (2014). Fast splittable pseudorandom number generators. OOPSLA.
"""

import numpy as np
from numpy.typing import NDArray

from operators.kernel import kernel

# Entries of `sizes`: items there are, entries of the ring in use, next entry to write.
SIZE, FILLED, CURSOR = 0, 1, 2
GOLDEN = np.uint64(0x9E3779B97F4A7C15)
MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
MIX_2 = np.uint64(0x94D049BB133111EB)
ONE = np.uint64(1)


@kernel
def splitmix64(counter: np.uint64) -> np.uint64:
    """Mix a counter to a random word (Steele, Lea and Flood, 2014)."""
    word = counter + GOLDEN
    word = (word ^ (word >> np.uint64(30))) * MIX_1
    word = (word ^ (word >> np.uint64(27))) * MIX_2
    return word ^ (word >> np.uint64(31))


@kernel
def draw_negatives(
    drawn_from: NDArray[np.int32],
    sizes: NDArray[np.int64],
    base: np.uint64,
    draws: int,
    out: NDArray[np.int32],
) -> int:
    """Write negatives after the positive in ``out[0]``; return how many there are in all.

    A draw of the positive itself is left out.
    """
    known, filled = np.uint64(sizes[SIZE]), np.uint64(sizes[FILLED])
    count = 1
    for k in range(draws):
        word = splitmix64(base + np.uint64(k))
        if word & ONE and filled > 0:
            item = np.int64(drawn_from[(word >> ONE) % filled])
        else:
            item = np.int64((word >> ONE) % known)
        if item != out[0]:
            out[count] = item
            count += 1
    return count


@kernel
def draw_chances(
    drawn_counts: NDArray[np.int32],
    sizes: NDArray[np.int64],
    items: NDArray[np.int32],
    count: int,
    out: NDArray[np.float64],
) -> None:
    """Write the chance that one draw hits each of the first `count` items to `out`."""
    uniform, popular = 1.0 / sizes[SIZE], 0.0
    if sizes[FILLED] > 0:
        uniform, popular = 0.5 * uniform, 0.5 / sizes[FILLED]
    for k in range(count):
        out[k] = uniform + popular * drawn_counts[items[k]]


@kernel
def remember_draw(
    drawn_from: NDArray[np.int32],
    drawn_counts: NDArray[np.int32],
    sizes: NDArray[np.int64],
    item: int,
) -> None:
    """Put an event's item into the ring that popular negatives are drawn from."""
    place = sizes[CURSOR]
    if sizes[FILLED] == len(drawn_from):
        drawn_counts[drawn_from[place]] -= 1
    else:
        sizes[FILLED] += 1
    drawn_from[place] = item
    drawn_counts[item] += 1
    sizes[CURSOR] = place + 1 if place + 1 < len(drawn_from) else 0
