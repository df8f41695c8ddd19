"""The last settled predictions of several models, and how good they were."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from operators.arrays import load_into
from operators.deltas import require_delta, require_within
from operators.errors import ParameterError, StateMismatchError

NOT_ASKED = -1.0
# Keeps the logarithm of a probability of exactly 0 or 1 finite.
SMALLEST_PROBABILITY = 1e-7


class PrequentialWindow:
    """A ring of the last settled examples: features, label, and what each model had said.

    It answers "how good were the predictions lately", and being plain arrays it also lets a
    model that cannot be saved learn its recent past again after a restart.

    Replicas send each other their examples with what was said of them where they were tested, so
    that all windows hold the same last examples, each in its own order. An example that has left
    the window before it could be sent is not sent.

    Parameters
    ----------
    size
        Examples kept, at least 1; each further one replaces the oldest.
    n_features
        Width of an example.
    models
        Names of the models, in the order of the columns of probabilities.

    Attributes
    ----------
    seen : int
        Examples added so far.

    Examples
    --------
    >>> window = PrequentialWindow(size=4, n_features=1, models=("ours",))
    >>> said = np.array([[0.9], [0.2], [0.6]])
    >>> window.add_many(np.zeros((3, 1)), np.array([1, 0, 0]), said)
    >>> window.quality("ours")["roc_auc"]
    1.0
    """

    def __init__(self, size: int, n_features: int, models: tuple[str, ...]) -> None:
        if size < 1:
            raise ParameterError(f"size must be at least 1, not {size}")
        self.size = size
        self.models = models
        self.features = np.zeros((size, n_features), np.float32)
        self.labels = np.zeros(size, np.int8)
        self.probabilities = np.full((size, len(models)), NOT_ASKED, np.float32)
        self.counters = np.zeros(1, np.int64)
        self._unsent = np.zeros(size, np.bool_)

    @property
    def seen(self) -> int:
        """Examples added so far."""
        return int(self.counters[0])

    def add_many(
        self,
        features: NDArray[np.floating],
        labels: NDArray[np.integer],
        probabilities: NDArray[np.floating],
    ) -> None:
        """Add examples in order.

        Parameters
        ----------
        features
            Shape (n, n_features).
        labels
            0 or 1, shape (n,).
        probabilities
            Of label 1, shape (n, len(models)); `NOT_ASKED` where a model was not asked.
        """
        self._put(features, labels, probabilities, unsent=True)

    def _put(
        self,
        features: NDArray[np.floating],
        labels: NDArray[np.integer],
        probabilities: NDArray[np.floating],
        *,
        unsent: bool,
    ) -> None:
        places = (self.seen + np.arange(len(labels))) % self.size
        # Of more examples than the ring holds only the last ones stay.
        last = slice(max(0, len(labels) - self.size), None)
        self.features[places[last]] = features[last]
        self.labels[places[last]] = labels[last]
        self.probabilities[places[last]] = probabilities[last]
        self._unsent[places[last]] = unsent
        self.counters += len(labels)

    def in_order(self) -> NDArray[np.int64]:
        """Return the positions of the examples kept, oldest first."""
        kept = min(self.seen, self.size)
        return (self.seen - kept + np.arange(kept)) % self.size

    def quality(self, model: str, alongside: str | None = None) -> dict[str, float]:
        """Return how good a model was over the window.

        Parameters
        ----------
        model
            One of `models`.
        alongside
            Look only at examples on which this model was asked too.

        Returns
        -------
        ``examples``, and once there is one ``log_loss`` (nats), ``base_rate`` (share of label
        1) and, once both labels are there, ``roc_auc``.
        """
        order = self.in_order()
        said = self.probabilities[order, self.models.index(model)]
        asked = said != NOT_ASKED
        if alongside is not None:
            asked &= self.probabilities[order, self.models.index(alongside)] != NOT_ASKED
        labels = self.labels[order][asked]
        found = {"examples": float(len(labels))}
        if len(labels):
            found["log_loss"] = log_loss(labels, said[asked])
            found["base_rate"] = float(labels.mean())
            if labels.min() != labels.max():
                found["roc_auc"] = roc_auc(labels, said[asked])
        return found

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Return the live arrays by name."""
        return {
            "features": self.features,
            "labels": self.labels,
            "probabilities": self.probabilities,
            "counters": self.counters,
        }

    def load_arrays(self, saved: Mapping[str, NDArray[Any]]) -> None:
        """Copy saved arrays in.

        Raises
        ------
        StateMismatchError
            Where they do not fit; nothing is loaded then.
        """
        load_into(self.arrays(), saved)
        self._unsent[:] = False

    def take_delta(self) -> dict[str, NDArray[Any]]:
        """Return the examples added since the last time, oldest first; empty where none were.

        Returns
        -------
        ``features``, ``labels`` and ``probabilities`` as in `add_many`, of at most `size`
        examples, as float32, int8 and float32.
        """
        order = self.in_order()
        order = order[self._unsent[order]]
        if not len(order):
            return {}
        self._unsent[:] = False
        return {
            "features": self.features[order],
            "labels": self.labels[order],
            "probabilities": self.probabilities[order],
        }

    def check_delta(self, delta: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Refuse what `add_delta` cannot add; return it as `add_delta` takes it.

        Raises
        ------
        StateMismatchError
            Where names, shapes or dtypes are not those of `take_delta`, or a number is impossible.
        """
        owner = "PrequentialWindow"
        expected = {
            "features": (np.float32, ("n", self.features.shape[1])),
            "labels": (np.int8, ("n",)),
            "probabilities": (np.float32, ("n", len(self.models))),
        }
        checked = require_delta(owner, delta, expected)
        require_within(owner, delta, "labels", 0, 2)
        said = checked["probabilities"]
        if not ((said == NOT_ASKED) | ((said >= 0.0) & (said <= 1.0))).all():
            raise StateMismatchError(f"{owner}: probabilities of a delta lie outside [0, 1]")
        return checked

    def apply_delta(self, delta: Mapping[str, NDArray[Any]]) -> None:
        """Add another replica's examples.

        Raises
        ------
        StateMismatchError
            As `check_delta`; nothing is changed then.
        """
        if delta:
            self.add_delta(self.check_delta(delta))

    def add_delta(self, checked: Mapping[str, NDArray[Any]]) -> None:
        """Apply what `check_delta` returned."""
        said = checked["probabilities"]
        self._put(checked["features"], checked["labels"], said, unsent=False)


def roc_auc(labels: NDArray[np.integer], scores: NDArray[np.floating]) -> float:
    """Return the chance that a random 1 scores above a random 0, a tie counting half.

    By the rank sum (Mann & Whitney 1947): ``(R₁ − n₁(n₁ + 1)/2) / (n₀ n₁)``, where R₁ sums the
    ranks of the ones and ties share their mean rank. Both labels must occur.

    Examples
    --------
    >>> roc_auc(np.array([0, 1, 1]), np.array([0.1, 0.1, 0.9]))
    0.75
    """
    _, places, counts = np.unique(scores, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - 0.5 * (counts - 1))[places]
    ones = labels == 1
    n_ones = int(ones.sum())
    n_zeros = len(labels) - n_ones
    return float((ranks[ones].sum() - n_ones * (n_ones + 1) / 2) / (n_ones * n_zeros))


def log_loss(labels: NDArray[np.integer], probabilities: NDArray[np.floating]) -> float:
    """Return the mean negative log-likelihood in nats.

    Examples
    --------
    >>> round(log_loss(np.array([1, 0]), np.array([0.5, 0.5])), 3)
    0.693
    """
    likely = np.where(labels == 1, probabilities, 1.0 - probabilities.astype(np.float64))
    return float(-np.log(np.maximum(likely, SMALLEST_PROBABILITY)).mean())
