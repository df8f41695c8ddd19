"""The kernels of `operators.hybrid` that test and learn, order by order."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from operators.content import learn_content
from operators.cooccurrence_kernels import learn_order, learn_pairs
from operators.draws import SIZE, splitmix64
from operators.factor_kernels import Scratch as FactorScratch
from operators.factor_kernels import admit_items, learn_factors
from operators.factor_kernels import make_scratch as make_factor_scratch
from operators.features import consider, gap_of, learn_usual, position_of, read_customer
from operators.fusion_kernels import (
    MOST_PER_ORDER,
    FusionState,
    fuse,
    learn_choice,
    softmax_in_place,
    take_residuals,
)
from operators.history import begin_order, group_end, has_had, push_event
from operators.kernel import kernel, long_kernel
from operators.question import LEAD, PAIRS, PARTS, TASTE, Everything, Limits, Scratch, make_scratch
from operators.trends import learn_trend

HIT_PLACES = 10
# Rows of the running metrics: hits of each part alone (in the order of Part), then these.
HIT, RECIPROCAL, WEIGHT, TESTS = PARTS, PARTS + 1, PARTS + 2, PARTS + 3
METRICS = PARTS + 4
TEST_SALT, ORDER_SALT = np.uint64(0x7E57), np.uint64(0x0DE5)
# Lines before one in its order that it is paired with.
ORDER_LINES = 8
# So many lines in 256 learn their vectors from the order's other lines, not from what was before.
ORDER_CONTEXTS = np.uint64(64)


class Testing(NamedTuple):
    """Fusion, running metrics, and which events are tested.

    Attributes
    ----------
    fusion
        See `operators.fusion`.
    metrics
        float64[METRICS], forgetting sums.
    below
        An event is tested where its mixed key is below this.
    keep
        What a test's weight is multiplied by at the next test.
    repeats
        Whether an item that the customer had is a candidate, and having it again a choice.
    limits
        How much a question looks at.
    """

    fusion: FusionState
    metrics: NDArray[np.float64]
    below: np.uint64
    keep: float
    repeats: bool
    limits: Limits


class Events(NamedTuple):
    """One batch, column by column; `groups` may be empty."""

    slots: NDArray[np.int64]
    items: NDArray[np.int32]
    weights: NDArray[np.float32]
    ts_ms: NDArray[np.int64]
    keys: NDArray[np.uint64]
    groups: NDArray[np.int32]


@kernel
def place_among(scores: NDArray[np.float64], count: int, target: int) -> int:
    """Rank (from 1) of the target's score; ties count against it, and a NaN comes last."""
    own = scores[target]
    place = 1
    for k in range(count):
        if k != target and not scores[k] < own:
            place += 1
    return place


@kernel
def note_test(
    testing: Testing,
    kept: int,
    target: int,
    features: NDArray[np.float32],
    scores: NDArray[np.float64],
) -> None:
    """Add one test to the running metrics; a target of -1 was no candidate, a miss for all."""
    metrics = testing.metrics
    for row in range(TESTS):
        metrics[row] *= testing.keep
    metrics[WEIGHT] += 1.0
    metrics[TESTS] += 1.0
    if target < 0:
        return
    place = place_among(scores, kept, target)
    metrics[HIT] += place <= HIT_PLACES
    metrics[RECIPROCAL] += 1.0 / place
    for part in range(PARTS):
        own, ahead = features[LEAD[part], target], 0
        for k in range(kept):
            ahead += k != target and not features[LEAD[part], k] < own
        metrics[part] += ahead < HIT_PLACES


@kernel
def find_targets(
    everything: Everything,
    scratch: Scratch,
    kept: int,
    events: Events,
    start: int,
    end: int,
    had: NDArray[np.int32],
    targets: NDArray[np.int64],
    testing: Testing,
) -> int:
    """Note how each line of an order came out; write the candidates that it chose to `targets`."""
    chosen = 0
    items, weights, slot = events.items, events.weights, events.slots[start]
    filters, keys = everything.rows.history.had, everything.keys
    for i in range(start, end):
        item = items[i]
        if item < 0 or weights[i] <= 0.0 or np.any(items[start:i] == item):
            continue
        if not testing.repeats and (np.any(had == item) or has_had(filters, slot, keys[item])):
            continue
        target = -1
        for k in range(kept):
            if scratch.candidates[k] == item:
                target = k
                break
        note_test(testing, kept, target, scratch.features, scratch.blend.scores)
        if target >= 0 and chosen < len(targets):
            targets[chosen] = target
            chosen += 1
    return chosen


