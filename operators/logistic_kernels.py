"""The kernels of the online Bayesian logistic regression."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from operators.kernel import kernel

NEWTON_STEPS = 60
NEWTON_TOLERANCE = 1e-10


class Run(NamedTuple):
    """What a run of rows does to any posterior N(m, P); see `operators.logistic`.

    Attributes
    ----------
    information, vector
        J and η: what the rows say of the weights before the run.
    transition, offset, noise
        A, b and C: where these have gone during the run. I, 0 and 0 without forgetting.
    rows
        int64[1], how many.
    """

    information: NDArray[np.float64]
    vector: NDArray[np.float64]
    transition: NDArray[np.float64]
    offset: NDArray[np.float64]
    noise: NDArray[np.float64]
    rows: NDArray[np.int64]

    def clear(self) -> None:
        """Make it a run of no rows."""
        for array in self:
            array[:] = 0
        np.fill_diagonal(self.transition, 1.0)


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
def append_row(run: Run, row: NDArray[np.float64], precision: float, pull: float) -> None:
    """Append to a run a row with the likelihood ``exp(pull · f - precision · f² / 2)``, f = wᵀx."""
    width = len(row)
    gain, seen = np.zeros(width), np.zeros(width)
    variance, centre = 0.0, 0.0
    for i in range(width):
        for j in range(width):
            gain[i] += run.noise[i, j] * row[j]
            seen[j] += run.transition[i, j] * row[i]
        variance += row[i] * gain[i]
        centre += row[i] * run.offset[i]
    share = 1.0 / (1.0 + precision * variance)
    pull = (pull - precision * centre) * share
    precision *= share
    for i in range(width):
        run.vector[i] += pull * seen[i]
        run.offset[i] += pull * gain[i]
        for j in range(width):
            run.information[i, j] += precision * seen[i] * seen[j]
            run.transition[i, j] -= precision * gain[i] * seen[j]
            run.noise[i, j] -= precision * gain[i] * gain[j]
    run.rows[0] += 1


@kernel
def learn_rows(
    x: NDArray[np.float64],
    labels: NDArray[np.float64],
    forgetting: float,
    prior_variance: NDArray[np.float64],
    weights: NDArray[np.float64],
    covariance: NDArray[np.float64],
    run: Run,
) -> None:
    """Move weights and covariance by each row in turn, and append the rows to `run`."""
    width = weights.shape[0]
    row = np.ones(width)
    gain = np.empty(width)
    for n in range(x.shape[0]):
        row[: width - 1] = x[n]
        if forgetting < 1.0:
            wander(forgetting, prior_variance, weights, covariance)
            wander(forgetting, prior_variance, run.offset, run.noise)
            run.transition[:] *= np.sqrt(forgetting)
        log_odds = 0.0
        variance = 0.0
        for i in range(width):
            gain[i] = 0.0
            for j in range(width):
                gain[i] += covariance[i, j] * row[j]
            log_odds += weights[i] * row[i]
            variance += row[i] * gain[i]
        step = mode_step(log_odds, variance, labels[n])
        at_mode = log_odds + step * variance
        probability = logistic(at_mode)
        curvature = probability * (1.0 - probability)
        shrink = curvature / (1.0 + curvature * variance)
        for i in range(width):
            weights[i] += step * gain[i]
            for j in range(width):
                covariance[i, j] -= shrink * gain[i] * gain[j]
        append_row(run, row, curvature, step + curvature * at_mode)


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
