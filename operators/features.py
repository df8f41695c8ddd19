"""What is said of each candidate, for `operators.fusion` to weigh."""

import math

import numpy as np
from numpy.typing import NDArray

from operators.candidates import BARRED, clear, gather, loose_dot, mark_items
from operators.content import gather_interests, match_interests
from operators.factor_kernels import FactorColumns, FactorState, customer_state
from operators.fusion_kernels import gap_bucket
from operators.history import DAY_MS, LAST_DAY, MAX_COUNT, HistoryColumns, has_had, read_context
from operators.kernel import kernel
from operators.question import (
    AROUND,
    CHANNELS,
    FEATURES,
    LIFT,
    NOW,
    PAIRS,
    TASTE,
    Everything,
    Feature,
    Limits,
    Scratch,
    weigh_context,
)
from operators.trends import TOTAL, TrendState, history_position

# How many lines back the items count by which a customer's usual taste is known.
USUAL_KEEP = np.float32(0.9)
USUAL_POPULARITY, USUAL_AGE, USUAL_WEIGHT = 0, 1, 2
COSINE_SCALE, AGE_SCALE = 3.0, 0.3
NEVER_SECONDS = 1e12

POPULAR, HOT, WARM, POSITION = (
    int(Feature.POPULAR),
    int(Feature.HOT),
    int(Feature.WARM),
    int(Feature.POSITION),
)
F_TASTE, F_NOW, F_LONG, F_OWN = (
    int(Feature.TASTE),
    int(Feature.TASTE_NOW),
    int(Feature.TASTE_LONG),
    int(Feature.TASTE_OWN),
)
COSINE, AGE, IDLE = int(Feature.COSINE), int(Feature.AGE), int(Feature.IDLE)
UNUSUAL_POPULARITY, UNUSUAL_AGE, MORE_POPULAR = (
    int(Feature.UNUSUAL_POPULARITY),
    int(Feature.UNUSUAL_AGE),
    int(Feature.MORE_POPULAR),
)
CONTENT, CONTENT_RARE = int(Feature.CONTENT), int(Feature.CONTENT_RARE)
OWN, OWN_DUE = int(Feature.OWN), int(Feature.OWN_DUE)


@kernel
def popularity_share(trends: TrendState, item: int) -> float:
    """Share of all events that are this item's, smoothed by half an event."""
    total = trends.totals[TOTAL] + 0.5 * (1.0 + trends.totals[1])
    return float((trends.counts[item] + 0.5) / total)


@kernel
def age_of(trends: TrendState, item: int) -> float:
    """Log of the events since the item's first one."""
    first = trends.first[item] if trends.last[item] > 0.0 else trends.totals[TOTAL]
    return math.log(1.0 + max(trends.totals[TOTAL] - first, 0.0))


@kernel
def learn_usual(trends: TrendState, history: HistoryColumns, slot: int, item: int) -> None:
    """Note how popular and how old an item is that a customer took."""
    usual = history.usual
    taken = (math.log(popularity_share(trends, item)), age_of(trends, item), 1.0)
    for k in range(len(taken)):
        usual[slot, k] = USUAL_KEEP * usual[slot, k] + np.float32(taken[k])


@kernel
def describe_pairs(
    scratch: Scratch, trends: TrendState, kept: int, back_off: NDArray[np.float64]
) -> None:
    """Fill what the co-occurrences say, and how popular candidates are."""
    features, shares, places = scratch.features, scratch.shares, scratch.met_places
    for k in range(kept):
        popular = popularity_share(trends, scratch.candidates[k])
        place = places[k]
        for channel in range(CHANNELS):
            features[channel, k] = math.log(shares[place, channel] + back_off[channel] * popular)
        features[LIFT, k] = shares[place, LIFT]
        features[POPULAR, k] = math.log(popular)


