"""The contract that every operator keeps, as functions that a test calls.

An operator is described once, as an `OperatorCase`; each function in `ALL_CHECKS` then takes the
case and raises `OperatorCheckError` where the operator breaks the contract. A new operator gets
its contract tests in a few lines::

    @pytest.mark.parametrize("check", ALL_CHECKS)
    def test_operator_keeps_the_contract(check):
        check(CASE)
"""

import gc
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import BuiltinFunctionType, FunctionType, MethodType, ModuleType
from typing import Any, Generic, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

from operators.errors import NotFiniteError, StateMismatchError

Op = TypeVar("Op")
Batch = TypeVar("Batch")
State: TypeAlias = dict[str, NDArray[Any]]

SEED = 7
ROUNDS = 4
BATCH_SIZE = 64
GROWTH_ROUNDS = 30
SPLIT_PARTS = 7
SHARED_TYPES = (type, ModuleType, FunctionType, BuiltinFunctionType, MethodType)


class OperatorCheckError(AssertionError):
    """An operator broke its contract; the message says which operator and how."""


@dataclass(frozen=True)
class OperatorCase(Generic[Op, Batch]):
    """How the checks make, feed, ask and move one operator.

    An operator with per-customer columns is wrapped together with them: `Op` is then whatever
    holds both, and the functions below know how to use it.

    Attributes
    ----------
    name
        Used in messages and as the id of a test.
    make
        An operator that has learned nothing, from a seed.
    batch
        `n` new random records, drawn from the given generator alone.
    split
        Cuts a batch into so many consecutive parts, in order; parts may be empty.
    learn, predict
        Learn a batch; answer for a batch, as one array (several answers are stacked).
    state, load
        All the operator's state as arrays by name, the columns of customers included; load
        takes such arrays into an operator fresh from `make`.
    poison
        The batch with a NaN or an infinity in it; None where no floating-point number goes in.
    max_bytes
        Bound on everything reachable from the operator: arrays and Python objects.
    split_tolerance
        How far apart, absolutely and relatively, one big batch and many small ones may lead.
        At 0 the states must be equal byte for byte; above 0, predictions and floating-point
        state are compared.
    take, apply
        The operator's `take_delta` and `apply_delta`; None where replicas do not share it.
    lend
        Gives the second operator the first one's columns of customers, which are in no delta.
    delta_tolerance
        How far apart, absolutely and relatively, a replica's answers may be from those of the one
        whose deltas it applied.
    """

    name: str
    make: Callable[[int], Op]
    batch: Callable[[np.random.Generator, int], Batch]
    split: Callable[[Batch, int], list[Batch]]
    learn: Callable[[Op, Batch], Any]
    predict: Callable[[Op, Batch], NDArray[Any]]
    state: Callable[[Op], Mapping[str, NDArray[Any]]]
    load: Callable[[Op, Mapping[str, NDArray[Any]]], Any]
    max_bytes: int
    poison: Callable[[Batch], Batch] | None = None
    split_tolerance: float = 0.0
    take: Callable[[Op], dict[str, NDArray[Any]]] | None = None
    apply: Callable[[Op, Mapping[str, NDArray[Any]]], Any] | None = None
    lend: Callable[[Op, Op], Any] | None = None
    delta_tolerance: float = 1e-5

    def __str__(self) -> str:
        return self.name


def check_same_seed_gives_the_same_model(case: OperatorCase[Op, Batch]) -> None:
    """Two operators with one seed and one input end in the same state and answer alike."""
    first, second = _learned(case), _learned(case)
    _require_equal(case, "two runs with one seed", _snapshot(case, first), _snapshot(case, second))
    batch = _probe(case)
    _require_same_answers(case, "two runs with one seed", first, second, batch)


