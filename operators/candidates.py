"""Candidates of one customer: the best by each of the ways in which an item can be thought of."""

import numpy as np
from numpy.typing import NDArray

from operators.content import match_interests
from operators.cooccurrence_rows import CooccurrenceState
from operators.draws import SIZE
from operators.factor_kernels import FactorState
from operators.kernel import kernel, loose_kernel
from operators.question import (
    AROUND,
    CHOICE,
    COLUMNS,
    FRESH_CANDIDATES,
    FRESH_EVENTS,
    PAIRS,
    Limits,
    Parts,
    Scratch,
)

BARRED = -1
# Of the scores by vectors, so many are looked at to guess which are among the best.
SAMPLE = 1024


@loose_kernel
def loose_dot(left: NDArray[np.float32], right: NDArray[np.float32]) -> float:
    """Inner product, added up in whatever order is quickest."""
    total = np.float32(0.0)
    for f in range(len(left)):
        total += left[f] * right[f]
    return total


@kernel
def mark_items(places: NDArray[np.int32], items: NDArray[np.int32], mark: int) -> None:
    """Write `mark` to the places of `items`; -1 is skipped."""
    for k in range(len(items)):
        if 0 <= items[k] < len(places):
            places[items[k]] = mark


@kernel
def kth_largest(values: NDArray[np.float32], count: int, k: int) -> float:
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
def meet_neighbours(
    scratch: Scratch,
    pairs: CooccurrenceState,
    counts: NDArray[np.float64],
    events: float,
    known: int,
    used: int,
    smoothing: float,
    back_off: NDArray[np.float64],
) -> int:
    """Meet the neighbours of the context's first `used` items; return how many there are.

    Writes to ``scratch.shares`` what each channel says of them, and to `back_off` what it leaves
    to popularity.
    """
    # Arrays are named outside the loops: taking one out of a tuple costs reference counts.
    places, met, shares, items = scratch.places, scratch.met, scratch.shares, scratch.context.items
    keys, weights, totals = pairs.keys, pairs.weights, pairs.totals
    newest, around = scratch.recency[PAIRS], scratch.recency[AROUND]
    total, total_around = 0.0, 0.0
    for k in range(used):
        total += newest[k]
        total_around += around[k]
    # After many orders of items that are unknown here, nothing of the context counts any more.
    used = used if total > 0.0 else 0
    back_off[:] = 0.0 if used else 1.0
    found, half = 0, np.float32(0.5)
    for k in range(used):
        item = items[k]
        share, share_around = np.float32(newest[k] / total), around[k] / total_around
        next_scale = np.float32(1.0 / (totals[item, 0] + smoothing) if k == 0 else 0.0)
        forward_scale = np.float32(share / (totals[item, 1] + smoothing))
        backward_scale = np.float32(share / (totals[item, 2] + smoothing))
        order_scale = np.float32(share / (totals[item, 3] + smoothing))
        around_scale = np.float32(share_around / (totals[item, 4] + smoothing))
        lift_scale = np.float32((events + 1.0) / smoothing)
        back_off[0] += next_scale * smoothing
        back_off[1] += forward_scale * smoothing
        back_off[2] += backward_scale * smoothing
        back_off[3] += order_scale * smoothing
        back_off[4] += around_scale * smoothing
        # Of an int8, a shift is an int8 to numba.
        size = np.int64(pairs.sizes[item])
        if size < 0:
            continue
        start = pairs.starts[item]
        for slot in range(start, start + (1 << size)):
            other = keys[slot] - 1
            if other < 0 or other >= known:
                continue
            place = places[other]
            if place == BARRED:
                continue
            if place == 0:
                met[found] = other
                found += 1
                place = found
                places[other] = place
                for column in range(COLUMNS):
                    shares[place - 1, column] = 0.0
            place -= 1
            forward = weights[slot, 1]
            by_next, by_forward = next_scale * weights[slot, 0], forward_scale * forward
            by_backward, by_order = (
                backward_scale * weights[slot, 2],
                order_scale * weights[slot, 3],
            )
            by_around = around_scale * weights[slot, 4]
            shares[place, 0] += by_next
            shares[place, 1] += by_forward
            shares[place, 2] += by_backward
            shares[place, 3] += by_order
            shares[place, 4] += by_around
            shares[place, CHOICE] += (
                np.float32(0.5) * by_next + by_forward + by_backward + by_order + by_around
            )
            if forward > 0.0:
                shares[place, 5] += share * fast_log(
                    np.float32(1.0) + forward * lift_scale / (np.float32(counts[other]) + half)
                )
    return found