@kernel
def describe_trends(scratch: Scratch, trends: TrendState, kept: int, position: int) -> None:
    """Fill how popular candidates are of late and in the customer's position."""
    features, candidates = scratch.features, scratch.candidates
    recent, units, sums = trends.recent, trends.units, trends.sums
    items, events = 1.0 + trends.totals[1], trends.totals[TOTAL]
    in_position = trends.position_sums[position] + 2.0
    hot_total, warm_total = sums[0] / units[0] + 0.1 * items, sums[1] / units[1] + 0.3 * items
    for k in range(kept):
        item = candidates[k]
        popular = popularity_share(trends, item)
        features[HOT, k] = math.log((recent[item, 0] / units[0] + 0.1) / hot_total)
        features[WARM, k] = math.log((recent[item, 1] / units[1] + 0.3) / warm_total)
        features[POSITION, k] = math.log(
            (trends.positions[item, position] + 2.0 * popular) / in_position
        )
        features[AGE, k] = AGE_SCALE * age_of(trends, item)
        idle = events - trends.last[item]
        features[IDLE, k] = AGE_SCALE * math.log(1.0 + max(idle, 0.0))


@kernel
def describe_usual(
    scratch: Scratch, trends: TrendState, usual: NDArray[np.float32], kept: int
) -> None:
    """Fill how far candidates are from what the customer usually takes."""
    features = scratch.features
    weight = usual[USUAL_WEIGHT]
    for k in range(kept):
        for feature in (UNUSUAL_POPULARITY, UNUSUAL_AGE, MORE_POPULAR):
            features[feature, k] = 0.0
        if weight > 0.0:
            more = features[POPULAR, k] - usual[USUAL_POPULARITY] / weight
            features[UNUSUAL_POPULARITY, k] = abs(more)
            features[MORE_POPULAR, k] = more
            age = age_of(trends, scratch.candidates[k])
            features[UNUSUAL_AGE, k] = abs(age - usual[USUAL_AGE] / weight)


@kernel
def describe_taste(
    scratch: Scratch, factors: FactorState, columns: FactorColumns, slot: int, kept: int
) -> None:
    """Fill what the vectors say."""
    features, states, outputs = scratch.features, scratch.states, factors.outputs
    own = columns.vectors[slot]
    length = math.sqrt(loose_dot(states[0], states[0])) + 1e-6
    for k in range(kept):
        item = scratch.candidates[k]
        vector = outputs[item]
        score = loose_dot(states[0], vector)
        features[F_TASTE, k] = score + factors.biases[item]
        features[F_NOW, k] = loose_dot(states[1], vector)
        features[F_LONG, k] = loose_dot(states[2], vector)
        features[F_OWN, k] = loose_dot(own, vector)
        norm = math.sqrt(loose_dot(vector, vector)) + 1e-6
        features[COSINE, k] = COSINE_SCALE * score / (length * norm)


