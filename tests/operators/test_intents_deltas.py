import csv
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from operators.errors import StateMismatchError
from operators.intents import Intents
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
BANKING = DATA / "banking77" / "train.csv"
DELIVERY = ["where is my parcel", "my parcel is late", "when will the parcel arrive"]
PAYMENT = ["my card was declined", "card payment failed", "the card does not work"]
INTENTS = 12

Labelled = tuple[list[str], list[str], list[str]]


def planted(n: int, seed: int = 1) -> Labelled:
    """Texts with one or two of four words of their intent; the intents; who wrote them."""
    generator = np.random.default_rng(seed)
    classes = generator.integers(0, INTENTS, n).tolist()
    texts = []
    for intent in classes:
        own = [f"{chr(97 + intent) * 3}{word}" for word in generator.integers(0, 4, 2)]
        texts.append(" ".join([*own, *(f"filler{word}" for word in generator.integers(0, 9, 3))]))
    return texts, [f"intent {i}" for i in classes], [str(c) for c in generator.integers(0, 300, n)]


def banking() -> Labelled:
    with BANKING.open(encoding="utf-8", newline="") as lines:
        rows = [(row["text"], row["category"]) for row in csv.DictReader(lines)]
    order = np.random.default_rng(0).permutation(len(rows)).tolist()
    return [rows[i][0] for i in order], [rows[i][1] for i in order], [str(i) for i in order]


def learn_apart(
    features: Features, intents: list[str], writers: list[str], labels_between: int
) -> list[Intents]:
    """Four replicas, each taught what the writers of its partitions wrote."""
    replicas = [Intents() for _ in range(REPLICAS)]
    owners = np.array([partition_of(writer) % REPLICAS for writer in writers])
    for start in range(0, len(intents), labels_between):
        rows = np.arange(start, min(start + labels_between, len(intents)))
        for number, replica in enumerate(replicas):
            own = rows[owners[rows] == number]
            replica.learn_many(features.take(own), [intents[i] for i in own.tolist()])
        exchange(replicas)
    return replicas


def accuracy_of(replicas: list[Intents]) -> float:
    """Prequential, over all that any replica was taught itself."""
    right = sum(int(replica.arrays()["tallies"][2].sum()) for replica in replicas)
    labels = sum(int(replica.arrays()["tallies"][0].sum()) for replica in replicas)
    return right / labels


def require_as_good_as_one(given: Labelled, labels_between: int) -> None:
    texts, intents, writers = given
    features = TextFeatures().transform_many(texts)
    alone = Intents()
    alone.learn_many(features, intents)
    together = learn_apart(features, intents, writers, labels_between)
    assert accuracy_of(together) > 0.97 * accuracy_of([alone])
    answers = together[0].predict_many(features)
    for replica in together[1:]:
        assert sorted(replica.names) == sorted(alone.names)
        theirs = replica.predict_many(features)
        assert np.mean([a[0] == b[0] for a, b in zip(answers, theirs, strict=True)]) > 0.999


@pytest.mark.parametrize("labels_between", [16, 64])
def test_four_replicas_learn_planted_intents_as_well_as_one(labels_between: int) -> None:
    require_as_good_as_one(planted(4000), labels_between)


@pytest.mark.skipif(not BANKING.exists(), reason=f"{BANKING} is absent")
@pytest.mark.parametrize("labels_between", [64, 256])
def test_four_replicas_learn_real_questions_as_well_as_one(labels_between: int) -> None:
    require_as_good_as_one(banking(), labels_between)


def test_an_intent_learned_elsewhere_is_named_here() -> None:
    sender, receiver = Intents(), Intents()
    receiver.learn_many(PAYMENT * 5, ["payment"] * 15)
    sender.learn_many(DELIVERY * 5, ["delivery"] * 15)
    receiver.apply_delta(travelled(sender.take_delta()))
    assert receiver.names == ["payment", "delivery"]
    named = [name for name, _ in receiver.predict_many(["parcel late", "card declined"])]
    assert named == ["delivery", "payment"]
    assert receiver.quality()["labels"] == 15


def test_replicas_that_number_intents_differently_understand_each_other() -> None:
    one, two = Intents(), Intents()
    one.learn_many([*DELIVERY, *PAYMENT], ["delivery"] * 3 + ["payment"] * 3)
    two.learn_many([*PAYMENT, *DELIVERY], ["payment"] * 3 + ["delivery"] * 3)
    exchange([one, two])
    assert (one.names, two.names) == (["delivery", "payment"], ["payment", "delivery"])
    answers = (model.predict_many(DELIVERY + PAYMENT) for model in (one, two))
    for a, b in zip(*answers, strict=True):
        assert a[0] == b[0]
        assert a[1] == pytest.approx(b[1], rel=1e-4)


