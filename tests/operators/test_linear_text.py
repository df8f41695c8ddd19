import numpy as np
import pytest
from numpy.typing import NDArray

from operators.errors import ParameterError, StateMismatchError
from operators.linear_text import LinearText, as_features
from operators.text_features import Features, TextFeatures

WORDS = "card late refund love hate please again never thanks lost parcel bank open"


def random_texts(n: int, seed: int = 3) -> list[str]:
    generator = np.random.default_rng(seed)
    return [" ".join(generator.choice(WORDS.split(), generator.integers(0, 6))) for _ in range(n)]


def no_prior(classes: int) -> NDArray[np.float32]:
    return np.zeros((0, classes), np.float32)


def dense_rows(features: Features, bits: int) -> NDArray[np.float64]:
    """The design matrix of a model with dense columns, as the equation in the docstring has it."""
    rows = np.zeros((len(features), 2**bits + 8))
    start = 0
    for i, end in enumerate(features.ends.tolist()):
        np.add.at(rows[i], features.indices[start:end] % 2**bits, features.values[start:end])
        start = end
    rows[:, 2**bits] = 1
    rows[:, 2**bits + 1 :] = features.lexicon
    return rows


def test_learning_follows_the_equation() -> None:
    bits, classes, rate = 18, 3, 0.3
    prior = np.random.default_rng(1).normal(size=(8, classes)).astype(np.float32)
    model = LinearText(classes, classes, 0, prior, bits, rate)
    features = as_features(random_texts(40))
    generator = np.random.default_rng(2)
    truth = generator.integers(0, classes, 40)
    other = (truth + 1) % classes
    share = (generator.random(40) / 2).astype(np.float32)

    # Only the rows in use, so that the matrix stays small.
    x_all = dense_rows(features, bits)
    used = np.flatnonzero(x_all.any(axis=0) | (np.arange(x_all.shape[1]) >= 2**bits))
    weights = np.zeros((len(used), classes))
    weights[-8:] = prior
    squares = np.where(used >= 2**bits, 1.0, 0.0)
    for x, label, second, part in zip(x_all[:, used], truth, other, share, strict=True):
        logits = x @ weights
        errors = np.exp(logits - logits.max())
        errors /= errors.sum()
        errors[label] -= 1 - part
        errors[second] -= part
        squares += x**2 * (errors**2).sum()
        weights -= rate * np.outer(x / np.sqrt(squares + 1e-8), errors)

    model.learn_many(features, truth, other, share)
    np.testing.assert_allclose(model.arrays()["weights"][used], weights, rtol=2e-3, atol=2e-4)
    np.testing.assert_allclose(model.arrays()["squares"][used], squares, rtol=2e-3, atol=2e-4)


def test_probabilities_sum_to_one() -> None:
    model = LinearText(3, 3, 0, no_prior(3), 12, 0.5)
    features = as_features(random_texts(50))
    model.learn_many(features, np.arange(50) % 3)
    np.testing.assert_allclose(model.predict_proba_many(features).sum(axis=1), 1, rtol=1e-5)


def test_a_class_is_taken_in_when_it_comes_up() -> None:
    model = LinearText(4, 1, 1, no_prior(4), 12, 0.5)
    features = as_features(["card lost", "refund please", "card lost"])
    assert model.predict_proba_many(features).shape == (3, 1)
    model.learn_many(features, np.array([1, 2, 1]))
    assert model.active == 3
    assert model.labels_by_class.tolist() == [0, 2, 1]
    assert model.predict_proba_many(features).argmax(axis=1).tolist() == [1, 2, 1]


def test_fixed_classes_keep_their_weights() -> None:
    model = LinearText(3, 1, 1, no_prior(3), 12, 0.5)
    model.learn_many(as_features(random_texts(30)), np.repeat([1, 2], 15))
    assert not model.arrays()["weights"][:, 0].any()
    assert model.arrays()["weights"][:, 1:].any()


def test_quality_counts_predictions_made_before_learning() -> None:
    model = LinearText(2, 2, 0, no_prior(2), 12, 0.5)
    assert model.quality() == {"labels": 0.0}
    # Alike at first, class 0 wins; then the text is known.
    model.learn_many(as_features(["card lost"] * 4), np.array([1, 1, 1, 1]))
    quality = model.quality()
    assert quality["labels"] == 4
    assert quality["accuracy"] == pytest.approx(0.75)
    assert quality["macro_f1"] == pytest.approx(2 * 3 / (4 + 3))
    assert quality["recent_accuracy"] == pytest.approx(0.75, abs=0.01)


def test_features_with_too_few_bits_are_refused() -> None:
    model = LinearText(2, 2, 0, no_prior(2), 12, 0.5)
    features = TextFeatures(bits=11).transform_many(["card"])
    with pytest.raises(ParameterError, match="11 bits"):
        model.predict_proba_many(features)
    with pytest.raises(ParameterError, match="11 bits"):
        model.learn_many(features, np.array([0]))


@pytest.mark.parametrize("truth", [[0, 2], [-1, 0], [0]])
def test_classes_that_do_not_fit_are_refused(truth: list[int]) -> None:
    model = LinearText(2, 2, 0, no_prior(2), 12, 0.5)
    with pytest.raises(ParameterError):
        model.learn_many(as_features(["card", "late"]), np.array(truth))
    assert model.quality() == {"labels": 0.0}


def test_a_class_may_not_be_skipped() -> None:
    model = LinearText(4, 1, 1, no_prior(4), 12, 0.5)
    with pytest.raises(ParameterError, match="outside those known"):
        model.learn_many(as_features(["card", "late"]), np.array([1, 3]))


@pytest.mark.parametrize(
    ("classes", "active", "fixed", "bits", "rate"),
    [(1, 1, 0, 12, 0.1), (3, 4, 0, 12, 0.1), (3, 1, 2, 12, 0.1), (3, 3, 0, 19, 0.1),
     (3, 3, 0, 12, 0.0), (3, 3, 0, 12, float("nan"))],
)  # fmt: skip
def test_parameters_out_of_range_are_refused(
    classes: int, active: int, fixed: int, bits: int, rate: float
) -> None:
    with pytest.raises(ParameterError):
        LinearText(classes, active, fixed, no_prior(classes), bits, rate)


@pytest.mark.parametrize("active", [0, 3])
def test_a_saved_number_of_classes_that_does_not_fit_is_refused(active: int) -> None:
    model = LinearText(2, 2, 0, no_prior(2), 10, 0.5)
    with pytest.raises(StateMismatchError, match="active"):
        model.load_arrays({**model.arrays(), "active": np.array([active])})


def test_arrays_of_another_size_are_refused() -> None:
    small = LinearText(2, 2, 0, no_prior(2), 10, 0.5)
    with pytest.raises(StateMismatchError):
        small.load_arrays(LinearText(2, 2, 0, no_prior(2), 11, 0.5).arrays())
