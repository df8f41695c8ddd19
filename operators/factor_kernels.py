"""The kernels of `operators.matrix_factorization`; its class says what they compute."""

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from operators.draws import (
    SIZE,
    draw_chances,
    draw_negatives,
    draw_vectors,
    remember_draw,
    splitmix64,
)
from operators.kernel import kernel

Vector = NDArray[np.float32]

# Steps start as if this squared gradient had been seen, so that first ones are not jumps.
FIRST_SQUARES = 3e-4
# Of the sum of squared gradients, by which steps shrink. Adagrad's is 1/2.
STEP_POWER = 0.25
# A customer's own vector steps by this share of the learning rate: their items say more.
CUSTOMER_SHARE = 0.5
# And an item's bias by so much more: it is one number.
BIAS_SHARE = 2.0


class FactorColumns(NamedTuple):
    """The columns of `MatrixFactorization.row_dtype`; one row per customer."""

    vectors: NDArray[np.float32]
    vector_squares: NDArray[np.float32]
    biases: NDArray[np.float32]
    bias_squares: NDArray[np.float32]


class FactorState(NamedTuple):
    """Shared arrays and settings of `MatrixFactorization`.

    Attributes
    ----------
    inputs, outputs, biases
        float32 (capacity, factors), the same, and (capacity,).
    input_squares, output_squares, bias_squares
        float32[capacity], sums of mean squared gradients, by which steps shrink.
    normalizer
        float64[2], the shared offset b_0 and its sum of squares.
    drawn_from
        int32[memory], ring of the latest events' items.
    drawn_counts
        int32[capacity], how often each item is in it.
    sizes
        int64[3], items admitted, entries of the ring in use, next entry to write.
    keys
        uint64[capacity], what the vectors of the items admitted here were drawn from.
    fresh, learned
        int32[DRAWS_TOLD], ring of the items of this replica's own latest events; int64[1], how
        many events it has learned since it was last taken.
    recency
        float32[depth], unnormalised weights of context items, newest first.
    """

    inputs: NDArray[np.float32]
    outputs: NDArray[np.float32]
    biases: NDArray[np.float32]
    input_squares: NDArray[np.float32]
    output_squares: NDArray[np.float32]
    bias_squares: NDArray[np.float32]
    normalizer: NDArray[np.float64]
    drawn_from: NDArray[np.int32]
    drawn_counts: NDArray[np.int32]
    sizes: NDArray[np.int64]
    keys: NDArray[np.uint64]
    fresh: NDArray[np.int32]
    learned: NDArray[np.int64]
    recency: NDArray[np.float32]
    seed: np.uint64
    negatives: int
    learning_rate: float
    regularization: float


class Scratch(NamedTuple):
    """Room for one event: state, its gradient, items (the positive first), and what they get."""

    state: NDArray[np.float32]
    gradient: NDArray[np.float32]
    items: NDArray[np.int32]
    residuals: NDArray[np.float64]


@kernel
def admit_items(state: FactorState, keys: NDArray[np.uint64]) -> None:
    """Draw the vectors of the next items from their keys."""
    first = state.sizes[SIZE]
    draw_vectors(state.inputs, state.outputs, state.seed, keys, first)
    state.keys[first : first + len(keys)] = keys
    state.sizes[SIZE] += len(keys)


@kernel
def dot(left: Vector, right: Vector) -> float:
    """Inner product in four lanes, which the processor can add side by side."""
    a = np.float32(0)
    b = np.float32(0)
    c = np.float32(0)
    d = np.float32(0)
    for f in range(0, len(left), 4):
        a += left[f] * right[f]
        b += left[f + 1] * right[f + 1]
        c += left[f + 2] * right[f + 2]
        d += left[f + 3] * right[f + 3]
    return float((a + b) + (c + d))


@kernel
def recency_total(recency: Vector, known: int, context: NDArray[np.int32]) -> float:
    """Sum of the unnormalised weights of the context's usable items."""
    total = 0.0
    for position in range(min(len(context), len(recency))):
        if recency[position] <= 0.0:
            break
        if 0 <= context[position] < known:
            total += recency[position]
    return total


