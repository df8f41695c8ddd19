"""Counter-based random words, and what is drawn with them: first vectors and negatives.

A negative comes, at even odds, from the ring of the latest events' items (so it is drawn by its
popularity as it is now) or evenly from all items. The ring also counts each item in it, so that
the chance of every draw is known exactly.

References
----------
Steele, G., Lea, D. and Flood, C. (2014). Fast splittable pseudorandom number generators. OOPSLA.
"""

import math

import numpy as np
from numpy.typing import NDArray

from operators.kernel import kernel

# Entries of `sizes`: items there are, entries of the ring in use, next entry to write.
SIZE, FILLED, CURSOR = 0, 1, 2
# Most entries of the ring that a replica tells the others of at a time.
DRAWS_TOLD = 2048
GOLDEN = np.uint64(0x9E3779B97F4A7C15)
MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
MIX_2 = np.uint64(0x94D049BB133111EB)
ONE = np.uint64(1)
INPUT_SALT = np.uint64(0x1F)
OUTPUT_SALT = np.uint64(0x2F00000000)
INITIAL_SCALE = 0.1


@kernel
def splitmix64(counter: np.uint64) -> np.uint64:
    """Mix a counter to a random word (Steele, Lea and Flood, 2014)."""
    word = counter + GOLDEN
    word = (word ^ (word >> np.uint64(30))) * MIX_1
    word = (word ^ (word >> np.uint64(27))) * MIX_2
    return word ^ (word >> np.uint64(31))


@kernel
def initial_vector(out: NDArray[np.float32], seed: np.uint64) -> None:
    """Fill `out` with uniform numbers of standard deviation INITIAL_SCALE."""
    for f in range(len(out)):
        word = splitmix64(seed + np.uint64(f))
        uniform = np.float64(word >> np.uint64(11)) / 9007199254740992.0
        out[f] = np.float32((2.0 * uniform - 1.0) * INITIAL_SCALE * math.sqrt(3.0))


@kernel
def draw_vectors(
    inputs: NDArray[np.float32],
    outputs: NDArray[np.float32],
    seed: np.uint64,
    keys: NDArray[np.uint64],
    first: int,
) -> None:
    """Draw the vectors of the items from `first` on from their keys."""
    for i in range(len(keys)):
        mixed = splitmix64(seed ^ keys[i])
        initial_vector(inputs[first + i], splitmix64(mixed ^ INPUT_SALT))
        initial_vector(outputs[first + i], splitmix64(mixed ^ OUTPUT_SALT))


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


@kernel
def remember_draws(
    drawn_from: NDArray[np.int32],
    drawn_counts: NDArray[np.int32],
    sizes: NDArray[np.int64],
    items: NDArray[np.int32],
) -> None:
    """Put the items of another replica's events into the ring; those not admitted are left out."""
    for item in items:
        if 0 <= item < sizes[SIZE]:
            remember_draw(drawn_from, drawn_counts, sizes, item)
