from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import pytest
from numpy.typing import NDArray

from operators.checks import ALL_CHECKS, OperatorCase
from operators.content import ItemContent, words_of
from operators.errors import ParameterError, StateMismatchError
from tests.operators.replicas import exchange

TEXTS = [
    "red mug", "blue mug", "red cup", "garden hose", "garden chair", "chair cushion red",
]  # fmt: skip
ITEMS = len(TEXTS)


class Batch(NamedTuple):
    items: NDArray[np.int32]
    weights: NDArray[np.float32]


def make(_seed: int = 0) -> ItemContent:
    content = ItemContent(ITEMS, words_per_item=4, buckets=256)
    for item, text in enumerate(TEXTS):
        content.set_words(item, words_of([text]))
    return content


def random_batch(generator: np.random.Generator, n: int) -> Batch:
    return Batch(
        generator.integers(-1, ITEMS, n).astype(np.int32),
        generator.exponential(1.0, n).astype(np.float32),
    )


def split(batch: Batch, parts: int) -> list[Batch]:
    pieces = [np.array_split(column, parts) for column in batch]
    return [Batch(*columns) for columns in zip(*pieces, strict=True)]


def match(content: ItemContent, context: list[int]) -> NDArray[np.float64]:
    everything = np.arange(ITEMS, dtype=np.int32)[np.newaxis]
    scores: NDArray[np.float64] = content.match_many(np.array([context], np.int32), everything)[0]
    return scores


CASE = OperatorCase[ItemContent, Batch](
    name="item content",
    make=make,
    batch=random_batch,
    split=split,
    learn=lambda content, batch: content.learn_many(*batch),
    predict=lambda content, batch: match(content, [int(max(batch.items[0], 0))]),
    state=ItemContent.arrays,
    load=ItemContent.load_arrays,
    max_bytes=20_000,
    poison=lambda batch: batch._replace(weights=np.append(batch.weights[1:], np.float32(np.nan))),
    take=ItemContent.take_delta,
    apply=ItemContent.apply_delta,
)


@pytest.mark.parametrize("check", ALL_CHECKS)
def test_content_keeps_the_contract(
    check: Callable[[OperatorCase[ItemContent, Batch]], None],
) -> None:
    check(CASE)


def popular(content: ItemContent) -> None:
    content.learn_many(np.arange(ITEMS, dtype=np.int32), np.ones(ITEMS, np.float32))


def test_an_item_that_nobody_touched_is_matched_by_its_words() -> None:
    content = make()
    content.learn_many(np.array([0, 1, 3], np.int32), np.ones(3, np.float32))
    scores = match(content, [3])
    assert scores[4] > max(scores[2], scores[5])


def test_rare_words_say_more_than_common_ones() -> None:
    content = make()
    popular(content)
    content.learn_many(np.full(50, 2, np.int32), np.ones(50, np.float32))  # "red" is everywhere
    scores = match(content, [0])
    assert scores[1] > scores[5]


def test_matching_agrees_with_the_formula() -> None:
    content = make()
    popular(content)
    content.learn_many(np.array([0, 0], np.int32), np.ones(2, np.float32))
    events = {"red": 5, "cup": 1}
    expected = 0.0
    for word, count in events.items():
        base = count / (ITEMS + 2 + 10)
        share = {"red": 0.5, "cup": 0.0}[word]
        expected += np.log((share + 0.3 * base + 1e-3) / (1.3 * base + 1e-3)) / np.sqrt(2)
    assert match(content, [0, 3])[2] == pytest.approx(expected, rel=2e-3)


def test_customers_and_items_without_words_match_nothing() -> None:
    content = ItemContent(2)
    content.set_words(0, ["mug"])
    contexts = np.array([[-1], [1]], np.int32)
    assert content.match_many(contexts, np.array([[0, 1], [0, -1]], np.int32)).any() == 0


def test_new_words_take_the_place_of_old_ones() -> None:
    content = make()
    popular(content)
    assert match(content, [3])[4] > 0
    content.set_words(4, ["bicycle"])
    assert match(content, [3])[4] == 0


def test_replicas_count_words_as_one_that_sees_everything() -> None:
    whole, replicas = make(), [make() for _ in range(3)]
    generator = np.random.default_rng(1)
    for turn in range(6):
        batch = random_batch(generator, 20)
        whole.learn_many(*batch)
        replicas[turn % 3].learn_many(*batch)
        exchange(replicas)
    for replica in replicas:
        np.testing.assert_allclose(replica.state.counts, whole.state.counts)
        np.testing.assert_allclose(match(replica, [0, 4]), match(whole, [0, 4]))


def test_what_does_not_fit_is_refused() -> None:
    content = make()
    with pytest.raises(ParameterError):
        ItemContent(0)
    with pytest.raises(ParameterError, match="item 6"):
        content.set_words(ITEMS, ["mug"])
    with pytest.raises(StateMismatchError):
        content.load_arrays(ItemContent(ITEMS + 1).arrays())
    popular(content)
    delta = content.take_delta()
    with pytest.raises(StateMismatchError, match="places"):
        content.apply_delta(delta | {"places": delta["places"] + np.int32(256)})
