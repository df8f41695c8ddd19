import csv
import os
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from operators.errors import StateMismatchError
from operators.sentiment import Sentiment
from operators.text_features import Features, TextFeatures
from tests.operators.replicas import (
    CHANGES,
    REPLICAS,
    assert_same,
    exchange,
    partition_of,
    snapshot,
    spoilt,
    travelled,
)

DATA = Path(os.environ.get("CRM_DATA", Path(__file__).parents[3] / "shared" / "data"))
TWEETS = DATA / "airline-tweets" / "Tweets.csv"
BAD = ["delayed", "cancelled", "lost", "crew", "rude", "broken"]
GOOD = ["early", "upgrade", "smooth", "friendly", "quick", "warm"]
PLAIN = ["flight", "gate", "seat", "bag", "today", "again", "home", "monday", "the", "a", "to"]
VALUES = {"negative": -1.0, "neutral": 0.0, "positive": 1.0}

Labelled = tuple[list[str], NDArray[np.float64], list[str]]


def planted(n: int, seed: int = 1) -> Labelled:
    """Texts that one word, which means little elsewhere, makes good or bad; who wrote them."""
    generator = np.random.default_rng(seed)
    labels = generator.integers(-1, 2, n)
    texts = []
    for label in labels.tolist():
        words = generator.choice(PLAIN, 4).tolist()
        if label:
            words += generator.choice(BAD if label < 0 else GOOD, 1).tolist()
        texts.append(" ".join(words))
    return texts, labels.astype(np.float64), [str(c) for c in generator.integers(0, 300, n)]


def tweets() -> Labelled:
    with TWEETS.open(encoding="utf-8", newline="") as lines:
        rows = {row["tweet_id"]: row for row in csv.DictReader(lines)}
    ordered = sorted(rows.values(), key=lambda row: row["tweet_created"])
    labels = np.array([VALUES[row["airline_sentiment"]] for row in ordered])
    return [row["text"] for row in ordered], labels, [row["name"] for row in ordered]


def learn_apart(
    features: Features, labels: NDArray[np.float64], writers: list[str], labels_between: int
) -> list[Sentiment]:
    """Four replicas, each taught what the writers of its partitions wrote."""
    replicas = [Sentiment() for _ in range(REPLICAS)]
    owners = np.array([partition_of(writer) % REPLICAS for writer in writers])
    for start in range(0, len(labels), labels_between):
        rows = np.arange(start, min(start + labels_between, len(labels)))
        for number, replica in enumerate(replicas):
            own = rows[owners[rows] == number]
            replica.learn_many(features.take(own), labels[own])
        exchange(replicas)
    return replicas


def accuracy_of(replicas: list[Sentiment]) -> float:
    qualities = [replica.quality() for replica in replicas]
    labels = sum(quality["labels"] for quality in qualities)
    return sum(quality["labels"] * quality.get("accuracy", 0.0) for quality in qualities) / labels


def require_as_good_as_one(given: Labelled, labels_between: int) -> None:
    texts, labels, writers = given
    features = TextFeatures().transform_many(texts)
    alone = Sentiment()
    alone.learn_many(features, labels)
    together = learn_apart(features, labels, writers, labels_between)
    assert accuracy_of(together) > 0.97 * accuracy_of([alone])
    for replica in together[1:]:
        # They have heard the same, so they say the same.
        difference = replica.predict_many(features)[2] - together[0].predict_many(features)[2]
        assert np.abs(difference).max() < 1e-3


@pytest.mark.parametrize("labels_between", [16, 64])
def test_four_replicas_learn_planted_words_as_well_as_one(labels_between: int) -> None:
    require_as_good_as_one(planted(3000), labels_between)


@pytest.mark.skipif(not TWEETS.exists(), reason=f"{TWEETS} is absent")
@pytest.mark.parametrize("labels_between", [64, 256])
def test_four_replicas_learn_real_tweets_as_well_as_one(labels_between: int) -> None:
    require_as_good_as_one(tweets(), labels_between)


