from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from operators.checks import (
    ALL_CHECKS,
    OperatorCase,
    OperatorCheckError,
    check_deltas_reach_the_other_replica,
    check_learning_changes_the_state,
    check_loading_copies,
    check_memory_is_bounded,
    check_one_big_batch_equals_many_small_ones,
    check_prediction_never_changes_state,
    check_predicts_before_learning,
    check_predicts_finite_after_learning,
    check_refuses_what_is_not_finite,
    check_same_seed_gives_the_same_model,
    check_state_round_trips,
    held_bytes,
)
from operators.errors import StateMismatchError, require_finite

Values = NDArray[np.float64]
BOTH = np.dtype([("count", np.int64), ("extra", [("total", np.float64)])], align=True)


class Tally:
    """A small honest operator, and by `fault` a dishonest one."""

    def __init__(self, seed: int, fault: str = "") -> None:
        self.columns = np.zeros(1, BOTH)
        self.seed = seed
        self.fault = fault
        self.hoard: list[Values] = []
        self.told = self.columns.copy()

    def learn_many(self, values: Values) -> None:
        if self.fault != "swallows nan":
            require_finite("values", values)
        if self.fault == "deaf":
            return
        if self.fault == "hoards":
            self.hoard.append(np.tile(values, 100))
        self.columns["count"] += 1 if self.fault == "counts batches" else len(values)
        self.columns["extra"]["total"] += np.floor(values).sum()
        if self.fault == "rolls dice":
            self.columns["extra"]["total"] += np.random.default_rng().normal()

    def predict_many(self, values: Values) -> Values:
        if self.fault == "writes on predict":
            self.columns["count"] += 1
        if self.fault == "infinite at last" and self.columns["count"][0]:
            return np.full(len(values), np.inf)
        count = self.columns["count"] + (self.fault != "divides by zero")
        with np.errstate(all="ignore"):
            means: Values = self.columns["extra"]["total"] / count
        return values + means

    def load(self, state: Mapping[str, NDArray[Any]]) -> None:
        if self.fault == "keeps what it is given":
            self.columns = state["columns"]
        elif self.fault != "forgets":
            self.columns[:] = state["columns"]
        if self.fault != "tells what it loaded":
            self.told[:] = self.columns

    def take_delta(self) -> dict[str, NDArray[Any]]:
        count = self.columns["count"] - self.told["count"]
        total = self.columns["extra"]["total"] - self.told["extra"]["total"]
        if self.fault != "tells twice":
            self.told[:] = self.columns
        if self.fault == "settles when told" and count.any():
            self.columns["extra"]["total"] += 1.0
            self.told[:] = self.columns
        if self.fault == "mute" or not count.any():
            return {}
        return {"count": count, "total": total}

    def apply_delta(self, delta: Mapping[str, NDArray[Any]]) -> None:
        if self.fault == "trusts anyone":
            delta = {"count": np.zeros(1, np.int64), "total": np.zeros(1)} | dict(delta)
        elif delta.keys() != {"count", "total"} or any(a.shape != (1,) for a in delta.values()):
            raise StateMismatchError("tally")
        if self.fault == "hears nothing":
            return
        for columns in (self.columns,) if self.fault == "tells on" else (self.columns, self.told):
            columns["count"] += delta["count"].reshape(-1)
            columns["extra"]["total"] += delta["total"].reshape(-1)


def poison(values: Values) -> Values:
    return np.append(values, np.nan)


def case_of(fault: str = "") -> OperatorCase[Tally, Values]:
    return OperatorCase(
        name="tally",
        make=lambda seed: Tally(seed, fault),
        batch=lambda generator, n: generator.normal(0, 10, n),
        split=np.array_split,
        learn=Tally.learn_many,
        predict=Tally.predict_many,
        state=lambda tally: {"columns": tally.columns},
        load=Tally.load,
        max_bytes=10_000,
        poison=poison,
        take=Tally.take_delta,
        apply=Tally.apply_delta,
    )


@pytest.mark.parametrize("check", ALL_CHECKS)
def test_an_honest_operator_passes_every_check(
    check: Callable[[OperatorCase[Tally, Values]], None],
) -> None:
    check(case_of())


@pytest.mark.parametrize(
    ("fault", "check"),
    [
        ("rolls dice", check_same_seed_gives_the_same_model),
        ("deaf", check_learning_changes_the_state),
        ("divides by zero", check_predicts_before_learning),
        ("infinite at last", check_predicts_finite_after_learning),
        ("writes on predict", check_prediction_never_changes_state),
        ("forgets", check_state_round_trips),
        ("keeps what it is given", check_loading_copies),
        ("hoards", check_memory_is_bounded),
        ("swallows nan", check_refuses_what_is_not_finite),
        ("counts batches", check_one_big_batch_equals_many_small_ones),
        ("mute", check_deltas_reach_the_other_replica),
        ("hears nothing", check_deltas_reach_the_other_replica),
        ("tells twice", check_deltas_reach_the_other_replica),
        ("tells on", check_deltas_reach_the_other_replica),
        ("tells what it loaded", check_deltas_reach_the_other_replica),
        ("settles when told", check_deltas_reach_the_other_replica),
        ("trusts anyone", check_deltas_reach_the_other_replica),
    ],
)
def test_each_fault_is_named_by_its_check(
    fault: str, check: Callable[[OperatorCase[Tally, Values]], None]
) -> None:
    with pytest.raises(OperatorCheckError, match=r"^tally: "):
        check(case_of(fault))


def test_every_check_has_a_fault_that_it_catches() -> None:
    assert len(ALL_CHECKS) == len(set(ALL_CHECKS)) == 11


def test_a_tolerance_compares_floating_point_state_and_predictions() -> None:
    wide = replace(case_of("counts batches"), split_tolerance=1e9)
    check_one_big_batch_equals_many_small_ones(wide)
    narrow = replace(case_of("counts batches"), split_tolerance=1e-9)
    with pytest.raises(OperatorCheckError, match="predictions differ"):
        check_one_big_batch_equals_many_small_ones(narrow)


def test_an_operator_without_floats_needs_no_poison() -> None:
    check_refuses_what_is_not_finite(replace(case_of("swallows nan"), poison=None))


def test_an_operator_that_is_not_shared_has_no_deltas_to_check() -> None:
    check_deltas_reach_the_other_replica(replace(case_of("mute"), take=None))


def test_a_view_counts_its_buffer_once() -> None:
    base = np.zeros(10_000)
    assert 80_000 <= held_bytes([base[:5], base[5:], base]) < 82_000
