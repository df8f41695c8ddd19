"""The kernels of k-means; rows are standardised except where said otherwise."""

import numpy as np
from numpy.typing import NDArray

from operators.hashing import avalanche
from operators.kernel import kernel
from operators.scaler import MEAN, learn_moments, merge_moments, spreads_of, standardised

# Positions in the counters of a model.
SEEN, SEEDED, SWEEPS = 0, 1, 2
# Positions in a lineage.
GENERATION, TIE = 0, 1
LLOYD_STEPS = 10
# Squared standard deviations: centroids that move less have come to rest.
TOLERANCE = 1e-6
# The share of the inertia by which a challenger must win.
CHALLENGE_GAIN = 0.01
# Seeding is tried whenever so many further rows per cluster have arrived.
SEED_ROWS_PER_CLUSTER = 8

GOLDEN_GAMMA = np.uint64(0x9E3779B97F4A7C15)
DRAW_SHIFT = np.uint64(11)
DRAW_UNIT = 1.0 / 9007199254740992.0


@kernel
def uniform_draw(seed: int, number: int) -> float:
    """Return draw `number` of a stream, uniform in [0, 1): splitmix64 by position.

    Steele, Lea & Flood 2014, OOPSLA, with the finaliser of MurmurHash3.
    """
    mixed = avalanche(np.uint64(seed) + np.uint64(number + 1) * GOLDEN_GAMMA)
    return float(avalanche(mixed) >> DRAW_SHIFT) * DRAW_UNIT


@kernel
def content_hash(values: NDArray[np.float64]) -> int:
    """Return a hash of the bits of a contiguous array, at least 0."""
    mixed = np.uint64(0)
    for bits in values.ravel().view(np.uint64):
        mixed = avalanche((mixed ^ bits) + GOLDEN_GAMMA)
    return int(mixed >> np.uint64(1))


@kernel
def squared_distance(one: NDArray[np.float64], two: NDArray[np.float64]) -> float:
    """Return the squared Euclidean distance of two rows."""
    total = 0.0
    for j in range(one.shape[0]):
        difference = one[j] - two[j]
        total += difference * difference
    return total


@kernel
def nearest(row: NDArray[np.float64], centroids: NDArray[np.float64]) -> tuple[int, float]:
    """Return the nearest centroid, the first of equals, and its squared distance."""
    best = 0
    best_distance = np.inf
    for c in range(centroids.shape[0]):
        distance = squared_distance(row, centroids[c])
        if distance < best_distance:
            best = c
            best_distance = distance
    return best, best_distance


@kernel
def plus_plus(
    rows: NDArray[np.float64], seed: int, first_draw: int, centroids: NDArray[np.float64]
) -> bool:
    """Choose starting centroids among `rows` by k-means++; False where too few are distinct.

    The first uniformly, each further one with a chance proportional to its squared distance
    from the nearest chosen so far (Arthur & Vassilvitskii 2007, SODA).
    """
    n = rows.shape[0]
    if n == 0:
        return False
    centroids[0] = rows[int(uniform_draw(seed, first_draw) * n)]
    distances = np.full(n, np.inf)
    for c in range(1, centroids.shape[0]):
        total = 0.0
        for i in range(n):
            distances[i] = min(distances[i], squared_distance(rows[i], centroids[c - 1]))
            total += distances[i]
        if total == 0.0:
            return False
        target = uniform_draw(seed, first_draw + c) * total
        chosen = -1
        for i in range(n):
            if distances[i] > 0.0:
                chosen = i
                target -= distances[i]
                if target < 0.0:
                    break
        centroids[c] = rows[chosen]
    return True


