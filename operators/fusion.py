"""How much to believe each part of a recommender, learned from what customers then chose."""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from operators.arrays import load_into
from operators.batches import require_lengths
from operators.deltas import Expected, Precisions, Steps, require_delta, require_within
from operators.errors import ParameterError, require_finite
from operators.kernel import kernel

BUCKETS = 6
# Adagrad starts as if it had seen this squared gradient.
FIRST_SQUARES = 1.0


class FusionState(NamedTuple):
    """Arrays of `ListwiseFusion`, for kernels.

    Attributes
    ----------
    weights
        float64[1 + BUCKETS, features]: the weights that all customers share, then what each
        bucket adds to them.
    squares
        float64 of the same shape, Adagrad's sums of squared gradients.
    learning_rate
        Adagrad's step.
    """

    weights: NDArray[np.float64]
    squares: NDArray[np.float64]
    learning_rate: float


@kernel
def history_bucket(context: NDArray[np.int32]) -> int:
    """Bucket of a customer by the items of their -1 padded context.

    0, 1, 2-3, 4-7, 8-15, 16 and more.
    """
    count = 0
    while count < len(context) and context[count] >= 0:
        count += 1
    bucket = 0
    while count > 0 and bucket < BUCKETS - 1:
        count //= 2
        bucket += 1
    return bucket


@kernel
def fuse(
    state: FusionState,
    bucket: int,
    features: NDArray[np.float64],
    count: int,
    out: NDArray[np.float64],
) -> None:
    """Write the score of each of the first `count` candidates to `out`."""
    weights = state.weights[0] + state.weights[1 + bucket]
    for k in range(count):
        total = 0.0
        for f in range(len(weights)):
            total += weights[f] * features[k, f]
        out[k] = total


@kernel
def softmax_in_place(values: NDArray[np.float64], count: int) -> None:
    """Turn the first `count` scores into probabilities."""
    largest = -np.inf
    for k in range(count):
        largest = max(largest, values[k])
    total = 0.0
    for k in range(count):
        values[k] = math.exp(values[k] - largest)
        total += values[k]
    for k in range(count):
        values[k] /= total


@kernel
def learn_choice(
    state: FusionState,
    bucket: int,
    features: NDArray[np.float64],
    probabilities: NDArray[np.float64],
    count: int,
    target: int,
) -> None:
    """Take one step, given the present weights' probabilities of the candidates."""
    for f in range(features.shape[1]):
        gradient = -features[target, f]
        for k in range(count):
            gradient += probabilities[k] * features[k, f]
        for row in (0, 1 + bucket):
            state.squares[row, f] += gradient * gradient
            rate = state.learning_rate / math.sqrt(FIRST_SQUARES + state.squares[row, f])
            state.weights[row, f] -= rate * gradient


@kernel
def learn_choices(
    state: FusionState,
    buckets: NDArray[np.int64],
    features: NDArray[np.float64],
    targets: NDArray[np.int64],
) -> None:
    """Take one step per choice, one after another."""
    probabilities = np.empty(features.shape[1])
    count = features.shape[1]
    for i in range(len(targets)):
        if 0 <= targets[i] < count:
            fuse(state, buckets[i], features[i], count, probabilities)
            softmax_in_place(probabilities, count)
            learn_choice(state, buckets[i], features[i], probabilities, count, targets[i])


