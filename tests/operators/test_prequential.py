import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn import metrics

from operators.errors import ParameterError
from operators.prequential import NOT_ASKED, PrequentialWindow, log_loss, roc_auc


@given(
    st.lists(
        st.tuples(st.integers(0, 1), st.integers(1, 9).map(lambda n: n / 10)),
        min_size=2,
        max_size=60,
    ).filter(lambda pairs: len({label for label, _ in pairs}) == 2)
)
def test_auc_and_log_loss_are_those_of_scikit_learn(pairs: list[tuple[int, float]]) -> None:
    labels, said = np.array([p[0] for p in pairs]), np.array([p[1] for p in pairs])
    assert roc_auc(labels, said) == pytest.approx(metrics.roc_auc_score(labels, said))
    assert log_loss(labels, said) == pytest.approx(metrics.log_loss(labels, said))


@given(st.lists(st.integers(0, 12), max_size=8))
def test_the_window_keeps_the_last_examples_in_order(lengths: list[int]) -> None:
    window = PrequentialWindow(5, 1, ("ours",))
    numbers = np.arange(sum(lengths), dtype=np.float32)
    for part in np.split(numbers, np.cumsum(lengths)[:-1]):
        window.add_many(part[:, None], np.zeros(len(part), np.int8), part[:, None])
    assert window.features[window.in_order(), 0].tolist() == numbers[-5:].tolist()
    assert window.seen == len(numbers)


def test_a_model_is_judged_only_on_what_it_was_asked() -> None:
    window = PrequentialWindow(10, 1, ("ours", "rival"))
    said = np.array([[0.9, NOT_ASKED], [0.8, 0.1], [0.3, 0.4], [0.95, NOT_ASKED]])
    window.add_many(np.zeros((4, 1)), np.array([1, 1, 0, 0]), said)
    assert window.quality("rival")["examples"] == 2
    assert window.quality("rival")["roc_auc"] == 0
    assert window.quality("ours", alongside="rival")["roc_auc"] == 1
    assert window.quality("ours") == pytest.approx(
        {
            "examples": 4,
            "base_rate": 0.5,
            "roc_auc": 0.5,
            "log_loss": -np.log([0.9, 0.8, 0.7, 0.05]).mean(),
        }
    )


def test_quality_says_only_what_it_can_know() -> None:
    window = PrequentialWindow(10, 1, ("ours",))
    assert window.quality("ours") == {"examples": 0}
    window.add_many(np.zeros((1, 1)), np.array([1]), np.array([[1.0]]))
    assert window.quality("ours").keys() == {"examples", "log_loss", "base_rate"}


def test_a_window_without_room_is_refused() -> None:
    with pytest.raises(ParameterError):
        PrequentialWindow(0, 1, ("ours",))
