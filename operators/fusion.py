"""How much to believe each feature of a candidate, learned from what customers then chose."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from operators.arrays import load_into
from operators.batches import require_lengths
from operators.deltas import Expected, Precisions, Steps, require_delta, require_within
from operators.draws import splitmix64
from operators.errors import ParameterError, require_finite
from operators.fusion_kernels import (
    FIRST_SQUARES,
    GAPS,
    ROWS,
    FusionState,
    learn_choices,
    score_choices,
)
from operators.trends import POSITIONS

_HIDDEN_SCALE, _OUTPUT_SCALE = 0.3, 0.05


class ListwiseFusion:
    """Joins the features of candidates into one score; learned by a listwise softmax.

    The score of a candidate with features f, for a customer with a history of length l whose last
    event is g ago, is linear with weights of three parts, plus one layer of rectified units:

        ``s = (w + w_l + w_g) · f + Σ_h v_h · max(0, u_h · f + b_h)``

    A choice among candidates lowers ``-log( exp(s_chosen) / Σ exp(s) )`` by a step of Adagrad.
    With logarithms of probabilities for features the linear part is a weighted product of
    experts: it starts from `prior` weights, so that it ranks sensibly before anything is learned.

    Parameters
    ----------
    prior
        Weight of each feature before learning; their number is the number of features.
    learning_rate, hidden_rate
        Adagrad's steps of the linear part and of the layer, above 0.
    hidden_units
        At least 0.
    seed
        Of the layer's first weights.

    Examples
    --------
    >>> fusion = ListwiseFusion([0.5, 0.5])
    >>> features = np.array([[[0.0, -1.0], [-1.0, 0.0]]] * 200, np.float32)
    >>> none = np.zeros(200, np.int64)
    >>> fusion.learn_many(features, none, none, np.ones(200, np.int64))
    >>> fusion.score_many(features[:1], none[:1], none[:1]).argmax(axis=1).tolist()
    [1]

    References
    ----------
    Cao, Z., Qin, T., Liu, T.-Y., Tsai, M.-F. and Li, H. (2007). Learning to rank: from pairwise
    approach to listwise approach. ICML.
    Hinton, G. (2002). Training products of experts by minimizing contrastive divergence. Neural
    Computation.
    Duchi, J., Hazan, E. and Singer, Y. (2011). Adaptive subgradient methods. JMLR.
    """

    def __init__(
        self,
        prior: list[float],
        learning_rate: float = 0.05,
        hidden_rate: float = 0.05,
        hidden_units: int = 16,
        seed: int = 0,
    ) -> None:
        if not prior or not np.isfinite(prior).all():
            raise ParameterError("prior needs at least one weight, all finite")
        if not (0.0 < learning_rate < np.inf and 0.0 < hidden_rate < np.inf and hidden_units >= 0):
            raise ParameterError("learning rates must be above 0 and hidden_units at least 0")
        weights = np.zeros((ROWS, len(prior)))
        weights[0] = prior
        hidden = _first_layer(hidden_units, len(prior), seed)
        self.state = FusionState(
            weights,
            np.zeros_like(weights),
            hidden,
            np.zeros_like(hidden),
            learning_rate,
            hidden_rate,
        )
        # All weights of a candidate's three rows step at once, and those of a unit.
        steps = Steps(learning_rate, FIRST_SQUARES, 3.0 * len(prior))
        self._linear = _flat(weights, self.state.squares, steps)
        steps = Steps(hidden_rate, FIRST_SQUARES, len(prior) + 2.0)
        self._layer = _flat(hidden, self.state.hidden_squares, steps)

    @property
    def weights(self) -> NDArray[np.float64]:
        """float64[features]: the linear weights that all customers share (a copy)."""
        weights: NDArray[np.float64] = self.state.weights[0].copy()
        return weights

    def learn_many(
        self,
        features: NDArray[np.float32],
        positions: NDArray[np.int64],
        gaps: NDArray[np.int64],
        targets: NDArray[np.int64],
    ) -> None:
        """Take one step per choice, in turn.

        Parameters
        ----------
        features
            float32[n, features, candidates], finite.
        positions
            int64[n], 0..POSITIONS-1: `operators.trends.history_position`.
        gaps
            int64[n], 0..GAPS-1: `gap_bucket`.
        targets
            int64[n], the candidate chosen; one out of range (-1: none of them) teaches nothing.

        Raises
        ------
        NotFiniteError, ParameterError
            Where a feature is NaN or infinite, lengths differ, or a bucket is out of range.
        """
        require_finite("features", features)
        self._require(features, positions, gaps)
        require_lengths("ListwiseFusion", len(positions), targets=targets)
        learn_choices(self.state, features, positions, gaps, targets)

    def score_many(
        self,
        features: NDArray[np.float32],
        positions: NDArray[np.int64],
        gaps: NDArray[np.int64],
    ) -> NDArray[np.float64]:
        """Scores float64[n, candidates]; parameters as in `learn_many`."""
        self._require(features, positions, gaps)
        return score_choices(self.state, features, positions, gaps)

    def _require(
        self,
        features: NDArray[np.float32],
        positions: NDArray[np.int64],
        gaps: NDArray[np.int64],
    ) -> None:
        require_lengths("ListwiseFusion", len(features), positions=positions, gaps=gaps)
        if features.ndim != 3 or features.shape[1] != self.state.weights.shape[1]:
            raise ParameterError(
                f"ListwiseFusion has {self.state.weights.shape[1]} features, "
                f"was given {features.shape}"
            )
        for buckets, most in ((positions, POSITIONS), (gaps, GAPS)):
            if len(buckets) and not 0 <= buckets.min() <= buckets.max() < most:
                raise ParameterError(f"a bucket lies outside 0..{most - 1}")

    def take_delta(self) -> dict[str, NDArray[Any]]:
        """Return what this replica learned since the last time; empty where nothing.

        Returns
        -------
        ``places`` int32[n], entries of the flattened weights; ``moved`` float64[n, 1] and
        ``gained`` float64[n], by how much ``precision · weight`` and precision have grown
        (`operators.deltas`); and the same of the layer as ``hidden_places`` and so on.
        """
        places, hidden = self._linear.touched(), self._layer.touched()
        if not len(places) and not len(hidden):
            return {}
        moved, gained = self._linear.take(places)
        hidden_moved, hidden_gained = self._layer.take(hidden)
        return {
            "places": places,
            "moved": moved,
            "gained": gained,
            "hidden_places": hidden,
            "hidden_moved": hidden_moved,
            "hidden_gained": hidden_gained,
        }

    def check_delta(self, delta: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Refuse what `add_delta` cannot add; return it as a kernel takes it.

        Raises
        ------
        StateMismatchError
            Where names, shapes or dtypes are not those of `take_delta`, or a number is impossible.
        """
        owner = "ListwiseFusion"
        checked = require_delta(owner, delta, DELTA)
        require_within(owner, delta, "places", 0, self.state.weights.size)
        require_within(owner, delta, "hidden_places", 0, self.state.hidden.size)
        require_within(owner, delta, "gained", 0.0)
        require_within(owner, delta, "hidden_gained", 0.0)
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
        self._linear.apply(checked["places"], checked["moved"], checked["gained"])
        self._layer.apply(
            checked["hidden_places"], checked["hidden_moved"], checked["hidden_gained"]
        )

    def mark_known(self) -> None:
        """Take everything learned so far for told, as after loading."""
        self._linear.reset()
        self._layer.reset()

    def arrays(self) -> dict[str, NDArray[Any]]:
        """All state, the live arrays by name."""
        names = ("weights", "squares", "hidden", "hidden_squares")
        return {name: getattr(self.state, name) for name in names}

    def load_arrays(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Copy in what `arrays` of an operator with as many features returned.

        Raises
        ------
        StateMismatchError
            Where names, shapes or dtypes differ.
        """
        load_into(self.arrays(), arrays)
        self.mark_known()


def _first_layer(units: int, inputs: int, seed: int) -> NDArray[np.float64]:
    """Draw the layer's first weights: uniform, biases 0."""
    layer = np.zeros((units, inputs + 2))
    start = splitmix64(np.uint64(seed & 0xFFFFFFFFFFFFFFFF))
    for unit in range(units):
        for column in range(inputs + 2):
            if column == inputs:
                continue
            with np.errstate(over="ignore"):
                word = splitmix64(start + np.uint64(unit * (inputs + 2) + column))
            uniform = float(word >> np.uint64(11)) / 2.0**53
            scale = _HIDDEN_SCALE if column < inputs else _OUTPUT_SCALE
            layer[unit, column] = (2.0 * uniform - 1.0) * scale
    return layer


def _flat(values: NDArray[np.float64], squares: NDArray[np.float64], steps: Steps) -> Precisions:
    return Precisions(values.reshape(-1, 1), squares.reshape(-1), FIRST_SQUARES, steps)


DELTA: Expected = {
    "places": (np.int32, ("n",)),
    "moved": (np.float64, ("n", 1)),
    "gained": (np.float64, ("n",)),
    "hidden_places": (np.int32, ("m",)),
    "hidden_moved": (np.float64, ("m", 1)),
    "hidden_gained": (np.float64, ("m",)),
}
