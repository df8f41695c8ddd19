"""Online standardisation of features."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from operators.arrays import load_into
from operators.deltas import require_delta, require_within
from operators.errors import ParameterError, require_finite
from operators.kernel import kernel

# A spread below this share of the mean is rounding noise of a constant feature.
NEGLIGIBLE_SPREAD = 1e-9

COUNT, MEAN, SQUARES = 0, 1, 2


class OnlineScaler:
    """Standardise features by their running mean and variance, clipped at ``±clip``.

    Row by row (Welford 1962; with weights, West 1979), where γ forgets the past::

        W ← γW + 1
        δ = x − μ
        μ ← μ + δ / W
        S ← γS + δ (x − μ)          variance = S / W

    and two sets of moments merge (Chan, Golub & LeVeque 1983)::

        W = W₁ + W₂     δ = μ₂ − μ₁
        μ = μ₁ + δ W₂ / W
        S = S₁ + S₂ + δ² W₁ W₂ / W

    which is how replicas add up: each sends the moments of the rows it has learned itself. Under
    forgetting these rows count as the newest wherever they arrive, so that the order of arrival
    matters, by as much as one exchange is forgotten; without forgetting it does not.

    A feature that was constant so far is only centred, and before anything is learned values
    pass through (clipped). Transform before you learn: then no value is scaled by its own
    future.

    Parameters
    ----------
    n_features
        Width of a row, at least 1.
    clip
        Bound on a standardised value, in standard deviations, above 0.
    half_life_rows
        After so many further rows a row weighs half; infinite (the default) forgets nothing.

    Attributes
    ----------
    moments : float64 of shape (3, n_features)
        Weight W, mean μ and sum of squared deviations S of each feature.

    Examples
    --------
    >>> scaler = OnlineScaler(n_features=1, clip=3.0)
    >>> scaler.learn_many(np.array([[1.0], [3.0]]))
    >>> scaler.transform_many(np.array([[2.0], [3.0], [100.0]])).ravel().tolist()
    [0.0, 1.0, 3.0]

    References
    ----------
    - B. P. Welford, Note on a method for calculating corrected sums of squares and products,
      Technometrics 4(3), 1962.
    - D. H. D. West, Updating mean and variance estimates: an improved method, CACM 22(9), 1979.
    - T. F. Chan, G. H. Golub, R. J. LeVeque, Algorithms for computing the sample variance,
      The American Statistician 37(3), 1983.
    """

    def __init__(self, n_features: int, clip: float = 3.0, half_life_rows: float = np.inf) -> None:
        if n_features < 1:
            raise ParameterError(f"n_features must be at least 1, not {n_features}")
        if not clip > 0:
            raise ParameterError(f"clip must be above 0, not {clip}")
        if not half_life_rows > 0:
            raise ParameterError(f"half_life_rows must be above 0, not {half_life_rows}")
        self.n_features = n_features
        self.clip = clip
        self.decay = 0.5 ** (1.0 / half_life_rows)
        self.moments = np.zeros((3, n_features))
        self._unsent = np.zeros((3, n_features))

    def learn_many(self, x: NDArray[np.floating]) -> None:
        """Take rows into the mean and variance, in order.

        Parameters
        ----------
        x
            float32 or float64 of shape (n, n_features).

        Raises
        ------
        NotFiniteError
            Where `x` holds NaN or infinity; nothing is learned then.
        """
        require_finite("x", x)
        learn_moments(x, self.decay, self.moments)
        learn_moments(x, self.decay, self._unsent)

    def replace_moments(self, moments: NDArray[np.float64]) -> None:
        """Forget what was learned and stand on these moments, shape (3, n_features)."""
        self.moments[:] = moments
        self._unsent[:] = 0.0

    def transform_many(self, x: NDArray[np.floating]) -> NDArray[np.float64]:
        """Standardise rows.

        Parameters
        ----------
        x
            float32 or float64 of shape (n, n_features).

        Returns
        -------
        float64 of shape (n, n_features), within ``[-clip, clip]``.
        """
        return standardised(x, self.moments[MEAN], self.spreads(), self.clip)

    def spreads(self) -> NDArray[np.float64]:
        """Return what each feature is divided by: its standard deviation, 1 where constant."""
        return spreads_of(self.moments)

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Return the live arrays by name."""
        return {"moments": self.moments}

    def load_arrays(self, saved: Mapping[str, NDArray[Any]]) -> None:
        """Copy saved arrays in.

        Raises
        ------
        StateMismatchError
            Where they do not fit; nothing is loaded then.
        """
        load_into(self.arrays(), saved)
        self._unsent[:] = 0.0

    def take_delta(self) -> dict[str, NDArray[Any]]:
        """Return the ``moments`` of the rows learned since the last time; empty where none were."""
        if not self._unsent[COUNT].any():
            return {}
        moments = self._unsent.copy()
        self._unsent[:] = 0.0
        return {"moments": moments}

    def check_delta(self, delta: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Refuse what `add_delta` cannot add; return it as a kernel takes it.

        Raises
        ------
        StateMismatchError
            Where names, shapes or dtypes are not those of `take_delta`, or a number is impossible.
        """
        owner = "OnlineScaler"
        expected = {"moments": (np.float64, self.moments.shape)}
        checked = require_delta(owner, delta, expected)
        require_within(owner, {"weights": delta["moments"][COUNT]}, "weights", 0.0)
        require_within(owner, {"squares": delta["moments"][SQUARES]}, "squares", 0.0)
        return checked

    def apply_delta(self, delta: Mapping[str, NDArray[Any]]) -> None:
        """Take in the rows that another replica has learned, as if they had come just now.

        Raises
        ------
        StateMismatchError
            As `check_delta`; nothing is changed then.
        """
        if delta:
            self.add_delta(self.check_delta(delta))

    def add_delta(self, checked: Mapping[str, NDArray[Any]]) -> None:
        """Apply what `check_delta` returned."""
        moments = checked["moments"]
        # n rows weigh W = (1 - γⁿ) / (1 - γ) together, and γⁿ is what the rows before them keep.
        kept = np.maximum(1.0 - (1.0 - self.decay) * moments[COUNT], 0.0)
        self.moments[COUNT] *= kept
        self.moments[SQUARES] *= kept
        merge_moments(self.moments, moments, 1.0)


@kernel
def learn_moments(x: NDArray[np.floating], decay: float, moments: NDArray[np.float64]) -> None:
    """Take the rows of `x` into `moments`, one after another."""
    for row in range(x.shape[0]):
        for j in range(x.shape[1]):
            weight = decay * moments[COUNT, j] + 1.0
            delta = x[row, j] - moments[MEAN, j]
            mean = moments[MEAN, j] + delta / weight
            moments[SQUARES, j] = decay * moments[SQUARES, j] + delta * (x[row, j] - mean)
            moments[COUNT, j] = weight
            moments[MEAN, j] = mean


@kernel
def merge_moments(into: NDArray[np.float64], other: NDArray[np.float64], weight: float) -> None:
    """Merge the moments `other`, each of its rows counted `weight` times, into `into`."""
    for j in range(into.shape[1]):
        count = other[COUNT, j] * weight
        total = into[COUNT, j] + count
        if count > 0.0:
            delta = other[MEAN, j] - into[MEAN, j]
            into[SQUARES, j] += other[SQUARES, j] * weight
            into[SQUARES, j] += delta * delta * into[COUNT, j] * count / total
            into[MEAN, j] += delta * count / total
            into[COUNT, j] = total


@kernel
def spreads_of(moments: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return standard deviations by feature, 1 where a feature was constant so far."""
    spreads = np.ones(moments.shape[1])
    for j in range(moments.shape[1]):
        if moments[COUNT, j] > 0.0:
            spread = np.sqrt(moments[SQUARES, j] / moments[COUNT, j])
            if spread > NEGLIGIBLE_SPREAD * abs(moments[MEAN, j]):
                spreads[j] = spread
    return spreads


@kernel
def standardised(
    x: NDArray[np.floating],
    means: NDArray[np.float64],
    spreads: NDArray[np.float64],
    clip: float,
) -> NDArray[np.float64]:
    """Return ``(x - means) / spreads``, clipped."""
    result = np.empty(x.shape, np.float64)
    for row in range(x.shape[0]):
        for j in range(x.shape[1]):
            result[row, j] = min(max((x[row, j] - means[j]) / spreads[j], -clip), clip)
    return result
