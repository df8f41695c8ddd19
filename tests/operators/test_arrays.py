import numpy as np
import pytest

from operators.arrays import load_into
from operators.errors import StateMismatchError


@pytest.mark.parametrize(
    ("saved", "message"),
    [
        ({}, "first is missing"),
        ({"first": np.zeros(2), "second": np.zeros(4)}, "second: float64"),
        ({"first": np.zeros(2), "second": np.zeros(3, np.float32)}, "second: float32"),
    ],
)
def test_arrays_that_do_not_fit_change_nothing(saved: dict[str, np.ndarray], message: str) -> None:
    live = {"first": np.ones(2), "second": np.ones(3)}
    with pytest.raises(StateMismatchError, match=message):
        load_into(live, saved)
    assert live["first"].tolist() == [1, 1]