@kernel
def fast_log(value: float) -> float:
    """Natural logarithm of a number of at least 1, to about one part in a thousand.

    The mantissa m, brought to 0.75..1.5, has ``log m ≈ 2 (r + r³/3)`` with
    ``r = (m - 1) / (m + 1)``.
    """
    mantissa, result = np.float32(value), np.float32(0.0)
    while mantissa >= np.float32(24.0):
        mantissa *= np.float32(0.0625)
        result += np.float32(2.772588722239781)
    while mantissa >= np.float32(1.5):
        mantissa *= np.float32(0.5)
        result += np.float32(0.6931471805599453)
    ratio = (mantissa - np.float32(1.0)) / (mantissa + np.float32(1.0))
    return result + ratio * (np.float32(2.0) + np.float32(0.6666667) * ratio * ratio)


@kernel
def choose_item(
    scratch: Scratch, barred: NDArray[np.uint8], found: int, kept: int, item: int
) -> tuple[int, int]:
    """Meet and choose one item, unless it is barred or chosen; returns items met, candidates."""
    place = scratch.places[item]
    if place == BARRED or barred[item] != 0:
        return found, kept
    if place == 0:
        if found == len(scratch.met):
            return found, kept
        scratch.met[found] = item
        scratch.chosen[found] = 0
        for column in range(COLUMNS):
            scratch.shares[found, column] = 0.0
        found += 1
        scratch.places[item] = found
        place = found
    if scratch.chosen[place - 1] == 0 and kept < len(scratch.candidates):
        scratch.chosen[place - 1] = 1
        scratch.candidates[kept] = item
        scratch.met_places[kept] = place - 1
        kept += 1
    return found, kept


@kernel
def choose_neighbours(scratch: Scratch, barred: NDArray[np.uint8], found: int, most: int) -> int:
    """Choose the `most` available items met with the largest shares; return how many."""
    order, shares, chosen, met = scratch.order, scratch.shares, scratch.chosen, scratch.met
    free = 0
    for place in range(found):
        chosen[place] = 0
        if barred[met[place]] == 0:
            order[free] = shares[place, CHOICE]
            free += 1
    floor = np.float32(-1.0)
    if free > most:
        floor = np.float32(kth_largest(order, free, most))
    kept = 0
    for place in range(found):
        if shares[place, CHOICE] > floor:
            _, kept = choose_item(scratch, barred, found, kept, met[place])
    # Of those that tie for the last places, the first.
    for place in range(found):
        if kept == most:
            break
        if shares[place, CHOICE] == floor:
            _, kept = choose_item(scratch, barred, found, kept, met[place])
    return kept


@kernel
def score_all(factors: FactorState, state: NDArray[np.float32], out: NDArray[np.float32]) -> None:
    """Score every admitted item by its vector."""
    outputs, biases = factors.outputs, factors.biases
    for item in range(min(len(out), factors.sizes[SIZE])):
        out[item] = loose_dot(state, outputs[item]) + biases[item]


