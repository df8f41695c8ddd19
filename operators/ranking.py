"""Lists for customers, each item with what speaks for it: the kernels behind `Hybrid.rank_many`."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from operators.content import content_cause
from operators.cooccurrence_rows import CooccurrenceState, find_slot
from operators.draws import SIZE
from operators.factor_kernels import FactorState, customer_state, dot
from operators.features import consider, gap_of, position_of, read_customer
from operators.fusion import FusionState, fuse, slopes_at, softmax_in_place
from operators.history import BOUGHT, make_context, read_context
from operators.kernel import kernel, long_kernel
from operators.question import (
    FEATURES,
    PAIRS,
    PART_OF,
    PARTS,
    TASTE,
    Everything,
    Limits,
    Part,
    Scratch,
    make_scratch,
)

POPULAR, ALSO_VIEWED, TOGETHER = int(Part.POPULAR), int(Part.ALSO_VIEWED), int(Part.TOGETHER)
BY_TASTE, CONTENT, OWN, DUE = int(Part.TASTE), int(Part.CONTENT), int(Part.OWN), int(Part.DUE)


class Lists(NamedTuple):
    """Recommendation lists, best first: (customers, n) each, -1 padded (scores 0, parts 0).

    Attributes
    ----------
    items
        int32, indices of items.
    scores
        float32, estimated probability of each among the candidates.
    causes
        int32, the customer's item that speaks most for each, -1 for none; for an item that is due
        again the days between, as usual.
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

    @classmethod
    def empty(cls, customers: int, n: int) -> "Lists":
        """Return lists without an item."""
        shape = (customers, n)
        return cls(
            np.full(shape, -1, np.int32),
            np.zeros(shape, np.float32),
            np.full(shape, -1, np.int32),
            np.zeros(shape, np.uint8),
        )


class Questions(NamedTuple):
    """Whose lists, when, and without what.

    Attributes
    ----------
    slots
        int64[m], customers' rows.
    now_ms
        int64[m].
    excluded
        int32[m, k], items to leave out, -1 padded.
    indexed
        int32[m, l], items that an index of vectors finds near, -1 padded.
    exclude_bought, exclude_had
        Whether to leave out what a customer bought, or had at all.
    explained
        Of each list, so many items get their cause and part.
    """

    slots: NDArray[np.int64]
    now_ms: NDArray[np.int64]
    excluded: NDArray[np.int32]
    indexed: NDArray[np.int32]
    exclude_bought: bool
    exclude_had: bool
    explained: int


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
def pair_cause(
    pairs: CooccurrenceState,
    context: NDArray[np.int32],
    recency: NDArray[np.float32],
    used: int,
    item: int,
    first: int,
    last: int,
) -> int:
    """Return the context item that the channels `first` to `last` join most with `item`, or -1."""
    best, cause = 0.0, -1
    for position in range(used):
        before = context[position]
        slot = find_slot(pairs, before, item)
        if slot < 0:
            continue
        share = 0.0
        for channel in range(first, last + 1):
            share += pairs.weights[slot, channel] / (pairs.totals[before, channel] + 1.0)
        share *= recency[position]
        if share > best:
            best, cause = share, before
    return int(cause)


@kernel
def taste_cause(
    factors: FactorState, context: NDArray[np.int32], recency: NDArray[np.float32], item: int
) -> int:
    """Return the context item whose vector speaks most for `item`, or -1."""
    if item >= factors.sizes[SIZE]:
        return -1
    best, cause = 0.0, -1
    for position in range(len(context)):
        before = context[position]
        if before < 0:
            break
        if recency[position] <= 0.0:
            break
        if before == item or before >= factors.sizes[SIZE]:
            continue
        part = recency[position] * dot(factors.inputs[before], factors.outputs[item])
        if part > best:
            best, cause = part, before
    return int(cause)


@kernel
def find_cause(
    everything: Everything, slot: int, used: int, part: int, item: int, scratch: Scratch
) -> int:
    """Return what `Lists.causes` says of an item for which `part` speaks, -1 for nothing."""
    parts, items, recency = everything.parts, scratch.context.items, scratch.recency
    if part == ALSO_VIEWED:
        return pair_cause(parts.pairs, items, recency[PAIRS], used, item, 0, 2)
    if part == TOGETHER:
        return pair_cause(parts.pairs, items, recency[PAIRS], used, item, 3, 3)
    if part == BY_TASTE:
        return taste_cause(parts.factors, items, recency[TASTE], item)
    if part == CONTENT:
        return content_cause(parts.content, items[:used], recency[PAIRS], item)
    if part in (OWN, DUE):
        for position in range(len(items)):
            if items[position] == item:
                if part == OWN:
                    return item
                at = scratch.context.places[position]
                return int(everything.rows.history.intervals[slot, at])
    return -1


