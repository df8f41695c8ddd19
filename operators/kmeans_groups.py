"""What the last sweep of each group of customers said, here or at another replica."""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from operators.deltas import require_delta, require_ends, require_within
from operators.errors import StateMismatchError
from operators.kmeans_kernels import assign, merged_moments
from operators.scaler import COUNT, MEAN, SQUARES, OnlineScaler

FREE = -1


class SweptGroups:
    """Counts, sums, moments and a sample of each group as of its last sweep.

    A group's sums belong to the centroids of the time; whoever replaces these by others, not by
    what Lloyd steps made of them, replaces the sums too.

    Of a group that two replicas have swept, the later sweep counts: `versions` is a Lamport clock
    over all groups, and between equals the bytes of the moments decide, so that all replicas
    choose alike.

    Parameters
    ----------
    max_groups
        Groups kept, at least 1. One more replaces the group swept, or heard of, longest ago.
    sample
        Rows kept, shared evenly by the groups, at least `max_groups`.
    k, n_features
        Clusters, and width of a row.
    half_life_rounds
        Of groups that are no longer swept, above 0.

    Attributes
    ----------
    groups : int64 of shape (max_groups,)
        The group at each place, `FREE` where there is none.
    swept_at : int64 of shape (max_groups,)
        When it was swept here or heard of, in sweeps of this replica.
    swept_here : bool of shape (max_groups,)
        Whether this replica swept it last.
    versions : int64 of shape (max_groups,)
    counts, sums : float64 of shapes (max_groups, k) and (max_groups, k, n_features)
        Rows by cluster, and their sums in natural units.
    moments : float64 of shape (max_groups, 3, n_features)
        See `operators.scaler`.
    sample : float64 of shape (sample, n_features)
        Rows in natural units, and in `sample_owners` the place each belongs to, `FREE` for none.
    """

    def __init__(
        self, max_groups: int, sample: int, k: int, n_features: int, half_life_rounds: float
    ) -> None:
        self.half_life_rounds = half_life_rounds
        self.groups = np.full(max_groups, FREE, np.int64)
        self.swept_at = np.zeros(max_groups, np.int64)
        self.swept_here = np.zeros(max_groups, np.bool_)
        self.versions = np.zeros(max_groups, np.int64)
        self.counts = np.zeros((max_groups, k))
        self.sums = np.zeros((max_groups, k, n_features))
        self.moments = np.zeros((max_groups, 3, n_features))
        self.sample = np.zeros((sample, n_features))
        self.sample_owners = np.full(sample, FREE, np.int64)
        self.unsent = np.zeros(max_groups, np.bool_)

    def places(self) -> set[int]:
        """Return the places of all groups."""
        return set(np.flatnonzero(self.groups != FREE).tolist())

    def sampled(self) -> NDArray[np.float64]:
        """Return the rows of the sample, in natural units."""
        rows: NDArray[np.float64] = self.sample[self.sample_owners != FREE]
        return rows

    def open(self, group: int, now: int) -> int:
        """Return the place of a group that is being swept here, made if need be."""
        place = self._place_of(group, now)
        self.versions[place] = self.versions.max() + 1
        self.swept_here[place] = True
        self.unsent[place] = True
        return place

    def _place_of(self, group: int, now: int) -> int:
        known = np.flatnonzero(self.groups == group)
        # A free place was never swept, so it counts as the oldest.
        oldest = np.where(self.groups == FREE, -1, self.swept_at)
        place = int(known[0] if len(known) else np.lexsort((self.versions, oldest))[0])
        self.groups[place] = group
        self.swept_at[place] = now
        return place

    def weights(self, now: int) -> NDArray[np.float64]:
        """Return the weight of each group by the rounds it missed.

        A round is as many sweeps as there are groups swept here; in each, the others are heard of.
        """
        round_length = max(int(np.count_nonzero(self.swept_here)), 1)
        missed = np.maximum((now - self.swept_at) / round_length - 1.0, 0.0)
        weights: NDArray[np.float64] = 0.5 ** (missed / self.half_life_rounds)
        return weights

    def merged_moments(self, now: int) -> NDArray[np.float64]:
        """Return the moments of all groups together."""
        return merged_moments(self.moments, self.weights(now))

    def pooled(self, now: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return counts by cluster, and sums in natural units, of all groups together."""
        weights = self.weights(now)
        return weights @ self.counts, np.tensordot(weights, self.sums, 1)

    def put(
        self,
        place: int,
        counts: NDArray[np.float64],
        sums: NDArray[np.float64],
        scaler: OnlineScaler,
    ) -> None:
        """Keep a group's standardised sums, in natural units, since the scaler moves on."""
        self.counts[place] = counts
        self.sums[place] = sums * scaler.spreads() + counts[:, None] * scaler.moments[MEAN]

    def estimate(
        self, places: Iterable[int], centroids: NDArray[np.float64], scaler: OnlineScaler
    ) -> None:
        """Replace the sums of groups, which belong to other centroids, by their sample's."""
        counts, sums, squares = np.zeros(len(centroids)), *np.zeros((2, *centroids.shape))
        for place in places:
            rows = scaler.transform_many(self.sample[self.sample_owners == place])
            assign(rows, centroids, counts, sums, squares)
            scale = self.moments[place, COUNT, 0] / max(counts.sum(), 1.0)
            self.put(place, counts * scale, sums * scale, scaler)

    def keep_sample(self, rows: NDArray[np.float64], place: int) -> None:
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

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Return the live arrays by name."""
        return {
            "sample": self.sample,
            "sample_owners": self.sample_owners,
            "groups": self.groups,
            "swept_at": self.swept_at,
            "swept_here": self.swept_here,
            "versions": self.versions,
            "group_counts": self.counts,
            "group_sums": self.sums,
            "group_moments": self.moments,
        }

    def take_delta(self) -> dict[str, NDArray[Any]]:
        """Return the groups swept here since the last time, maybe none.

        Returns
        -------
        ``groups`` and ``versions``, int64[n]; ``counts``, ``sums`` and ``moments``, float64, one
        entry a group; ``sample`` float64[m, n_features], in which the rows of group i end before
        ``ends[i]`` (int64[n]).
        """
        places = np.flatnonzero(self.unsent)
        self.unsent[:] = False
        rows = [np.flatnonzero(self.sample_owners == place) for place in places]
        return {
            "groups": self.groups[places],
            "versions": self.versions[places],
            "counts": self.counts[places],
            "sums": self.sums[places],
            "moments": self.moments[places],
            "sample": self.sample[np.concatenate([np.empty(0, np.int64), *rows])],
            "ends": np.cumsum([len(own) for own in rows], dtype=np.int64),
        }

    def check_delta(self, delta: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Refuse what `add_delta` cannot add; return it as a kernel takes it.

        Raises
        ------
        StateMismatchError
            Where names, shapes or dtypes are not those of `take_delta`, or a number is impossible.
        """
        owner = "StreamingKMeans"
        expected = {
            "groups": (np.int64, ("n",)),
            "versions": (np.int64, ("n",)),
            "counts": (np.float64, ("n", *self.counts.shape[1:])),
            "sums": (np.float64, ("n", *self.sums.shape[1:])),
            "moments": (np.float64, ("n", *self.moments.shape[1:])),
            "sample": (np.float64, ("m", *self.sample.shape[1:])),
            "ends": (np.int64, ("n",)),
        }
        checked = require_delta(owner, delta, expected)
        for name in ("groups", "versions", "counts"):
            require_within(owner, delta, name, 0)
        moments = delta["moments"][:, [COUNT, SQUARES]]
        require_within(owner, {"moments": moments}, "moments", 0)
        require_ends(owner, checked["ends"], len(checked["sample"]))
        if len(np.unique(checked["groups"])) < len(checked["groups"]):
            raise StateMismatchError(f"{owner}: a delta names a group twice")
        return checked

    def add_delta(self, checked: Mapping[str, NDArray[Any]], now: int) -> set[int]:
        """Take in groups that another replica swept later; return their places.

        Parameters
        ----------
        checked
            What `check_delta` returned.
        now
            In sweeps of this replica.
        """
        places = set()
        starts = np.concatenate([np.zeros(1, np.int64), checked["ends"][:-1]])
        for i, group in enumerate(checked["groups"].tolist()):
            version = (int(checked["versions"][i]), checked["moments"][i].tobytes())
            known = np.flatnonzero(self.groups == group)
            if len(known) and version <= self._version(int(known[0])):
                continue
            place = self._place_of(group, now)
            self.versions[place] = version[0]
            self.swept_here[place] = False
            self.unsent[place] = False
            self.counts[place] = checked["counts"][i]
            self.sums[place] = checked["sums"][i]
            self.moments[place] = checked["moments"][i]
            self.keep_sample(checked["sample"][starts[i] : checked["ends"][i]], place)
            places.add(place)
        return places

    def _version(self, place: int) -> tuple[int, bytes]:
        return int(self.versions[place]), self.moments[place].tobytes()
