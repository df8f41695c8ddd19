"""Online Bayesian logistic regression."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from operators.arrays import load_into
from operators.deltas import require_delta, require_within
from operators.errors import ParameterError, StateMismatchError, require_finite
from operators.logistic_kernels import Run, learn_rows, moderated

# exp overflows a float64 beyond 709.
MAX_LOG_ODDS = 700.0
# By this share of the largest eigenvalue rounding may push the smallest one below 0.
EIGENVALUE_NOISE = 1e-9


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

    Replicas that learn different rows tell each other what these say, not how far each has moved.
    At its mode f = a + s v, a row's likelihood is a Gaussian in wᵀx of precision h and centre
    f + s / h. So what a run of rows does to *any* posterior N(m, P) is known, and is all that a
    replica sends (Särkkä & García-Fernández 2021)::

        P ← (P⁻¹ + J)⁻¹        m ← P (P_before⁻¹ m + η)
        m ← A m + b            P ← A P Aᵀ + C

    For the replica itself that is the filter above, so nothing overshoots, however many replicas
    made the same step. Without forgetting A = I, b = C = 0 and the rows just add up, J = Σ h x xᵀ
    and η = Σ (s + h f) x, in whatever order they arrive. With it, rows of others age what was
    learned before they arrived.

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
    - S. Särkkä, Á. F. García-Fernández, Temporal parallelization of Bayesian smoothers, IEEE
      Transactions on Automatic Control 66(1), 2021 (a run of steps as one).
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
        width = n_features + 1
        self._unsent = Run(
            information=np.zeros((width, width)),
            vector=np.zeros(width),
            transition=np.eye(width),
            offset=np.zeros(width),
            noise=np.zeros((width, width)),
            rows=np.zeros(1, np.int64),
        )

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
            self._unsent,
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
        self._unsent.clear()

    def take_delta(self) -> dict[str, NDArray[Any]]:
        """Return what the rows learned since the last time do; empty where there were none.

        Returns
        -------
        ``information`` J, ``vector`` η, ``transition`` A, ``offset`` b and ``noise`` C, float64 of
        width n_features + 1, and how many ``rows`` that was, int64 of shape (1,).
        """
        if not self._unsent.rows[0]:
            return {}
        delta = {name: array.copy() for name, array in self._unsent._asdict().items()}
        self._unsent.clear()
        return delta

    def check_delta(self, delta: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Refuse what `add_delta` cannot add; return it as a kernel takes it.

        Raises
        ------
        StateMismatchError
            Where names, shapes or dtypes are not those of `take_delta`, or a number is impossible.
        """
        owner, unsent = "BayesianLogistic", self._unsent._asdict()
        expected = {name: (array.dtype, array.shape) for name, array in unsent.items()}
        checked = require_delta(owner, delta, expected)
        require_within(owner, delta, "rows", 0)
        for name in ("information", "noise"):
            eigenvalues = np.linalg.eigvalsh(checked[name])
            if eigenvalues[0] < -EIGENVALUE_NOISE * eigenvalues[-1]:
                raise StateMismatchError(f"{owner}: {name} of a delta has negative eigenvalues")
        return checked

    def apply_delta(self, delta: Mapping[str, NDArray[Any]]) -> None:
        """Learn what another replica's rows do.

        Raises
        ------
        StateMismatchError
            As `check_delta`; nothing is changed then.
        """
        if delta:
            self.add_delta(self.check_delta(delta))

    def add_delta(self, checked: Mapping[str, NDArray[Any]]) -> None:
        """Apply what `check_delta` returned."""
        run = Run(**checked)
        # (P⁻¹ + J)⁻¹ = (I + P J)⁻¹ P, which needs no inverse of P.
        gain = np.eye(len(self.weights)) + self.covariance @ run.information
        moved = self.weights + self.covariance @ run.vector
        covariance = np.linalg.solve(gain, self.covariance)
        self.weights[:] = run.transition @ np.linalg.solve(gain, moved) + run.offset
        covariance = run.transition @ covariance @ run.transition.T + run.noise
        self.covariance[:] = 0.5 * (covariance + covariance.T)
