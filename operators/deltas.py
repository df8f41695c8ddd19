"""What a replica of a model adds to it, for the other replicas to add too.

Replicas of one model learn from disjoint parts of a stream. Each says from time to time what it
has learned since it last did (`take_delta`) and takes in what the others say (`apply_delta`).
Whatever is added in any order leads to the same sum, so no replica waits for another. An operator
keeps, beside its live arrays, a copy of them *as the others know them*; what was applied goes into
both, so that it is never sent on.

Two ways of adding:

- `Sums`: what is counted just adds up.
- `Precisions`: what was learned by Adagrad adds up as a Gaussian's natural parameters. A sum of
  squared gradients G is the empirical Fisher information of its parameter, so that a parameter x
  is held to be ``N(x, 1 / P)``, ``P = first + G``, and a replica adds what its own records
  multiplied to the prior,

      ``P ← P + Σ_r ΔP_r``,  ``P · x ← P · x + Σ_r Δ(P · x)_r``.

  Where all have seen much (G large against what is added) this is the plain sum of the replicas'
  small steps; where a parameter is new, and each replica made the same large step, it is their
  mean weighted by what each has seen, which a plain sum would overshoot.

References
----------
Broderick, T., Boyd, N., Wibisono, A., Wilson, A. and Jordan, M. (2013). Streaming variational
Bayes. NeurIPS.
Duchi, J., Hazan, E. and Singer, Y. (2011). Adaptive subgradient methods. JMLR.
"""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from operators.batches import plain
from operators.errors import StateMismatchError
from operators.kernel import kernel

Expected = Mapping[str, tuple[Any, tuple[int | str, ...]]]
"""Dtype and shape by name. A length that is a string is free, but equal wherever it stands."""


def require_delta(
    owner: str, delta: Mapping[str, NDArray[Any]], expected: Expected
) -> dict[str, NDArray[Any]]:
    """Refuse a delta that holds other arrays than those expected, or numbers that are not finite.

    Parameters
    ----------
    owner
        Named in the message.
    delta
        What another replica's `take_delta` is said to have returned.
    expected
        See `Expected`.

    Returns
    -------
    The same arrays as a kernel takes them: contiguous and writeable (`operators.batches.plain`).

    Raises
    ------
    StateMismatchError
        Naming the array.

    Examples
    --------
    >>> expected = {"items": (np.int32, ("n",)), "counts": (np.int64, ("n",))}
    >>> delta = {"items": np.zeros(2, np.int32), "counts": np.zeros(3, np.int64)}
    >>> require_delta("Model", delta, expected)
    Traceback (most recent call last):
    operators.errors.StateMismatchError: Model: counts of a delta: int64 (3,), not int64 (2,)
    """
    if delta.keys() != expected.keys():
        raise StateMismatchError(
            f"{owner}: a delta of {sorted(delta)}, expected {sorted(expected)}"
        )
    lengths: dict[str, int] = {}
    for name, (dtype, shape) in expected.items():
        array = delta[name]
        if array.ndim == len(shape):
            for length, actual in zip(shape, array.shape, strict=True):
                if isinstance(length, str):
                    lengths.setdefault(length, actual)
        wanted = tuple(
            lengths.get(length, length) if isinstance(length, str) else length for length in shape
        )
        if array.shape != wanted or array.dtype != dtype:
            raise StateMismatchError(
                f"{owner}: {name} of a delta: {array.dtype} {array.shape}, "
                f"not {np.dtype(dtype)} {wanted}"
            )
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise StateMismatchError(f"{owner}: {name} of a delta is not finite")
    return {name: plain(array, expected[name][0]) for name, array in delta.items()}


def require_within(
    owner: str, delta: Mapping[str, NDArray[Any]], name: str, low: float, below: float = np.inf
) -> None:
    """Refuse a delta with a number of the array `name` outside ``[low, below)``.

    Raises
    ------
    StateMismatchError
        Naming the array.

    Examples
    --------
    >>> require_within("Model", {"items": np.array([0, 7])}, "items", 0, 5)
    Traceback (most recent call last):
    operators.errors.StateMismatchError: Model: items of a delta lies outside [0, 5)
    """
    array = delta[name]
    if array.size and not (low <= array.min() and array.max() < below):
        raise StateMismatchError(f"{owner}: {name} of a delta lies outside [{low}, {below})")


def require_ends(owner: str, ends: NDArray[np.int64], length: int) -> None:
    """Refuse ends that do not divide `length` entries into consecutive spans.

    Raises
    ------
    StateMismatchError

    Examples
    --------
    >>> require_ends("Model", np.array([2, 1]), 1)
    Traceback (most recent call last):
    operators.errors.StateMismatchError: Model: the ends of a delta do not divide 1 entries
    """
    bounds = np.concatenate([np.zeros(1, np.int64), ends])
    if bounds[-1] != length or (np.diff(bounds) < 0).any():
        raise StateMismatchError(f"{owner}: the ends of a delta do not divide {length} entries")


