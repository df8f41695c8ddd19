"""Online Bayesian logistic regression."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from operators.arrays import load_into
from operators.errors import ParameterError, require_finite
from operators.kernel import kernel

NEWTON_STEPS = 60
NEWTON_TOLERANCE = 1e-10
# exp overflows a float64 beyond 709.
MAX_LOG_ODDS = 700.0


class BayesianLogistic:
    """Logistic regression that learns row by row, with a full covariance over its weights.

    The weights w (the last one is the intercept) have the Gaussian posterior N(m, P). One row x
    with label y ∈ {0, 1} moves it to the Laplace approximation at the new mode, which lies on
    the line ``m + s P x``, so that a one-dimensional Newton search finds it::

        a = mᵀx        v = xᵀPx        σ(z) = 1 / (1 + exp(−z))
        s = y − σ(a + s v)                              (solved for s)
        h = σ(a + s v) (1 − σ(a + s v))
        m ← m + s P x
        P ← P − (P x)(P x)ᵀ h / (1 + h v)

    This is one step of an extended Kalman filter with its measurement iterated to the mode:
    second-order learning in one pass, without a learning rate. Probabilities are moderated by
    what the model does not know yet::

        p(y = 1 | x) = σ(κ a)        κ = 1 / √(1 + π v / 8)

    With ``forgetting`` λ < 1 the weights wander: before each row they are taken as a step of
    the autoregression whose long run is the prior N(0, P₀), so that the model follows a world
    that changes, while silent features fall back to the prior and nothing winds up::

        m ← √λ m        P ← λ P + (1 − λ) P₀

    Parameters
    ----------
    n_features
        Width of a row, at least 1; an intercept is added. Standardise features first.
    prior_precision
        Inverse variance of each weight before learning, above 0: the ridge penalty
        ``prior_precision / 2 · ‖w‖²``.
    intercept_precision
        The same for the intercept, above 0; small, since the base rate is not known.
    forgetting
        λ in (0, 1]; 1 forgets nothing. Memory is about ``2 / √((1 − λ) / prior_precision)``
        rows: 2,000 at λ = 1 − 10⁻⁶.

    Attributes
    ----------
    weights : float64 of shape (n_features + 1,)
        m, the intercept last.
    covariance : float64 of shape (n_features + 1, n_features + 1)
        P.

    Examples
    --------
    >>> model = BayesianLogistic(n_features=1)
    >>> model.predict_proba_many(np.array([[5.0]])).tolist()
    [0.5]
    >>> x = np.array([[-1.0], [1.0]] * 50)
    >>> model.learn_many(x, np.array([0, 1] * 50))
    >>> bool(model.predict_proba_many(np.array([[1.0]]))[0] > 0.9)
    True

    References
    ----------
    - D. J. Spiegelhalter, S. L. Lauritzen, Sequential updating of conditional probabilities on
      directed graphical structures, Networks 20(5), 1990.
    - D. J. C. MacKay, The evidence framework applied to classification networks, Neural
      Computation 4(5), 1992 (the moderated output).
    - W. D. Penny, S. J. Roberts, Dynamic logistic regression, IJCNN 1999 (the filter, with
      weights that wander).
    """

    def __init__(
        self,
        n_features: int,
        prior_precision: float = 1.0,
        intercept_precision: float = 0.01,
        forgetting: float = 1.0,
    ) -> None:
        if n_features < 1:
            raise ParameterError(f"n_features must be at least 1, not {n_features}")
        if not (prior_precision > 0 and intercept_precision > 0):
            raise ParameterError("prior_precision and intercept_precision must be above 0")
        if not 0 < forgetting <= 1:
            raise ParameterError(f"forgetting must be above 0 and at most 1, not {forgetting}")
        self.n_features = n_features
        self.forgetting = forgetting
        self.prior_variance = np.full(n_features + 1, 1.0 / prior_precision)
        self.prior_variance[-1] = 1.0 / intercept_precision
        self.weights = np.zeros(n_features + 1)
        self.covariance = np.diag(self.prior_variance)

    def learn_many(self, x: NDArray[np.floating], labels: NDArray[Any]) -> None:
        """Learn rows one after another.

        Parameters
        ----------
        x
            float32 or float64 of shape (n, n_features).
        labels
            Integers or booleans of shape (n,), 0 or 1.

        Raises
        ------
        NotFiniteError
            Where `x` holds NaN or infinity; nothing is learned then.
        """
        require_finite("x", x)
        learn_rows(
            x.astype(np.float64),
            labels.astype(np.float64),
            self.forgetting,
            self.prior_variance,
            self.weights,
            self.covariance,
        )

    def predict_proba_many(self, x: NDArray[np.floating]) -> NDArray[np.float64]:
        """Return the probability of label 1, moderated.

        Parameters
        ----------
        x
            float32 or float64 of shape (n, n_features).

        Returns
        -------
        float64 of shape (n,), in (0, 1).
        """
        log_odds = moderated(x, self.weights, self.covariance).sum(axis=1)
        bounded = np.maximum(log_odds, -MAX_LOG_ODDS)
        probabilities: NDArray[np.float64] = 1.0 / (1.0 + np.exp(-bounded))
        return probabilities

    def contributions_many(self, x: NDArray[np.floating]) -> NDArray[np.float64]:
        """Return what each feature adds to the log-odds: ``κ w_j x_j``.

        Returns
        -------
        float64 of shape (n, n_features + 1), the intercept's share last. A row sums to the
        log-odds of `predict_proba_many`.
        """
        return moderated(x, self.weights, self.covariance)

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Return the live arrays by name."""
        return {"weights": self.weights, "covariance": self.covariance}

    def load_arrays(self, saved: Mapping[str, NDArray[Any]]) -> None:
        """Copy saved arrays in.

        Raises
        ------
        StateMismatchError
            Where they do not fit; nothing is loaded then.
        """
        load_into(self.arrays(), saved)


