import csv
import os
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from operators.checks import ALL_CHECKS, OperatorCase
from operators.errors import NotFiniteError, ParameterError
from operators.sentiment import Sentiment
from operators.text_features import TextFeatures

Batch = tuple[list[str], NDArray[np.float64]]
DATA = Path(os.environ.get("CRM_DATA", Path(__file__).parents[3] / "shared" / "data"))
TWEETS = DATA / "airline-tweets" / "Tweets.csv"
WORDS = "good bad late love not very parcel refund broken thanks card never HELP ! ? 😡"
ANY_TEXT = st.text(st.characters(exclude_categories=()), max_size=60)


def batch(generator: np.random.Generator, n: int) -> Batch:
    texts = [" ".join(generator.choice(WORDS.split(), generator.integers(0, 8))) for _ in range(n)]
    return texts, np.round(generator.uniform(-1, 1, n), 1)


def split(whole: Batch, parts: int) -> list[Batch]:
    edges = np.linspace(0, len(whole[0]), parts + 1).astype(int).tolist()
    return [(whole[0][start:end], whole[1][start:end]) for start, end in pairwise(edges)]


def poison(whole: Batch) -> Batch:
    labels = whole[1].copy()
    labels[len(labels) // 2] = np.nan
    return whole[0], labels


CASE = OperatorCase[Sentiment, Batch](
    name="sentiment",
    make=lambda _: Sentiment(),
    batch=batch,
    split=split,
    learn=lambda model, given: model.learn_many(*given),
    predict=lambda model, given: np.column_stack(model.predict_many(given[0])),
    state=Sentiment.arrays,
    load=Sentiment.load_arrays,
    take=Sentiment.take_delta,
    apply=Sentiment.apply_delta,
    max_bytes=2 * 16 * 2**18 + 20_000,
    poison=poison,
)


@pytest.mark.parametrize("check", ALL_CHECKS)
def test_sentiment_keeps_the_contract(check: Callable[[OperatorCase[Any, Any]], None]) -> None:
    check(CASE)


@pytest.mark.parametrize(
    ("text", "label"),
    [
        ("I love this shop, thank you!", 2),
        ("the delivery was not bad", 2),
        ("😍", 2),
        ("this is a terrible, horrible service", 0),
        ("the delivery was not good", 0),
        ("I hate waiting", 0),
        ("my order has the code 4711", 1),
        ("", 1),
        ("8 Uhr im Laden", 1),
    ],
)
def test_obvious_sentences_are_right_before_any_label(text: str, label: int) -> None:
    scores, labels, probabilities = Sentiment().predict_many([text])
    assert labels.tolist() == [label]
    assert np.sign(scores[0]) == label - 1
    assert probabilities[0].argmax() == label


def test_labels_teach_a_word_of_the_domain() -> None:
    model = Sentiment()
    texts = ["flight cancelled", "my flight was cancelled today", "cancelled again", "on time"]
    for _ in range(5):
        model.learn_many(texts, [-1, -1, -1, 1])
    scores, labels, _ = model.predict_many(["they cancelled it", "arrived on time"])
    assert labels.tolist() == [0, 2]
    assert scores[0] < 0 < scores[1]


def test_labels_overrule_the_lexicon() -> None:
    model = Sentiment()
    assert model.predict_many(["sick beat"])[1][0] == 0
    model.learn_many(["sick beat", "sick tune", "so sick", "sick track"] * 5, [1.0] * 20)
    assert model.predict_many(["sick song"])[1][0] == 2


def test_a_label_in_between_is_a_mixture_of_its_neighbours() -> None:
    model = Sentiment()
    model.learn_many(["one two three"] * 500, [0.3] * 500)
    np.testing.assert_allclose(
        model.predict_many(["one two three"])[2][0], [0, 0.7, 0.3], atol=0.05
    )


@pytest.mark.parametrize(
    ("label", "nearest"), [(-1, 0), (-0.5, 0), (-0.4, 1), (0, 1), (0.4, 1), (0.5, 2), (1, 2)]
)
def test_a_label_counts_as_the_nearest_class(label: float, nearest: int) -> None:
    model = Sentiment()
    model.learn_many(["text"], [label])
    assert model.arrays()["tallies"][0].tolist() == [int(k == nearest) for k in range(3)]


def test_features_and_texts_are_taken_alike() -> None:
    texts, labels = batch(np.random.default_rng(1), 30)
    features = TextFeatures().transform_many(texts)
    one, two = Sentiment(), Sentiment()
    one.learn_many(texts, labels)
    two.learn_many(features, labels)
    for mine, theirs in zip(one.predict_many(features), two.predict_many(texts), strict=True):
        np.testing.assert_array_equal(mine, theirs)


@settings(deadline=None)
@given(st.lists(ANY_TEXT | ANY_TEXT.map(lambda text: text * 200), max_size=4))
def test_any_text_gets_a_finite_bounded_sentiment(texts: list[str]) -> None:
    scores, labels, probabilities = Sentiment(bits=10).predict_many(texts)
    assert scores.dtype == probabilities.dtype == np.float32
    assert labels.dtype == np.int8
    assert probabilities.shape == (len(texts), 3)
    assert (np.abs(scores) <= 1).all()
    assert ((labels >= 0) & (labels <= 2)).all()
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, rtol=1e-5)


def test_a_bad_label_is_refused_and_nothing_is_learned() -> None:
    model = Sentiment()
    with pytest.raises(NotFiniteError):
        model.learn_many(["a", "b"], [1.0, np.inf])
    with pytest.raises(ParameterError, match=r"\[-1, 1\]"):
        model.learn_many(["a", "b"], [1.0, 1.5])
    with pytest.raises(ParameterError, match="expected 2"):
        model.learn_many(["a", "b"], [1.0])
    assert model.quality() == {"labels": 0.0}


@pytest.mark.skipif(not TWEETS.exists(), reason=f"{TWEETS} is absent")
def test_real_tweets_in_time_order_are_learned_in_one_pass() -> None:
    with TWEETS.open(encoding="utf-8", newline="") as lines:
        rows = {row["tweet_id"]: row for row in csv.DictReader(lines)}
    tweets = sorted(rows.values(), key=lambda row: row["tweet_created"])
    values = {"negative": -1.0, "neutral": 0.0, "positive": 1.0}
    model = Sentiment()
    model.learn_many(
        [row["text"] for row in tweets], [values[row["airline_sentiment"]] for row in tweets]
    )
    quality = model.quality()
    assert quality["labels"] > 14_000
    assert quality["accuracy"] > 0.79
    assert quality["macro_f1"] > 0.72