@kernel
def explain(
    everything: Everything,
    fusion: FusionState,
    slot: int,
    used: int,
    candidate: int,
    scratch: Scratch,
    slopes: NDArray[np.float64],
    lifts: NDArray[np.float64],
) -> tuple[int, int]:
    """Return the part that lifts a candidate most above the mean one, and the cause in it.

    A part that names no cause gives way to the next; popularity needs none.
    """
    slopes_at(fusion, scratch.blend, candidate, slopes)
    lifts[:] = 0.0
    for feature in range(FEATURES):
        lifts[PART_OF[feature]] += slopes[feature] * scratch.features[feature, candidate]
    item = scratch.candidates[candidate]
    for _ in range(PARTS):
        part = int(np.argmax(lifts))
        if part == POPULAR or lifts[part] <= 0.0:
            break
        cause = find_cause(everything, slot, used, part, item, scratch)
        # An item that comes after one interval only is not due at none.
        if cause > 0 or (cause == 0 and part != DUE):
            return part, cause
        lifts[part] = -np.inf
    return POPULAR, -1


@kernel
def exclude(
    everything: Everything, questions: Questions, row: int, count: int, scratch: Scratch
) -> NDArray[np.int32]:
    """Return all that must not be in a list."""
    history, context = everything.rows.history, scratch.context
    slot, given = questions.slots[row], questions.excluded[row]
    out = np.empty(len(given) + count, np.int32)
    out[: len(given)] = given
    filled = len(given)
    for k in range(count):
        bought = (history.counts[slot, context.places[k]] & BOUGHT) != 0
        if questions.exclude_had or (questions.exclude_bought and bought):
            out[filled] = context.items[k]
            filled += 1
    return out[:filled]


@long_kernel
def rank_lists(
    everything: Everything,
    fusion: FusionState,
    questions: Questions,
    limits: Limits,
    lists: Lists,
) -> None:
    """Write one list per customer; reads everything and writes nothing but `lists`."""
    parts, history = everything.parts, everything.rows.history
    known = parts.factors.sizes[SIZE]
    scratch = make_scratch(
        parts, everything.rows, fusion, known, questions.indexed.shape[1], limits
    )
    best = np.empty(lists.items.shape[1], np.int64)
    slopes, lifts = np.empty(FEATURES), np.empty(PARTS)
    if known == 0:
        return
    for row in range(len(questions.slots)):
        slot, now_ms = questions.slots[row], questions.now_ms[row]
        count = read_customer(everything, slot, known, limits, scratch)
        barred = exclude(everything, questions, row, count, scratch)
        kept = consider(
            everything,
            slot,
            now_ms,
            known,
            count,
            barred,
            questions.exclude_had,
            questions.indexed[row],
            limits,
            scratch,
        )
        position, gap = position_of(history, slot, count), gap_of(history, slot, now_ms)
        scores = scratch.blend.scores
        fuse(fusion, position, gap, scratch.features, kept, scratch.blend)
        filled = select_best(scores, kept, best)
        used = min(count, limits.context)
        softmax_in_place(scores, kept)
        for n in range(filled):
            lists.items[row, n] = scratch.candidates[best[n]]
            lists.scores[row, n] = scores[best[n]]
            if n >= questions.explained:
                continue
            part, cause = explain(everything, fusion, slot, used, best[n], scratch, slopes, lifts)
            lists.parts[row, n] = part
            lists.causes[row, n] = cause


@kernel
def read_states(
    everything: Everything, slots: NDArray[np.int64], limits: Limits
) -> NDArray[np.float32]:
    """Return the customers' states, for an index of vectors: float32[m, factors]."""
    factors = everything.parts.factors
    known, length = factors.sizes[SIZE], everything.rows.history.keys.shape[1]
    states = np.empty((len(slots), factors.inputs.shape[1]), np.float32)
    context = make_context(length)
    recency = np.empty(length, np.float32)
    last = limits.by_lag.shape[1] - 1
    for row in range(len(slots)):
        count = read_context(everything.rows.history, slots[row], everything.table, known, context)
        for k in range(length):
            recency[k] = 0.0
            if k < count:
                lag = min(context.lags[k], last)
                recency[k] = limits.by_lag[TASTE, lag] * limits.by_place[TASTE, min(k, last)]
        customer_state(
            factors, everything.rows.factors, slots[row], context.items, recency, states[row]
        )
    return states
