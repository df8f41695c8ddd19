"""The kernels of `operators.fusion`; its class says what they compute."""

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from operators.kernel import kernel
from operators.trends import POSITIONS

GAPS = 10
ROWS = 1 + POSITIONS + GAPS
# Adagrad starts as if it had seen this squared gradient.
FIRST_SQUARES = 1.0
# An order teaches as much as this many single choices, at most.
MOST_PER_ORDER = 3


class FusionState(NamedTuple):
    """Arrays of `ListwiseFusion`, for kernels.

    Attributes
    ----------
    weights
        float64[ROWS, features]: the weights that all customers share, then what each length of
        the history and each time since the last event add to them.
    squares
        float64 of the same shape, Adagrad's sums of squared gradients.
    hidden, hidden_squares
        float64[units, features + 2]: of each unit its input weights, bias, and output weight; and
        the same of Adagrad's sums.
    learning_rate, hidden_rate
        Adagrad's steps.
    """

    weights: NDArray[np.float64]
    squares: NDArray[np.float64]
    hidden: NDArray[np.float64]
    hidden_squares: NDArray[np.float64]
    learning_rate: float
    hidden_rate: float


class Blend(NamedTuple):
    """Room for the candidates of one question.

    Attributes
    ----------
    weights
        float32[features], the linear weights in use.
    activations
        float32[units, candidates].
    scores
        float64[candidates].
    """

    weights: NDArray[np.float32]
    activations: NDArray[np.float32]
    scores: NDArray[np.float64]


@kernel
def make_blend(state: FusionState, most: int) -> Blend:
    """Room for up to `most` candidates."""
    return Blend(
        np.empty(state.weights.shape[1], np.float32),
        np.empty((len(state.hidden), most), np.float32),
        np.empty(most),
    )


@kernel
def gap_bucket(seconds: float) -> int:
    """Bucket of the time since a customer's last event: e-folding twice per bucket, 0..GAPS-1."""
    return min(GAPS - 1, int(math.log(1.0 + max(seconds, 0.0)) / 2.0))


@kernel
def fuse(
    state: FusionState,
    position: int,
    gap: int,
    features: NDArray[np.float32],
    count: int,
    blend: Blend,
) -> None:
    """Score the first `count` candidates of ``features`` (features, candidates)."""
    weights, scores, activations = blend.weights, blend.scores, blend.activations
    inputs = len(weights)
    for f in range(inputs):
        weights[f] = np.float32(
            state.weights[0, f]
            + state.weights[1 + position, f]
            + state.weights[1 + POSITIONS + gap, f]
        )
    for k in range(count):
        scores[k] = 0.0
    for f in range(inputs):
        weight = weights[f]
        for k in range(count):
            scores[k] += weight * features[f, k]
    hidden = state.hidden
    for unit in range(len(hidden)):
        bias = np.float32(hidden[unit, inputs])
        for k in range(count):
            activations[unit, k] = bias
        for f in range(inputs):
            weight = np.float32(hidden[unit, f])
            for k in range(count):
                activations[unit, k] += weight * features[f, k]
        output = np.float32(hidden[unit, inputs + 1])
        for k in range(count):
            activations[unit, k] = max(activations[unit, k], np.float32(0.0))
            scores[k] += output * activations[unit, k]


@kernel
def slopes_at(state: FusionState, blend: Blend, candidate: int, out: NDArray[np.float64]) -> None:
    """Write by how much one candidate's score grows with each of its features."""
    inputs = len(blend.weights)
    for f in range(inputs):
        out[f] = blend.weights[f]
    for unit in range(len(state.hidden)):
        if blend.activations[unit, candidate] > 0.0:
            output = state.hidden[unit, inputs + 1]
            for f in range(inputs):
                out[f] += output * state.hidden[unit, f]


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
def step_down(
    values: NDArray[np.float64],
    squares: NDArray[np.float64],
    row: int,
    column: int,
    gradient: float,
    rate: float,
) -> None:
    """Take Adagrad's step of one number."""
    squares[row, column] += gradient * gradient
    values[row, column] -= rate / math.sqrt(FIRST_SQUARES + squares[row, column]) * gradient


@kernel
def learn_choice(
    state: FusionState,
    position: int,
    gap: int,
    features: NDArray[np.float32],
    residuals: NDArray[np.float64],
    count: int,
    blend: Blend,
) -> None:
    """Take one step; `residuals` are the derivatives of the loss by each candidate's score.

    `blend` is as `fuse` left it. The hidden units step by the gradient at the old weights.
    """
    inputs = state.weights.shape[1]
    for f in range(inputs):
        gradient = 0.0
        for k in range(count):
            gradient += residuals[k] * features[f, k]
        for row in (0, 1 + position, 1 + POSITIONS + gap):
            step_down(state.weights, state.squares, row, f, gradient, state.learning_rate)
    hidden, squares, rate = state.hidden, state.hidden_squares, state.hidden_rate
    for unit in range(len(hidden)):
        active = blend.activations[unit]
        output = hidden[unit, inputs + 1]
        of_output, of_bias = 0.0, 0.0
        for k in range(count):
            of_output += residuals[k] * active[k]
            if active[k] > 0.0:
                of_bias += residuals[k] * output
        for f in range(inputs):
            gradient = 0.0
            for k in range(count):
                if active[k] > 0.0:
                    gradient += residuals[k] * features[f, k]
            step_down(hidden, squares, unit, f, gradient * output, rate)
        step_down(hidden, squares, unit, inputs, of_bias, rate)
        step_down(hidden, squares, unit, inputs + 1, of_output, rate)


@kernel
def take_residuals(
    probabilities: NDArray[np.float64], targets: NDArray[np.int64], count: int
) -> None:
    """Turn probabilities into the derivatives of the loss of `count` choices, in place."""
    share = 1.0 / count
    for k in range(count):
        probabilities[targets[k]] -= share


@kernel
def learn_choices(
    state: FusionState,
    features: NDArray[np.float32],
    positions: NDArray[np.int64],
    gaps: NDArray[np.int64],
    targets: NDArray[np.int64],
) -> None:
    """Take one step per choice, in turn."""
    count = features.shape[2]
    blend = make_blend(state, count)
    target = np.empty(1, np.int64)
    for i in range(len(targets)):
        if not 0 <= targets[i] < count:
            continue
        fuse(state, positions[i], gaps[i], features[i], count, blend)
        softmax_in_place(blend.scores, count)
        target[0] = targets[i]
        take_residuals(blend.scores, target, 1)
        learn_choice(state, positions[i], gaps[i], features[i], blend.scores, count, blend)


@kernel
def score_choices(
    state: FusionState,
    features: NDArray[np.float32],
    positions: NDArray[np.int64],
    gaps: NDArray[np.int64],
) -> NDArray[np.float64]:
    """Score many questions' candidates."""
    scores = np.empty((len(features), features.shape[2]))
    blend = make_blend(state, features.shape[2])
    for i in range(len(features)):
        fuse(state, positions[i], gaps[i], features[i], features.shape[2], blend)
        scores[i] = blend.scores
    return scores