@kernel
def logistic(value: float) -> float:
    """Return ``1 / (1 + exp(-value))`` without overflow."""
    if value >= 0.0:
        return float(1.0 / (1.0 + np.exp(-value)))
    exponential = np.exp(value)
    return float(exponential / (1.0 + exponential))


@kernel
def mode_step(log_odds: float, variance: float, label: float) -> float:
    """Solve ``s = label - logistic(log_odds + s * variance)`` for s.

    The left side less the right side rises in s and changes sign within [label - 1, label], so
    a Newton step that would leave that bracket is halved instead.
    """
    low, high = label - 1.0, label
    step = label - logistic(log_odds)
    for _ in range(NEWTON_STEPS):
        probability = logistic(log_odds + step * variance)
        excess = step - label + probability
        if excess > 0.0:
            high = step
        else:
            low = step
        refined = step - excess / (1.0 + variance * probability * (1.0 - probability))
        if abs(refined - step) < NEWTON_TOLERANCE:
            return refined
        # Strictly inside: a bound is where the search came from, and would be returned to.
        step = refined if low < refined < high else 0.5 * (low + high)
    return step


@kernel
def wander(
    forgetting: float,
    prior_variance: NDArray[np.float64],
    weights: NDArray[np.float64],
    covariance: NDArray[np.float64],
) -> None:
    """Take one step of the autoregression towards the prior."""
    weights *= np.sqrt(forgetting)
    covariance *= forgetting
    for j in range(covariance.shape[0]):
        covariance[j, j] += (1.0 - forgetting) * prior_variance[j]


@kernel
def learn_rows(
    x: NDArray[np.float64],
    labels: NDArray[np.float64],
    forgetting: float,
    prior_variance: NDArray[np.float64],
    weights: NDArray[np.float64],
    covariance: NDArray[np.float64],
) -> None:
    """Move weights and covariance by each row in turn."""
    width = weights.shape[0]
    row = np.ones(width)
    gain = np.empty(width)
    for n in range(x.shape[0]):
        row[: width - 1] = x[n]
        if forgetting < 1.0:
            wander(forgetting, prior_variance, weights, covariance)
        log_odds = 0.0
        variance = 0.0
        for i in range(width):
            gain[i] = 0.0
            for j in range(width):
                gain[i] += covariance[i, j] * row[j]
            log_odds += weights[i] * row[i]
            variance += row[i] * gain[i]
        step = mode_step(log_odds, variance, labels[n])
        probability = logistic(log_odds + step * variance)
        curvature = probability * (1.0 - probability)
        shrink = curvature / (1.0 + curvature * variance)
        for i in range(width):
            weights[i] += step * gain[i]
            for j in range(width):
                covariance[i, j] -= shrink * gain[i] * gain[j]


@kernel
def moderated(
    x: NDArray[np.floating], weights: NDArray[np.float64], covariance: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return κ w_j x_j for each row and feature, the intercept last."""
    width = weights.shape[0]
    result = np.empty((x.shape[0], width))
    row = np.ones(width)
    for n in range(x.shape[0]):
        for j in range(width - 1):
            row[j] = x[n, j]
        variance = 0.0
        for i in range(width):
            for j in range(width):
                variance += row[i] * covariance[i, j] * row[j]
        scale = 1.0 / np.sqrt(1.0 + np.pi / 8.0 * max(variance, 0.0))
        for j in range(width):
            result[n, j] = scale * weights[j] * row[j]
    return result
