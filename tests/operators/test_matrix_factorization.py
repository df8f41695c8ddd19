from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from operators.checks import ALL_CHECKS, OperatorCase
from operators.draws import draw_negatives, splitmix64
from operators.errors import ParameterError, StateMismatchError
from operators.factor_kernels import BIAS_SHARE, CUSTOMER_SHARE, FIRST_SQUARES, STEP_POWER
from operators.hashing import hash_strings
from operators.matrix_factorization import MatrixFactorization

ITEMS = 40
CUSTOMERS = 6
FACTORS = 8
KEYS = hash_strings([f"item-{i}" for i in range(ITEMS)])
Array = NDArray[Any]


class Batch(NamedTuple):
    slots: NDArray[np.int64]
    items: NDArray[np.int32]
    weights: NDArray[np.float32]
    contexts: NDArray[np.int32]
    event_keys: NDArray[np.uint64]


class Model:
    """A factorisation with its customers' rows."""

    def __init__(self, seed: int = 0, admitted: int = ITEMS, **options: Any) -> None:
        self.operator = MatrixFactorization(ITEMS, FACTORS, seed, memory=64, **options)
        self.operator.admit_many(KEYS[:admitted])
        self.rows = np.zeros(CUSTOMERS, self.operator.row_dtype)

    def learn(self, batch: Batch) -> None:
        self.operator.learn_many(self.rows, *batch)

    def predict(self, batch: Batch) -> Array:
        candidates = np.tile(np.arange(-1, ITEMS, dtype=np.int32), (len(batch.slots), 1))
        return self.operator.score_many(self.rows, batch.slots, batch.contexts, candidates)

    def state(self) -> dict[str, Array]:
        return self.operator.arrays() | {"rows": self.rows}

    def lend(self, other: "Model") -> None:
        other.rows[:] = self.rows

    def load(self, state: Mapping[str, Array]) -> None:
        self.operator.load_arrays({k: v for k, v in state.items() if k != "rows"})
        self.rows[:] = state["rows"]


def random_batch(generator: np.random.Generator, n: int) -> Batch:
    contexts = generator.integers(-1, ITEMS, (n, 4)).astype(np.int32)
    return Batch(
        generator.integers(0, CUSTOMERS, n),
        generator.integers(-1, ITEMS, n).astype(np.int32),
        generator.exponential(1.0, n).astype(np.float32),
        contexts,
        generator.integers(0, 2**63, n).astype(np.uint64),
    )


def split(batch: Batch, parts: int) -> list[Batch]:
    pieces = [np.array_split(column, parts) for column in batch]
    return [Batch(*columns) for columns in zip(*pieces, strict=True)]


def poison(batch: Batch) -> Batch:
    return batch._replace(weights=np.append(batch.weights[1:], np.float32(np.nan)))


CASE = OperatorCase[Model, Batch](
    name="matrix factorisation",
    make=Model,
    batch=random_batch,
    split=split,
    learn=Model.learn,
    predict=Model.predict,
    state=Model.state,
    load=Model.load,
    max_bytes=30_000,
    poison=poison,
    take=lambda model: model.operator.take_delta(),
    apply=lambda model, delta: model.operator.apply_delta(delta),
    lend=Model.lend,
)


@pytest.mark.parametrize("check", ALL_CHECKS)
def test_factorisation_keeps_the_contract(
    check: Callable[[OperatorCase[Model, Batch]], None],
) -> None:
    check(CASE)


class Point(NamedTuple):
    """A number for each parameter: its value where the loss is taken, in double precision."""

    vector: Any
    inputs: Any
    outputs: Any
    biases: Any


def loss_at(point: Point, shares: Array, chances: Array) -> float:
    """Sampled softmax loss; the positive is the first row of `outputs`."""
    state = point.vector + shares @ point.inputs
    corrected = point.outputs @ state + point.biases - np.log(chances)
    return float(np.log(np.exp(corrected).sum()) - corrected[0])


def numeric_gradient(point: Point, name: str, shares: Array, chances: Array) -> Array:
    gradient: Array = np.zeros_like(getattr(point, name))
    for place in np.ndindex(gradient.shape):
        losses = []
        for step in (1e-5, -1e-5):
            moved = getattr(point, name).copy()
            moved[place] += step
            losses.append(loss_at(point._replace(**{name: moved}), shares, chances))
        gradient[place] = (losses[0] - losses[1]) / 2e-5
    return gradient


def draws(model: Model, item: int, key: int, out: NDArray[np.int32]) -> int:
    """The positive and the negatives of one event, as the operator draws them."""
    state = model.operator.state
    out[0] = item
    base = np.uint64(splitmix64(state.seed ^ np.uint64(key)))
    return draw_negatives(state.drawn_from, state.sizes, base, state.negatives, out)


