"""Streaming k-means over profiles that keep changing."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from operators.arrays import load_into, with_prefix
from operators.errors import NotFiniteError, ParameterError, require_finite
from operators.kmeans_kernels import (
    SEEDED,
    SWEEPS,
    assign,
    learn_arrivals,
    lloyd,
    merged_moments,
    nearest_many,
    plus_plus,
    renumbered,
)
from operators.scaler import MEAN, OnlineScaler, learn_moments

FREE = -1
# The share of the inertia by which a challenger must win.
CHALLENGE_GAIN = 0.01


class StreamingKMeans:
    """Group customers into k clusters whose centres follow the customers as they are now.

    Features are standardised and clipped online (`OnlineScaler`) and compared by Euclidean
    distance in those units.

    **Arrivals.** Until the first sweep the model learns from rows as they arrive. A uniform
    reservoir (Vitter 1985) of them seeds k centroids by k-means++ (Arthur & Vassilvitskii
    2007) once it holds k distinct rows; each further row moves its nearest centroid by a
    learning rate per cluster (Sculley 2010) under exponential forgetting γ::

        n ← γ n  (all clusters)      n_c ← n_c + 1      μ_c ← μ_c + (x − μ_c) / n_c

    **Sweeps.** A customer who stays away sends no events, yet their recency grows: arrivals
    alone describe active customers only. So whoever holds the profiles passes over them at
    intervals of event time, one group (source partition) at a time. Each group's sums replace
    those of its last sweep, and the centroids move by warm Lloyd steps over all groups::

        μ_c = Σ_g w_g S_gc / Σ_g w_g N_gc

    w_g is 1 for groups swept in turn and halves with every `half_life_rounds` rounds missed, so
    that a partition that left this worker fades. The scaler's moments are replaced and merged
    likewise. From the first sweep on arrivals change nothing.

    Warm steps alone would stay in whatever local optimum the first days led to. Each sweep
    therefore starts a challenger from fresh k-means++ seeds on a sample of all groups; where
    both, run to rest on that sample, differ by more than 1 % of the inertia, the challenger's
    centroids take over, numbered after the old ones nearest to them, and the sums of other
    groups are estimated from their rows in the sample until they are swept again. An empty
    cluster takes half of the one with the largest inertia.

    Parameters
    ----------
    k
        Clusters, 1 to 32,767.
    n_features
        Width of a row, at least 1.
    clip
        Bound on a standardised value, in standard deviations, above 0.
    half_life_events
        Of arrivals, in rows, above 0.
    half_life_rounds
        Of groups that are no longer swept, above 0.
    reservoir
        Rows kept of the arrivals, at least k.
    sample
        Rows kept of the last sweeps, shared evenly by the groups, at least `max_groups`.
    max_groups
        Groups kept, at least 1. One more replaces the group swept longest ago.
    seed
        Of all draws, at least 0.

    Examples
    --------
    >>> model = StreamingKMeans(k=2, n_features=1)
    >>> model.predict_many(np.array([[1.0]]))[0].tolist()
    [-1]
    >>> model.sweep_many(np.array([[1.0], [2.0], [8.0], [9.0]]), group=0)
    >>> sorted(model.centroids().ravel().round(2).tolist())
    [1.5, 8.5]
    >>> model.sizes().tolist()
    [2, 2]

    References
    ----------
    - J. S. Vitter, Random sampling with a reservoir, ACM TOMS 11(1), 1985.
    - D. Arthur, S. Vassilvitskii, k-means++: the advantages of careful seeding, SODA 2007.
    - D. Sculley, Web-scale k-means clustering, WWW 2010.
    - Apache Spark MLlib, streaming k-means (the forgetting).
    """

    def __init__(
        self,
        k: int,
        n_features: int,
        clip: float = 3.0,
        half_life_events: float = 10_000.0,
        half_life_rounds: float = 4.0,
        reservoir: int = 512,
        sample: int = 2048,
        max_groups: int = 64,
        seed: int = 0,
    ) -> None:
        if not 1 <= k <= np.iinfo(np.int16).max:
            raise ParameterError(f"k must be 1 to 32767, not {k}")
        if reservoir < k or seed < 0:
            raise ParameterError("reservoir must be at least k and seed at least 0")
        if not 1 <= max_groups <= sample:
            raise ParameterError("max_groups must be at least 1 and at most sample")
        if not (half_life_events > 0 and half_life_rounds > 0):
            raise ParameterError("half-lives must be above 0")
        self.k = k
        self.n_features = n_features
        self.half_life_rounds = half_life_rounds
        self.seed = seed
        self.scaler = OnlineScaler(n_features, clip, half_life_events)
        self.counters = np.zeros(3, np.int64)
        self.centers = np.zeros((k, n_features))
        self.arrival_counts = np.zeros(k)
        self.reservoir = np.zeros((reservoir, n_features))
        self.sample = np.zeros((sample, n_features))
        self.sample_owners = np.full(sample, FREE, np.int64)
        self.groups = np.full(max_groups, FREE, np.int64)
        self.swept_at = np.zeros(max_groups, np.int64)
        self.group_counts = np.zeros((max_groups, k))
        self.group_sums = np.zeros((max_groups, k, n_features))
        self.group_moments = np.zeros((max_groups, 3, n_features))
        self._rescale()

    @property
    def seeded(self) -> bool:
        """Whether there are centroids yet."""
        return bool(self.counters[SEEDED])

    def learn_many(self, features: NDArray[np.floating]) -> None:
        """Learn rows as they arrive, in order; does nothing once there was a sweep.

        Parameters
        ----------
        features
            float32 or float64 of shape (n, n_features), in natural units.

        Raises
        ------
        NotFiniteError
            Where `features` hold NaN or infinity; nothing is learned then.
        """
        require_finite("features", features)
        if self.counters[SWEEPS]:
            return
        learn_arrivals(
            features.astype(np.float64),
            self.seed,
            self.scaler.decay,
            self.scaler.clip,
            self.scaler.moments,
            self.counters,
            self.reservoir,
            self.arrival_counts,
            self.centers,
        )
        self._rescale()

    def sweep_many(self, features: NDArray[np.floating], group: int) -> None:
        """Learn one group's customers as they all are now.

        Parameters
        ----------
        features
            float32 or float64 of shape (n, n_features), in natural units: every customer of
            the group. What an earlier sweep of the group said is replaced.
        group
            Any number at least 0, such as the source partition's.

        Raises
        ------
        NotFiniteError
            Where `features` hold NaN or infinity; nothing is learned then.
        """
        require_finite("features", features)
        rows = features.astype(np.float64)
        self.counters[SWEEPS] += 1
        place = self._place_of(group)
        weights = self._weights()
        self.group_moments[place] = 0.0
        learn_moments(rows, 1.0, self.group_moments[place])
        self.scaler.replace_moments(merged_moments(self.group_moments, weights))
        self._rescale()
        self._keep_sample(rows, place)
        self.group_counts[place] = 0.0
        self.group_sums[place] = 0.0
        centroids = self._champion()
        if centroids is None:
            return
        other_counts = weights @ self.group_counts
        other_sums = np.tensordot(weights, self.group_sums, 1)
        other_sums = (other_sums - other_counts[:, None] * self._means) / self._spreads
        scaled = self.scaler.transform_many(rows)
        counts, sums, _ = lloyd(scaled, other_counts, other_sums, centroids)
        self._set_group(place, counts, sums)
        self.centers[:] = centroids * self._spreads + self._means
        self.counters[SEEDED] = 1
        self._rescale()

    def predict_many(
        self,
        features: NDArray[np.floating],
        former: NDArray[np.int16] | None = None,
        stay: float = 1.0,
    ) -> tuple[NDArray[np.int16], NDArray[np.float32]]:
        """Return the cluster of each row and its distance.

        Parameters
        ----------
        features
            float32 or float64 of shape (n, n_features), in natural units.
        former
            int16 of shape (n,): the cluster each row was in, -1 for none. None where nobody was
            in any.
        stay
            In (0, 1]: a row leaves its former cluster only for one at less than `stay` times its
            distance from there, so that nobody flaps at a border.

        Returns
        -------
        labels, distances
            int16 of shape (n,), -1 before there are centroids; float32 of shape (n,), in
            standard deviations, 0 where the label is -1.

        Raises
        ------
        NotFiniteError
            Where `features` hold NaN or infinity.
        """
        labels = np.full(len(features), -1, np.int16)
        distances = np.zeros(len(features), np.float32)
        if self.seeded and not nearest_many(
            features,
            self._means,
            self._spreads,
            self.scaler.clip,
            self._scaled_centers,
            np.empty(0, np.int16) if former is None else former,
            stay,
            labels,
            distances,
        ):
            raise NotFiniteError("features hold NaN or infinity")
        return labels, distances

    def centroids(self) -> NDArray[np.float64]:
        """Return the centroids in natural units, shape (k, n_features); zeros before seeding.

        A value beyond the clip counts as if it lay on it.
        """
        return self.centers.copy()

    def sizes(self) -> NDArray[np.int64]:
        """Return customers by cluster as of each group's last sweep, shape (k,).

        Before the first sweep: arrivals by cluster, forgetting applied.
        """
        counts = self.group_counts.sum(axis=0) if self.counters[SWEEPS] else self.arrival_counts
        return np.rint(counts).astype(np.int64)

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Return the live arrays by name."""
        return {
            "counters": self.counters,
            "centers": self.centers,
            "arrival_counts": self.arrival_counts,
            "reservoir": self.reservoir,
            "sample": self.sample,
            "sample_owners": self.sample_owners,
            "groups": self.groups,
            "swept_at": self.swept_at,
            "group_counts": self.group_counts,
            "group_sums": self.group_sums,
            "group_moments": self.group_moments,
            **with_prefix("scaler", self.scaler.arrays()),
        }

    def load_arrays(self, saved: Mapping[str, NDArray[Any]]) -> None:
        """Copy saved arrays in.

        Raises
        ------
        StateMismatchError
            Where they do not fit; nothing is loaded then.
        """
        load_into(self.arrays(), saved)
        self._rescale()

    def _rescale(self) -> None:
        """Keep what `predict_many` needs at hand; it follows from the arrays."""
        self._means = self.scaler.moments[MEAN]
        self._spreads = self.scaler.spreads()
        self._scaled_centers = (self.centers - self._means) / self._spreads

    def _place_of(self, group: int) -> int:
        known = np.flatnonzero(self.groups == group)
        # A free place was never swept, so it counts as the oldest.
        place = int(known[0]) if len(known) else int(np.argmin(self.swept_at))
        self.groups[place] = group
        self.swept_at[place] = self.counters[SWEEPS]
        return place

    def _weights(self) -> NDArray[np.float64]:
        """Return the weight of each group by the rounds it missed."""
        ages = self.counters[SWEEPS] - self.swept_at
        missed = np.maximum(ages / np.count_nonzero(self.groups != FREE) - 1.0, 0.0)
        weights: NDArray[np.float64] = 0.5 ** (missed / self.half_life_rounds)
        return weights

    def _set_group(
        self, place: int, counts: NDArray[np.float64], sums: NDArray[np.float64]
    ) -> None:
        """Keep a group's sums in natural units, since the scaler moves on."""
        self.group_counts[place] = counts
        self.group_sums[place] = sums * self._spreads + counts[:, None] * self._means

    def _keep_sample(self, rows: NDArray[np.float64], place: int) -> None:
        """Put rows of this group into the sample; a group above its share gives rows up."""
        owners = self.sample_owners
        owners[owners == place] = FREE
        share = len(owners) // np.count_nonzero(self.groups != FREE)
        for other in np.unique(owners[owners != FREE]):
            owners[np.flatnonzero(owners == other)[share:]] = FREE
        kept = min(len(rows), int(share))
        free = np.flatnonzero(owners == FREE)[:kept]
        self.sample[free] = rows[np.linspace(0, len(rows), kept, endpoint=False, dtype=np.int64)]
        owners[free] = place

    def _champion(self) -> NDArray[np.float64] | None:
        """Return the centroids to start from: today's, or a challenger's; None without any."""
        taken = self.sample_owners != FREE
        rows = self.scaler.transform_many(self.sample[taken])
        challenger = np.empty((self.k, self.n_features))
        first_draw = int(self.counters[SWEEPS]) * self.k
        found = plus_plus(rows, self.seed, first_draw, challenger)
        current: NDArray[np.float64] = self._scaled_centers.copy()
        if not found:
            return current if self.seeded else None
        challenging = self._run_to_rest(rows, challenger)
        if not self.seeded:
            return challenger
        if challenging >= (1.0 - CHALLENGE_GAIN) * self._run_to_rest(rows, current.copy()):
            return current
        challenger = renumbered(challenger, current)
        self._estimate_groups(rows, self.sample_owners[taken], challenger)
        return challenger

    def _run_to_rest(self, rows: NDArray[np.float64], centroids: NDArray[np.float64]) -> float:
        """Move `centroids` by Lloyd steps on `rows` alone and return their inertia."""
        none = np.zeros(self.k)
        return lloyd(rows, none, np.zeros_like(centroids), centroids)[2]

    def _estimate_groups(
        self,
        rows: NDArray[np.float64],
        owners: NDArray[np.int64],
        centroids: NDArray[np.float64],
    ) -> None:
        """Replace each group's sums, which belong to former centroids, by its sample's."""
        counts, sums, squares = np.zeros(self.k), np.zeros_like(centroids), np.zeros_like(centroids)
        for place in np.unique(owners):
            assign(rows[owners == place], centroids, counts, sums, squares)
            scale = self.group_counts[place].sum() / counts.sum()
            self._set_group(place, counts * scale, sums * scale)