@kernel
def likely_floor(
    scores: NDArray[np.float32], known: int, most: int, room: NDArray[np.float32]
) -> float:
    """Guess from a sample a score that at least `most` of the first `known` exceed."""
    stride = max(1, known // SAMPLE)
    count = 0
    for item in range(0, known, stride):
        room[count] = scores[item]
        count += 1
    wanted = int(most / known * count * 1.3) + 8
    if wanted >= count:
        return -np.inf
    return kth_largest(room, count, wanted)


@kernel
def allowed_from(scratch: Scratch, barred: NDArray[np.uint8], known: int, floor: float) -> int:
    """Write items that may be chosen and score `floor` or more to ``scratch.likely``."""
    scores, places, room, likely = scratch.near, scratch.places, scratch.order, scratch.likely
    count = 0
    for item in range(known):
        if scores[item] >= floor and places[item] != BARRED and barred[item] == 0:
            room[count] = scores[item]
            likely[count] = item
            count += 1
    return count


@kernel
def choose_near(
    scratch: Scratch, barred: NDArray[np.uint8], known: int, found: int, kept: int, most: int
) -> tuple[int, int]:
    """Choose the `most` items with the best scores in ``scratch.near``."""
    scores, room, likely = scratch.near, scratch.order, scratch.likely
    floor = likely_floor(scores, known, most, room)
    count = allowed_from(scratch, barred, known, floor)
    if count < most:
        floor = -np.inf
        count = allowed_from(scratch, barred, known, floor)
    if count > most:
        floor = kth_largest(room, count, most)
    left = most
    for k in range(count):
        if scores[likely[k]] > floor:
            left -= 1
            found, kept = choose_item(scratch, barred, found, kept, likely[k])
    # Of those that tie for the last places, the first.
    for k in range(count):
        if left == 0:
            break
        if scores[likely[k]] == floor:
            left -= 1
            found, kept = choose_item(scratch, barred, found, kept, likely[k])
    return found, kept


@kernel
def choose_first(
    scratch: Scratch,
    barred: NDArray[np.uint8],
    items: NDArray[np.int32],
    found: int,
    kept: int,
    most: int,
) -> tuple[int, int]:
    """Choose the first `most` of a list that may be chosen; -1 ends it."""
    left = most
    for item in items:
        if left == 0 or item < 0:
            break
        if item < len(scratch.places) and scratch.places[item] != BARRED and barred[item] == 0:
            left -= 1
            found, kept = choose_item(scratch, barred, found, kept, item)
    return found, kept


@kernel
def choose_fresh(
    scratch: Scratch, parts: Parts, known: int, interest: float, found: int, kept: int
) -> tuple[int, int]:
    """Choose the new items whose words fit the customer best; without interests the newest."""
    fresh, barred, counts = parts.fresh, parts.barred, parts.trends.counts
    matches = np.full(FRESH_CANDIDATES, -np.inf)
    best = np.full(FRESH_CANDIDATES, -1, np.int32)
    for item in fresh:
        if not 0 <= item < known or barred[item] != 0 or counts[item] >= FRESH_EVENTS:
            continue
        match, _ = match_interests(parts.content, scratch.interests, interest, item)
        place = FRESH_CANDIDATES
        while place > 0 and matches[place - 1] < match:
            place -= 1
        if place == FRESH_CANDIDATES:
            continue
        for to in range(FRESH_CANDIDATES - 1, place, -1):
            matches[to], best[to] = matches[to - 1], best[to - 1]
        matches[place], best[place] = match, item
    return choose_first(scratch, barred, best, found, kept, FRESH_CANDIDATES)


@kernel
def gather(
    scratch: Scratch,
    parts: Parts,
    known: int,
    count: int,
    interest: float,
    indexed: NDArray[np.int32],
    limits: Limits,
    back_off: NDArray[np.float64],
) -> tuple[int, int]:
    """Gather one customer's candidates; items that must not be are marked BARRED before.

    Parameters
    ----------
    known
        Items there are.
    count
        Items of the context.
    interest
        Weight of ``scratch.interests``.
    indexed
        Items that an index of vectors finds near, -1 padded.
    back_off
        float64[CHANNELS], written: what the co-occurrences leave to popularity.

    Returns
    -------
    found, kept
        Items met, to be cleared with `clear`, and candidates.
    """
    barred, top = parts.barred, parts.trends.top
    used = min(count, limits.context)
    counts, events = parts.trends.counts, parts.trends.totals[0]
    found = meet_neighbours(
        scratch, parts.pairs, counts, events, known, used, limits.smoothing, back_off
    )
    kept = choose_neighbours(scratch, barred, found, limits.also)
    if count > 0 and 0 < known <= limits.scan:
        score_all(parts.factors, scratch.states[0], scratch.near)
        found, kept = choose_near(scratch, barred, known, found, kept, limits.near)
    found, kept = choose_first(scratch, barred, indexed, found, kept, len(indexed))
    found, kept = choose_first(scratch, barred, top[0], found, kept, limits.popular)
    found, kept = choose_first(scratch, barred, top[1], found, kept, limits.hot)
    found, kept = choose_fresh(scratch, parts, known, interest, found, kept)
    own = scratch.context.items
    return choose_first(scratch, barred, own, found, kept, len(own))


@kernel
def clear(scratch: Scratch, found: int) -> None:
    """Forget the items met."""
    for place in range(found):
        scratch.places[scratch.met[place]] = 0