def check_learning_changes_the_state(case: OperatorCase[Op, Batch]) -> None:
    """Learning leaves a trace in the arrays; else the other checks would prove nothing."""
    operator = case.make(SEED)
    before = _snapshot(case, operator)
    _learn_rounds(case, operator, ROUNDS)
    if not _differences(before, _snapshot(case, operator)):
        raise OperatorCheckError(f"{case.name}: learning {ROUNDS} batches changed no state array")


def check_predicts_before_learning(case: OperatorCase[Op, Batch]) -> None:
    """Require finite answers of an operator that has learned nothing."""
    answer = case.predict(case.make(SEED), _probe(case))
    _require_finite_answer(case, "before learning", answer)


def check_predicts_finite_after_learning(case: OperatorCase[Op, Batch]) -> None:
    """Require finite answers of an operator that has learned."""
    answer = case.predict(_learned(case), _probe(case))
    _require_finite_answer(case, "after learning", answer)


def check_prediction_never_changes_state(case: OperatorCase[Op, Batch]) -> None:
    """Asking leaves every array byte for byte as it was, before and after learning."""
    for moment, operator in (
        ("before learning", case.make(SEED)),
        ("after learning", _learned(case)),
    ):
        before = _snapshot(case, operator)
        case.predict(operator, _probe(case))
        case.predict(operator, _probe(case, seed=SEED + 2))
        _require_equal(case, f"prediction {moment}", before, _snapshot(case, operator))


def check_state_round_trips(case: OperatorCase[Op, Batch]) -> None:
    """Require a reloaded operator to equal the one that wrote the arrays, and to learn on alike."""
    original = _learned(case)
    copy = case.make(SEED)
    case.load(copy, _snapshot(case, original))
    what = "an operator and its reloaded copy"
    _require_equal(case, what, _snapshot(case, original), _snapshot(case, copy))
    _require_same_answers(case, what, original, copy, _probe(case))
    for operator in (original, copy):
        _learn_rounds(case, operator, 2, seed=SEED + 3)
    what += ", after learning further"
    _require_equal(case, what, _snapshot(case, original), _snapshot(case, copy))
    _require_same_answers(case, what, original, copy, _probe(case))


def check_loading_copies(case: OperatorCase[Op, Batch]) -> None:
    """Require that the arrays given to load stay as they were while the operator learns on."""
    saved = _snapshot(case, _learned(case))
    kept = {name: array.copy() for name, array in saved.items()}
    operator = case.make(SEED)
    case.load(operator, saved)
    _learn_rounds(case, operator, 1, seed=SEED + 3)
    _require_equal(case, "arrays given to load, after learning", kept, saved)


def check_memory_is_bounded(case: OperatorCase[Op, Batch]) -> None:
    """Ever-new data never takes the operator above `max_bytes`."""
    operator = case.make(SEED)
    for round_number in range(GROWTH_ROUNDS):
        case.learn(operator, case.batch(np.random.default_rng(1000 + round_number), BATCH_SIZE))
    held = held_bytes(operator)
    if held > case.max_bytes:
        raise OperatorCheckError(
            f"{case.name}: holds {held} bytes after {GROWTH_ROUNDS} batches, "
            f"more than its bound of {case.max_bytes}"
        )


def check_refuses_what_is_not_finite(case: OperatorCase[Op, Batch]) -> None:
    """NaN and infinity raise `NotFiniteError` and leave the state as it was."""
    if case.poison is None:
        return
    operator = _learned(case)
    before = _snapshot(case, operator)
    try:
        case.learn(operator, case.poison(_probe(case)))
    except NotFiniteError:
        pass
    else:
        raise OperatorCheckError(f"{case.name}: learned a number that is not finite")
    _require_equal(case, "a refused batch", before, _snapshot(case, operator))


