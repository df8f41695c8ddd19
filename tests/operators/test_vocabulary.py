import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from operators.checks import held_bytes
from operators.errors import ParameterError, StateMismatchError
from operators.hashing import hash_strings
from operators.vocabulary import Vocabulary, pack_ids
from tests.operators.replicas import exchange

IDS = st.lists(st.text(min_size=1, max_size=5), max_size=40)


def oracle(batches: list[list[str]], capacity: int) -> tuple[list[str], int, list[list[int]]]:
    known: dict[str, int] = {}
    refused = 0
    answers = []
    for batch in batches:
        for text in batch:
            if text not in known and len(known) < capacity:
                known[text] = len(known)
            refused += text not in known
        answers.append([known.get(text, -1) for text in batch])
    return list(known), refused, answers


@settings(deadline=None)
@given(st.lists(IDS, max_size=4), st.integers(1, 30))
def test_learning_agrees_with_a_dict(batches: list[list[str]], capacity: int) -> None:
    vocabulary = Vocabulary(capacity)
    answers = [vocabulary.learn_many(batch).tolist() for batch in batches]
    assert (vocabulary.ids, vocabulary.refused, answers) == oracle(batches, capacity)
    assert len(vocabulary) == len(vocabulary.ids)


@settings(deadline=None)
@given(IDS, IDS)
def test_looking_up_never_writes(known: list[str], asked: list[str]) -> None:
    vocabulary = Vocabulary(50)
    vocabulary.learn_many(known)
    before = {name: array.tobytes() for name, array in vocabulary.arrays().items()}
    indices = vocabulary.index_many(asked)
    vocabulary.indices_of_keys(hash_strings(asked))
    assert {name: array.tobytes() for name, array in vocabulary.arrays().items()} == before
    assert [i >= 0 for i in indices.tolist()] == [text in known for text in asked]


@settings(deadline=None)
@given(IDS)
def test_keys_find_what_ids_find(ids: list[str]) -> None:
    vocabulary = Vocabulary(20)
    vocabulary.learn_many(ids)
    assert vocabulary.indices_of_keys(hash_strings(ids)).tolist() == (
        vocabulary.index_many(ids).tolist()
    )


def test_keys_keep_their_shape_and_unknown_or_zero_keys_are_minus_one() -> None:
    vocabulary = Vocabulary(4)
    vocabulary.learn_many(["a", "b"])
    keys = np.zeros((2, 6), np.uint64)
    keys[1, 0], keys[1, 2] = vocabulary.keys[1], 12345
    assert vocabulary.indices_of_keys(keys[:, ::2]).tolist() == [[-1, -1, -1], [1, -1, -1]]


@settings(deadline=None)
@given(st.lists(IDS, min_size=2, max_size=4))
def test_replicas_that_have_heard_each_other_know_the_same_ids(learned: list[list[str]]) -> None:
    replicas = [Vocabulary(200) for _ in learned]
    for replica, ids in zip(replicas, learned, strict=True):
        replica.learn_many(ids)
    exchange(replicas)
    for replica, own in zip(replicas, learned, strict=True):
        assert set(replica.ids) == {text for ids in learned for text in ids}
        assert replica.ids[: len(set(own))] == list(dict.fromkeys(own))
        assert replica.index_many(replica.ids).tolist() == list(range(len(replica)))
        assert replica.take_delta() == {}


def test_a_full_vocabulary_counts_the_ids_of_others_that_it_refuses() -> None:
    sender, receiver = Vocabulary(9), Vocabulary(2)
    sender.learn_many(["a", "b", "c"])
    receiver.learn_many(["c"])
    receiver.take_delta()
    receiver.apply_delta(sender.take_delta())
    assert (receiver.ids, receiver.refused) == (["c", "a"], 1)
    assert receiver.take_delta() == {}


def test_loaded_ids_are_not_told() -> None:
    original, copy = Vocabulary(5), Vocabulary(5)
    original.learn_many(["a", "b"])
    copy.learn_many(["c"])
    copy.load_arrays(original.arrays())
    assert copy.take_delta() == {}
    copy.learn_many(["a", "d"])
    assert bytes(copy.take_delta()["ids"]) == b"d"


def test_a_delta_that_holds_no_ids_changes_nothing() -> None:
    vocabulary = Vocabulary(5)
    delta = pack_ids(["tea", "cup"])
    for wrong in (
        {"ids": np.full(6, 255, np.uint8)},
        {"ids": delta["ids"][1:]},
        {"ends": np.array([6, 3])},
        {"ends": np.array([0, 6])},
        {"ends": np.array([3.0, 6.0])},
        {"refused": np.zeros(1, np.int64)},
        pack_ids(["tea", "tea"]),
    ):
        with pytest.raises(StateMismatchError):
            vocabulary.apply_delta(delta | wrong)
    with pytest.raises(StateMismatchError):
        vocabulary.apply_delta({"ids": delta["ids"]})
    assert len(vocabulary) == 0


@settings(deadline=None)
@given(IDS, IDS)
def test_a_reloaded_vocabulary_continues_alike(ids: list[str], more: list[str]) -> None:
    original, copy = Vocabulary(25), Vocabulary(25)
    original.learn_many(ids)
    copy.learn_many(["something", "else"])
    copy.load_arrays(original.arrays())
    for vocabulary in (original, copy):
        vocabulary.learn_many(more)
    assert copy.ids == original.ids
    assert copy.refused == original.refused
    assert copy.keys.tobytes() == original.keys.tobytes()
    assert copy.indices_of_keys(original.keys).tolist() == (
        original.indices_of_keys(original.keys).tolist()
    )


@pytest.mark.parametrize("bad", ["", None, 7])
def test_what_is_no_id_is_refused_and_nothing_is_added(bad: str) -> None:
    vocabulary = Vocabulary(4)
    with pytest.raises(ParameterError, match="item id"):
        vocabulary.learn_many(["a", bad])
    assert len(vocabulary) == 0


def test_memory_is_bounded_by_the_capacity() -> None:
    vocabulary = Vocabulary(100)
    vocabulary.learn_many([f"item-{i}" for i in range(100)])
    full = held_bytes(vocabulary)
    for start in range(0, 5000, 100):
        vocabulary.learn_many([f"more-{start + i}" for i in range(100)])
    assert held_bytes(vocabulary) <= full + 100
    assert vocabulary.refused == 5000


@pytest.mark.parametrize(
    "change",
    [
        {"ends": np.array([1, 9])},
        {"ends": np.array([2, 1])},
        {"ends": np.array([0, 2])},
        {"ids": np.array([255, 98], np.uint8)},
        {"ids": np.array([98, 98], np.uint8)},
        {"refused": np.zeros(2, np.int64)},
        {"extra": np.zeros(1)},
    ],
)
def test_arrays_that_are_no_vocabulary_are_named_and_change_nothing(
    change: dict[str, np.ndarray],
) -> None:
    vocabulary = Vocabulary(4)
    vocabulary.learn_many(["a", "b"])
    arrays = vocabulary.arrays() | change
    with pytest.raises(StateMismatchError):
        vocabulary.load_arrays(arrays)
    assert vocabulary.ids == ["a", "b"]


def test_more_ids_than_the_capacity_do_not_load() -> None:
    big = Vocabulary(4)
    big.learn_many(["a", "b"])
    with pytest.raises(StateMismatchError, match="do not fit"):
        Vocabulary(1).load_arrays(big.arrays())


def test_a_vocabulary_needs_room() -> None:
    with pytest.raises(ParameterError):
        Vocabulary(0)
