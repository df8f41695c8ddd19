import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from operators.candidates import BARRED, choose_near, clear, kth_largest
from operators.fast_log import fast_log
from operators.hybrid import Hybrid
from operators.hybrid_kernels import place_among
from operators.question import Scratch, make_scratch
from operators.ranking import select_best
from tests.operators.test_hybrid import OPTIONS

MOST_ITEMS = 3_000
MOST = 40


def test_ties_and_nan_count_against_the_tested_item() -> None:
    scores = np.array([2.0, 1.0, 1.0, 0.0, np.nan])
    assert [place_among(scores, 4, target) for target in range(4)] == [1, 3, 3, 4]
    assert [place_among(scores, 5, target) for target in range(5)] == [2, 4, 4, 5, 5]


@settings(deadline=None)
@given(st.lists(st.sampled_from([0.0, 0.5, 1.0, 2.0, 3.5]), min_size=1, max_size=40), st.data())
def test_selection_agrees_with_sorting(values: list[float], data: st.DataObject) -> None:
    k = data.draw(st.integers(1, len(values)))
    room = np.array(values, np.float32)
    assert kth_largest(room, len(values), k) == sorted(values, reverse=True)[k - 1]
    assert sorted(room.tolist()) == sorted(values)
    best = np.empty(k, np.int64)
    assert select_best(np.array(values), len(values), best) == k
    assert best.tolist() == np.argsort(-np.array(values), kind="stable")[:k].tolist()


def test_fewer_scores_than_places_are_all_selected() -> None:
    best = np.empty(5, np.int64)
    assert select_best(np.array([1.0, 3.0, 2.0, 9.0]), 3, best) == 3
    assert best[:3].tolist() == [1, 2, 0]


@settings(deadline=None)
@given(st.floats(1.0, 1e6))
def test_the_fast_logarithm_is_near_the_true_one(value: float) -> None:
    value = float(np.float32(value))
    assert fast_log(value) == pytest.approx(math.log(value), rel=0.01)


def room_for(items: int) -> tuple[Hybrid, Scratch]:
    """A question's room while there are so many items."""
    options = OPTIONS._replace(near_candidates=MOST, history_length=2)
    hybrid = Hybrid(MOST_ITEMS, options=options)
    rows = np.zeros(2, hybrid.row_dtype)
    everything = hybrid._everything(rows)
    limits = hybrid._limits
    return hybrid, make_scratch(
        everything.parts, everything.rows, hybrid.fusion.state, items, 0, limits
    )


def chosen_near(
    scores: NDArray[np.float32], barred: NDArray[Any], excluded: NDArray[np.int64], most: int
) -> list[int]:
    _, scratch = room_for(len(scores))
    scratch.near[:] = scores
    scratch.places[excluded] = BARRED
    found, kept = choose_near(scratch, barred, len(scores), 0, 0, most)
    chosen: list[int] = scratch.candidates[:kept].tolist()
    clear(scratch, found)
    scratch.places[excluded] = 0
    assert not scratch.places.any()
    return chosen


@settings(deadline=None, max_examples=100)
@given(
    st.integers(0, 10**6),
    st.one_of(st.integers(1, 60), st.integers(61, MOST_ITEMS)),
    st.integers(1, MOST),
    st.sampled_from(["spread", "tied", "clustered"]),
    st.sampled_from([0.0, 0.3, 0.98, 1.0]),
)
def test_the_nearest_items_are_exactly_the_best_of_the_allowed(
    seed: int, items: int, most: int, shape: str, share_out: float
) -> None:
    """However the scores lie, also where the sample that guesses them is far off."""
    generator = np.random.default_rng(seed)
    scores = generator.normal(0, 1, items).astype(np.float32)
    if shape == "tied":
        scores = generator.integers(0, 3, items).astype(np.float32)
    if shape == "clustered":
        scores.sort()
    barred = (generator.random(items) < share_out / 2).astype(np.uint8)
    excluded = np.flatnonzero(generator.random(items) < share_out)
    chosen = chosen_near(scores, barred, excluded, most)
    allowed = barred == 0
    allowed[excluded] = False
    assert len(set(chosen)) == len(chosen)
    assert allowed[chosen].all()
    expected = np.sort(scores[allowed])[::-1][:most]
    found = np.sort(scores[chosen])[::-1]
    assert found.tolist() == expected.tolist()
