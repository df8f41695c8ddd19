"""What the kernels of `operators.hybrid` pass around: parts, limits, and room for one question.

A question is: which items for this customer, now?
"""

from enum import IntEnum
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from operators.content import ContentState, Interests, make_interests
from operators.cooccurrence_rows import CooccurrenceState
from operators.factor_kernels import FactorColumns, FactorState
from operators.fusion_kernels import Blend, FusionState, make_blend
from operators.history import Context, HistoryColumns, make_context
from operators.kernel import kernel
from operators.trends import TrendState
from operators.vocabulary import KeyTable


class Part(IntEnum):
    """What speaks for an item."""

    POPULAR = 0
    """Many customers touch it, of late or ever."""
    ALSO_VIEWED = 1
    """It goes with items that the customer touched."""
    TOGETHER = 2
    """It is bought together with items that the customer touched."""
    TASTE = 3
    """It lies near the customer's own vector and their items'."""
    CONTENT = 4
    """It is about the same as the customer's items."""
    OWN = 5
    """The customer had it before."""
    DUE = 6
    """The customer had it before, as long ago as usually lies between."""


class Feature(IntEnum):
    """What a candidate is described by: logarithms of probabilities where not said otherwise."""

    NEXT = 0
    FORWARD = 1
    BACKWARD = 2
    ORDER = 3
    AROUND = 4
    LIFT = 5
    """Naive Bayes over the newest items."""
    POPULAR = 6
    HOT = 7
    WARM = 8
    POSITION = 9
    TASTE = 10
    TASTE_NOW = 11
    TASTE_LONG = 12
    TASTE_OWN = 13
    COSINE = 14
    """Of the customer's state and the item's vector."""
    AGE = 15
    """Log of the events since the item's first one."""
    IDLE = 16
    """Log of the events since the item's newest one."""
    UNUSUAL_POPULARITY = 17
    """How far its popularity is from what the customer usually takes."""
    UNUSUAL_AGE = 18
    MORE_POPULAR = 19
    """The same with its sign."""
    CONTENT = 20
    CONTENT_RARE = 21
    OWN = 22
    """1 where the customer had it before, and of those:"""
    OWN_COUNT = 23
    OWN_ORDERS = 24
    OWN_DAYS = 25
    OWN_SHARE = 26
    OWN_DUE = 27
    """How far the time since is from what usually lies between, below 0."""


FEATURES = len(Feature)
PARTS = len(Part)
PART_OF = np.full(FEATURES, int(Part.POPULAR))
for _part, _features in {
    Part.ALSO_VIEWED: (0, 1, 2, 4, 5),
    Part.TOGETHER: (3,),
    Part.TASTE: (10, 11, 12, 13, 14),
    Part.CONTENT: (20, 21),
    Part.OWN: (22, 23, 24, 25, 26),
    Part.DUE: (27,),
}.items():
    PART_OF[list(_features)] = int(_part)
"""The part that each feature belongs to."""
LEAD = np.array(
    [
        Feature.WARM,
        Feature.FORWARD,
        Feature.ORDER,
        Feature.TASTE,
        Feature.CONTENT,
        Feature.OWN_COUNT,
        Feature.OWN_DUE,
    ],
    np.int64,
)
"""The feature by which each part alone would order the candidates."""
PRIOR_WEIGHTS = [0.0] * FEATURES
for _feature, _weight in {
    Feature.NEXT: 0.3,
    Feature.FORWARD: 0.4,
    Feature.POPULAR: 0.1,
    Feature.TASTE: 0.2,
    Feature.CONTENT: 0.1,
}.items():
    PRIOR_WEIGHTS[_feature] = _weight
"""Before any choice was seen: co-occurrence, which learns fastest, leads."""

# Ways of forgetting what lies back in a customer's history: what each order back counts against
# the one after it. Each line back counts as a tenth of an order.
PAIRS, AROUND, TASTE, NOW = 0, 1, 2, 3
RECENCIES = (0.9, 0.97, 0.85, 0.4)
LAGS = 256
# New items that are remembered, candidates among them, and the events after which one is new no
# more.
FRESH, FRESH_CANDIDATES, FRESH_EVENTS = 128, 8, 5.0
ORDERS_PER_LINE = 0.1
LEAST_RECENCY = np.float32(0.01)
"""What counts less counts nothing."""

# Items that co-occurrences may bring a question; what comes later, from older items of the
# history, is left out.
MOST_MET = 4000
# What is kept of each item met: one number by channel of the co-occurrences, its lift, and what
# it is chosen by.
CHANNELS, LIFT, CHOICE = 5, 5, 6
COLUMNS = 7


class Parts(NamedTuple):
    """The state of all parts, for kernels.

    Attributes
    ----------
    barred
        uint8[capacity], 1 where an item must not be recommended.
    fresh
        int32[FRESH], items that the catalogue brought of late, -1 where there are fewer.
    trends, pairs, factors, content
        See the operators.
    """

    barred: NDArray[np.uint8]
    fresh: NDArray[np.int32]
    trends: TrendState
    pairs: CooccurrenceState
    factors: FactorState
    content: ContentState