@kernel
def assign(
    rows: NDArray[np.float64],
    centroids: NDArray[np.float64],
    counts: NDArray[np.float64],
    sums: NDArray[np.float64],
    squares: NDArray[np.float64],
) -> float:
    """Give each row to its nearest centroid and add it up there; return the inertia."""
    counts[:] = 0.0
    sums[:] = 0.0
    squares[:] = 0.0
    inertia = 0.0
    for i in range(rows.shape[0]):
        c, distance = nearest(rows[i], centroids)
        inertia += distance
        counts[c] += 1.0
        for j in range(rows.shape[1]):
            sums[c, j] += rows[i, j]
            squares[c, j] += rows[i, j] * rows[i, j]
    return inertia


@kernel
def widest_spread(
    counts: NDArray[np.float64], sums: NDArray[np.float64], squares: NDArray[np.float64]
) -> tuple[int, int, float]:
    """Return the cluster of largest inertia, its widest feature and the deviation there."""
    cluster, feature, deviation = -1, 0, 0.0
    worst = 0.0
    for c in range(counts.shape[0]):
        inertia = 0.0
        widest = 0.0
        at = 0
        for j in range(sums.shape[1]):
            if counts[c] > 0.0:
                scatter = squares[c, j] - sums[c, j] * sums[c, j] / counts[c]
                inertia += scatter
                if scatter > widest:
                    widest = scatter
                    at = j
        if inertia > worst and widest > 0.0:
            worst = inertia
            cluster, feature, deviation = c, at, np.sqrt(widest / counts[c])
    return cluster, feature, deviation


@kernel
def lloyd(
    rows: NDArray[np.float64],
    other_counts: NDArray[np.float64],
    other_sums: NDArray[np.float64],
    centroids: NDArray[np.float64],
) -> tuple[NDArray[np.float64], NDArray[np.float64], float]:
    """Move `centroids` by up to `LLOYD_STEPS` warm steps, rows seen elsewhere taken as they stand.

    An empty cluster takes half of the cluster with the largest inertia, which is cut across
    its widest feature.

    Returns
    -------
    counts, sums, inertia
        Of `rows` alone, by the centroids before the last move.
    """
    counts = np.zeros(centroids.shape[0])
    sums = np.zeros(centroids.shape)
    squares = np.zeros(centroids.shape)
    inertia = 0.0
    for step in range(LLOYD_STEPS):
        inertia = assign(rows, centroids, counts, sums, squares)
        moved = 0.0
        for c in range(centroids.shape[0]):
            total = counts[c] + other_counts[c]
            if total > 0.0:
                centroid = (sums[c] + other_sums[c]) / total
                moved = max(moved, squared_distance(centroid, centroids[c]))
                centroids[c] = centroid
            elif step < LLOYD_STEPS - 1:
                donor, feature, deviation = widest_spread(counts, sums, squares)
                if donor >= 0:
                    centroids[c] = sums[donor] / counts[donor]
                    centroids[c, feature] += deviation
                    centroids[donor] = sums[donor] / counts[donor]
                    centroids[donor, feature] -= deviation
                    # So that a second empty cluster takes another donor.
                    squares[donor] = sums[donor] * sums[donor] / counts[donor]
                    moved = np.inf
        if moved <= TOLERANCE:
            break
    return counts, sums, inertia


@kernel
def found(lineage: NDArray[np.int64], centroids: NDArray[np.float64]) -> None:
    """Start a lineage with these centroids, later than the last one."""
    lineage[GENERATION] += 1
    lineage[TIE] = content_hash(centroids)


