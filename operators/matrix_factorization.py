"""Matrix factorisation of implicit feedback, learned online by sampled softmax."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from operators.arrays import load_into
from operators.batches import require_lengths, require_rows
from operators.deltas import Expected, Precisions, Steps, require_delta, require_within
from operators.draws import DRAWS_TOLD, draw_vectors, remember_draws
from operators.errors import ParameterError, require_finite
from operators.factor_kernels import (
    FIRST_SQUARES,
    STEP_POWER,
    FactorColumns,
    FactorState,
    admit_items,
    learn_factors_many,
    score_factors_many,
)

LANES = 4
# Precision of a vector that has learned nothing, when replicas are added: that of some tens of
# events, so that what a replica learned of a new item from two or three is added, not averaged.
FIRST_PRECISION = 3.0
# One score moves by four: the item's vector and bias, the context's vectors and the customer's.
TOGETHER = 4.0


def factor_columns(columns: NDArray[np.void]) -> FactorColumns:
    """Return views of the fields of `columns` (dtype `MatrixFactorization.row_dtype`)."""
    return FactorColumns(
        columns["vector"], columns["vector_squares"], columns["bias"], columns["bias_squares"]
    )


class MatrixFactorization:
    """Customers and items as vectors; the score is how well they point the same way.

    A customer's state joins who they are and what they are doing: their own vector u, and the
    recency-weighted mean of the input vectors x of the context c_0, c_1, … (their recent items,
    newest first),

        ``z = u + Σ_j ω_j · x[c_j]``,  ``ω_j ∝ recency^j``,  ``Σ ω = 1``

    and an item i with output vector y and bias a scores ``s_i = z · y_i + a_i``. An event of item
    i lowers the sampled softmax loss over i and K drawn negatives

        ``-w · log( exp(o_i) / Σ_k exp(o_k) )``,  ``o_k = s_k - log q_k``

    where q is the chance that a draw hits k; the correction makes s an estimate of log p(i | z).
    Half of the draws come from the items of the last `memory` events (so q follows popularity as
    it is now), half from all items. A vector with the sum G of mean squared gradients steps by
    ``rate · gradient / (first + G)^1/4``: Adagrad with one accumulator a vector, but with a power
    of 1/4 for 1/2, so that what has learned much does not stand still.

    A customer's bias cancels in a softmax, so it is learned where it does mean something: as the
    logarithm of what normalises that customer's scores. With a shared offset b_0 and the
    customer's b_u, noise-contrastive estimation with the same draws fits ``s_i + b_0 + b_u`` to
    log p(i | customer), which makes scores of different customers comparable.

    Draws are counter based: the k-th word for an event is
    ``splitmix64(splitmix64(seed ^ event_key) + k)``.
    Item vectors start from (seed, item key), customers' at zero: a row of zeros is a new customer,
    who is moved by their first events through x alone.

    Replicas add up by `operators.deltas.Precisions`, vector by vector. The ring of the latest
    events takes in a bounded number of each replica's, so that negatives are drawn by what all
    replicas see; where one learns more than that between two exchanges, its ring leans towards
    its own events.

    Parameters
    ----------
    capacity
        Most items, at least 1. Items beyond it, and items not admitted, are ignored and score as
        an item without a vector.
    factors
        Length of the vectors, a multiple of 4.
    seed
        Of the initial vectors and of the draws.
    negatives
        Draws per event, at least 1.
    learning_rate
        Step, above 0.
    regularization
        Pull of a customer's vector and bias towards zero, per event, at least 0.
    recency
        Weight of each step back in the context against the one before it, above 0, at most 1.
    depth
        Context items used, newest first, at least 1.
    memory
        Events that the popular draws come from, at least 1.

    Attributes
    ----------
    row_dtype
        ``vector`` float32[factors], ``bias`` float32, and their sums of squares.

    Examples
    --------
    >>> model = MatrixFactorization(capacity=8, factors=4, seed=1)
    >>> model.admit_many(np.array([11, 12, 13], np.uint64))
    >>> columns, slots = np.zeros(2, model.row_dtype), np.array([0, 1] * 50)
    >>> items = np.array([0, 1] * 50, np.int32)
    >>> none = np.full((100, 1), -1, np.int32)
    >>> keys = np.arange(100, dtype=np.uint64)
    >>> model.learn_many(columns, slots, items, np.ones(100, np.float32), none, keys)
    >>> pair = np.array([[0, 1], [0, 1]], np.int32)
    >>> scores = model.score_many(columns, slots[:2], none[:2], pair)
    >>> scores.argmax(axis=1).tolist()
    [0, 1]

    References
    ----------
    Koren, Y., Bell, R. and Volinsky, C. (2009). Matrix factorization techniques for recommender
    systems. IEEE Computer.
    Bengio, Y. and Senécal, J.-S. (2008). Adaptive importance sampling to accelerate training of
    a neural probabilistic language model. IEEE Transactions on Neural Networks.
    Gutmann, M. and Hyvärinen, A. (2010). Noise-contrastive estimation. AISTATS.
    Duchi, J., Hazan, E. and Singer, Y. (2011). Adaptive subgradient methods. JMLR.
    Steele, G., Lea, D. and Flood, C. (2014). Fast splittable pseudorandom number generators.
    OOPSLA (splitmix64).
    """

    def __init__(
        self,
        capacity: int,
        factors: int = 32,
        seed: int = 0,
        *,
        negatives: int = 16,
        learning_rate: float = 0.15,
        regularization: float = 0.01,
        recency: float = 0.8,
        depth: int = 8,
        memory: int = 16_384,
    ) -> None:
        if capacity < 1 or negatives < 1 or depth < 1 or memory < 1:
            raise ParameterError("capacity, negatives, depth and memory must be at least 1")
        if factors < LANES or factors % LANES:
            raise ParameterError(f"factors must be a multiple of {LANES}, is {factors}")
        if not (0.0 < learning_rate < np.inf and 0.0 <= regularization < 1.0):
            raise ParameterError("learning_rate must be above 0 and regularization in [0, 1)")
        if not 0.0 < recency <= 1.0:
            raise ParameterError(f"recency must be in (0, 1], is {recency}")
        fields: list[Any] = [
            ("vector", np.float32, (factors,)),
            ("vector_squares", np.float32),
            ("bias", np.float32),
            ("bias_squares", np.float32),
        ]
        self.row_dtype: np.dtype[np.void] = np.dtype(fields, align=True)
        self.state = FactorState(
            inputs=np.zeros((capacity, factors), np.float32),
            outputs=np.zeros((capacity, factors), np.float32),
            biases=np.zeros(capacity, np.float32),
            input_squares=np.zeros(capacity, np.float32),
            output_squares=np.zeros(capacity, np.float32),
            bias_squares=np.zeros(capacity, np.float32),
            normalizer=np.zeros(2),
            drawn_from=np.full(memory, -1, np.int32),
            drawn_counts=np.zeros(capacity, np.int32),
            sizes=np.zeros(3, np.int64),
            keys=np.zeros(capacity, np.uint64),
            fresh=np.zeros(DRAWS_TOLD, np.int32),
            learned=np.zeros(1, np.int64),
            recency=(recency ** np.arange(depth)).astype(np.float32),
            seed=np.uint64(seed & 0xFFFFFFFFFFFFFFFF),
            negatives=negatives,
            learning_rate=learning_rate,
            regularization=regularization,
        )
        state, shared = (
            self.state,
            (FIRST_PRECISION, Steps(learning_rate, FIRST_SQUARES, TOGETHER, STEP_POWER)),
        )
        self._inputs = Precisions(state.inputs, state.input_squares, *shared)
        self._outputs = Precisions(state.outputs, state.output_squares, *shared)
        self._biases = Precisions(state.biases.reshape(-1, 1), state.bias_squares, *shared)
        offset, squares = state.normalizer[:1].reshape(1, 1), state.normalizer[1:]
        self._offset = Precisions(offset, squares, *shared)
        self._known_items = 0
        self._expected: Expected = {
            "input_items": (np.int32, ("n",)),
            "inputs": (np.float32, ("n", factors)),
            "input_squares": (np.float32, ("n",)),
            "output_items": (np.int32, ("m",)),
            "outputs": (np.float32, ("m", factors)),
            "output_squares": (np.float32, ("m",)),
            "biases": (np.float32, ("m", 1)),
            "bias_squares": (np.float32, ("m",)),
            "offset": (np.float64, (1, 1)),
            "offset_squares": (np.float64, (1,)),
            "draws": (np.int32, ("k",)),
        }

    def __len__(self) -> int:
        return int(self.state.sizes[0])

    def admit_many(self, keys: NDArray[np.uint64]) -> None:
        """Give the next items, in order of their indices, the vectors that their keys start from.

        Raises
        ------
        ParameterError
            Where they are more than the capacity.
        """
        if len(self) + len(keys) > len(self.state.biases):
            raise ParameterError(f"{len(keys)} more items exceed {len(self.state.biases)}")
        admit_items(self.state, keys)

    def learn_many(
        self,
        columns: NDArray[np.void],
        slots: NDArray[np.int64],
        items: NDArray[np.int32],
        weights: NDArray[np.float32],
        contexts: NDArray[np.int32],
        event_keys: NDArray[np.uint64],
    ) -> None:
        """Take one step per event, in turn.

        Parameters
        ----------
        columns
            Customers' rows (dtype `row_dtype`); written.
        slots
            int64[n], each event's row.
        items
            int32[n]; -1 is skipped.
        weights
            float32[n], finite; multiplies the loss. Events of 0 or below teach nothing.
        contexts
            int32[n, length], the customer's items before the event, newest first, -1 padded.
        event_keys
            uint64[n], from which the negatives are drawn.

        Raises
        ------
        NotFiniteError, ParameterError, StateMismatchError
            Where a weight is NaN or infinite, lengths differ or a slot is out of range, or
            `columns` are not of `row_dtype`.
        """
        require_finite("weights", weights)
        require_rows("MatrixFactorization", columns, self.row_dtype, slots)
        require_lengths(
            "MatrixFactorization",
            len(slots),
            items=items,
            weights=weights,
            contexts=contexts,
            event_keys=event_keys,
        )
        learn_factors_many(
            self.state, factor_columns(columns), slots, items, weights, contexts, event_keys
        )

    def score_many(
        self,
        columns: NDArray[np.void],
        slots: NDArray[np.int64],
        contexts: NDArray[np.int32],
        candidates: NDArray[np.int32],
    ) -> NDArray[np.float32]:
        """Estimate log p(candidate | customer, context).

        Parameters
        ----------
        columns, slots, contexts
            As in `learn_many`.
        candidates
            int32[n, m].

        Returns
        -------
        float32[n, m]; a candidate without a vector (-1, not admitted) scores the customer's bias
        alone.
        """
        require_rows("MatrixFactorization", columns, self.row_dtype, slots)
        require_lengths("MatrixFactorization", len(slots), contexts=contexts, candidates=candidates)
        return score_factors_many(self.state, factor_columns(columns), slots, contexts, candidates)

    def similar_many(
        self, items: NDArray[np.int32], n: int
    ) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
        """Find the items whose output vectors point most the same way (cosine), by a full scan.

        Returns
        -------
        similar, cosines
            int32[k, n], best first, never the item itself, -1 padded; float32[k, n], 0 where
            padded.
        """
        vectors = self.state.outputs[: len(self)]
        lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
        units = vectors / np.maximum(lengths, np.float32(1e-12))
        similar = np.full((len(items), n), -1, np.int32)
        cosines = np.zeros((len(items), n), np.float32)
        for row, item in enumerate(items.tolist()):
            if 0 <= item < len(units):
                scores = units @ units[item]
                scores[item] = -np.inf
                best = np.argsort(-scores, kind="stable")[: min(n, len(units) - 1)]
                similar[row, : len(best)] = best
                cosines[row, : len(best)] = scores[best]
        return similar, cosines

    def take_delta(self) -> dict[str, NDArray[Any]]:
        """Return what this replica learned since the last time; empty where nothing.

        Returns
        -------
        ``input_items`` int32[n] with ``inputs`` float32[n, factors] and ``input_squares``
        float32[n], by how much ``precision · vector`` and precision have grown
        (`operators.deltas`); in the same way ``output_items`` with ``outputs``,
        ``output_squares``, ``biases`` and ``bias_squares``; ``offset`` float64[1, 1] and
        ``offset_squares`` float64[1]; and ``draws``, the items of the latest events, for the
        ring of negatives, oldest first, at most `DRAWS_TOLD`.
        """
        learned = int(self.state.learned[0])
        self._know_admitted()
        inputs = self._inputs.touched()
        outputs = np.union1d(self._outputs.touched(), self._biases.touched())
        told = np.arange(max(learned - DRAWS_TOLD, 0), learned) % DRAWS_TOLD
        self.state.learned[0] = 0
        delta = {"input_items": inputs, "output_items": outputs, "draws": self.state.fresh[told]}
        delta["inputs"], delta["input_squares"] = self._inputs.take(inputs)
        delta["outputs"], delta["output_squares"] = self._outputs.take(outputs)
        delta["biases"], delta["bias_squares"] = self._biases.take(outputs)
        delta["offset"], delta["offset_squares"] = self._offset.take(np.zeros(1, np.int32))
        return delta if learned else {}

    def check_delta(self, delta: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Refuse what `add_delta` cannot add; return it as a kernel takes it.

        Raises
        ------
        StateMismatchError
            Where names, shapes or dtypes are not those of `take_delta`, or a number is impossible.
        """
        owner = "MatrixFactorization"
        checked = require_delta(owner, delta, self._expected)
        for name in ("input_squares", "output_squares", "bias_squares", "offset_squares"):
            require_within(owner, delta, name, 0.0)
        return checked

    def apply_delta(self, delta: Mapping[str, NDArray[Any]]) -> None:
        """Add what another replica learned; its items are indices of this one, -1 is left out.

        Raises
        ------
        StateMismatchError
            As `check_delta`, or where an item is not admitted; nothing is changed then.
        """
        if delta:
            checked = self.check_delta(delta)
            for name in ("input_items", "output_items", "draws"):
                require_within("MatrixFactorization", delta, name, -1, len(self))
            self.add_delta(checked)

    def add_delta(self, checked: Mapping[str, NDArray[Any]]) -> None:
        """Apply what `check_delta` returned, whose items are admitted or -1."""
        self._know_admitted()
        outputs = checked["output_items"]
        self._inputs.apply(checked["input_items"], checked["inputs"], checked["input_squares"])
        self._outputs.apply(outputs, checked["outputs"], checked["output_squares"])
        self._biases.apply(outputs, checked["biases"], checked["bias_squares"])
        none = np.zeros(1, np.int32)
        self._offset.apply(none, checked["offset"], checked["offset_squares"])
        state = self.state
        remember_draws(state.drawn_from, state.drawn_counts, state.sizes, checked["draws"])

    def _know_admitted(self) -> None:
        """Take the first vectors of new items for known, since they follow from their keys."""
        known, state = self._known_items, self.state
        inputs, outputs = self._inputs.known_values, self._outputs.known_values
        draw_vectors(inputs, outputs, state.seed, state.keys[known : len(self)], known)
        self._known_items = len(self)

    def mark_known(self) -> None:
        """Take everything learned so far for told, as after loading."""
        for part in (self._inputs, self._outputs, self._biases, self._offset):
            part.reset()
        self._known_items = len(self)
        self.state.learned[0] = 0

    def arrays(self) -> dict[str, NDArray[Any]]:
        """All shared state, the live arrays by name."""
        return {name: getattr(self.state, name) for name in STATE_ARRAYS}

    def load_arrays(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Copy in what `arrays` of an equally configured operator returned.

        Raises
        ------
        StateMismatchError
            Where names, shapes or dtypes differ.
        """
        load_into(self.arrays(), arrays)
        self.mark_known()


STATE_ARRAYS = FactorState._fields[: FactorState._fields.index("keys")]
