"""What a list says of its items is true: take the cause away, and the item falls."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import pytest

from operators.history import DAY_MS
from operators.hybrid import Lists, Part
from operators.question import Feature
from tests.operators.test_hybrid import CUSTOMERS, OPTIONS, Shop, batch_of

ASKING = CUSTOMERS - 1
PAIRS = (("tea", "pot"), ("bread", "butter"), ("pen", "paper"), ("lamp", "bulb"))
WORDS = {
    "red mug": ["red", "mug"],
    "blue mug": ["blue", "mug"],
    "red chair": ["red", "chair"],
    "garden hose": ["garden", "hose"],
    "garden chair": ["garden", "chair"],
    "oak table": ["oak", "table"],
}


class Answer(NamedTuple):
    """What is said to one customer of items that they did not have."""

    ids: list[str]
    scores: dict[str, float]
    parts: dict[str, Part]
    causes: dict[str, str]


def look_at(shop: Shop, customer: int, ids: list[str]) -> None:
    """Let a customer's history be these items, in orders of their own; nothing is learned."""
    shop.rows[customer] = np.zeros(1, shop.rows.dtype)[0]
    batch = batch_of([(customer, text) for text in ids], 10**9)
    shop.learn(batch._replace(weights=np.zeros(len(ids), np.float32)))


def ask(shop: Shop, customer: int, own: list[str]) -> Answer:
    out = shop.hybrid.vocabulary.index_many(own)
    lists: Lists = shop.hybrid.rank_many(
        shop.rows,
        np.array([customer]),
        50,
        now_ms=10**9 + 60_000,
        exclude_bought=False,
        excluded=out[np.newaxis],
    )
    names = shop.hybrid.vocabulary.ids
    ids = shop.names(lists, 0)
    causes = lists.causes[0].tolist()
    return Answer(
        ids,
        dict(zip(ids, lists.scores[0].tolist(), strict=False)),
        {name: Part(part) for name, part in zip(ids, lists.parts[0].tolist(), strict=False)},
        {name: names[cause] for name, cause in zip(ids, causes, strict=False) if cause >= 0},
    )


def lead(shop: Shop, feature: Feature) -> None:
    """Let one feature order the candidates, as where it was all that told choices."""
    state = shop.hybrid.fusion.state
    state.weights[:] = 0.0
    state.weights[0, feature] = 1.0
    state.hidden[:, -1] = 0.0


def viewed_one_after_another() -> Shop:
    shop = Shop(options=OPTIONS._replace(test_share=0.0))
    for _ in range(10):
        for customer in range(8):
            shop.touch(customer, list(PAIRS[customer % len(PAIRS)]))
    lead(shop, Feature.FORWARD)
    return shop


def bought_in_one_order() -> Shop:
    shop = Shop(options=OPTIONS._replace(test_share=0.0))
    for number in range(80):
        batch = batch_of([(number % 8, text) for text in PAIRS[number % len(PAIRS)]], number * 5000)
        shop.learn(batch._replace(groups=np.zeros(2, np.int32)), bought=True)
    lead(shop, Feature.ORDER)
    return shop


def about_the_same() -> Shop:
    shop = Shop(options=OPTIONS._replace(test_share=0.0))
    for name, words in WORDS.items():
        shop.hybrid.introduce(name, words)
    for customer in range(8):
        shop.touch(customer, list(WORDS))
    lead(shop, Feature.CONTENT)
    return shop


@pytest.mark.parametrize(
    ("make", "part", "context", "cause", "listed"),
    [
        (viewed_one_after_another, Part.ALSO_VIEWED, ["pen", "tea", "lamp"], "tea", "pot"),
        (bought_in_one_order, Part.TOGETHER, ["bread", "pen", "tea"], "pen", "paper"),
        (about_the_same, Part.CONTENT, ["oak table", "red mug"], "red mug", "blue mug"),
    ],
)
def test_an_item_falls_when_the_cause_that_its_reason_names_is_taken_away(
    make: Callable[[], Shop], part: Part, context: list[str], cause: str, listed: str
) -> None:
    shop = make()
    shared = {name: array.tobytes() for name, array in shop.hybrid.arrays().items()}
    look_at(shop, ASKING, context)
    answer = ask(shop, ASKING, context)
    assert answer.parts[listed] == part
    assert answer.causes[listed] == cause

    look_at(shop, ASKING, [text for text in context if text != cause])
    without = ask(shop, ASKING, context)
    assert without.scores.get(listed, 0.0) < 0.7 * answer.scores[listed]
    assert without.causes.get(listed) != cause
    for other in set(context) - {cause}:
        look_at(shop, ASKING, [text for text in context if text != other])
        assert ask(shop, ASKING, context).scores[listed] >= answer.scores[listed]
    assert {name: array.tobytes() for name, array in shop.hybrid.arrays().items()} == shared


