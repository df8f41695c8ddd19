"""The kernels of `operators.hybrid`: test, learn and rank, record by record."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from operators.candidates import (
    ALSO_VIEWED,
    POPULAR,
    RECENT,
    TASTE,
    Everything,
    Limits,
    Scratch,
    also_viewed_cause,
    describe,
    gather,
    make_scratch,
    taste_cause,
)
from operators.cooccurrence_kernels import learn_cooccurrence
from operators.draws import SIZE, splitmix64
from operators.factor_kernels import admit_items, learn_factors
from operators.factor_kernels import make_scratch as make_factor_scratch
from operators.fusion import FusionState, fuse, history_bucket, learn_choice, softmax_in_place
from operators.history import group_end, push_event, read_keys
from operators.kernel import kernel, long_kernel
from operators.popularity import TOP_SIZE, learn_popularity, smoothing

HIT_PLACES = 10
# Rows of the running metrics: hits of each part alone (in the order of Part), then these.
HIT, RECIPROCAL, WEIGHT, TESTS = 4, 5, 6, 7
METRICS = 8
TEST_SALT = np.uint64(0x7E57)


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
    limits
        How many candidates.
    """

    fusion: FusionState
    metrics: NDArray[np.float64]
    below: np.uint64
    keep: float
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
def place_of(scores: NDArray[np.float64], count: int, target: int) -> int:
    """Rank (from 1) of the target's score; ties count against it, and a NaN comes last."""
    own = scores[target]
    place = 1
    for k in range(count):
        if k != target and not scores[k] < own:
            place += 1
    return place


@kernel
def note(testing: Testing, kept: int, target: int, scratch: Scratch) -> None:
    """Add one test to the running metrics; a target of -1 was no candidate, a miss for all."""
    metrics = testing.metrics
    for row in range(TESTS):
        metrics[row] *= testing.keep
    metrics[WEIGHT] += 1.0
    metrics[TESTS] += 1.0
    if target < 0:
        return
    place = place_of(scratch.scores, kept, target)
    metrics[HIT] += place <= HIT_PLACES
    metrics[RECIPROCAL] += 1.0 / place
    for part in range(scratch.features.shape[1]):
        metrics[part] += place_of(scratch.features[:, part], kept, target) <= HIT_PLACES


@kernel
def test_event(
    everything: Everything,
    testing: Testing,
    slot: int,
    item: int,
    context: NDArray[np.int32],
    scratch: Scratch,
) -> None:
    """Rank before learning, note how the event's item came out, and teach the fusion."""
    parts = everything.parts
    none = np.empty(0, np.int32)
    kept, back_off = gather(scratch, parts, context, none, none, testing.limits)
    describe(scratch, parts, everything.rows, slot, context, kept, back_off)
    target = -1
    for k in range(kept):
        if scratch.candidates[k] == item:
            target = k
    bucket = history_bucket(context)
    fuse(testing.fusion, bucket, scratch.features, kept, scratch.scores)
    note(testing, kept, target, scratch)
    if target >= 0:
        softmax_in_place(scratch.scores, kept)
        learn_choice(testing.fusion, bucket, scratch.features, scratch.scores, kept, target)


@kernel
def draw_tests(testing: Testing, seed: np.uint64, events: Events) -> NDArray[np.bool_]:
    """Which events are tested: a share of those that teach anything, by their keys."""
    tested = np.empty(len(events.keys), np.bool_)
    for i in range(len(tested)):
        teaches = events.items[i] >= 0 and events.weights[i] > 0.0
        tested[i] = teaches and splitmix64(seed ^ events.keys[i] ^ TEST_SALT) < testing.below
    return tested


@kernel
def items_after(known: int, items: NDArray[np.int32]) -> int:
    """How many items there will be when `items` have been learned."""
    for item in items:
        known = max(known, item + 1)
    return known


@long_kernel
def learn_events(
    everything: Everything,
    testing: Testing,
    item_keys: NDArray[np.uint64],
    events: Events,
    bought: bool,
) -> None:
    """Test and learn a batch, order by order: all lines of an order are tested, then learned.

    What goes together is learned from the order's own lines too; taste from before the order,
    which is what it will be asked for.
    """
    # Taken out of their tuples once: passing a tuple on costs a reference count per array.
    popularity, pairs = everything.parts.popularity, everything.parts.cooccurrence
    factors, rows, history = (
        everything.parts.factors,
        everything.rows.factors,
        everything.rows.history,
    )
    table, recent, sizes = everything.table, everything.rows.history.recent, factors.sizes
    slots, items, weights, groups = events.slots, events.items, events.weights, events.groups
    ts_ms, keys = events.ts_ms, events.keys
    length = recent.shape[1]
    scratch = make_scratch(
        everything.parts, items_after(sizes[SIZE], items), length, testing.limits
    )
    factor_scratch = make_factor_scratch(factors)
    tested = draw_tests(testing, factors.seed, events)
    before_order, before_line = np.empty(length, np.int32), np.empty(length, np.int32)
    start = 0
    while start < len(slots):
        end = group_end(slots, groups, start)
        slot = slots[start]
        read_keys(recent, slot, table, sizes[SIZE], before_order)
        for i in range(start, end):
            if tested[i]:
                test_event(everything, testing, slot, items[i], before_order, scratch)
        before_line[:] = before_order
        for i in range(start, end):
            item = items[i]
            if item < 0:
                continue
            if i > start:
                read_keys(recent, slot, table, sizes[SIZE], before_line)
            if item >= sizes[SIZE]:
                admit_items(factors, item_keys[sizes[SIZE] : item + 1])
            learn_popularity(popularity, item, weights[i], ts_ms[i])
            learn_cooccurrence(pairs, item, before_line, weights[i], ts_ms[i])
            learn_factors(
                factors, rows, slot, item, weights[i], before_order, keys[i], factor_scratch
            )
            push_event(history, slot, item_keys[item], ts_ms[i], bought)
        start = end


