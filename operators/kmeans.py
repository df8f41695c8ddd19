"""Streaming k-means over profiles that keep changing."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from operators.arrays import load_into, with_prefix
from operators.deltas import part_of, require_delta, require_within
from operators.errors import NotFiniteError, ParameterError, require_finite
from operators.kmeans_groups import SweptGroups
from operators.kmeans_kernels import (
    SEEDED,
    SWEEPS,
    challenged,
    found,
    learn_arrivals,
    lloyd,
    nearest_many,
)
from operators.scaler import MEAN, OnlineScaler, learn_moments


def rank_of(lineage: NDArray[np.int64], groups: int) -> tuple[bool, int, int]:
    """Return what lineages are compared by: the larger prevails.

    Centroids of sweeps prevail over those of arrivals, then the later lineage, counted from the
    first seeds, and then any one, but everywhere the same: that with the higher hash.
    """
    generation, tie = lineage.tolist()
    return generation > 0 and groups > 0, generation, tie


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

    **Replicas** sweep groups of their own and send them with their rows in the sample. The later
    sweep of a group counts (`SweptGroups`), so that whoever knows of the same sweeps has, by the
    equation above, the same centroids. For that, a cluster's number must mean the same everywhere:
    seeds, and each challenger that takes over, start a new *lineage*, and where two meet all choose
    the same one (`rank_of`). Whoever gives up its own takes the other centroids and estimates the
    sums of its groups from the sample; its customers are relabelled when they are next assigned.
    Until the first sweep, replicas follow the arrivals at the one whose seeds were chosen.

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
        self.seed = seed
        self.scaler = OnlineScaler(n_features, clip, half_life_events)
        self.counters = np.zeros(3, np.int64)
        self.centers = np.zeros((k, n_features))
        self.arrival_counts = np.zeros(k)
        self.reservoir = np.zeros((reservoir, n_features))
        self.swept = SweptGroups(max_groups, sample, k, n_features, half_life_rounds)
        self.lineage = np.zeros(2, np.int64)
        # Whether others follow the arrivals here, and have not been told of all of them.
        self._leads = self._unsent_start = False
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
        was_seeded = self.seeded
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
            self.lineage,
        )
        self._leads |= self.seeded and not was_seeded
        self._unsent_start |= self._leads
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
        swept, now = self.swept, int(self.counters[SWEEPS])
        place = swept.open(group, now)
        swept.moments[place] = 0.0
        learn_moments(rows, 1.0, swept.moments[place])
        self._merge_moments()
        swept.keep_sample(rows, place)
        swept.counts[place] = 0.0
        swept.sums[place] = 0.0
        sample = self.scaler.transform_many(swept.sampled())
        current = self._scaled_centers.copy()
        centroids, new = challenged(sample, current, self.seeded, self.seed, now * self.k)
        if centroids is None:
            return
        if new:
            found(self.lineage, centroids)
            swept.estimate(swept.places() - {place}, centroids, self.scaler)
        other_counts, other_sums = swept.pooled(now)
        other_sums = (other_sums - other_counts[:, None] * self._means) / self._spreads
        scaled = self.scaler.transform_many(rows)
        counts, sums, _ = lloyd(scaled, other_counts, other_sums, centroids)
        swept.put(place, counts, sums, self.scaler)
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
        counts = self.swept.counts.sum(axis=0) if self.counters[SWEEPS] else self.arrival_counts
        return np.rint(counts).astype(np.int64)

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Return the live arrays by name."""
        return {
            "counters": self.counters,
            "centers": self.centers,
            "arrival_counts": self.arrival_counts,
            "reservoir": self.reservoir,
            "lineage": self.lineage,
            **self.swept.arrays(),
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
        self.swept.unsent[:] = False
        self._leads = self._unsent_start = False
        self._rescale()

    def take_delta(self) -> dict[str, NDArray[Any]]:
        """Return what was swept or seeded here since the last time; empty where nothing.

        Until the first sweep, only the replica whose seeds were chosen has something to say.

        Returns
        -------
        ``lineage`` int64[2]; ``centers``, ``arrival_counts`` and ``moments`` (of the scaler),
        float64; and as ``swept.*`` the groups swept since (`SweptGroups.take_delta`), maybe none.
        """
        if not (self._unsent_start or self.swept.unsent.any()):
            return {}
        self._unsent_start = False
        start = {name: array.copy() for name, array in self._start().items()}
        return start | with_prefix("swept", self.swept.take_delta())

    def apply_delta(self, delta: Mapping[str, NDArray[Any]]) -> None:
        """Take in what another replica swept or seeded.

        The order of deltas makes no difference but for rounding, unless lineages differ, where
        sums are estimated, or there are more than `max_groups` groups.

        Raises
        ------
        StateMismatchError
            Where names, shapes or dtypes are not those of `take_delta`, or a number is impossible;
            nothing is changed then.
        """
        if not delta:
            return
        start, swept = self._check_delta(delta)
        former = self.swept.places()
        ours = rank_of(self.lineage, len(former))
        theirs = rank_of(start["lineage"], len(swept["groups"]))
        new = self.swept.add_delta(swept, int(self.counters[SWEEPS]))
        follow = theirs > ours or (theirs == ours and not self.swept.places() and theirs[1] > 0)
        if follow:
            load_into(self._start(), start)
            self.counters[SEEDED] = 1
            self._leads = self._unsent_start = False
        if self.swept.places():
            # So that arrivals change nothing from now on.
            self.counters[SWEEPS] = max(self.counters[SWEEPS], 1)
            self._merge_moments()
            if theirs[1:] != ours[1:] and self.seeded:
                foreign = former - new if follow else new
                self.swept.estimate(foreign, self._scaled_centers, self.scaler)
            counts, sums = self.swept.pooled(int(self.counters[SWEEPS]))
            taken = counts > 0
            self.centers[taken] = sums[taken] / counts[taken, None]
        self._rescale()

    def _check_delta(
        self, delta: Mapping[str, NDArray[Any]]
    ) -> tuple[dict[str, NDArray[Any]], dict[str, NDArray[Any]]]:
        """Refuse a delta that does not fit; return the start and the groups in it."""
        swept = self.swept.check_delta(part_of("swept", delta))
        own = {name: array for name, array in delta.items() if not name.startswith("swept.")}
        expected = {name: (array.dtype, array.shape) for name, array in self._start().items()}
        start = require_delta("StreamingKMeans", own, expected)
        for name in ("lineage", "arrival_counts"):
            require_within("StreamingKMeans", start, name, 0)
        return start, swept

    def _start(self) -> dict[str, NDArray[Any]]:
        """Return the live arrays that go with a lineage."""
        return {
            "lineage": self.lineage,
            "centers": self.centers,
            "arrival_counts": self.arrival_counts,
            "moments": self.scaler.moments,
        }

    def _rescale(self) -> None:
        """Keep what `predict_many` needs at hand; it follows from the arrays."""
        self._means = self.scaler.moments[MEAN]
        self._spreads = self.scaler.spreads()
        self._scaled_centers = (self.centers - self._means) / self._spreads

    def _merge_moments(self) -> None:
        """Let the scaler stand on what the sweeps of all groups say."""
        self.scaler.replace_moments(self.swept.merged_moments(int(self.counters[SWEEPS])))
        self._rescale()