class ListwiseFusion:
    """A log-linear pool of experts, fitted online to choices from lists of candidates.

    A candidate k with features x_k (log-probabilities, or scores, by each part) gets

        ``s_k = (v + v_b) · x_k``

    with weights v shared by all customers and v_b of the customer's bucket b of history lengths
    (`history_bucket`). When the customer then chooses candidate t, both step by Adagrad down the
    gradient of the listwise loss ``-log softmax(s)_t``,

        ``Σ_k softmax(s)_k · x_k - x_t``.

    The weights start at a prior that ranks sensibly before anything is learned.

    Parameters
    ----------
    prior
        Weight of each feature before learning; their number is the number of features.
    learning_rate
        Adagrad's step, above 0.

    Examples
    --------
    >>> fusion = ListwiseFusion([0.5, 0.5])
    >>> features = np.array([[[0.0, -1.0], [-1.0, 0.0]]] * 200)
    >>> buckets = np.zeros(200, np.int64)
    >>> fusion.learn_many(features, buckets, np.ones(200, np.int64))
    >>> fusion.score_many(features[:1], buckets[:1]).argmax(axis=1).tolist()
    [1]

    References
    ----------
    Cao, Z., Qin, T., Liu, T.-Y., Tsai, M.-F. and Li, H. (2007). Learning to rank: from pairwise
    approach to listwise approach. ICML.
    Hinton, G. (2002). Training products of experts by minimizing contrastive divergence. Neural
    Computation.
    Duchi, J., Hazan, E. and Singer, Y. (2011). Adaptive subgradient methods. JMLR.
    """

    def __init__(self, prior: list[float], learning_rate: float = 0.05) -> None:
        if not prior or not np.isfinite(prior).all():
            raise ParameterError("prior needs at least one weight, all finite")
        if not 0.0 < learning_rate < np.inf:
            raise ParameterError(f"learning_rate must be above 0, is {learning_rate}")
        weights = np.zeros((1 + BUCKETS, len(prior)))
        weights[0] = prior
        self.state = FusionState(weights, np.zeros_like(weights), learning_rate)
        column, squares = weights.reshape(-1, 1), self.state.squares.reshape(-1)
        # All weights of a candidate's two rows step at once.
        steps = Steps(learning_rate, FIRST_SQUARES, 2.0 * len(prior))
        self._precisions = Precisions(column, squares, FIRST_SQUARES, steps)

    @property
    def weights(self) -> NDArray[np.float64]:
        """float64[BUCKETS, features]: the weights in use by bucket (a copy)."""
        weights: NDArray[np.float64] = self.state.weights[0] + self.state.weights[1:]
        return weights

    def learn_many(
        self,
        features: NDArray[np.float64],
        buckets: NDArray[np.int64],
        targets: NDArray[np.int64],
    ) -> None:
        """Take one step per choice, in turn.

        Parameters
        ----------
        features
            float64[n, candidates, features], finite.
        buckets
            int64[n], 0..BUCKETS-1.
        targets
            int64[n], the candidate chosen; one out of range (-1: none of them) teaches nothing.

        Raises
        ------
        NotFiniteError, ParameterError
            Where a feature is NaN or infinite, lengths differ, or a bucket is out of range.
        """
        require_finite("features", features)
        self._require(features, buckets)
        require_lengths("ListwiseFusion", len(buckets), targets=targets)
        learn_choices(self.state, buckets, features, targets)

    def score_many(
        self, features: NDArray[np.float64], buckets: NDArray[np.int64]
    ) -> NDArray[np.float64]:
        """Scores float64[n, candidates] of candidates with features [n, candidates, features]."""
        self._require(features, buckets)
        weights = self.weights[buckets][:, :, np.newaxis]
        scores: NDArray[np.float64] = np.matmul(features, weights)[:, :, 0]
        return scores

    def _require(self, features: NDArray[np.float64], buckets: NDArray[np.int64]) -> None:
        require_lengths("ListwiseFusion", len(features), buckets=buckets)
        if features.ndim != 3 or features.shape[2] != self.state.weights.shape[1]:
            raise ParameterError(
                f"ListwiseFusion has {self.state.weights.shape[1]} features, "
                f"was given {features.shape}"
            )
        if len(buckets) and not 0 <= buckets.min() <= buckets.max() < BUCKETS:
            raise ParameterError(f"a bucket lies outside 0..{BUCKETS - 1}")

    def take_delta(self) -> dict[str, NDArray[Any]]:
        """Return what this replica learned since the last time; empty where nothing.

        Returns
        -------
        ``places`` int32[n], entries of the flattened weights; ``moved`` float64[n, 1] and
        ``gained`` float64[n], by how much ``precision · weight`` and precision have grown
        (`operators.deltas`).
        """
        places = self._precisions.touched()
        moved, gained = self._precisions.take(places)
        return {"places": places, "moved": moved, "gained": gained} if len(places) else {}

    def check_delta(self, delta: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Refuse what `add_delta` cannot add; return it as a kernel takes it.

        Raises
        ------
        StateMismatchError
            Where names, shapes or dtypes are not those of `take_delta`, or a number is impossible.
        """
        checked = require_delta("ListwiseFusion", delta, DELTA)
        require_within("ListwiseFusion", delta, "places", 0, self.state.weights.size)
        require_within("ListwiseFusion", delta, "gained", 0.0)
        return checked

    def apply_delta(self, delta: Mapping[str, NDArray[Any]]) -> None:
        """Add what another replica learned.

        Raises
        ------
        StateMismatchError
            As `check_delta`; nothing is changed then.
        """
        if delta:
            self.add_delta(self.check_delta(delta))

    def add_delta(self, checked: Mapping[str, NDArray[Any]]) -> None:
        """Apply what `check_delta` returned."""
        self._precisions.apply(checked["places"], checked["moved"], checked["gained"])

    def mark_known(self) -> None:
        """Take everything learned so far for told, as after loading."""
        self._precisions.reset()

    def arrays(self) -> dict[str, NDArray[Any]]:
        """All state, the live arrays by name."""
        return {"weights": self.state.weights, "squares": self.state.squares}

    def load_arrays(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Copy in what `arrays` of an operator with as many features returned.

        Raises
        ------
        StateMismatchError
            Where names, shapes or dtypes differ.
        """
        load_into(self.arrays(), arrays)
        self.mark_known()


DELTA: Expected = {
    "places": (np.int32, ("n",)),
    "moved": (np.float64, ("n", 1)),
    "gained": (np.float64, ("n",)),
}
