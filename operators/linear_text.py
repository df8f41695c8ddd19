"""Online multinomial logistic regression on the features of texts."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from operators.arrays import load_into
from operators.batches import require_lengths
from operators.errors import ParameterError, StateMismatchError
from operators.kernel import kernel
from operators.text_features import BITS, Features, TextFeatures

FADING = 0.999
# Keeps the first division finite; far below the square of any feature's gradient that matters.
TINY = np.float32(1e-8)


def as_features(texts: Sequence[str] | Features) -> Features:
    """Features of texts by the default `TextFeatures`; features are handed through."""
    return texts if isinstance(texts, Features) else TextFeatures().transform_many(texts)


@kernel
def class_probabilities(
    indices: NDArray[np.int32],
    values: NDArray[np.float32],
    dense: NDArray[np.float32],
    weights: NDArray[np.float32],
    mask: int,
    active: int,
    out: NDArray[np.float32],
) -> int:
    """Fill ``out[:active]`` with the probabilities of one text; the most likely class."""
    out[:active] = 0
    for d in range(len(weights) - mask - 1):
        x = np.float32(1) if d == 0 else dense[d - 1]
        for k in range(active):
            out[k] += x * weights[mask + 1 + d, k]
    for j in range(len(indices)):
        row = weights[indices[j] & mask]
        for k in range(active):
            out[k] += values[j] * row[k]
    best = 0
    for k in range(1, active):
        if out[k] > out[best]:
            best = k
    highest, total = out[best], np.float32(0)
    for k in range(active):
        out[k] = np.exp(out[k] - highest)
        total += out[k]
    for k in range(active):
        out[k] /= total
    return best


@kernel
def predict_texts(
    indices: NDArray[np.int32],
    values: NDArray[np.float32],
    ends: NDArray[np.int64],
    dense: NDArray[np.float32],
    weights: NDArray[np.float32],
    mask: int,
    active: int,
) -> NDArray[np.float32]:
    """Probabilities of each text's classes."""
    probabilities = np.empty((len(ends), active), np.float32)
    start = 0
    for i in range(len(ends)):
        end = ends[i]
        class_probabilities(
            indices[start:end], values[start:end], dense[i], weights, mask, active,
            probabilities[i],
        )  # fmt: skip
        start = end
    return probabilities


@kernel
def descend(
    indices: NDArray[np.int32],
    values: NDArray[np.float32],
    dense: NDArray[np.float32],
    errors: NDArray[np.float32],
    weights: NDArray[np.float32],
    squares: NDArray[np.float32],
    mask: int,
    rate: float,
) -> None:
    """One AdaGrad step for one text; `errors` is probability minus target by class."""
    error_square = np.float32(0)
    for k in range(len(errors)):
        error_square += errors[k] * errors[k]
    extra = len(weights) - mask - 1
    for j in range(extra + len(indices)):
        if j < extra:
            place = mask + 1 + j
            x = np.float32(1) if j == 0 else dense[j - 1]
        else:
            place = indices[j - extra] & mask
            x = values[j - extra]
        squares[place] += error_square * x * x
        step = np.float32(rate) * x / np.sqrt(squares[place] + TINY)
        row = weights[place]
        for k in range(len(errors)):
            row[k] -= step * errors[k]


@kernel
def learn_texts(
    indices: NDArray[np.int32],
    values: NDArray[np.float32],
    ends: NDArray[np.int64],
    dense: NDArray[np.float32],
    truth: NDArray[np.int64],
    other: NDArray[np.int64],
    share: NDArray[np.float32],
    weights: NDArray[np.float32],
    squares: NDArray[np.float32],
    mask: int,
    rate: float,
    fixed: int,
    active: NDArray[np.int64],
    tallies: NDArray[np.int64],
    recent: NDArray[np.float64],
) -> None:
    """Test on each text, then learn from it, one after another."""
    errors = np.empty(weights.shape[1], np.float32)
    start = 0
    for i in range(len(ends)):
        end = ends[i]
        best = class_probabilities(
            indices[start:end], values[start:end], dense[i], weights, mask, active[0], errors
        )
        right = best == truth[i]
        tallies[0, truth[i]] += 1
        tallies[1, best] += 1
        tallies[2, best] += right
        recent[0] = FADING * recent[0] + right
        recent[1] = FADING * recent[1] + 1
        if truth[i] >= active[0]:
            active[0] = truth[i] + 1
            class_probabilities(
                indices[start:end], values[start:end], dense[i], weights, mask, active[0], errors
            )
        errors[truth[i]] -= np.float32(1) - share[i]
        errors[other[i]] -= share[i]
        errors[:fixed] = 0
        descend(
            indices[start:end], values[start:end], dense[i], errors[: active[0]], weights,
            squares, mask, rate,
        )  # fmt: skip
        start = end


class LinearText:
    """Multinomial logistic regression over hashed features, learned text by text.

    For a text with features x, classes k and targets t::

        p_k = softmax(W x)_k
        G_j <- G_j + x_j^2 * sum_k (p_k - t_k)^2
        W_jk <- W_jk - rate * x_j (p_k - t_k) / sqrt(G_j)

    This is AdaGrad with one step size for each feature instead of each weight, which halves the
    memory and learns as well. Each text is predicted before it is learned; the running quality
    counts those predictions.

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
        """Labels learned of each class in use, int64[active]."""
        return self._tallies[0, : self.active].copy()

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
        }

    def load_arrays(self, saved: Mapping[str, NDArray[Any]]) -> None:
        """Copy saved arrays in; raises `StateMismatchError` and changes nothing if they differ."""
        self.require_active(saved)
        load_into(self.arrays(), saved)

    def require_active(self, saved: Mapping[str, NDArray[Any]]) -> None:
        """Refuse a number of classes that does not fit; raises `StateMismatchError`."""
        active = saved.get("active", self._active)
        classes = self._weights.shape[1]
        if active.size != 1 or not max(self._fixed, 1) <= active.item() <= classes:
            raise StateMismatchError(f"active is {active.tolist()}, with {classes} classes at most")

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