def test_an_intent_without_room_is_left_out_and_counted() -> None:
    sender, receiver = Intents(), Intents(max_intents=2)
    receiver.learn_many([*DELIVERY, *PAYMENT], ["delivery"] * 3 + ["payment"] * 3)
    before = snapshot(receiver.arrays())
    sender.learn_many(["reset my password"] * 4 + PAYMENT, ["password"] * 4 + ["payment"] * 3)
    receiver.apply_delta(sender.take_delta())
    assert receiver.names == ["delivery", "payment"]
    assert receiver.quality()["labels_refused"] == 4
    learned = receiver.arrays()["learned"] - before["learned"]
    assert learned.tolist() == [0, 0, 3]


@settings(deadline=None, max_examples=50)
@given(
    st.lists(st.text(st.characters(exclude_categories=()), max_size=70), max_size=8),
    st.lists(st.text(max_size=3), max_size=8),
)
def test_any_names_are_understood(theirs: list[str], ours: list[str]) -> None:
    sender, receiver = (Intents(max_intents=6, bits=6) for _ in range(2))
    sender.learn_many(["text"] * len(theirs), theirs)
    receiver.learn_many(["text"] * len(ours), ours)
    known = receiver.names
    receiver.apply_delta(travelled(sender.take_delta()))
    new = [name for name in sender.names if name not in known]
    assert receiver.names == (known + new)[:6]
    again = Intents(max_intents=6, bits=6)
    again.load_arrays(snapshot(receiver.arrays()))
    assert again.names == receiver.names


def test_the_order_of_deltas_makes_no_difference_while_there_is_room() -> None:
    deltas = []
    for seed in (1, 2):
        sender = Intents()
        sender.learn_many(*planted(40, seed)[:2])
        deltas.append(sender.take_delta())
    one, other = Intents(threshold=0), Intents(threshold=0)
    for receiver, order in ((one, deltas), (other, deltas[::-1])):
        receiver.learn_many(*planted(40, 3)[:2])
        for delta in order:
            receiver.apply_delta(delta)
    assert sorted(one.names) == sorted(other.names)
    probe = planted(100, 4)[0]
    for a, b in zip(one.predict_many(probe), other.predict_many(probe), strict=True):
        assert a[0] == b[0]
        assert a[1] == pytest.approx(b[1], rel=1e-4)


def test_what_was_heard_or_loaded_is_never_sent_on() -> None:
    sender, receiver = Intents(), Intents()
    sender.learn_many(*planted(50)[:2])
    saved = snapshot(sender.arrays())
    receiver.apply_delta(sender.take_delta())
    assert receiver.take_delta() == sender.take_delta() == {}
    receiver.learn_many(["quite another thing"], ["other"])
    assert receiver.take_delta()["learned"].sum() == 1
    receiver.load_arrays(saved)
    assert receiver.take_delta() == {}


def test_labels_of_texts_without_features_are_told_too() -> None:
    sender, receiver = Intents(), Intents()
    sender.learn_many([""], ["silence"])
    receiver.apply_delta(travelled(sender.take_delta()))
    assert receiver.names == ["silence"]


@pytest.mark.parametrize("name", ["rows", "moved", "gained", "learned", "names"])
@pytest.mark.parametrize("change", CHANGES)
def test_a_delta_that_does_not_fit_changes_nothing(name: str, change: str) -> None:
    model = Intents(max_intents=4, bits=8)
    model.learn_many(["text", "more"], ["one", "two"])
    before, delta = snapshot(model.arrays()), model.take_delta()
    with pytest.raises(StateMismatchError):
        model.apply_delta(spoilt(delta, name, change))
    assert_same(before, model.arrays())
    assert model.names == ["one", "two"]


@pytest.mark.parametrize(
    "names",
    [["one", ""], ["one", "one"], ["one", chr(0x10FFFF)]],
    ids=["empty", "twice", "no text"],
)
def test_names_that_are_none_are_refused(names: list[str]) -> None:
    model = Intents(max_intents=4, bits=8)
    model.learn_many(["text", "more"], ["one", "two"])
    delta = model.take_delta()
    for row, name in zip(delta["names"], names, strict=True):
        row[:] = 0
        row[: len(name)] = [ord(character) + (character == chr(0x10FFFF)) for character in name]
    before = snapshot(model.arrays())
    with pytest.raises(StateMismatchError):
        model.apply_delta(delta)
    assert_same(before, model.arrays())