@kernel
def learn_arrivals(
    rows: NDArray[np.float64],
    seed: int,
    decay: float,
    clip: float,
    moments: NDArray[np.float64],
    counters: NDArray[np.int64],
    reservoir: NDArray[np.float64],
    counts: NDArray[np.float64],
    centers: NDArray[np.float64],
    lineage: NDArray[np.int64],
) -> None:
    """Learn rows in natural units one by one: scaler, reservoir, seeds or nearest centroid."""
    k = centers.shape[0]
    for i in range(rows.shape[0]):
        learn_moments(rows[i : i + 1], decay, moments)
        counters[SEEN] += 1
        seen = counters[SEEN]
        if seen <= reservoir.shape[0]:
            reservoir[seen - 1] = rows[i]
        else:
            place = int(uniform_draw(seed, -seen) * seen)
            if place < reservoir.shape[0]:
                reservoir[place] = rows[i]
        means, spreads = moments[MEAN], spreads_of(moments)
        if counters[SEEDED] == 0:
            if seen % (SEED_ROWS_PER_CLUSTER * k) == 0:
                kept = standardised(reservoir[:seen], means, spreads, clip)
                scaled = np.empty(centers.shape)
                if plus_plus(kept, seed, 0, scaled):
                    none, nowhere = np.zeros(k), np.zeros(centers.shape)
                    counts[:] = lloyd(kept, none, nowhere, scaled)[0]
                    centers[:] = scaled * spreads + means
                    counters[SEEDED] = 1
                    found(lineage, centers)
        else:
            row = standardised(rows[i : i + 1], means, spreads, clip)[0]
            c = nearest(row, (centers - means) / spreads)[0]
            counts *= decay
            counts[c] += 1.0
            centers[c] += (row * spreads + means - centers[c]) / counts[c]


@kernel
def merged_moments(
    group_moments: NDArray[np.float64], weights: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Merge the moments of all groups."""
    merged = np.zeros(group_moments.shape[1:])
    for g in range(len(weights)):
        merge_moments(merged, group_moments[g], weights[g])
    return merged


@kernel
def nearest_many(
    features: NDArray[np.floating],
    means: NDArray[np.float64],
    spreads: NDArray[np.float64],
    clip: float,
    centroids: NDArray[np.float64],
    former: NDArray[np.int16],
    stay: float,
    labels: NDArray[np.int16],
    distances: NDArray[np.float32],
) -> bool:
    """Fill in label and distance of each row; False where a value is not finite."""
    row = np.empty(features.shape[1])
    for i in range(features.shape[0]):
        for j in range(features.shape[1]):
            if not np.isfinite(features[i, j]):
                return False
            row[j] = min(max((features[i, j] - means[j]) / spreads[j], -clip), clip)
        label, squared = nearest(row, centroids)
        if len(former) > 0 and former[i] >= 0 and former[i] != label:
            own = squared_distance(row, centroids[former[i]])
            if squared >= stay * stay * own:
                label, squared = former[i], own
        labels[i] = label
        distances[i] = np.sqrt(squared)
    return True


@kernel
def renumbered(centroids: NDArray[np.float64], former: NDArray[np.float64]) -> NDArray[np.float64]:
    """Order centroids after the former ones: the closest pair first, then of the rest."""
    k = centroids.shape[0]
    result = np.empty(centroids.shape)
    gaps = np.empty((k, k))
    for a in range(k):
        for b in range(k):
            gaps[a, b] = squared_distance(centroids[a], former[b])
    for _ in range(k):
        pair = np.argmin(gaps)
        a, b = pair // k, pair % k
        result[b] = centroids[a]
        gaps[a, :] = np.inf
        gaps[:, b] = np.inf
    return result


def challenged(
    rows: NDArray[np.float64],
    current: NDArray[np.float64],
    seeded: bool,
    seed: int,
    first_draw: int,
) -> tuple[NDArray[np.float64] | None, bool]:
    """Return the centroids to go on with, None without any, and whether they are new.

    A challenger from fresh seeds must beat `current`, if these are `seeded`, by `CHALLENGE_GAIN`,
    both run to rest on `rows`, and is numbered after them.
    """
    challenger = np.empty(current.shape)
    if not plus_plus(rows, seed, first_draw, challenger):
        return current if seeded else None, False
    none, nowhere = np.zeros(len(current)), np.zeros(current.shape)
    challenging = lloyd(rows, none, nowhere, challenger)[2]
    if not seeded:
        return challenger, True
    if challenging >= (1.0 - CHALLENGE_GAIN) * lloyd(rows, none, nowhere, current.copy())[2]:
        return current, False
    return renumbered(challenger, current), True