def part_of(prefix: str, delta: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """Return what `operators.arrays.with_prefix` named ``prefix.name``, by its bare name.

    Examples
    --------
    >>> sorted(part_of("scaler", {"scaler.mean": np.zeros(1), "weights": np.zeros(1)}))
    ['mean']
    """
    start = f"{prefix}."
    return {
        name.removeprefix(start): array for name, array in delta.items() if name.startswith(start)
    }


class Sums:
    """Small arrays that add up: counts and sums, exchanged whole.

    Parameters
    ----------
    live
        The operator's own arrays by name; they are written in place by `apply`.

    Examples
    --------
    >>> mine, theirs = np.array([1.0, 2.0]), np.array([1.0, 2.0])
    >>> my_sums, their_sums = Sums({"counts": mine}), Sums({"counts": theirs})
    >>> mine[0] += 5.0
    >>> delta = my_sums.take()
    >>> their_sums.apply(delta)
    >>> theirs.tolist(), their_sums.take(), my_sums.take()
    ([6.0, 2.0], {}, {})
    """

    def __init__(self, live: Mapping[str, NDArray[Any]]) -> None:
        self._live = dict(live)
        self._known = {name: array.copy() for name, array in live.items()}

    def expected(self) -> Expected:
        """Return what `require_delta` is to expect."""
        return {name: (array.dtype, array.shape) for name, array in self._live.items()}

    def reset(self) -> None:
        """Take the arrays as they are for known to all, as after loading."""
        for name, array in self._live.items():
            np.copyto(self._known[name], array)

    def take(self) -> dict[str, NDArray[Any]]:
        """Return what was added since the last time; empty where nothing was."""
        added = {name: array - self._known[name] for name, array in self._live.items()}
        self.reset()
        return added if any(array.any() for array in added.values()) else {}

    def apply(self, delta: Mapping[str, NDArray[Any]]) -> None:
        """Add what another replica took; it was checked by `require_delta` before."""
        for name, array in self._live.items():
            array += delta[name]
            self._known[name] += delta[name]


class Steps(NamedTuple):
    """How parameters step by Adagrad or its like: what tells whether replicas overshoot together.

    Attributes
    ----------
    rate
        Learning rate.
    first
        What is added to the sum of squares before the power is taken.
    together
        How many parameters step down the gradient of one score at once, at least 1.
    power
        Of the sum of squares, by which steps shrink: 1/2 is Adagrad's.
    """

    rate: float
    first: float
    together: float
    power: float = 0.5


@kernel
def held_back(relaxed: float, replicas: float, before: float, gained: float) -> float:
    """Share of its movement that a replica keeps; see `Precisions`."""
    if relaxed <= 0.0 or replicas <= 1.0:
        return 1.0
    added = replicas * (before + gained) / (before + replicas * gained) * -math.expm1(-relaxed)
    return min(1.0, -math.expm1(-replicas * relaxed) / added)


@kernel
def take_rows(
    values: NDArray[Any],
    squares: NDArray[Any],
    known_values: NDArray[Any],
    known_squares: NDArray[Any],
    first: float,
    steps: Steps,
    replicas: float,
    rows: NDArray[np.int32],
    moved: NDArray[Any],
    gained: NDArray[Any],
) -> None:
    """Write what `rows` have moved (times precision) and gained; then they are known."""
    for k in range(len(rows)):
        row = rows[k]
        now, before = first + squares[row], first + known_squares[row]
        left = 1.0 - steps.power
        relaxed = (steps.first + squares[row]) ** left
        relaxed -= (steps.first + known_squares[row]) ** left
        relaxed *= steps.rate * steps.together / left
        share = held_back(relaxed, replicas, before, now - before)
        for f in range(values.shape[1]):
            if share < 1.0:
                values[row, f] -= (1.0 - share) * (values[row, f] - known_values[row, f])
            moved[k, f] = values[row, f] * now - known_values[row, f] * before
            known_values[row, f] = values[row, f]
        gained[k] = squares[row] - known_squares[row]
        known_squares[row] = squares[row]


@kernel
def apply_rows(
    values: NDArray[Any],
    squares: NDArray[Any],
    first: float,
    rows: NDArray[np.int32],
    moved: NDArray[Any],
    gained: NDArray[Any],
) -> None:
    """Add what another replica's `rows` have moved and gained; rows below 0 are left out."""
    for k in range(len(rows)):
        row = rows[k]
        if row < 0:
            continue
        before = first + squares[row]
        squares[row] += gained[k]
        now = first + squares[row]
        for f in range(values.shape[1]):
            values[row, f] = (values[row, f] * before + moved[k, f]) / now


@kernel
def rows_that_differ(squares: NDArray[Any], known: NDArray[Any]) -> NDArray[np.int32]:
    """Rows whose sums of squares have grown, ascending."""
    count = 0
    for row in range(len(squares)):
        count += squares[row] != known[row]
    rows = np.empty(count, np.int32)
    count = 0
    for row in range(len(squares)):
        if squares[row] != known[row]:
            rows[count] = row
            count += 1
    return rows


class Precisions:
    """Rows of parameters that learn by Adagrad with one sum of squares a row.

    A row has been touched where its sum of squares has grown; only such rows are exchanged.

    Between two exchanges replicas can run a long way towards the same goal, and their sum beyond
    it. With `steps` they do not: a row whose sum of squares grew from G to G' has come nearer to
    where its gradient vanishes by about

        ``ρ = rate · together / (1 - power) · ((first + G')^(1 - power) - (first + G)^(1 - power))``

    e-foldings (Adagrad's step times the Fisher information, summed), so all n replicas' records
    are good for the share ``1 - exp(-n ρ)`` of the way, and not for more. Where the sum would be
    more, `take` draws the row back first, by the same factor on every replica. How many replicas
    it takes its own records for, n, a replica reckons from the squares that it has heard of
    against its own, both halved at every `take`; one that hears nothing is alone, and draws
    nothing back.

    Parameters
    ----------
    values
        float[n, width], C-contiguous; written by `apply`. A column is an array reshaped to
        ``(-1, 1)``.
    squares
        float[n], sums of squared gradients.
    first
        Precision of a row that has learned nothing, above 0.
    steps
        How the rows step; None where movements are added as they are.

    Attributes
    ----------
    known_values
        The values as the others know them. An operator that admits rows later writes their first
        values here too.

    Examples
    --------
    >>> def replica():
    ...     values, squares = np.zeros((2, 1)), np.zeros(2)
    ...     return values, squares, Precisions(values, squares, first=1e-9)
    >>> (mine, my_squares, my_rows), (theirs, their_squares, their_rows) = replica(), replica()
    >>> for values, squares in (mine, my_squares), (theirs, their_squares):
    ...     values[0], squares[0] = 3.0, 4.0  # both learn the same of row 0
    >>> rows = my_rows.touched()
    >>> their_rows.apply(rows, *my_rows.take(rows))
    >>> rows.tolist(), theirs.round(6).tolist(), their_squares.tolist()
    ([0], [[3.0], [0.0]], [8.0, 0.0])

    References
    ----------
    Stich, S. (2019). Local SGD converges fast and communicates little. ICLR.
    """

    def __init__(
        self, values: NDArray[Any], squares: NDArray[Any], first: float, steps: Steps | None = None
    ) -> None:
        self._values, self._squares, self._first = values, squares, first
        self._steps = steps if steps is not None else Steps(0.0, first, 1.0)
        self.known_values = np.zeros_like(values)
        self._known_squares = np.zeros_like(squares)
        self._own, self._heard = 0.0, 0.0
        if values.any() or squares.any():
            self.reset()

    def reset(self) -> None:
        """Take the arrays as they are for known to all, as after loading."""
        np.copyto(self.known_values, self._values)
        np.copyto(self._known_squares, self._squares)
        self._own, self._heard = 0.0, 0.0

    def touched(self) -> NDArray[np.int32]:
        """Rows that have learned since they were last taken, int32, ascending."""
        return rows_that_differ(self._squares, self._known_squares)

    def take(self, rows: NDArray[np.int32]) -> tuple[NDArray[Any], NDArray[Any]]:
        """Return by how much ``precision · value`` and precision of `rows` have grown.

        Returns
        -------
        moved, gained
            [len(rows), width] and [len(rows)], in the dtypes of values and squares.
        """
        moved = np.empty((len(rows), self._values.shape[1]), self._values.dtype)
        gained = self._squares[rows] - self._known_squares[rows]
        self._own = self._own / 2.0 + float(gained.sum(dtype=np.float64))
        replicas = 1.0 + self._heard / self._own if self._own > 0.0 else 1.0
        self._heard /= 2.0
        live, known = (self._values, self._squares), (self.known_values, self._known_squares)
        take_rows(*live, *known, self._first, self._steps, replicas, rows, moved, gained)
        return moved, gained

    def apply(self, rows: NDArray[np.int32], moved: NDArray[Any], gained: NDArray[Any]) -> None:
        """Add what another replica took of these rows; -1 is skipped.

        The caller has checked that rows are in range, numbers finite and `gained` not negative,
        and brought the arrays to what a kernel takes (`require_delta` returns them so).
        """
        self._heard += float(gained.sum(dtype=np.float64))
        apply_rows(self._values, self._squares, self._first, rows, moved, gained)
        apply_rows(self.known_values, self._known_squares, self._first, rows, moved, gained)