def test_the_cause_is_the_item_that_the_listed_one_goes_with() -> None:
    shop = Shop(options=OPTIONS._replace(test_share=0.0))
    for _ in range(10):
        for customer in range(8):
            shop.touch(customer, ["tea", "pot"] if customer % 2 else ["bread", "butter"])
    shop.touch(10, ["other", "tea"])
    lists = shop.rank(1, excluded=np.tile(shop.hybrid.vocabulary.index_many(["tea"]), (12, 1)))
    ids = shop.hybrid.vocabulary.ids
    assert ids[lists.items[10, 0]] == "pot"
    assert ids[lists.causes[10, 0]] == "tea"
    assert lists.parts[10, 0] in (Part.ALSO_VIEWED, Part.TASTE)


def taught(seed: int) -> Shop:
    """Pairs follow one another, of customers who go on with what is about the same."""
    shop = Shop(options=OPTIONS._replace(test_share=1.0))
    generator = np.random.default_rng(seed)
    for item in range(40):
        shop.hybrid.introduce(f"item-{item}", [f"kind-{item // 8}", f"colour-{item % 3}"])
    for _ in range(150):
        for customer in range(CUSTOMERS):
            first = 2 * int(generator.integers(0, 4)) + 8 * (customer % 5)
            if generator.random() < 0.7:
                shop.touch(customer, [f"item-{first}", f"item-{first + 1}"])
            else:
                shop.touch(customer, [f"item-{int(generator.integers(0, 40))}"])
    return shop


def test_of_learned_lists_what_goes_with_a_customers_item_falls_without_it_but_for_few() -> None:
    """Whatever the fusion has learned to believe, and whatever else speaks for an item.

    Where the cause speaks for other candidates still more, these fall by more without it.
    """
    shop = taught(0)
    generator = np.random.default_rng(1)
    named = fallen = 0
    for _ in range(40):
        context = [f"item-{i}" for i in generator.choice(40, 4, replace=False).tolist()]
        look_at(shop, ASKING, context)
        answer = ask(shop, ASKING, context)
        for name in answer.ids[:5]:
            if answer.parts[name] in (Part.ALSO_VIEWED, Part.TOGETHER):
                look_at(shop, ASKING, [text for text in context if text != answer.causes[name]])
                without = ask(shop, ASKING, context)
                named += 1
                fallen += without.scores.get(name, 0.0) < answer.scores[name]
    assert named > 50
    assert fallen / named > 0.9


def test_the_event_just_learned_changes_the_very_next_list() -> None:
    shop = viewed_one_after_another()
    shop.touch(ASKING, ["bread"])
    before = ask(shop, ASKING, ["bread", "tea"])
    assert before.ids[0] == "butter"
    shop.touch(ASKING, ["tea"])
    after = ask(shop, ASKING, ["bread", "tea"])
    assert after.ids[0] == "pot"
    assert after.causes["pot"] == "tea"
    assert after.scores["pot"] > before.scores["pot"]


def test_what_a_customer_takes_every_month_is_listed_when_it_is_due() -> None:
    """Everybody takes an item of their own every thirty days, and others once."""
    shop = Shop(options=OPTIONS._replace(test_share=1.0))
    generator = np.random.default_rng(0)
    for day in range(10, 400, 10):
        for customer in range(CUSTOMERS):
            is_due = day % 30 == 10 * (customer % 3)
            item = f"own-{customer}" if is_due else f"any-{int(generator.integers(0, 40))}"
            batch = batch_of([(customer, item)], day * DAY_MS + 3_600_000 * customer)
            shop.learn(batch, bought=True)
    for day in range(400, 430, 10):
        for customer in range(CUSTOMERS):
            if day % 30 != 10 * (customer % 3):
                continue
            lists = shop.hybrid.rank_many(
                shop.rows,
                np.array([customer]),
                3,
                now_ms=day * DAY_MS + 3_600_000 * customer,
                exclude_bought=False,
            )
            names = shop.names(lists, 0)
            assert f"own-{customer}" in names
            place = names.index(f"own-{customer}")
            part = Part(lists.parts[0, place])
            assert part in (Part.DUE, Part.OWN)
            if part == Part.DUE:
                assert lists.causes[0, place] == 30
            else:
                assert lists.causes[0, place] == lists.items[0, place]