@kernel
def blend(
    vectors: NDArray[np.float32],
    slot: int,
    inputs: NDArray[np.float32],
    recency: Vector,
    known: int,
    context: NDArray[np.int32],
    out: Vector,
) -> None:
    """Write z, the customer's own vector plus the weighted mean of the context's, to `out`."""
    for f in range(len(out)):
        out[f] = vectors[slot, f]
    total = recency_total(recency, known, context)
    for position in range(min(len(context), len(recency))):
        item = context[position]
        if recency[position] <= 0.0:
            break
        if 0 <= item < known:
            share = np.float32(recency[position] / total)
            for f in range(len(out)):
                out[f] += share * inputs[item, f]


@kernel
def customer_state(
    state: FactorState,
    columns: FactorColumns,
    slot: int,
    context: NDArray[np.int32],
    recency: Vector,
    out: Vector,
) -> None:
    """Write one customer's z to `out`; `recency` weighs the context."""
    known = state.sizes[SIZE]
    blend(columns.vectors, slot, state.inputs, recency, known, context, out)


@kernel
def softmax_residuals(
    outputs: NDArray[np.float32],
    biases: Vector,
    z: Vector,
    items: NDArray[np.int32],
    count: int,
    bias: float,
    residuals: NDArray[np.float64],
) -> float:
    """Turn the items' chances in `residuals` into the derivatives of the loss by each score.

    Returns
    -------
    The derivative of the noise-contrastive loss by `bias`, the customer's log-normaliser.
    """
    drawn = math.log(count - 1)
    largest = -np.inf
    slope = 0.0
    for k in range(count):
        item = items[k]
        corrected = dot(z, outputs[item]) + biases[item] - math.log(residuals[k])
        residuals[k] = corrected
        largest = max(largest, corrected)
        slope += 1.0 / (1.0 + math.exp(drawn - corrected - bias))
    total = 0.0
    for k in range(count):
        residuals[k] = math.exp(residuals[k] - largest)
        total += residuals[k]
    scale = 1.0 / total
    for k in range(count):
        residuals[k] *= scale
    residuals[0] -= 1.0
    return slope - 1.0


@kernel
def step_rate(rate: float, squares: float) -> float:
    """Step of a parameter with this sum of squared gradients."""
    return rate / math.sqrt(math.sqrt(FIRST_SQUARES + squares))


@kernel
def update_outputs(
    outputs: NDArray[np.float32],
    squares: Vector,
    scratch: Scratch,
    count: int,
    rate: float,
) -> None:
    """Step the output vectors; gather the gradient by z in ``scratch.gradient``."""
    items, residuals, z, gradient = (
        scratch.items,
        scratch.residuals,
        scratch.state,
        scratch.gradient,
    )
    scale = dot(z, z) / len(z)
    gradient[:] = 0.0
    for k in range(count):
        item, residual = items[k], residuals[k]
        squares[item] += residual * residual * scale
        step = np.float32(step_rate(rate, squares[item]) * residual)
        share = np.float32(residual)
        for f in range(len(z)):
            gradient[f] += share * outputs[item, f]
            outputs[item, f] -= step * z[f]


@kernel
def update_biases(
    biases: Vector,
    squares: Vector,
    items: NDArray[np.int32],
    residuals: NDArray[np.float64],
    count: int,
    rate: float,
) -> None:
    """Step the items' biases."""
    for k in range(count):
        item, residual = items[k], residuals[k]
        squares[item] += residual * residual
        biases[item] -= step_rate(rate, squares[item]) * residual


@kernel
def update_inputs(
    inputs: NDArray[np.float32],
    squares: Vector,
    recency: Vector,
    known: int,
    context: NDArray[np.int32],
    gradient: Vector,
    rate: float,
) -> None:
    """Step the input vectors of the context's items down the gradient by z."""
    total = recency_total(recency, known, context)
    square = dot(gradient, gradient) / len(gradient)
    for position in range(min(len(context), len(recency))):
        item = context[position]
        if recency[position] <= 0.0:
            break
        if 0 <= item < known:
            share = recency[position] / total
            squares[item] += share * share * square
            step = np.float32(step_rate(rate, squares[item]) * share)
            for f in range(len(gradient)):
                inputs[item, f] -= step * gradient[f]


@kernel
def update_customer(
    vectors: NDArray[np.float32],
    squares: Vector,
    slot: int,
    gradient: Vector,
    rate: float,
    regularization: float,
) -> None:
    """Step the customer's vector down the gradient by z and towards zero."""
    pull = np.float32(regularization)
    for f in range(len(gradient)):
        gradient[f] += pull * vectors[slot, f]
    squares[slot] += dot(gradient, gradient) / len(gradient)
    step = np.float32(step_rate(rate, squares[slot]))
    for f in range(len(gradient)):
        vectors[slot, f] -= step * gradient[f]