class Lists(NamedTuple):
    """Recommendation lists, best first: (customers, n) each, -1 padded (scores 0, parts 0).

    Attributes
    ----------
    items
        int32, indices of items.
    scores
        float32, estimated probability of each among the candidates.
    causes
        int32, the recent item that speaks most for each, -1 for none.
    parts
        uint8, the `Part` that speaks most for each.
    """

    items: NDArray[np.int32]
    scores: NDArray[np.float32]
    causes: NDArray[np.int32]
    parts: NDArray[np.uint8]

    def of(self, customers: NDArray[np.int64]) -> "Lists":
        """Return the lists of some customers."""
        return Lists(
            self.items[customers],
            self.scores[customers],
            self.causes[customers],
            self.parts[customers],
        )


@kernel
def fill_popular(
    everything: Everything,
    barred: NDArray[np.int32],
    bought: NDArray[np.int32],
    lists: Lists,
    row: int,
) -> None:
    """Write the cold-start list: the most popular items that are not barred."""
    popularity = everything.parts.popularity
    prior, total = smoothing(popularity)
    count = 0
    for place in range(popularity.sizes[TOP_SIZE]):
        if count == lists.items.shape[1]:
            break
        item = popularity.top[place]
        if not (np.any(barred == item) or np.any(bought == item)):
            lists.items[row, count] = item
            lists.scores[row, count] = (popularity.counts[item] + prior) / total
            count += 1


@kernel
def leading_part(
    features: NDArray[np.float64], weights: NDArray[np.float64], means: NDArray[np.float64]
) -> int:
    """Return the part that lifts a candidate most above the mean candidate."""
    best, leader = -np.inf, POPULAR
    for part in range(len(means)):
        lift = weights[part] * (features[part] - means[part])
        if lift > best:
            best, leader = lift, part
    return leader


@kernel
def explain(
    everything: Everything, context: NDArray[np.int32], leader: int, lists: Lists, row: int, n: int
) -> None:
    """Write part and cause of one entry; without a cause, popularity has to stand for it."""
    item = lists.items[row, n]
    cause = -1
    if leader == ALSO_VIEWED:
        cause = also_viewed_cause(everything.parts.cooccurrence, context, item)
    elif leader == TASTE:
        cause = taste_cause(everything.parts.factors, context, item)
    elif leader == RECENT:
        cause = item if np.any(context == item) else -1
    lists.causes[row, n] = cause
    lists.parts[row, n] = leader if cause >= 0 or leader == TASTE else POPULAR


@kernel
def select_best(scores: NDArray[np.float64], count: int, best: NDArray[np.int64]) -> int:
    """Write the places of the highest scores to `best`, highest first; return how many."""
    filled = 0
    for k in range(count):
        if filled == len(best) and not scores[k] > scores[best[filled - 1]]:
            continue
        place = filled if filled < len(best) else filled - 1
        filled = min(filled + 1, len(best))
        while place > 0 and scores[best[place - 1]] < scores[k]:
            best[place] = best[place - 1]
            place -= 1
        best[place] = k
    return filled


@kernel
def fill_list(
    everything: Everything,
    testing: Testing,
    context: NDArray[np.int32],
    kept: int,
    scratch: Scratch,
    best: NDArray[np.int64],
    lists: Lists,
    row: int,
) -> None:
    """Write the best of one customer's described candidates."""
    bucket = history_bucket(context)
    fuse(testing.fusion, bucket, scratch.features, kept, scratch.scores)
    softmax_in_place(scratch.scores, kept)
    features = scratch.features
    weights = testing.fusion.weights[0] + testing.fusion.weights[1 + bucket]
    means = np.zeros(len(weights))
    for k in range(kept):
        for part in range(len(means)):
            means[part] += features[k, part] / kept
    filled = select_best(scratch.scores, kept, best)
    for n in range(filled):
        lists.items[row, n] = scratch.candidates[best[n]]
        lists.scores[row, n] = scratch.scores[best[n]]
        leader = leading_part(features[best[n]], weights, means)
        explain(everything, context, leader, lists, row, n)


@long_kernel
def rank_lists(
    everything: Everything,
    testing: Testing,
    slots: NDArray[np.int64],
    excluded: NDArray[np.int32],
    exclude_bought: bool,
    lists: Lists,
) -> None:
    """Write one list per customer; reads everything and writes nothing but `lists`."""
    parts, history = everything.parts, everything.rows.history
    length = history.recent.shape[1]
    bought = np.full(history.bought.shape[1], -1, np.int32)
    known = parts.factors.sizes[SIZE]
    scratch = make_scratch(parts, known, length, testing.limits)
    context = np.empty(length, np.int32)
    best = np.empty(lists.items.shape[1], np.int64)
    for row in range(len(slots)):
        slot = slots[row]
        if exclude_bought:
            read_keys(history.bought, slot, everything.table, known, bought)
        count = read_keys(history.recent, slot, everything.table, known, context)
        if count == 0:
            fill_popular(everything, excluded[row], bought, lists, row)
            continue
        kept, back_off = gather(scratch, parts, context, excluded[row], bought, testing.limits)
        describe(scratch, parts, everything.rows, slot, context, kept, back_off)
        fill_list(everything, testing, context, kept, scratch, best, lists, row)
