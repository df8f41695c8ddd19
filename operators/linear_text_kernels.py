"""The kernels of the linear text model."""

import numpy as np
from numpy.typing import NDArray

from operators.kernel import kernel

FADING = 0.999
# Keeps the first division finite; far below the square of any feature's gradient that matters.
TINY = np.float32(1e-8)


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