def check_one_big_batch_equals_many_small_ones(case: OperatorCase[Op, Batch]) -> None:
    """How records are cut into batches matters no more than `split_tolerance`."""
    batch = case.batch(np.random.default_rng(SEED), ROUNDS * BATCH_SIZE)
    whole, parts = case.make(SEED), case.make(SEED)
    case.learn(whole, batch)
    for part in case.split(batch, SPLIT_PARTS):
        case.learn(parts, part)
    what = "one big batch and many small ones"
    if case.split_tolerance == 0:
        _require_equal(case, what, _snapshot(case, whole), _snapshot(case, parts))
    else:
        _require_close(case, what, _snapshot(case, whole), _snapshot(case, parts))
    _require_same_answers(case, what, whole, parts, _probe(case), case.split_tolerance)


def check_deltas_reach_the_other_replica(case: OperatorCase[Op, Batch]) -> None:
    """Require that another replica answers by what one learned, told once and never told on."""
    if case.take is None or case.apply is None:
        return
    teacher, student = case.make(SEED), case.make(SEED)
    _require_untold(case, "a replica that has learned nothing", teacher)
    for round_number in range(2):
        _learn_rounds(case, teacher, ROUNDS, seed=SEED + round_number)
        before = _snapshot(case, teacher)
        delta = _sent(case.take(teacher))
        if not delta:
            raise OperatorCheckError(f"{case.name}: told nothing after learning")
        _require_equal(case, "taking a delta", before, _snapshot(case, teacher))
        _require_refused(case, student, delta)
        case.apply(student, delta)
        if case.lend is not None:
            case.lend(teacher, student)
        what = "a replica and the one that applied its delta"
        _require_same_answers(case, what, teacher, student, _probe(case), case.delta_tolerance)
        _require_untold(case, "a replica that has told all", teacher)
        _require_untold(case, "a replica that has only applied", student)
    loaded = case.make(SEED)
    case.load(loaded, _snapshot(case, teacher))
    _require_untold(case, "a replica that was loaded", loaded)


ALL_CHECKS: tuple[Callable[[OperatorCase[Any, Any]], None], ...] = (
    check_same_seed_gives_the_same_model,
    check_learning_changes_the_state,
    check_predicts_before_learning,
    check_predicts_finite_after_learning,
    check_prediction_never_changes_state,
    check_state_round_trips,
    check_loading_copies,
    check_memory_is_bounded,
    check_refuses_what_is_not_finite,
    check_one_big_batch_equals_many_small_ones,
    check_deltas_reach_the_other_replica,
)


def held_bytes(root: object) -> int:
    """Bytes of all arrays and Python objects reachable from `root`; code and types left out.

    Examples
    --------
    >>> bool(held_bytes([np.zeros(1000)]) >= 8000)
    True
    """
    seen: set[int] = set()
    pending: list[object] = [root]
    total = 0
    while pending:
        thing = pending.pop()
        if id(thing) in seen or isinstance(thing, SHARED_TYPES):
            continue
        seen.add(id(thing))
        # getsizeof counts an array's buffer only where the array owns it, and a view's base is
        # followed below, so that no buffer counts twice.
        total += sys.getsizeof(thing)
        pending.extend(gc.get_referents(thing))
        if isinstance(thing, np.ndarray) and thing.base is not None:
            pending.append(thing.base)
    return total


def _learned(case: OperatorCase[Op, Batch]) -> Op:
    operator = case.make(SEED)
    _learn_rounds(case, operator, ROUNDS)
    return operator


def _learn_rounds(
    case: OperatorCase[Op, Batch], operator: Op, rounds: int, seed: int = SEED
) -> None:
    generator = np.random.default_rng(seed)
    for _ in range(rounds):
        case.learn(operator, case.batch(generator, BATCH_SIZE))


def _probe(case: OperatorCase[Op, Batch], seed: int = SEED + 1) -> Batch:
    return case.batch(np.random.default_rng(seed), BATCH_SIZE)


def _snapshot(case: OperatorCase[Op, Batch], operator: Op) -> State:
    return {name: np.array(array, copy=True) for name, array in case.state(operator).items()}