@kernel
def describe_own(
    scratch: Scratch, history: HistoryColumns, slot: int, kept: int, count: int, now_ms: int
) -> None:
    """Fill what the customer's own history says of the items in it."""
    features, context, places = scratch.features, scratch.context, scratch.places
    for feature in range(OWN, OWN_DUE + 1):
        for k in range(kept):
            features[feature, k] = 0.0
    by_place = scratch.order  # the candidate that stands at each place of `met`
    for k in range(kept):
        by_place[scratch.met_places[k]] = k
    today = min(max(now_ms // DAY_MS, 0), LAST_DAY)
    orders = np.float64(history.orders_seen[slot])
    for position in range(count):
        place = places[context.items[position]] - 1
        if place < 0 or scratch.chosen[place] == 0:
            continue
        k = int(by_place[place])
        at = context.places[position]
        times = np.float64(history.counts[slot, at] & np.uint8(MAX_COUNT))
        days = max(today - int(np.int64(history.days[slot, at])), 0)
        features[OWN, k] = 1.0
        features[OWN + 1, k] = math.log(times)
        features[OWN + 2, k] = math.log(1.0 + context.lags[position])
        features[OWN + 3, k] = math.log(1.0 + days)
        features[OWN + 4, k] = math.log((times + 0.2) / (orders + 1.0))
        interval = history.intervals[slot, at]
        if interval > 0:
            features[OWN_DUE, k] = -abs(math.log((1.0 + days) / (1.0 + interval)))
        else:
            features[OWN_DUE, k] = -2.0


@kernel
def centre(scratch: Scratch, kept: int) -> None:
    """Take the mean of the candidates out of each feature: a softmax does not see it."""
    features = scratch.features
    for feature in range(FEATURES):
        total = 0.0
        for k in range(kept):
            total += features[feature, k]
        mean = np.float32(total / max(kept, 1))
        for k in range(kept):
            features[feature, k] -= mean


@kernel
def read_customer(
    everything: Everything, slot: int, known: int, limits: Limits, scratch: Scratch
) -> int:
    """Read one customer's history; return how many items the context has."""
    history = everything.rows.history
    count = read_context(history, slot, everything.table, known, scratch.context)
    weigh_context(limits, scratch, count)
    return count


@kernel
def read_states(everything: Everything, slot: int, scratch: Scratch) -> None:
    """Fill the states of a customer whom `read_customer` read."""
    factors, columns, states = everything.parts.factors, everything.rows.factors, scratch.states
    items, recency = scratch.context.items, scratch.recency
    customer_state(factors, columns, slot, items, recency[TASTE], states[0])
    customer_state(factors, columns, slot, items, recency[NOW], states[1])
    customer_state(factors, columns, slot, items, recency[AROUND], states[2])
    own = columns.vectors[slot]
    for f in range(states.shape[1]):
        states[1, f] -= own[f]
        states[2, f] -= own[f]


@kernel
def mark_had(
    places: NDArray[np.int32],
    history: HistoryColumns,
    slot: int,
    keys: NDArray[np.uint64],
    known: int,
) -> None:
    """Mark the items that a customer's filter has."""
    for item in range(known):
        if has_had(history.had, slot, keys[item]):
            places[item] = BARRED


@kernel
def consider(
    everything: Everything,
    slot: int,
    now_ms: int,
    known: int,
    count: int,
    excluded: NDArray[np.int32],
    exclude_had: bool,
    indexed: NDArray[np.int32],
    limits: Limits,
    scratch: Scratch,
) -> int:
    """Gather and describe the candidates of a customer whom `read_customer` read.

    Parameters
    ----------
    excluded
        Items that must not be candidates, -1 padded.
    exclude_had
        Whether those in the customer's filter must not be either.

    Returns
    -------
    How many there are.
    """
    parts, history = everything.parts, everything.rows.history
    back_off = np.empty(CHANNELS)
    if exclude_had:
        mark_had(scratch.places, history, slot, everything.keys, known)
    mark_items(scratch.places, excluded, BARRED)
    read_states(everything, slot, scratch)
    used, items = min(count, limits.context), scratch.context.items
    interest = gather_interests(
        parts.content, items, scratch.recency[PAIRS], used, scratch.interests
    )
    found, kept = gather(scratch, parts, known, count, interest, indexed, limits, back_off)
    position = position_of(history, slot, count)
    describe_pairs(scratch, parts.trends, kept, back_off)
    describe_trends(scratch, parts.trends, kept, position)
    describe_usual(scratch, parts.trends, history.usual[slot], kept)
    describe_taste(scratch, parts.factors, everything.rows.factors, slot, kept)
    features = scratch.features
    match_interests(
        parts.content,
        scratch.interests,
        interest,
        scratch.candidates,
        kept,
        features[CONTENT],
        features[CONTENT_RARE],
    )
    describe_own(scratch, history, slot, kept, count, now_ms)
    centre(scratch, kept)
    if exclude_had:
        scratch.places[:known] = 0
    clear(scratch, found)
    mark_items(scratch.places, excluded, 0)
    return kept


@kernel
def position_of(history: HistoryColumns, slot: int, count: int) -> int:
    """Bucket of the length of a customer's history."""
    orders = int(history.orders_seen[slot])
    return history_position(max(count, orders) if count > 0 else 0)


@kernel
def gap_of(history: HistoryColumns, slot: int, now_ms: int) -> int:
    """Bucket of the time since a customer's last event."""
    if history.orders_seen[slot] == 0:
        return gap_bucket(NEVER_SECONDS)
    return gap_bucket((now_ms - history.last_ts_ms[slot]) / 1000.0)
