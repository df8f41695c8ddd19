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
from operators.errors import ParameterError, StateMismatchError
from operators.intents import Intents
from operators.text_features import TextFeatures

Batch = tuple[list[str], list[str | None]]
DATA = Path(os.environ.get("CRM_DATA", Path(__file__).parents[3] / "shared" / "data"))
BANKING = DATA / "banking77"
WORDS = "card late refund parcel open account please where lost password reset thanks"
ANY_TEXT = st.text(st.characters(exclude_categories=()), max_size=80)
DELIVERY = ["where is my parcel", "my parcel is late", "when will the parcel arrive"]
PAYMENT = ["my card was declined", "card payment failed", "the card does not work"]


def batch(generator: np.random.Generator, n: int) -> Batch:
    texts = [" ".join(generator.choice(WORDS.split(), generator.integers(0, 7))) for _ in range(n)]
    intents = [None if draw == 0 else f"intent {draw}" for draw in generator.integers(0, 12, n)]
    return texts, intents


def split(whole: Batch, parts: int) -> list[Batch]:
    edges = np.linspace(0, len(whole[0]), parts + 1).astype(int).tolist()
    return [(whole[0][start:end], whole[1][start:end]) for start, end in pairwise(edges)]


def answers(model: Intents, whole: Batch) -> NDArray[np.float64]:
    names = [*model.names, None]
    return np.array([(names.index(name), p) for name, p in model.predict_many(whole[0])])


CASE = OperatorCase[Intents, Batch](
    name="intents",
    make=lambda _: Intents(max_intents=8, threshold=0.3, bits=12),
    batch=batch,
    split=split,
    learn=lambda model, given: model.learn_many(*given),
    predict=answers,
    state=Intents.arrays,
    load=Intents.load_arrays,
    take=Intents.take_delta,
    apply=Intents.apply_delta,
    max_bytes=2 * 4 * (8 + 2) * 2**12 + 20_000,
)


@pytest.mark.parametrize("check", ALL_CHECKS)
def test_intents_keep_the_contract(check: Callable[[OperatorCase[Any, Any]], None]) -> None:
    check(CASE)


def taught(**parameters: Any) -> Intents:
    model = Intents(**parameters)
    for _ in range(5):
        model.learn_many(DELIVERY + PAYMENT, ["delivery"] * 3 + ["payment"] * 3)
    return model


def test_nothing_is_named_before_a_second_intent_is_known() -> None:
    model = Intents(threshold=0)
    assert model.predict_many(["a", "b"]) == [(None, 0.0)] * 2
    model.learn_many(DELIVERY, ["delivery"] * 3)
    assert model.predict_many(DELIVERY) == [(None, 0.0)] * 3


def test_labelled_intents_are_named() -> None:
    answers = taught().predict_many(["parcel still not here", "why was my card declined"])
    assert [name for name, _ in answers] == ["delivery", "payment"]
    assert all(0.6 <= probability <= 1 for _, probability in answers)


def test_a_text_unlike_all_labelled_ones_is_not_named() -> None:
    model = taught()
    assert [name for name, _ in model.predict_many(["gut gut", "", "😀", "你好"])] == [None] * 4


def test_threshold_decides_what_is_named() -> None:
    texts = ["parcel or card"]
    assert taught(threshold=1.0).predict_many(texts)[0][0] is None
    assert taught(threshold=0.0).predict_many(texts)[0][0] is not None


def test_one_label_alone_is_never_enough() -> None:
    model = Intents()
    model.learn_many([DELIVERY[0], PAYMENT[0]], ["delivery", "payment"])
    assert all(probability <= 0.5 for _, probability in model.predict_many(DELIVERY + PAYMENT))


def test_unlabelled_texts_teach_nothing() -> None:
    model = Intents()
    model.learn_many(DELIVERY, [None, "", "  "])
    assert model.names == []
    assert model.quality() == {"labels": 0.0, "labels_refused": 0.0}


def test_labels_beyond_the_bound_are_refused_and_counted() -> None:
    model = Intents(max_intents=2)
    model.learn_many(["a b", "c d", "e f", "a b"], ["one", "two", "three", "one"])
    assert model.names == ["one", "two"]
    quality = model.quality()
    assert (quality["labels"], quality["labels_refused"]) == (3, 1)


def test_features_and_texts_are_taken_alike() -> None:
    texts, intents = batch(np.random.default_rng(1), 60)
    features = TextFeatures().transform_many(texts)
    one, two = Intents(), Intents()
    one.learn_many(texts, intents)
    two.learn_many(features, intents)
    assert one.names == two.names
    assert one.predict_many(features) == two.predict_many(texts)


@settings(deadline=None)
@given(st.lists(ANY_TEXT, max_size=12))
def test_names_survive_the_arrays(names: list[str]) -> None:
    model = Intents(max_intents=4, bits=4)
    model.learn_many(["text"] * len(names), names)
    copy = Intents(max_intents=4, bits=4)
    copy.load_arrays({name: array.copy() for name, array in model.arrays().items()})
    assert copy.names == model.names
    assert all(len(name) <= 64 for name in copy.names)
    copy.learn_many(["text"] * len(names), names)
    assert copy.names == model.names


@settings(deadline=None)
@given(st.lists(ANY_TEXT | ANY_TEXT.map(lambda text: text * 200), max_size=4))
def test_any_text_gets_a_bounded_answer(texts: list[str]) -> None:
    model = Intents(max_intents=2, threshold=0.2, bits=10)
    model.learn_many(["a b c", "d e f"] * 3, ["one", "two"] * 3)
    answers = model.predict_many(texts)
    assert len(answers) == len(texts)
    assert all(name in (None, "one", "two") and 0 <= p <= 1 for name, p in answers)


def test_a_refused_batch_changes_nothing() -> None:
    model = Intents()
    with pytest.raises(ParameterError, match="2 texts, but 1 intents"):
        model.learn_many(["a", "b"], ["one"])
    with pytest.raises(ParameterError, match="10 bits"):
        model.learn_many(TextFeatures(bits=10).transform_many(["a"]), ["one"])
    assert model.names == []


def test_arrays_of_another_size_are_refused() -> None:
    with pytest.raises(StateMismatchError):
        Intents(max_intents=3, bits=4).load_arrays(Intents(max_intents=4, bits=4).arrays())


@pytest.mark.parametrize("parameters", [{"max_intents": 0}, {"threshold": 1.1}, {"bits": 0}])
def test_a_parameter_out_of_range_is_refused(parameters: dict[str, Any]) -> None:
    with pytest.raises(ParameterError):
        Intents(**parameters)


@pytest.mark.skipif(not BANKING.exists(), reason=f"{BANKING} is absent")
def test_real_banking_questions_are_learned_in_one_pass() -> None:
    splits = []
    for name in ("train.csv", "test.csv"):
        with (BANKING / name).open(encoding="utf-8", newline="") as lines:
            splits.append([(row["text"], row["category"]) for row in csv.DictReader(lines)])
    train, test = splits
    order = np.random.default_rng(0).permutation(len(train)).tolist()
    model = Intents(threshold=0)
    model.learn_many([train[i][0] for i in order], [train[i][1] for i in order])
    answers = model.predict_many([text for text, _ in test])
    right = [name == truth for (name, _), (_, truth) in zip(answers, test, strict=True)]
    confident = [probability >= 0.6 for _, probability in answers]
    assert np.mean(right) > 0.86
    assert np.mean(np.array(right)[confident]) > 0.96