def test_the_same_lesson_of_many_replicas_does_not_overshoot() -> None:
    lesson = (["crew was rude"] * 3, [-1.0] * 3)
    alone, replicas = Sentiment(), [Sentiment() for _ in range(8)]
    for replica in replicas:
        replica.learn_many(*lesson)
        alone.learn_many(*lesson)
    exchange(replicas)
    largest = [np.abs(model.arrays()["weights"][:-8]).max() for model in (alone, replicas[0])]
    assert largest[1] < largest[0]


def test_one_replica_takes_over_what_another_learned() -> None:
    texts, labels, _ = planted(300)
    sender, receiver = Sentiment(), Sentiment()
    for start in range(0, 300, 50):
        sender.learn_many(texts[start : start + 50], labels[start : start + 50])
        receiver.apply_delta(travelled(sender.take_delta()))
    for name in ("weights", "squares"):
        np.testing.assert_allclose(
            receiver.arrays()[name], sender.arrays()[name], rtol=1e-4, atol=1e-5
        )
    assert receiver.quality() == {"labels": 0.0}


def test_the_order_of_deltas_makes_no_difference() -> None:
    deltas = []
    for seed in (1, 2):
        sender = Sentiment()
        sender.learn_many(*planted(50, seed)[:2])
        deltas.append(sender.take_delta())
    one, other = Sentiment(), Sentiment()
    for receiver, order in ((one, deltas), (other, deltas[::-1])):
        receiver.learn_many(*planted(50, 3)[:2])
        for delta in order:
            receiver.apply_delta(delta)
    for name in ("weights", "squares", "learned"):
        np.testing.assert_allclose(one.arrays()[name], other.arrays()[name], rtol=1e-4, atol=1e-5)


def test_a_delta_is_as_large_as_what_changed() -> None:
    model = Sentiment()
    model.learn_many(["one two three"], [1.0])
    delta = model.take_delta()
    assert len(delta["rows"]) < 100
    assert sum(array.nbytes for array in delta.values()) < 3000


def test_what_was_heard_or_loaded_is_never_sent_on() -> None:
    sender, receiver = Sentiment(), Sentiment()
    sender.learn_many(*planted(50)[:2])
    saved = snapshot(sender.arrays())
    receiver.apply_delta(sender.take_delta())
    assert receiver.take_delta() == sender.take_delta() == {}
    receiver.learn_many(["quite another thing"], [1.0])
    own = Sentiment()
    own.learn_many(["quite another thing"], [1.0])
    np.testing.assert_array_equal(receiver.take_delta()["rows"], own.take_delta()["rows"])
    receiver.load_arrays(saved)
    assert receiver.take_delta() == {}


@pytest.mark.parametrize("name", ["rows", "moved", "gained", "learned"])
@pytest.mark.parametrize("change", CHANGES)
def test_a_delta_that_does_not_fit_changes_nothing(name: str, change: str) -> None:
    model = Sentiment(bits=10)
    model.learn_many(*planted(5)[:2])
    before, delta = snapshot(model.arrays()), model.take_delta()
    with pytest.raises(StateMismatchError):
        model.apply_delta(spoilt(delta, name, change))
    assert_same(before, model.arrays())


@pytest.mark.parametrize(
    ("name", "value"), [("rows", 10**6), ("rows", -1), ("gained", -1.0), ("learned", -1)]
)
def test_impossible_numbers_are_refused(name: str, value: float) -> None:
    model = Sentiment(bits=10)
    model.learn_many(*planted(5)[:2])
    before, delta = snapshot(model.arrays()), model.take_delta()
    delta[name][0] = value
    with pytest.raises(StateMismatchError, match=name):
        model.apply_delta(delta)
    assert_same(before, model.arrays())


def test_a_delta_of_another_number_of_classes_is_refused() -> None:
    model = Sentiment(bits=10)
    model.learn_many(*planted(5)[:2])
    delta = model.take_delta()
    fewer = {**delta, "moved": delta["moved"][:, :2], "learned": delta["learned"][:2]}
    with pytest.raises(StateMismatchError, match="2 classes"):
        model.apply_delta(fewer)
