"""What `operators.policy_kernels` reads and writes, as named arrays."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from operators.kernel import kernel

ENTRY_RULES = 4
"""Rules that are told per entry."""
FREE = -1
OUTSIDE = -2
"""The place of an entry that was pinned and not in the wide list."""
REPEATABLE, UNREPEATABLE = 1, 2
"""How a category is handled, where not by default."""


class Wide(NamedTuple):
    """Wide lists: items int32[m, w], scores float32[m, w], events float64[m, w] or [m, 0]."""

    items: NDArray[np.int32]
    scores: NDArray[np.float32]
    events: NDArray[np.float64]


class Customers(NamedTuple):
    """Whose lists: segments int32[m], keys uint64[m]; items of each, int32[m, any], -1 padded."""

    segments: NDArray[np.int32]
    keys: NDArray[np.uint64]
    bought: NDArray[np.int32]
    seen: NDArray[np.int32]
    excluded: NDArray[np.int32]


class Labels(NamedTuple):
    """What is known of items, by index, and how each category is handled, by its code."""

    categories: NDArray[np.int32]
    tags: NDArray[np.int32]
    barred: NDArray[np.uint8]
    handling: NDArray[np.uint8]


class Limits(NamedTuple):
    """The settings that a kernel reads; see `operators.policy.Options`."""

    max_per_category: int
    diversity: float
    min_new_items: int
    new_item_events: float
    drop_bought: bool
    drop_seen: bool


class FinalLists(NamedTuple):
    """Final lists, best first: (customers, n) each, -1 padded (scores 0).

    Attributes
    ----------
    places
        int32, where in the wide list each entry stood; `OUTSIDE` (-2) where it was pinned and
        not there.
    items
        int32, indices of items.
    scores
        float32, 0..1: the ranker's, times the factors of rules, at most 1; 0 for what was not in
        the wide list.
    rules
        int16[m, n, 4], up to four rules that acted on each entry, -1 padded: the pin first, then
        boosts, then what buried it.
    acted
        bool[m, rules], which rules acted on the list: those that excluded or buried a candidate,
        boosted an entry, or pinned one.
    """

    places: NDArray[np.int32]
    items: NDArray[np.int32]
    scores: NDArray[np.float32]
    rules: NDArray[np.int16]
    acted: NDArray[np.bool_]


class Scratch(NamedTuple):
    """Room for one list: candidates by place in the wide list, rules, then the final positions."""

    usable: NDArray[np.bool_]
    is_new: NDArray[np.bool_]
    relevance: NDArray[np.float64]
    touched: NDArray[np.int16]
    nearest: NDArray[np.float64]
    crowd: NDArray[np.int64]
    active: NDArray[np.bool_]
    found: NDArray[np.int64]
    chosen: NDArray[np.int64]
    chosen_items: NDArray[np.int32]
    pins: NDArray[np.int64]


@kernel
def make_scratch(width: int, n: int, rules: int) -> Scratch:
    """Make room for lists of a width."""
    return Scratch(
        np.zeros(width, np.bool_),
        np.zeros(width, np.bool_),
        np.zeros(width),
        np.full((width, ENTRY_RULES), -1, np.int16),
        np.zeros(width),
        np.zeros(width, np.int64),
        np.empty(rules, np.bool_),
        np.empty(rules, np.int64),
        np.empty(n, np.int64),
        np.empty(n, np.int32),
        np.empty(n, np.int64),
    )


@kernel
def holds(items: NDArray[np.int32], item: int) -> bool:
    """Tell whether a short list holds an item."""
    for other in items:  # noqa: SIM110 - numba has no any() over a generator
        if other == item:
            return True
    return False