def without_duplicates(model: Model, item: int, negatives: int) -> tuple[int, NDArray[np.int32]]:
    drawn = np.empty(negatives + 1, np.int32)
    for key in range(1000):
        count = draws(model, item, key, drawn)
        if count == negatives + 1 and len(set(drawn.tolist())) == count:
            return key, drawn
    raise AssertionError("no event key draws distinct negatives")


def point_of(model: Model, slot: int, context: Array, drawn: Array) -> Point:
    state = model.operator.state
    return Point(
        model.rows["vector"][slot].astype(np.float64),
        state.inputs[context].astype(np.float64),
        state.outputs[drawn].astype(np.float64),
        state.biases[drawn].astype(np.float64),
    )


def test_one_step_follows_the_gradient_of_the_sampled_softmax() -> None:
    """Steps are undone by their rate, which the sums of squares give; float32 throughout."""
    model = Model(learning_rate=0.1, regularization=0.0, negatives=6, recency=0.5, depth=3)
    model.learn(random_batch(np.random.default_rng(1), 300))
    context = np.array([3, 17, 9])
    slot, item, weight = 2, 5, 0.7
    key, drawn = without_duplicates(model, item, 6)
    state = model.operator.state
    chances = 0.5 / ITEMS + 0.5 * state.drawn_counts[drawn] / 64
    shares = np.array([1.0, 0.5, 0.25]) / 1.75
    before = point_of(model, slot, context, drawn)
    batch = Batch(
        np.array([slot]),
        np.array([item], np.int32),
        np.array([weight], np.float32),
        context[np.newaxis].astype(np.int32),
        np.array([key], np.uint64),
    )
    model.learn(batch)
    after = point_of(model, slot, context, drawn)
    squares = Point(
        model.rows["vector_squares"][slot],
        state.input_squares[context][:, np.newaxis],
        state.output_squares[drawn][:, np.newaxis],
        state.bias_squares[drawn],
    )
    rates = Point(0.1 * CUSTOMER_SHARE, 0.1, 0.1, 0.1 * BIAS_SHARE)
    for name in Point._fields:
        rate = getattr(rates, name) / (FIRST_SQUARES + getattr(squares, name)) ** STEP_POWER
        gradient = (getattr(before, name) - getattr(after, name)) / rate
        expected = weight * numeric_gradient(before, name, shares, chances)
        np.testing.assert_allclose(gradient, expected, atol=2e-5, rtol=2e-3, err_msg=name)


