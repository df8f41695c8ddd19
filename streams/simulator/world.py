"""Draws the simulated world: categories, items and customers, with their planted truth."""

import numpy as np
from numpy.typing import NDArray

from streams.simulator.behaviour import NEWCOMERS, SEGMENTS
from streams.simulator.truth import MAX_PREFERRED, NEVER, Truth

BUNDLE_SIZE = 4
GROUP_CATEGORIES = 4
ZIPF_EXPONENT = 1.0
CATEGORY_NAMES = (
    *("kitchen", "lighting", "garden", "toys", "books", "music", "stationery", "bedding"),
    *("bath", "jewellery", "bags", "shoes", "jackets", "sportswear", "camping", "cycling"),
    *("pets", "baby", "crafts", "candles", "glassware", "clocks", "mirrors", "rugs"),
    *("storage", "tools", "phones", "audio", "cameras", "games", "snacks", "tea"),
    *("coffee", "wine", "cosmetics", "perfume", "vitamins", "party", "gifts", "posters"),
)
ADJECTIVES = (
    *("Red", "Blue", "Green", "Vintage", "Modern", "Wooden", "Ceramic", "Folding"),
    *("Small", "Large", "Striped", "Hand-made", "Soft", "Classic", "Travel", "Nordic"),
)
NOUNS = (
    *("Set", "Box", "Holder", "Kit", "Bundle", "Case", "Stand", "Basket"),
    *("Piece", "Pack", "Collection", "Bowl", "Frame", "Rack", "Mug", "Bag"),
)


def zipf_weights(count: int) -> NDArray[np.float64]:
    """Return weights proportional to 1 / rank, summing to 1."""
    weights: NDArray[np.float64] = np.arange(1, count + 1, dtype=np.float64) ** -ZIPF_EXPONENT
    return weights / float(weights.sum())


def category_names(count: int) -> list[str]:
    """Name `count` categories."""
    named = list(CATEGORY_NAMES[:count])
    return named + [f"category-{i:03d}" for i in range(len(named), count)]


def shuffled_ids(rng: np.random.Generator, prefix: str, count: int) -> list[str]:
    """Return ids whose numbers say nothing about the index."""
    digits = len(str(count - 1))
    return [f"{prefix}-{number:0{digits}d}" for number in rng.permutation(count).tolist()]


def draw_preferences(
    rng: np.random.Generator, customers: int, categories: int
) -> tuple[NDArray[np.int16], NDArray[np.int16]]:
    """Draw each customer's preference group and preferred categories.

    Returns
    -------
    group, preferred
        int16 (customers,) and int16 (customers, 3); -1 pads.
    """
    groups = max(1, categories // 2)
    width = min(GROUP_CATEGORIES, categories)
    weights = np.sqrt(zipf_weights(categories))
    weights /= weights.sum()
    of_group = np.array(
        [rng.choice(categories, width, replace=False, p=weights) for _ in range(groups)]
    )
    group = rng.integers(0, groups, customers)
    order = rng.random((customers, width)).argsort(axis=1)
    drawn = np.take_along_axis(of_group[group], order, axis=1)[:, :MAX_PREFERRED]
    preferred = np.full((customers, MAX_PREFERRED), -1, np.int16)
    preferred[:, : drawn.shape[1]] = drawn
    kept = rng.integers(1, MAX_PREFERRED + 1, customers)
    preferred[np.arange(MAX_PREFERRED) >= kept[:, None]] = -1
    return group.astype(np.int16), preferred


def draw_lifetimes(
    rng: np.random.Generator, segment: NDArray[np.int8], start_ts_ms: int, span_ms: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Draw when each customer arrives, and when the churners among them stop."""
    count = len(segment)
    arrive = np.full(count, start_ts_ms, np.int64)
    new = segment == NEWCOMERS
    arrive[new] += (rng.random(int(new.sum())) * 0.6 * span_ms).astype(np.int64)
    churns = rng.random(count) < np.array([s.churn_share for s in SEGMENTS])[segment]
    churns[0] = False  # so that somebody is always there
    left = start_ts_ms + span_ms - arrive
    stop = arrive + ((0.3 + 0.5 * rng.random(count)) * left).astype(np.int64)
    return arrive, np.where(churns, stop, NEVER)


def build_world(
    seed: int,
    run: int,
    customers: int,
    items: int,
    categories: int,
    start_ts_ms: int,
    span_ms: int,
) -> Truth:
    """Draw the world that belongs to `seed`; every run of it has the same customers and items.

    Items of one category lie side by side, most popular first, and four neighbours make a bundle.
    """
    rng = np.random.default_rng([seed, 0])
    sizes = np.full(categories, items // categories)
    sizes[: items % categories] += 1
    item_category = np.repeat(np.arange(categories), sizes).astype(np.int16)
    first = np.concatenate([[0], np.cumsum(sizes)[:-1]])
    local = np.arange(items) - first[item_category]
    bundles = np.concatenate([[0], np.cumsum(-(-sizes // BUNDLE_SIZE))[:-1]])
    level = rng.lognormal(2.5, 0.7, categories)
    price = np.maximum(np.round(level[item_category] * rng.lognormal(0.0, 0.5, items), 2), 0.5)
    words = rng.integers(0, len(NOUNS), (items, 2)).tolist()
    segment = rng.choice(len(SEGMENTS), customers, p=[s.share for s in SEGMENTS]).astype(np.int8)
    segment[0] = 0
    group, preferred = draw_preferences(rng, customers, categories)
    arrive, stop = draw_lifetimes(rng, segment, start_ts_ms, span_ms)
    return Truth(
        seed=seed,
        run=run,
        customer_ids=shuffled_ids(rng, "customer", customers),
        item_ids=shuffled_ids(rng, "item", items),
        category_names=category_names(categories),
        item_titles=[f"{ADJECTIVES[a]} {NOUNS[b]} {i}" for i, (a, b) in enumerate(words)],
        segment=segment,
        group=group,
        preferred=preferred,
        arrive_ts_ms=arrive,
        stop_ts_ms=stop,
        sour_ms=span_ms // 10,
        item_category=item_category,
        item_bundle=(bundles[item_category] + local // BUNDLE_SIZE).astype(np.int32),
        item_weight=np.concatenate([zipf_weights(size) for size in sizes]),
        item_price=price,
    )
