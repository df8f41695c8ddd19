"""What a customer will say of an item: explicit ratings, as stars."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from operators.arrays import load_into
from operators.batches import plain, require_lengths, require_rows
from operators.errors import ParameterError, require_finite
from operators.kernel import kernel

COUNT, MEAN, LOWEST, HIGHEST = 0, 1, 2, 3


class Variances(NamedTuple):
    """What is believed before anything was rated, in units of the variance of one rating's noise.

    Attributes
    ----------
    customer, item
        Of a new customer's, and a new item's, deviation from the mean.
    customer_drift, item_drift
        What is added with each further rating: tastes and reputations change.
    """

    customer: float = 0.22
    item: float = 0.28
    customer_drift: float = 0.0055
    item_drift: float = 0.0003


class RatingState(NamedTuple):
    """Arrays of `RatingBiases`, for kernels.

    Attributes
    ----------
    biases, narrowed
        float64[capacity]: each item's deviation, and by how much its variance is below that of a
        new one.
    scale
        float64[4]: number, mean, lowest and highest of the ratings.
    variances
        See `Variances`.
    """

    biases: NDArray[np.float64]
    narrowed: NDArray[np.float64]
    scale: NDArray[np.float64]
    variances: Variances


@kernel
def expected_rating(
    state: RatingState, customer_bias: float, item: int
) -> float:  # pragma: no cover - compiled
    """Return the rating to expect, within what was ever given."""
    scale = state.scale
    bias = state.biases[item] if 0 <= item < len(state.biases) else 0.0
    return float(min(max(scale[MEAN] + customer_bias + bias, scale[LOWEST]), scale[HIGHEST]))


@kernel
def learn_ratings(
    state: RatingState,
    customer_biases: NDArray[np.float64],
    customer_narrowed: NDArray[np.float64],
    slots: NDArray[np.int64],
    items: NDArray[np.int32],
    ratings: NDArray[np.float64],
    expected: NDArray[np.float64],
) -> None:  # pragma: no cover - compiled
    """Predict each rating, then learn it."""
    scale, prior = state.scale, state.variances
    for i in range(len(slots)):
        slot, item, rating = slots[i], items[i], ratings[i]
        expected[i] = expected_rating(state, customer_biases[slot], item)
        known = 0 <= item < len(state.biases)
        scale[COUNT] += 1.0
        scale[MEAN] += (rating - scale[MEAN]) / scale[COUNT]
        if scale[COUNT] == 1.0:
            scale[LOWEST] = scale[HIGHEST] = rating
        scale[LOWEST] = min(scale[LOWEST], rating)
        scale[HIGHEST] = max(scale[HIGHEST], rating)
        of_customer = prior.customer - customer_narrowed[slot] + prior.customer_drift
        of_item = prior.item - state.narrowed[item] + prior.item_drift if known else prior.item
        error = rating - scale[MEAN] - customer_biases[slot]
        if known:
            error -= state.biases[item]
        total = 1.0 + of_customer + of_item
        customer_biases[slot] += of_customer / total * error
        customer_narrowed[slot] = prior.customer - of_customer * (1.0 - of_customer / total)
        if known:
            state.biases[item] += of_item / total * error
            state.narrowed[item] = prior.item - of_item * (1.0 - of_item / total)


class RatingBiases:
    """Expects of a customer and an item the mean rating and how both deviate from it.

    Rating r of customer u for item i is taken for

        ``r = μ + b_u + b_i + noise``

    where b_u and b_i start at 0 with a known variance and drift a little with each rating. Each
    rating moves both as a Kalman filter does that keeps no covariances between them: with the
    present variances P_u and P_i and noise of variance 1,

        ``b_u += P_u / (1 + P_u + P_i) · e,   P_u *= 1 - P_u / (1 + P_u + P_i)``

    and likewise for the item, e being the error of the three together. So a first rating moves a
    customer far and a hundredth little, and how far needs no learning rate. Scales do not matter:
    five stars and hundred points learn alike.

    Parameters
    ----------
    capacity
        Most items, at least 1; ratings of others teach only of the customer.
    variances
        See `Variances`.

    Attributes
    ----------
    row_dtype
        ``bias`` and ``narrowed``, float64. A row of zeros is a new customer.

    Examples
    --------
    >>> model = RatingBiases(capacity=10)
    >>> rows = np.zeros(2, model.row_dtype)
    >>> ann, bob, tea, cup = 0, 1, 3, 4
    >>> expected = model.learn_many(
    ...     rows, np.array([ann, ann, bob]), np.array([tea, cup, tea], np.int32),
    ...     np.array([5.0, 1.0, 4.0]),
    ... )
    >>> model.predict_many(rows, np.array([bob, bob]), np.array([tea, cup], np.int32)).round(1)
    array([3.5, 3.1])

    References
    ----------
    Kalman, R. (1960). A new approach to linear filtering and prediction problems. Journal of Basic
    Engineering.
    Koren, Y., Bell, R. and Volinsky, C. (2009). Matrix factorization techniques for recommender
    systems. Computer (the model of the biases).
    """

    row_dtype: np.dtype[np.void] = np.dtype([("bias", np.float64), ("narrowed", np.float64)])

    def __init__(self, capacity: int, variances: Variances | None = None) -> None:
        chosen = variances if variances is not None else Variances()
        if capacity < 1:
            raise ParameterError(f"capacity must be at least 1, is {capacity}")
        if not all(0.0 <= value < np.inf for value in chosen):
            raise ParameterError(f"variances must be finite and at least 0, are {chosen}")
        self.state = RatingState(np.zeros(capacity), np.zeros(capacity), np.zeros(4), chosen)

    def learn_many(
        self,
        columns: NDArray[np.void],
        slots: NDArray[np.int64],
        items: NDArray[np.int32],
        ratings: NDArray[np.float64],
    ) -> NDArray[np.float64]:
        """Predict and learn ratings in turn.

        Parameters
        ----------
        columns
            Customers' rows (dtype `row_dtype`); written.
        slots, items, ratings
            int64[n], int32[n] and float64[n]: whose, of what, and finite.

        Returns
        -------
        float64[n], what was expected before each was learned; 0 before the first of all.

        Raises
        ------
        NotFiniteError, ParameterError, StateMismatchError
            Where a rating is NaN or infinite; lengths differ or a slot is out of range; or
            `columns` are not of `row_dtype`. Nothing was learned then.
        """
        require_finite("ratings", ratings)
        require_rows("RatingBiases", columns, self.row_dtype, slots)
        require_lengths("RatingBiases", len(slots), items=items, ratings=ratings)
        expected = np.empty(len(slots))
        learn_ratings(
            self.state,
            columns["bias"],
            columns["narrowed"],
            plain(slots, np.int64),
            plain(items, np.int32),
            plain(ratings, np.float64),
            expected,
        )
        return expected

    def predict_many(
        self, columns: NDArray[np.void], slots: NDArray[np.int64], items: NDArray[np.int32]
    ) -> NDArray[np.float64]:
        """Return what to expect, float64[n], between the lowest and the highest rating so far.

        Raises
        ------
        ParameterError, StateMismatchError
            As `learn_many`.
        """
        require_rows("RatingBiases", columns, self.row_dtype, slots)
        require_lengths("RatingBiases", len(slots), items=items)
        known = (items >= 0) & (items < len(self.state.biases))
        biases = np.where(known, self.state.biases[np.where(known, items, 0)], 0.0)
        _, mean, lowest, highest = self.state.scale.tolist()
        expected: NDArray[np.float64] = np.clip(
            mean + columns["bias"][slots] + biases, lowest, highest
        )
        return expected

    def arrays(self) -> dict[str, NDArray[Any]]:
        """All shared state, the live arrays by name."""
        state = self.state
        return {"biases": state.biases, "narrowed": state.narrowed, "scale": state.scale}

    def load_arrays(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Copy in what `arrays` of an operator of the same capacity returned, or change nothing.

        Raises
        ------
        StateMismatchError
            Where names, shapes or dtypes differ.
        """
        load_into(self.arrays(), arrays)