class Rows(NamedTuple):
    """The customers' columns, for kernels."""

    history: HistoryColumns
    factors: FactorColumns


class Everything(NamedTuple):
    """All that a kernel of the hybrid reads.

    Attributes
    ----------
    parts, rows
        See there.
    table, keys
        The items' keys, as a hash table and by index.
    """

    parts: Parts
    rows: Rows
    table: KeyTable
    keys: NDArray[np.uint64]


class Limits(NamedTuple):
    """How much a question may look at.

    Attributes
    ----------
    also, near, popular, hot, own
        Candidates by co-occurrence, by vectors, of all time, of these days, and of the customer's
        own, newest first.
    context
        Newest items of the customer whose neighbours are looked at.
    smoothing
        Events of an item without neighbours that count as much as popularity does (Dirichlet).
    scan
        With more items than this, candidates by vectors are only those of an index.
    by_lag, by_place
        float32[len(RECENCIES), LAGS] each: what an item counts by the orders since it came, and
        by its place in the history; their product is its recency.
    """

    also: int
    near: int
    popular: int
    hot: int
    own: int
    context: int
    smoothing: float
    scan: int
    by_lag: NDArray[np.float32]
    by_place: NDArray[np.float32]


class Scratch(NamedTuple):
    """Room for one question.

    Attributes
    ----------
    context
        The customer's history.
    recency
        float32[len(RECENCIES), length], what each item of the context counts.
    places
        int32[items], each item's place in `met` plus one; 0 where it was not met, BARRED where it
        must not be. All 0 between questions.
    met, chosen, shares
        Items met, whether each is a candidate, and float32[met, COLUMNS], what the co-occurrences
        say of it.
    order, likely
        Numbers to be partitioned, and the items they belong to.
    near
        float32[items], the score of each item by vectors.
    candidates, met_places, features
        The candidates, their places in `met`, and float32[FEATURES, candidates].
    states
        float32[3, factors], the customer's state: as learned, of now, and in the long run.
    interests, blend
        See `operators.content` and `operators.fusion`.
    """

    context: Context
    recency: NDArray[np.float32]
    places: NDArray[np.int32]
    met: NDArray[np.int32]
    chosen: NDArray[np.uint8]
    shares: NDArray[np.float32]
    order: NDArray[np.float32]
    likely: NDArray[np.int32]
    near: NDArray[np.float32]
    candidates: NDArray[np.int32]
    met_places: NDArray[np.int32]
    features: NDArray[np.float32]
    states: NDArray[np.float32]
    interests: Interests
    blend: Blend


@kernel
def make_scratch(
    parts: Parts, rows: Rows, fusion: FusionState, known: int, indexed: int, limits: Limits
) -> Scratch:
    """Room for customers while there are up to `known` items, `indexed` of them from an index."""
    length = rows.history.keys.shape[1]
    others = limits.near + limits.popular + limits.hot + indexed + length + FRESH_CANDIDATES
    met = min(known, MOST_MET + others) + 1
    kept = min(known, limits.also + others) + 1
    return Scratch(
        make_context(length),
        np.empty((len(limits.by_lag), length), np.float32),
        np.zeros(known, np.int32),
        np.empty(met, np.int32),
        np.empty(met, np.uint8),
        np.empty((met, COLUMNS), np.float32),
        np.empty(known + 1, np.float32),
        np.empty(known + 1, np.int32),
        np.empty(min(known, limits.scan), np.float32),
        np.empty(kept, np.int32),
        np.empty(kept, np.int32),
        np.empty((FEATURES, kept), np.float32),
        np.empty((3, parts.factors.inputs.shape[1]), np.float32),
        make_interests(),
        make_blend(fusion, kept),
    )


@kernel
def weigh_context(limits: Limits, scratch: Scratch, count: int) -> None:
    """Fill the recencies of the first `count` items of the context; the rest count nothing."""
    recency, lags = scratch.recency, scratch.context.lags
    by_lag, by_place = limits.by_lag, limits.by_place
    last = by_lag.shape[1] - 1
    for way in range(len(recency)):
        for k in range(count):
            weight = by_lag[way, min(lags[k], last)] * by_place[way, min(k, last)]
            recency[way, k] = weight if weight >= LEAST_RECENCY else np.float32(0.0)
        for k in range(count, recency.shape[1]):
            recency[way, k] = 0.0


def fading() -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return `Limits.by_lag` and `Limits.by_place`."""
    back = np.arange(LAGS, dtype=np.float64)
    rates = np.array(RECENCIES)[:, np.newaxis]
    return (
        (rates**back).astype(np.float32),
        (rates ** (ORDERS_PER_LINE * back)).astype(np.float32),
    )
