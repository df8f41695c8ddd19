from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from operators.checks import ALL_CHECKS, OperatorCase
from operators.delayed_labels import DelayedLabels
from operators.errors import ParameterError

CUSTOMERS, PENDING, HORIZON_MS = 4, 3, 10


class Samples(NamedTuple):
    slots: NDArray[np.int64]
    features: NDArray[np.float64]
    ts_ms: NDArray[np.int64]


class Held:
    """The operator together with the columns of its customers, fed one sample at a time."""

    def __init__(self) -> None:
        self.labels = DelayedLabels(2, PENDING, HORIZON_MS)
        self.columns = np.zeros(CUSTOMERS, self.labels.row_dtype)

    def learn_many(self, samples: Samples) -> None:
        everyone = np.arange(CUSTOMERS)
        checked = np.array([samples.features.sum()])
        if not np.isfinite(checked).all():
            self.labels.add(self.columns, samples.slots, samples.features, checked, samples.ts_ms)
        for i in range(len(samples.slots)):
            row = slice(i, i + 1)
            self.labels.mark_active(self.columns, samples.slots[row], samples.ts_ms[row])
            self.labels.settle(self.columns, everyone, int(samples.ts_ms[i]))
            self.labels.add(
                self.columns,
                samples.slots[row],
                samples.features[row],
                np.array([0.5]),
                samples.ts_ms[row],
            )

    def predict_many(self, samples: Samples) -> NDArray[np.int64]:
        return self.labels.newest_ts_ms(self.columns, samples.slots)


def draw(generator: np.random.Generator, n: int) -> Samples:
    return Samples(
        generator.integers(0, CUSTOMERS, n), generator.random((n, 2)), generator.integers(0, 99, n)
    )


CASE = OperatorCase[Held, Samples](
    name="delayed labels",
    make=lambda _: Held(),
    batch=draw,
    split=lambda samples, parts: [
        Samples(samples.slots[rows], samples.features[rows], samples.ts_ms[rows])
        for rows in np.array_split(np.arange(len(samples.slots)), parts)
    ],
    learn=Held.learn_many,
    predict=Held.predict_many,
    state=lambda held: {"columns": held.columns},
    load=lambda held, state: np.copyto(held.columns, state["columns"]),
    poison=lambda samples: samples._replace(features=samples.features * np.nan),
    max_bytes=20_000,
)


@pytest.mark.parametrize("check", ALL_CHECKS)
def test_delayed_labels_keep_the_contract(
    check: Callable[[OperatorCase[Held, Samples]], None],
) -> None:
    check(CASE)


steps = st.lists(
    st.tuples(
        st.sampled_from(["sample", "event", "settle"]),
        st.integers(0, CUSTOMERS - 1),
        st.integers(0, 60),
    ),
    max_size=60,
)


@settings(max_examples=200)
@given(steps)
def test_it_does_what_a_plain_list_of_samples_would(history: list[tuple[str, int, int]]) -> None:
    labels = DelayedLabels(1, PENDING, HORIZON_MS)
    columns = np.zeros(CUSTOMERS, labels.row_dtype)
    waiting: list[dict[str, int]] = []
    for number, (what, slot, ts_ms) in enumerate(history):
        where, when = np.array([slot]), np.array([ts_ms])
        if what == "sample":
            room = sum(s["slot"] == slot for s in waiting) < PENDING
            if room:
                waiting.append({"slot": slot, "ts_ms": ts_ms, "number": number, "label": 1})
            taken = labels.add(columns, where, np.array([[number]]), np.array([0.25]), when)
            assert taken == room
        elif what == "event":
            for sample in waiting:
                if sample["slot"] == slot and 0 < ts_ms - sample["ts_ms"] <= HORIZON_MS:
                    sample["label"] = 0
            labels.mark_active(columns, where, when)
        else:
            due = [s for s in waiting if s["ts_ms"] + HORIZON_MS <= ts_ms]
            waiting = [s for s in waiting if s not in due]
            settled = labels.settle(columns, np.arange(CUSTOMERS), ts_ms)
            order = list(zip(settled.sampled_ts_ms.tolist(), settled.slots.tolist(), strict=True))
            assert order == sorted((s["ts_ms"], s["slot"]) for s in due)
            found = zip(settled.features[:, 0].tolist(), settled.labels.tolist(), strict=True)
            assert dict(found) == {s["number"]: s["label"] for s in due}
            assert (settled.probabilities == 0.25).all()


def one_sample() -> tuple[DelayedLabels, NDArray[np.void]]:
    labels = DelayedLabels(1, PENDING, HORIZON_MS)
    columns = np.zeros(1, labels.row_dtype)
    labels.add(columns, np.array([0]), np.ones((1, 1)), np.array([0.5]), np.array([100]))
    return labels, columns


@pytest.mark.parametrize(
    ("ts_ms", "label"), [(99, 1), (100, 1), (101, 0), (110, 0), (111, 1), (10_000, 1)]
)
def test_only_an_event_after_the_sample_and_within_the_horizon_counts(
    ts_ms: int, label: int
) -> None:
    labels, columns = one_sample()
    labels.mark_active(columns, np.array([0]), np.array([ts_ms]))
    assert labels.settle(columns, np.array([0]), 110).labels.tolist() == [label]


def test_an_event_that_arrives_late_still_counts() -> None:
    labels, columns = one_sample()
    labels.mark_active(columns, np.array([0, 0]), np.array([500, 105]))
    assert labels.settle(columns, np.array([0]), 110).labels.tolist() == [0]


def test_an_early_return_settles_no_earlier_than_an_absence() -> None:
    labels, columns = one_sample()
    labels.mark_active(columns, np.array([0]), np.array([101]))
    assert len(labels.settle(columns, np.array([0]), 109).labels) == 0
    assert len(labels.settle(columns, np.array([0]), 110).labels) == 1


def test_a_full_ring_takes_no_sample_until_one_settles() -> None:
    labels, columns = one_sample()
    where, features, chance = np.array([0]), np.ones((1, 1)), np.array([0.5])
    taken = [labels.add(columns, where, features, chance, np.array([t])) for t in (101, 102, 103)]
    assert taken == [1, 1, 0]
    labels.settle(columns, where, 110)
    assert labels.add(columns, where, features, chance, np.array([104])) == 1
    assert labels.newest_ts_ms(columns, where).tolist() == [104]


@pytest.mark.parametrize("wrong", [(0, 1, 1), (1, 0, 1), (1, 1, 0)])
def test_parameters_outside_their_range_are_refused(wrong: tuple[int, int, int]) -> None:
    with pytest.raises(ParameterError):
        DelayedLabels(*wrong)