@kernel
def test_order(
    everything: Everything,
    testing: Testing,
    events: Events,
    start: int,
    end: int,
    known: int,
    count: int,
    scratch: Scratch,
) -> None:
    """Rank before an order is learned, note how its lines came out, and teach the fusion."""
    slot, now_ms = events.slots[start], events.ts_ms[start]
    none, excludes = np.empty(0, np.int32), not testing.repeats
    had = scratch.context.items[:count].copy() if excludes else none
    kept = consider(
        everything, slot, now_ms, known, count, had, excludes, none, testing.limits, scratch
    )
    history = everything.rows.history
    position, gap = position_of(history, slot, count), gap_of(history, slot, now_ms)
    features, blend, fusion = scratch.features, scratch.blend, testing.fusion
    fuse(fusion, position, gap, features, kept, blend)
    targets = np.empty(end - start, np.int64)
    chosen = find_targets(everything, scratch, kept, events, start, end, had, targets, testing)
    if chosen > 0:
        softmax_in_place(blend.scores, kept)
        take_residuals(blend.scores, targets, chosen)
        for k in range(kept):
            blend.scores[k] *= min(chosen, MOST_PER_ORDER)
        learn_choice(fusion, position, gap, features, blend.scores, kept, blend)


@kernel
def items_after(known: int, items: NDArray[np.int32]) -> int:
    """How many items there will be when `items` have been learned."""
    for item in items:
        known = max(known, item + 1)
    return known


@kernel
def learn_line(
    everything: Everything,
    events: Events,
    i: int,
    start: int,
    item_keys: NDArray[np.uint64],
    position: int,
    scratch: Scratch,
    room: FactorScratch,
    flat: NDArray[np.float32],
) -> None:
    """Teach the parts one line of an order that began at `start`."""
    parts, slot, item, weight = (
        everything.parts,
        events.slots[i],
        events.items[i],
        events.weights[i],
    )
    factors, pairs, context = parts.factors, parts.pairs, scratch.context.items
    # Lines of one order share their event's key.
    key = splitmix64(events.keys[i] ^ item_keys[item])
    learn_trend(parts.trends, item, weight, position)
    learn_content(parts.content, item, weight)
    learn_pairs(pairs, item, context, scratch.recency[PAIRS], weight, key)
    before = max(start, i - ORDER_LINES)
    if i > before:
        learn_order(pairs, item, events.items[before:i], i - before, weight, key)
    others = events.items[before:i]
    if i > start and (splitmix64(key ^ ORDER_SALT) & np.uint64(0xFF)) < ORDER_CONTEXTS:
        learn_factors(factors, everything.rows.factors, slot, item, weight, others, flat, key, room)
    else:
        learn_factors(
            factors, everything.rows.factors, slot, item, weight, context,
            scratch.recency[TASTE], key, room,
        )  # fmt: skip
    if weight > 0.0:
        learn_usual(parts.trends, everything.rows.history, slot, item)


@long_kernel
def learn_events(
    everything: Everything,
    testing: Testing,
    item_keys: NDArray[np.uint64],
    events: Events,
    bought: bool,
) -> None:
    """Test and learn a batch, order by order: all lines of an order are tested, then learned."""
    parts, rows, limits = everything.parts, everything.rows, testing.limits
    factors, history = parts.factors, rows.history
    sizes, slots, items = factors.sizes, events.slots, events.items
    most = items_after(sizes[SIZE], items)
    scratch = make_scratch(parts, rows, testing.fusion, most, 0, limits)
    room = make_factor_scratch(factors)
    flat = np.ones(ORDER_LINES, np.float32)
    start = 0
    while start < len(slots):
        end = group_end(slots, events.groups, start)
        slot, known = slots[start], sizes[SIZE]
        count = read_customer(everything, slot, known, limits, scratch)
        position = position_of(history, slot, count)
        drawn = splitmix64(factors.seed ^ events.keys[start] ^ TEST_SALT) < testing.below
        if drawn:
            test_order(everything, testing, events, start, end, known, count, scratch)
        begin_order(history, slot)
        for i in range(start, end):
            item = items[i]
            if item < 0:
                continue
            if item >= sizes[SIZE]:
                admit_items(factors, item_keys[sizes[SIZE] : item + 1])
            learn_line(everything, events, i, start, item_keys, position, scratch, room, flat)
        for i in range(start, end):
            if items[i] >= 0:
                push_event(history, slot, item_keys[items[i]], events.ts_ms[i], bought)
        start = end