def test_two_groups_of_customers_are_ranked_their_own_items() -> None:
    model = Model(seed=3)
    generator = np.random.default_rng(0)
    slots = generator.integers(0, CUSTOMERS, 3000)
    items = (generator.integers(0, ITEMS // 2, 3000) + ITEMS // 2 * (slots % 2)).astype(np.int32)
    none = np.full((3000, 4), -1, np.int32)
    keys = np.arange(3000, dtype=np.uint64)
    model.learn(Batch(slots, items, np.ones(3000, np.float32), none, keys))
    everyone = Batch(np.arange(CUSTOMERS), items[:6], np.ones(6, np.float32), none[:6], keys[:6])
    best = np.argsort(-model.predict(everyone)[:, 1:], axis=1)[:, : ITEMS // 2]
    own = (best >= ITEMS // 2) == (np.arange(CUSTOMERS) % 2)[:, np.newaxis]
    assert own.mean() == 1.0


def test_a_new_customer_is_known_by_what_they_are_doing() -> None:
    """Pairs (2k, 2k + 1) follow each other; someone never seen looks at 2k."""
    model = Model(seed=3)
    generator = np.random.default_rng(0)
    before = 2 * generator.integers(0, ITEMS // 2, 4000)
    contexts = np.full((4000, 4), -1, np.int32)
    contexts[:, 0] = before
    slots = generator.integers(0, CUSTOMERS - 1, 4000)
    keys = np.arange(4000, dtype=np.uint64)
    ones = np.ones(4000, np.float32)
    model.learn(Batch(slots, (before + 1).astype(np.int32), ones, contexts, keys))
    looks = np.full((20, 4), -1, np.int32)
    looks[:, 0] = 2 * np.arange(20)
    newcomer = np.full(20, CUSTOMERS - 1)
    scores = model.predict(Batch(newcomer, looks[:, 0], ones[:20], looks, keys[:20]))[:, 1:]
    assert (scores.argmax(axis=1) == looks[:, 0] + 1).mean() >= 0.9


def test_scores_are_log_probabilities_whoever_asks() -> None:
    """Customer 0 is easy to foresee, customer 1 is not; both distributions sum to about one."""
    model = Model(seed=1, regularization=0.0)
    generator = np.random.default_rng(5)
    slots = generator.integers(0, 2, 8000)
    items = np.where(slots == 0, generator.integers(0, 3, 8000), generator.integers(0, ITEMS, 8000))
    none = np.full((8000, 1), -1, np.int32)
    keys = np.arange(8000, dtype=np.uint64)
    model.learn(Batch(slots, items.astype(np.int32), np.ones(8000, np.float32), none, keys))
    asked = Batch(np.array([0, 1]), items[:2], np.ones(2, np.float32), none[:2], keys[:2])
    scores = model.predict(asked)
    totals = np.exp(scores[:, 1:]).sum(axis=1)
    np.testing.assert_allclose(np.log(totals), 0.0, atol=0.5)
    assert scores[0, 1:4].mean() == pytest.approx(np.log(1 / 3), abs=0.4)
    assert scores[1, 1:].mean() == pytest.approx(np.log(1 / ITEMS), abs=0.6)


def test_vectors_start_from_the_items_key_not_from_its_index() -> None:
    one = MatrixFactorization(4, FACTORS, seed=1)
    two = MatrixFactorization(4, FACTORS, seed=1)
    other_seed = MatrixFactorization(4, FACTORS, seed=2)
    one.admit_many(KEYS[:3])
    for operator in (two, other_seed):
        operator.admit_many(KEYS[:3][::-1].copy())
    np.testing.assert_array_equal(one.state.inputs[:3], two.state.inputs[:3][::-1])
    np.testing.assert_array_equal(one.state.outputs[:3], two.state.outputs[:3][::-1])
    assert (one.state.inputs[:3] != one.state.outputs[:3]).all()
    assert (two.state.outputs[:3] != other_seed.state.outputs[:3]).all()
    assert one.state.inputs.std() == pytest.approx(0.1, rel=0.5)


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 2**63), st.integers(0, 2**63))
def test_draws_follow_the_stated_chances(seed: int, start: int) -> None:
    model = Model(seed=seed, admitted=10, negatives=50)
    items = np.array([0, 0, 0, 1] * 16, np.int32)
    keys = np.arange(64, dtype=np.uint64)
    none = np.full((64, 1), -1, np.int32)
    model.learn(Batch(np.zeros(64, np.int64), items, np.ones(64, np.float32), none, keys))
    counts = np.zeros(10)
    drawn = np.empty(51, np.int32)
    for key in range(start, start + 60):
        count = draws(model, -1, key, drawn)
        counts += np.bincount(drawn[1:count], minlength=10)
    expected = 0.05 + 0.5 * np.array([0.75, 0.25, *[0.0] * 8])
    np.testing.assert_allclose(counts / 3000, expected, atol=0.05)


def test_similar_items_are_those_with_the_same_company() -> None:
    model = Model(seed=3)
    generator = np.random.default_rng(0)
    slots = generator.integers(0, CUSTOMERS, 4000)
    items = (generator.integers(0, ITEMS // 2, 4000) + ITEMS // 2 * (slots % 2)).astype(np.int32)
    none = np.full((4000, 4), -1, np.int32)
    keys = np.arange(4000, dtype=np.uint64)
    model.learn(Batch(slots, items, np.ones(4000, np.float32), none, keys))
    similar, cosines = model.operator.similar_many(np.array([0, ITEMS - 1, -1], np.int32), 5)
    assert (similar[0] < ITEMS // 2).all()
    assert (similar[1] >= ITEMS // 2).all()
    assert 0 not in similar[0]
    assert (similar[2] == -1).all()
    assert (np.diff(cosines[:2], axis=1) <= 0).all()


def test_items_not_admitted_teach_nothing() -> None:
    model = Model(admitted=5)
    before = {name: array.tobytes() for name, array in model.state().items()}
    batch = random_batch(np.random.default_rng(0), 50)
    model.learn(batch._replace(items=np.full(50, 7, np.int32)))
    assert {name: array.tobytes() for name, array in model.state().items()} == before


def test_what_does_not_fit_is_refused() -> None:
    model = Model()
    batch = random_batch(np.random.default_rng(0), 3)
    with pytest.raises(ParameterError, match="multiple of 4"):
        MatrixFactorization(4, 6)
    with pytest.raises(ParameterError):
        MatrixFactorization(4, 8, learning_rate=0.0)
    with pytest.raises(ParameterError, match="exceed"):
        model.operator.admit_many(KEYS[:1])
    with pytest.raises(ParameterError, match="slots"):
        model.learn(batch._replace(slots=np.array([0, 1, CUSTOMERS])))
    with pytest.raises(ParameterError, match="contexts"):
        model.learn(batch._replace(contexts=batch.contexts[:2]))
    with pytest.raises(StateMismatchError):
        model.operator.learn_many(np.zeros(6, MatrixFactorization(4, 4).row_dtype), *batch)
