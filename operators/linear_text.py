"""Online multinomial logistic regression on the features of texts."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from operators.arrays import load_into
from operators.batches import require_lengths
from operators.deltas import Precisions, Sums, require_delta, require_within
from operators.errors import ParameterError, StateMismatchError
from operators.linear_text_kernels import TINY, learn_texts, predict_texts
from operators.text_features import BITS, Features, TextFeatures


def as_features(texts: Sequence[str] | Features) -> Features:
    """Features of texts by the default `TextFeatures`; features are handed through."""
    return texts if isinstance(texts, Features) else TextFeatures().transform_many(texts)


class LinearText:
    """Multinomial logistic regression over hashed features, learned text by text.

    For a text with features x, classes k and targets t::

        p_k = softmax(W x)_k
        G_j <- G_j + x_j^2 * sum_k (p_k - t_k)^2
        W_jk <- W_jk - rate * x_j (p_k - t_k) / sqrt(G_j)

    This is AdaGrad with one step size for each feature instead of each weight, which halves the
    memory and learns as well. Each text is predicted before it is learned; the running quality
    counts those predictions, and is a replica's own.

    Replicas exchange the rows that have learned. They add up as Gaussians whose precision is G
    (`operators.deltas.Precisions`): a plain sum would overshoot where several replicas made the
    same large first steps.

    Parameters
    ----------
    classes
        Most classes there can be, at least 2.
    active
        Classes known from the start; `learn_many` takes in the next ones as they come up.
    fixed
        The first so many classes keep weights of 0.
    prior
        float32[d, classes]: weights before the first label of the dense columns, which are the
        constant 1 and `Features.lexicon`; d is 8, or 0 to leave the dense columns out.
    bits
        The model has 2**bits rows for hashed features, 1 to 18 (the default of `TextFeatures`).
    learning_rate
        ``rate`` above, > 0.

    Raises
    ------
    ParameterError
        A parameter outside its range.

    Examples
    --------
    >>> model = LinearText(3, 3, 0, np.zeros((0, 3), np.float32), bits=12, learning_rate=0.2)
    >>> features = as_features(["late again"])
    >>> [round(float(p), 2) for p in model.predict_proba_many(features)[0]]
    [0.33, 0.33, 0.33]
    >>> model.learn_many(features, np.array([0]))
    >>> bool(model.predict_proba_many(features)[0, 0] > 0.5)
    True

    References
    ----------
    J. Duchi, E. Hazan and Y. Singer (2011). Adaptive subgradient methods for online learning and
    stochastic optimization. Journal of Machine Learning Research 12.
    """

    def __init__(
        self,
        classes: int,
        active: int,
        fixed: int,
        prior: NDArray[np.float32],
        bits: int,
        learning_rate: float,
    ) -> None:
        if classes < 2 or active < 1 or not 0 <= fixed <= active <= classes:
            raise ParameterError(f"classes {classes}, active {active}, fixed {fixed} do not fit")
        if not 1 <= bits <= BITS:
            raise ParameterError(f"bits must be 1 to {BITS}, not {bits}")
        if not 0 < learning_rate < np.inf:
            raise ParameterError(f"learning_rate must be above 0, not {learning_rate}")
        self.bits = bits
        self.learning_rate = learning_rate
        self._fixed = fixed
        self._mask = (1 << bits) - 1
        self._weights = np.zeros(((1 << bits) + len(prior), classes), np.float32)
        self._weights[1 << bits :] = prior
        self._squares = np.zeros(len(self._weights), np.float32)
        # The prior of the dense columns counts like labels already learned.
        self._squares[1 << bits :] = 1
        self._active = np.array([active], np.int64)
        self._tallies = np.zeros((3, classes), np.int64)
        self._recent = np.zeros(2, np.float64)
        self._learned = np.zeros(classes, np.int64)
        self._rows = Precisions(self._weights, self._squares, float(TINY))
        self._counts = Sums({"learned": self._learned})

    @property
    def active(self) -> int:
        """Number of classes in use."""
        return int(self._active[0])

    def require_bits(self, features: Features) -> None:
        """Refuse features hashed to fewer bits than the model has; raises `ParameterError`."""
        if features.bits < self.bits:
            raise ParameterError(
                f"features have {features.bits} bits, the model needs at least {self.bits}"
            )

    @property
    def labels_by_class(self) -> NDArray[np.int64]:
        """Labels of each class in use that this replica or another has learned, int64[active]."""
        return self._learned[: self.active].copy()

    def predict_proba_many(self, features: Features) -> NDArray[np.float32]:
        """Probabilities float32[n, active]; each row sums to 1.

        Raises
        ------
        ParameterError
            The features are hashed to fewer bits than the model has.
        """
        self.require_bits(features)
        return predict_texts(
            features.indices, features.values, features.ends, features.lexicon, self._weights,
            self._mask, self.active,
        )  # fmt: skip

    def learn_many(
        self,
        features: Features,
        truth: NDArray[np.int64],
        other: NDArray[np.int64] | None = None,
        share: NDArray[np.float32] | None = None,
    ) -> None:
        """Learn from labelled texts, one after another.

        Parameters
        ----------
        features
            Of n texts.
        truth
            int64[n]: each text's class, at most one above the classes known by then.
        other, share
            int64[n] and float32[n] in [0, 0.5]: a second class and its part of the target.

        Raises
        ------
        ParameterError
            Lengths differ, a class is out of range, or the features have too few bits.
        """
        self.require_bits(features)
        other = truth if other is None else other
        share = np.zeros(len(truth), np.float32) if share is None else share
        require_lengths("LinearText", len(features), truth=truth, other=other, share=share)
        self._require_classes(truth, other)
        learn_texts(
            features.indices, features.values, features.ends, features.lexicon, truth, other,
            share, self._weights, self._squares, self._mask, self.learning_rate, self._fixed,
            self._active, self._tallies, self._recent,
        )  # fmt: skip
        self._learned += np.bincount(truth, minlength=len(self._learned))

    def quality(self) -> dict[str, float]:
        """Prequential quality: each labelled text was predicted before it was learned.

        Returns
        -------
        ``labels`` (how many), and from the first label on ``accuracy``, ``macro_f1`` (the mean
        over the classes that occurred) and ``recent_accuracy`` (fades by 0.999 a label, so about
        the last 1,000).
        """
        true, predicted, right = self._tallies
        labels = int(true.sum())
        if not labels:
            return {"labels": 0.0}
        seen = true > 0
        f1 = 2 * right[seen] / (true[seen] + predicted[seen])
        return {
            "labels": float(labels),
            "accuracy": float(right.sum() / labels),
            "macro_f1": float(f1.mean()),
            "recent_accuracy": float(self._recent[0] / self._recent[1]),
        }

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Give the live arrays by name."""
        return {
            "weights": self._weights,
            "squares": self._squares,
            "active": self._active,
            "tallies": self._tallies,
            "recent": self._recent,
            "learned": self._learned,
        }

    def load_arrays(self, saved: Mapping[str, NDArray[Any]]) -> None:
        """Copy saved arrays in; raises `StateMismatchError` and changes nothing if they differ."""
        self.require_active(saved)
        load_into(self.arrays(), saved)
        self.forget_unsent()

    def forget_unsent(self) -> None:
        """Take the arrays as they are for known to all, as after loading."""
        self._rows.reset()
        self._counts.reset()

    def require_active(self, saved: Mapping[str, NDArray[Any]]) -> None:
        """Refuse a number of classes that does not fit; raises `StateMismatchError`."""
        active = saved.get("active", self._active)
        classes = self._weights.shape[1]
        if active.size != 1 or not max(self._fixed, 1) <= active.item() <= classes:
            raise StateMismatchError(f"active is {active.tolist()}, with {classes} classes at most")

    def take_delta(self) -> dict[str, NDArray[Any]]:
        """Return what this replica learned since the last time; empty where nothing.

        Returns
        -------
        ``rows`` int32[n], ``moved`` float32[n, active] and ``gained`` float32[n], by how much
        ``precision · weight`` and precision of each row have grown; ``learned`` int64[active],
        labels by class.
        """
        counts = self._counts.take()
        if not counts:
            return {}
        rows = self._rows.touched()
        moved, gained = self._rows.take(rows)
        return {
            "rows": rows,
            "moved": np.ascontiguousarray(moved[:, : self.active]),
            "gained": gained,
            "learned": counts["learned"][: self.active],
        }

    def check_delta(self, delta: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Refuse what `add_delta` cannot add; return it as a kernel takes it.

        Raises
        ------
        StateMismatchError
            Where names, shapes or dtypes are not those of `take_delta`, or a number is impossible.
        """
        owner = "LinearText"
        expected = {
            "rows": (np.int32, ("n",)),
            "moved": (np.float32, ("n", "classes")),
            "gained": (np.float32, ("n",)),
            "learned": (np.int64, ("classes",)),
        }
        checked = require_delta(owner, delta, expected)
        require_within(owner, delta, "rows", 0, len(self._weights))
        require_within(owner, delta, "gained", 0.0)
        require_within(owner, delta, "learned", 0)
        return checked

    def add_delta(self, checked: Mapping[str, NDArray[Any]], classes: NDArray[np.int64]) -> None:
        """Apply what `check_delta` returned.

        Parameters
        ----------
        classes
            int64, the class here of each class of the delta, all different; those of -1 are left
            out. A class beyond those known is taken in, and all below it.
        """
        moved = np.zeros((len(checked["rows"]), self._weights.shape[1]), np.float32)
        learned = np.zeros_like(self._learned)
        kept = classes >= 0
        moved[:, classes[kept]] = checked["moved"][:, kept]
        learned[classes[kept]] = checked["learned"][kept]
        self._rows.apply(checked["rows"], moved, checked["gained"])
        self._counts.apply({"learned": learned})
        self._active[0] = max(self.active, classes.max() + 1)

    def _require_classes(self, truth: NDArray[np.int64], other: NDArray[np.int64]) -> None:
        if not len(truth):
            return
        highest = np.maximum.accumulate(np.concatenate((self._active, truth + 1)))
        classes = self._weights.shape[1]
        if (
            min(truth.min(), other.min()) < 0
            or highest[-1] > classes
            or (np.diff(highest) > 1).any()
            or (other >= highest[1:]).any()
        ):
            raise ParameterError(f"a class lies outside those known, at most {classes}")
