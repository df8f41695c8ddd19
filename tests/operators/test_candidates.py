import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from operators.candidates import kth_largest
from operators.hybrid_kernels import place_of, select_best


def test_ties_and_nan_count_against_the_tested_item() -> None:
    scores = np.array([2.0, 1.0, 1.0, 0.0, np.nan])
    assert [place_of(scores, 4, target) for target in range(4)] == [1, 3, 3, 4]
    assert [place_of(scores, 5, target) for target in range(5)] == [2, 4, 4, 5, 5]


@settings(deadline=None)
@given(st.lists(st.sampled_from([0.0, 0.5, 1.0, 2.0, 3.5]), min_size=1, max_size=40), st.data())
def test_selection_agrees_with_sorting(values: list[float], data: st.DataObject) -> None:
    k = data.draw(st.integers(1, len(values)))
    assert kth_largest(np.array(values), len(values), k) == sorted(values, reverse=True)[k - 1]
    best = np.empty(k, np.int64)
    assert select_best(np.array(values), len(values), best) == k
    assert best.tolist() == np.argsort(-np.array(values), kind="stable")[:k].tolist()
