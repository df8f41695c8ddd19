"""Lists for customers, each item with what speaks for it: the kernels behind `Hybrid.rank_many`."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from operators.content import ContentState, content_cause
from operators.cooccurrence_rows import CooccurrenceState, find_slot
from operators.draws import SIZE
from operators.factor_kernels import FactorState, dot
from operators.features import consider, gap_of, position_of, read_customer
from operators.fusion_kernels import FusionState, fuse, slopes_at, softmax_in_place
from operators.history import BOUGHT, Context
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
OPEN = -1
VIEWED_CHANNELS, ORDER_CHANNELS = (0, 2), (3, 3)
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


class Causes(NamedTuple):
    """Room to say what speaks for the items of one list.

    Attributes
    ----------
    items
        int32[n], the list.
    lifts
        float64[n, PARTS], by how much each part lifts an item above the mean candidate.
    parts, causes
        int64[n] each, as in `Lists`; a part of OPEN is not decided.
    """

    items: NDArray[np.int32]
    lifts: NDArray[np.float64]
    parts: NDArray[np.int64]
    causes: NDArray[np.int64]


@kernel
def lift_parts(
    fusion: FusionState, scratch: Scratch, best: NDArray[np.int64], count: int, causes: Causes
) -> None:
    """Fill the lifts of the list's items: slopes of the score times features above the mean."""
    slopes = np.empty(FEATURES)
    lifts, features = causes.lifts, scratch.features
    for n in range(count):
        slopes_at(fusion, scratch.blend, best[n], slopes)
        lifts[n, :] = 0.0
        for feature in range(FEATURES):
            lifts[n, PART_OF[feature]] += slopes[feature] * features[feature, best[n]]


@kernel
def find_pair_causes(
    pairs: CooccurrenceState,
    context: NDArray[np.int32],
    recency: NDArray[np.float32],
    used: int,
    part: int,
    channels: tuple[int, int],
    count: int,
    causes: Causes,
) -> None:
    """Name the context item that the channels from the first to the last join most with each."""
    weights, totals = pairs.weights, pairs.totals
    for n in range(count):
        if causes.parts[n] != part or causes.causes[n] >= 0:
            continue
        best = 0.0
        for position in range(used):
            before = context[position]
            slot = find_slot(pairs, before, causes.items[n])
            if slot < 0:
                continue
            share = 0.0
            for channel in range(channels[0], channels[1] + 1):
                share += weights[slot, channel] / (totals[before, channel] + 1.0)
            if share * recency[position] > best:
                best = share * recency[position]
                causes.causes[n] = before


@kernel
def find_taste_causes(
    factors: FactorState,
    context: NDArray[np.int32],
    recency: NDArray[np.float32],
    count: int,
    causes: Causes,
) -> None:
    """Name the context item whose vector speaks most for each."""
    inputs, outputs, known = factors.inputs, factors.outputs, factors.sizes[SIZE]
    for n in range(count):
        item = causes.items[n]
        if causes.parts[n] != BY_TASTE or causes.causes[n] >= 0 or item >= known:
            continue
        best = 0.0
        for position in range(len(context)):
            before = context[position]
            if before < 0 or recency[position] <= 0.0:
                break
            if before == item or before >= known:
                continue
            part = recency[position] * dot(inputs[before], outputs[item])
            if part > best:
                best = part
                causes.causes[n] = before


@kernel
def find_content_causes(
    content: ContentState,
    context: NDArray[np.int32],
    recency: NDArray[np.float32],
    used: int,
    count: int,
    causes: Causes,
) -> None:
    """Name the context item that shares the rarest words with each."""
    for n in range(count):
        if causes.parts[n] == CONTENT and causes.causes[n] < 0:
            causes.causes[n] = content_cause(content, context[:used], recency, causes.items[n])


@kernel
def find_own_causes(
    context: Context, intervals: NDArray[np.uint16], count: int, causes: Causes
) -> None:
    """Name the item itself, or the days that usually lie between."""
    for n in range(count):
        part = causes.parts[n]
        if part not in (OWN, DUE) or causes.causes[n] >= 0:
            continue
        for position in range(len(context.items)):
            if context.items[position] == causes.items[n]:
                days = np.int64(intervals[context.places[position]])
                causes.causes[n] = causes.items[n] if part == OWN else days
                break


@kernel
def lead(count: int, causes: Causes) -> int:
    """Give items that are not decided the part that lifts them most; return how many there were.

    Popularity needs no cause, and stands for an item that nothing else lifts.
    """
    left = 0
    for n in range(count):
        if causes.parts[n] != OPEN:
            continue
        left += 1
        part = int(np.argmax(causes.lifts[n]))
        if causes.lifts[n, part] <= 0.0:
            part = POPULAR
        causes.parts[n], causes.causes[n] = part, -1
    return left


@kernel
def reopen(count: int, causes: Causes) -> None:
    """Take back parts that named no cause, so that the next one has its turn."""
    for n in range(count):
        part, cause = causes.parts[n], causes.causes[n]
        # An item with one interval of no days is due at no time.
        if part != POPULAR and (cause < 0 or (part == DUE and cause == 0)):
            causes.lifts[n, part] = -np.inf
            causes.parts[n] = OPEN


@kernel
def explain(
    everything: Everything,
    fusion: FusionState,
    slot: int,
    used: int,
    best: NDArray[np.int64],
    count: int,
    scratch: Scratch,
    causes: Causes,
) -> None:
    """Find for the first `count` items of a list what speaks for each, and what it goes by."""
    parts, context, recency = everything.parts, scratch.context, scratch.recency
    items, intervals = context.items, everything.rows.history.intervals[slot]
    for n in range(count):
        causes.items[n] = scratch.candidates[best[n]]
        causes.parts[n] = OPEN
    lift_parts(fusion, scratch, best, count, causes)
    for _ in range(PARTS):
        if lead(count, causes) == 0:
            break
        find_pair_causes(
            parts.pairs, items, recency[PAIRS], used, ALSO_VIEWED, VIEWED_CHANNELS, count, causes
        )
        find_pair_causes(
            parts.pairs, items, recency[PAIRS], used, TOGETHER, ORDER_CHANNELS, count, causes
        )
        find_taste_causes(parts.factors, items, recency[TASTE], count, causes)
        find_content_causes(parts.content, items, recency[PAIRS], used, count, causes)
        find_own_causes(context, intervals, count, causes)
        reopen(count, causes)


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
    most = len(best)
    causes = Causes(
        np.empty(most, np.int32),
        np.empty((most, PARTS)),
        np.empty(most, np.int64),
        np.empty(most, np.int64),
    )
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
        explained = min(filled, questions.explained)
        explain(everything, fusion, slot, used, best, explained, scratch, causes)
        for n in range(filled):
            lists.items[row, n] = scratch.candidates[best[n]]
            lists.scores[row, n] = scores[best[n]]
            if n < explained:
                lists.parts[row, n] = causes.parts[n]
                lists.causes[row, n] = causes.causes[n]