def _leaves(state: Mapping[str, NDArray[Any]]) -> State:
    """Plain arrays by dotted name.

    Structured arrays are taken field by field, so that padding bytes are never compared.
    """
    leaves: State = {}
    pending = list(state.items())
    while pending:
        name, array = pending.pop()
        fields = array.dtype.names
        if fields is None:
            leaves[name] = array
        else:
            pending.extend((f"{name}.{field}", array[field]) for field in fields)
    return dict(sorted(leaves.items()))


def _differences(one: Mapping[str, NDArray[Any]], two: Mapping[str, NDArray[Any]]) -> list[str]:
    left, right = _leaves(one), _leaves(two)
    if left.keys() != right.keys():
        return sorted(left.keys() ^ right.keys())
    return [
        name
        for name, array in left.items()
        if array.shape != right[name].shape
        or array.dtype != right[name].dtype
        or array.tobytes() != right[name].tobytes()
    ]


def _require_equal(
    case: OperatorCase[Op, Batch],
    what: str,
    one: Mapping[str, NDArray[Any]],
    two: Mapping[str, NDArray[Any]],
) -> None:
    differing = _differences(one, two)
    if differing:
        raise OperatorCheckError(f"{case.name}: {what}: state differs in {', '.join(differing)}")


def _require_close(
    case: OperatorCase[Op, Batch],
    what: str,
    one: Mapping[str, NDArray[Any]],
    two: Mapping[str, NDArray[Any]],
) -> None:
    left, right = _leaves(one), _leaves(two)
    for name, array in left.items():
        if array.dtype.kind == "f" and not _close(array, right[name], case.split_tolerance):
            raise OperatorCheckError(
                f"{case.name}: {what}: {name} differs by more than {case.split_tolerance}"
            )


def _require_same_answers(
    case: OperatorCase[Op, Batch],
    what: str,
    one: Op,
    two: Op,
    batch: Batch,
    tolerance: float = 0.0,
) -> None:
    first, second = case.predict(one, batch), case.predict(two, batch)
    if tolerance == 0:
        _require_equal(case, what, {"prediction": first}, {"prediction": second})
    elif not _close(first, second, tolerance):
        raise OperatorCheckError(
            f"{case.name}: {what}: predictions differ by more than {tolerance}"
        )


def _sent(delta: Mapping[str, NDArray[Any]]) -> State:
    """Return the delta as it comes out of a message: read-only views of bytes."""
    return {
        name: np.frombuffer(array.tobytes(), array.dtype).reshape(array.shape)
        for name, array in delta.items()
    }


def _require_untold(case: OperatorCase[Op, Batch], what: str, operator: Op) -> None:
    if case.take is not None and case.take(operator):
        raise OperatorCheckError(f"{case.name}: {what} has something to tell")


def _require_refused(
    case: OperatorCase[Op, Batch], operator: Op, delta: Mapping[str, NDArray[Any]]
) -> None:
    """Require that each array of another shape, and each missing one, is refused for all."""
    before = _snapshot(case, operator)
    for name, array in delta.items():
        rest = {other: kept for other, kept in delta.items() if other != name}
        for wrong in (rest, rest | {name: array[..., np.newaxis]}):
            try:
                if case.apply is None or not wrong:
                    continue
                case.apply(operator, wrong)
            except StateMismatchError:
                continue
            raise OperatorCheckError(f"{case.name}: applied a delta with a wrong {name}")
    _require_equal(case, "a refused delta", before, _snapshot(case, operator))


def _close(one: NDArray[Any], two: NDArray[Any], tolerance: float) -> bool:
    return one.shape == two.shape and bool(np.allclose(one, two, rtol=tolerance, atol=tolerance))


def _require_finite_answer(
    case: OperatorCase[Op, Batch], moment: str, answer: NDArray[Any]
) -> None:
    for name, array in _leaves({"prediction": answer}).items():
        if array.dtype.kind in "fc" and not np.isfinite(array).all():
            raise OperatorCheckError(f"{case.name}: {name} {moment} is not finite")