@kernel
def update_normalizer(state: FactorState, columns: FactorColumns, slot: int, slope: float) -> None:
    """Step the offset that all customers share, and the customer's own."""
    offset, rate = state.normalizer, state.learning_rate
    offset[1] += slope * slope
    offset[0] -= step_rate(rate, offset[1]) * slope
    slope += state.regularization * columns.biases[slot]
    columns.bias_squares[slot] += slope * slope
    columns.biases[slot] -= step_rate(rate, columns.bias_squares[slot]) * slope


@kernel
def make_scratch(state: FactorState) -> Scratch:
    """Room for the events of one call."""
    factors = state.inputs.shape[1]
    return Scratch(
        np.empty(factors, np.float32),
        np.empty(factors, np.float32),
        np.empty(state.negatives + 1, np.int32),
        np.empty(state.negatives + 1, np.float64),
    )


@kernel
def learn_factors(
    state: FactorState,
    columns: FactorColumns,
    slot: int,
    item: int,
    weight: float,
    context: NDArray[np.int32],
    recency: Vector,
    event_key: np.uint64,
    scratch: Scratch,
) -> None:
    """Take the step of one event; `recency` weighs the context, newest first."""
    # Arrays are passed one by one: passing a tuple on costs a reference count per array.
    sizes, known, rate = state.sizes, state.sizes[SIZE], state.learning_rate
    if item < 0 or item >= known or weight <= 0.0:
        return
    items, residuals, z, gradient = (
        scratch.items,
        scratch.residuals,
        scratch.state,
        scratch.gradient,
    )
    outputs, inputs, vectors = state.outputs, state.inputs, columns.vectors
    items[0] = item
    # Mixed once more, or events with neighbouring keys would share all draws but one.
    base = splitmix64(state.seed ^ event_key)
    count = draw_negatives(state.drawn_from, sizes, base, state.negatives, items)
    if count > 1:
        blend(vectors, slot, inputs, recency, known, context, z)
        bias = state.normalizer[0] + columns.biases[slot]
        draw_chances(state.drawn_counts, sizes, items, count, residuals)
        slope = softmax_residuals(outputs, state.biases, z, items, count, bias, residuals)
        for k in range(count):
            residuals[k] *= weight
        update_outputs(outputs, state.output_squares, scratch, count, rate)
        update_biases(state.biases, state.bias_squares, items, residuals, count, rate * BIAS_SHARE)
        update_inputs(inputs, state.input_squares, recency, known, context, gradient, rate)
        update_customer(
            vectors,
            columns.vector_squares,
            slot,
            gradient,
            rate * CUSTOMER_SHARE,
            state.regularization,
        )
        update_normalizer(state, columns, slot, slope * weight)
    remember_draw(state.drawn_from, state.drawn_counts, sizes, item)
    state.fresh[state.learned[0] % len(state.fresh)] = item
    state.learned[0] += 1


@kernel
def learn_factors_many(
    state: FactorState,
    columns: FactorColumns,
    slots: NDArray[np.int64],
    items: NDArray[np.int32],
    weights: NDArray[np.float32],
    contexts: NDArray[np.int32],
    event_keys: NDArray[np.uint64],
) -> None:
    """Take one step per event, one after another."""
    scratch = make_scratch(state)
    for i in range(len(slots)):
        learn_factors(
            state,
            columns,
            slots[i],
            items[i],
            weights[i],
            contexts[i],
            state.recency,
            event_keys[i],
            scratch,
        )


@kernel
def score_factors_many(
    state: FactorState,
    columns: FactorColumns,
    slots: NDArray[np.int64],
    contexts: NDArray[np.int32],
    candidates: NDArray[np.int32],
) -> NDArray[np.float32]:
    """Log-probabilities of each customer's candidates."""
    scores = np.empty(candidates.shape, np.float32)
    z = np.empty(state.inputs.shape[1], np.float32)
    for i in range(len(slots)):
        customer_state(state, columns, slots[i], contexts[i], state.recency, z)
        bias = state.normalizer[0] + columns.biases[slots[i]]
        for j in range(candidates.shape[1]):
            item = candidates[i, j]
            scores[i, j] = bias
            if 0 <= item < state.sizes[SIZE]:
                scores[i, j] += dot(z, state.outputs[item]) + state.biases[item]
    return scores
