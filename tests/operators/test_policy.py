"""The policy of lists must make what a plain loop over sets and dictionaries makes."""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from operators.errors import NotFiniteError, ParameterError
from operators.hashing import hash_strings
from operators.policy import Act, FinalLists, Options, Policy, Rule, Scope, Target
from operators.vocabulary import Vocabulary
from tests.operators.plain_policy import NOW_MS, Case, Plain, Told

ITEMS = [f"i{n}" for n in range(12)]
CATEGORIES = ["garden", "kitchen", "office"]
TAGS = ["red", "blue", "new", "sale"]
SEGMENTS = ["champions", "newcomers"]
CUSTOMERS = ["ada", "bob"]
NAMES = {Target.ITEM: ITEMS, Target.CATEGORY: CATEGORIES, Target.TAG: TAGS}
LATER_MS = NOW_MS + 1
INTERVALS = [(0, 9_999), (NOW_MS, LATER_MS), (LATER_MS, 9_999), (0, NOW_MS)]


def policy_of(cases: Sequence[Case]) -> tuple[Policy, Vocabulary]:
    vocabulary = Vocabulary(len(ITEMS))
    vocabulary.learn_many(ITEMS[::-1])
    policy = Policy(vocabulary, cases[0].options)
    for item, (category, tags) in cases[0].labels.items():
        policy.set_item(item, category, tags)
    for rule in cases[0].rules:
        assert policy.put_rule(rule)
    return policy, vocabulary


def made(cases: Sequence[Case]) -> list[Told]:
    """Make the lists of customers with the same options, labels, rules, n and barred items."""
    policy, vocabulary = policy_of(cases)

    def indices(lists: Sequence[Sequence[str]]) -> Any:
        table = np.full((len(lists), max(map(len, lists)) + 1), -1, np.int32)
        for row, items in enumerate(lists):
            table[row, : len(items)] = vocabulary.index_many(items)
        return table

    items = indices([[item for item, _, _ in case.wide] for case in cases])
    scores, events = np.zeros(items.shape, np.float32), np.zeros(items.shape)
    for row, case in enumerate(cases):
        scores[row, : len(case.wide)] = [score for _, score, _ in case.wide]
        events[row, : len(case.wide)] = [count for _, _, count in case.wide]
    barred = np.zeros(vocabulary.capacity, np.uint8)
    barred[vocabulary.index_many(sorted(cases[0].barred))] = 1
    lists = policy.apply_many(
        items,
        scores,
        n=cases[0].n,
        ts_ms=NOW_MS,
        barred=barred,
        events=events,
        segments=policy.segment_codes([case.segment for case in cases]),
        customers=hash_strings([case.customer for case in cases]),
        bought=indices([case.bought for case in cases]),
        seen=indices([case.seen for case in cases]),
        excluded=indices([case.excluded for case in cases]),
    )
    return [told_of(lists, row, policy, vocabulary) for row in range(len(cases))]


def told_of(lists: FinalLists, row: int, policy: Policy, vocabulary: Vocabulary) -> Told:
    length = int((lists.items[row] >= 0).sum())
    assert (lists.items[row, length:] == -1).all()
    assert (lists.places[row, length:] == -1).all()
    ids = policy.rules.ids
    return Told(
        lists.places[row, :length].tolist(),
        [vocabulary.ids[item] for item in lists.items[row, :length]],
        lists.scores[row, :length].tolist(),
        [[ids[rule] for rule in told if rule >= 0] for told in lists.rules[row, :length]],
        {ids[rule] for rule in np.flatnonzero(lists.acted[row])},
    )


@st.composite
def rules(draw: st.DrawFn, number: int) -> Rule:
    act = draw(st.sampled_from(Act))
    target = draw(st.sampled_from(Target))
    scope = draw(st.sampled_from(Scope))
    whom = {Scope.EVERYONE: [""], Scope.SEGMENT: SEGMENTS, Scope.CUSTOMER: CUSTOMERS}[scope]
    # Powers of two: their products do not depend on the order in which they are taken.
    factors = {Act.BOOST: [2.0, 4.0], Act.BURY: [0.5, 0.25]}.get(act, [1.0])
    return Rule(
        f"r{number}",
        act,
        target,
        draw(st.sampled_from(NAMES[target])),
        scope,
        draw(st.sampled_from(whom)),
        draw(st.sampled_from(factors)),
        draw(st.integers(1, 6)),
        *draw(st.sampled_from(INTERVALS)),
    )


numbered = st.integers(0, 12).flatmap(lambda count: st.tuples(*[rules(n) for n in range(count)]))
some_items = st.lists(st.sampled_from(ITEMS), unique=True, max_size=3)


@st.composite
def customers(draw: st.DrawFn) -> list[Case]:
    names = st.lists(st.sampled_from(CATEGORIES), unique=True, max_size=2)
    options = Options(
        max_per_category=draw(st.integers(0, 3)),
        diversity=draw(st.sampled_from([0.0, 0.0, 0.25, 0.5, 1.0])),
        min_new_items=draw(st.integers(0, 4)),
        new_item_events=5.0,
        drop_bought=draw(st.booleans()),
        drop_seen=draw(st.booleans()),
        repeatable=tuple(draw(names)),
        unrepeatable=tuple(draw(names)),
    )
    label = st.tuples(
        st.none() | st.sampled_from(CATEGORIES), st.lists(st.sampled_from(TAGS), unique=True)
    )
    labels = draw(st.dictionaries(st.sampled_from(ITEMS), label))
    common: dict[str, Any] = {
        "options": options,
        "labels": labels,
        "rules": list(draw(numbered)),
        "n": draw(st.integers(1, 8)),
        "barred": set(draw(some_items)),
    }
    return [
        Case(
            wide=[
                (item, draw(st.integers(0, 64)) / 64, draw(st.integers(0, 9)))
                for item in draw(st.permutations(ITEMS))[: draw(st.integers(0, len(ITEMS)))]
            ],
            customer=draw(st.sampled_from([*CUSTOMERS, "cy"])),
            segment=draw(st.sampled_from([*SEGMENTS, "loyal"])),
            bought=draw(some_items),
            seen=draw(some_items),
            excluded=draw(some_items),
            **common,
        )
        for _ in range(draw(st.integers(1, 3)))
    ]


@settings(deadline=None, max_examples=400)
@given(customers())
def test_lists_and_acting_rules_are_those_of_a_plain_loop(cases: list[Case]) -> None:
    for case, told in zip(cases, made(cases), strict=True):
        assert told == Plain(case).make()


@settings(deadline=None, max_examples=100)
@given(customers())
def test_hard_bounds_hold_whatever_is_set(cases: list[Case]) -> None:
    for case, told in zip(cases, made(cases), strict=True):
        assert len(set(told.items)) == len(told.items) <= case.n
        assert not set(told.items) & case.barred
        free = [item for item, acting in zip(told.items, told.rules, strict=True) if not acting]
        for category in CATEGORIES:
            inside = [i for i in free if case.labels.get(i, (None, []))[0] == category]
            assert case.options.max_per_category in {0, *range(len(inside), 99)}


@settings(deadline=None, max_examples=100)
@given(customers())
def test_with_nothing_set_the_rankers_first_ones_come_out_as_they_are(cases: list[Case]) -> None:
    for case in cases:
        case.options, case.rules, case.barred = Options(), [], set()
        case.wide.sort(key=lambda entry: -entry[1])
    policy, _ = policy_of(cases)
    assert not policy.is_active(NOW_MS)
    for case, told in zip(cases, made(cases), strict=True):
        assert told.items == [item for item, _, _ in case.wide][: case.n]
        assert told.scores == [score for _, score, _ in case.wide][: case.n]
        assert told.places == list(range(len(told.items)))
        assert not told.acted


def lists_for(policy: Policy, vocabulary: Vocabulary, *wide: str, **told: Any) -> list[str]:
    """Make one list of everything in `wide`, whose scores fall from 1/2 by half."""
    items = vocabulary.index_many(wide)[None, :]
    scores = np.float32(0.5) ** np.arange(1, len(wide) + 1, dtype=np.float32)[None, :]
    lists = policy.apply_many(items, scores, n=len(wide), ts_ms=NOW_MS, **told)
    return [vocabulary.ids[item] for item in lists.items[0] if item >= 0]


@pytest.fixture
def shop() -> tuple[Policy, Vocabulary]:
    vocabulary = Vocabulary(8)
    vocabulary.learn_many(["tea", "cup", "pot"])
    return Policy(vocabulary, Options(max_rules=2)), vocabulary


def test_labels_may_come_before_the_ranker_knows_the_item(
    shop: tuple[Policy, Vocabulary],
) -> None:
    policy, vocabulary = shop
    policy.set_item("jug", "kitchen", ["red"])
    policy.put_rule(Rule("r", Act.EXCLUDE, Target.CATEGORY, "kitchen"))
    policy.put_rule(Rule("s", Act.EXCLUDE, Target.ITEM, "mug"))
    assert lists_for(policy, vocabulary, "tea", "cup") == ["tea", "cup"]
    vocabulary.learn_many(["mug", "jug"])
    assert lists_for(policy, vocabulary, "tea", "jug", "mug", "cup") == ["tea", "cup"]
    policy.set_item("jug", None, [])
    assert lists_for(policy, vocabulary, "tea", "jug", "mug", "cup") == ["tea", "jug", "cup"]


def test_a_pinned_item_that_nobody_ever_touched_joins_the_vocabulary(
    shop: tuple[Policy, Vocabulary],
) -> None:
    policy, vocabulary = shop
    policy.put_rule(Rule("r", Act.PIN, Target.ITEM, "novel", position=2))
    assert lists_for(policy, vocabulary, "tea", "cup", "pot") == ["tea", "novel", "cup"]


def test_indices_are_found_anew_once_the_vocabulary_was_replaced(
    shop: tuple[Policy, Vocabulary],
) -> None:
    policy, vocabulary = shop
    policy.set_item("tea", "drinks", [])
    policy.put_rule(Rule("r", Act.BURY, Target.CATEGORY, "drinks", factor=0.125))
    policy.put_rule(Rule("s", Act.PIN, Target.ITEM, "novel", position=1))
    assert lists_for(policy, vocabulary, "tea", "cup", "pot") == ["novel", "cup", "pot"]
    other = Vocabulary(8)
    other.learn_many(["pot", "cup", "tea"])
    vocabulary.load_arrays(other.arrays())
    policy.reset_items()
    assert lists_for(policy, vocabulary, "tea", "cup") == ["novel", "cup"]


def test_a_rule_over_the_bound_is_refused_and_others_can_be_replaced_or_removed(
    shop: tuple[Policy, Vocabulary],
) -> None:
    policy, vocabulary = shop
    cup = Rule("b", Act.EXCLUDE, Target.ITEM, "cup")
    assert policy.put_rule(Rule("a", Act.EXCLUDE, Target.ITEM, "tea"))
    assert policy.put_rule(cup)
    assert not policy.put_rule(Rule("c", Act.EXCLUDE, Target.ITEM, "pot"))
    assert policy.put_rule(replace(cup, name="pot"))
    assert lists_for(policy, vocabulary, "tea", "cup", "pot") == ["cup"]
    policy.remove_rule("a")
    policy.remove_rule("never-there")
    assert policy.put_rule(Rule("c", Act.EXCLUDE, Target.ITEM, "cup"))
    assert lists_for(policy, vocabulary, "tea", "cup", "pot") == ["tea"]


def test_of_many_rules_on_one_entry_four_are_told_and_all_have_acted() -> None:
    vocabulary = Vocabulary(4)
    vocabulary.learn_many(["tea"])
    policy = Policy(vocabulary)
    for number in range(6):
        policy.put_rule(Rule(f"r{number}", Act.BOOST, Target.ITEM, "tea", factor=1_000.0))
    lists = policy.apply_many(
        np.zeros((1, 1), np.int32), np.full((1, 1), 0.5, np.float32), n=3, ts_ms=NOW_MS
    )
    assert lists.rules[0, 0].tolist() == [0, 1, 2, 3]
    assert lists.acted.all()
    assert lists.scores[0].tolist() == [1.0, 0.0, 0.0]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"act": Act.BOOST, "factor": 1.0}, "factor must be above 1"),
        ({"act": Act.BURY, "factor": 1.0}, "factor must be above 0 and below 1"),
        ({"act": Act.BURY, "factor": math.nan}, "factor must be above 0 and below 1"),
        ({"position": 0}, "position must be at least 1"),
        ({"name": ""}, "must not be empty"),
        ({"whom": "ada"}, "for everyone neither"),
        ({"scope": Scope.SEGMENT}, "must be named"),
        ({"from_ms": 5, "until_ms": 5}, "must become valid before it ends"),
    ],
)
def test_a_rule_that_makes_no_sense_is_refused(changes: dict[str, Any], message: str) -> None:
    rule = Rule("r", Act.EXCLUDE, Target.TAG, "red")
    with pytest.raises(ParameterError, match=message):
        replace(rule, **changes)


@pytest.mark.parametrize(
    "options",
    [
        Options(max_per_category=-1),
        Options(min_new_items=-1),
        Options(diversity=1.5),
        Options(new_item_events=0.0),
        Options(max_rules=0),
    ],
)
def test_options_outside_their_range_are_refused(options: Options) -> None:
    with pytest.raises(ParameterError):
        Policy(Vocabulary(1), options)


def test_what_does_not_fit_is_refused() -> None:
    policy = Policy(Vocabulary(2), Options(min_new_items=1))
    items, scores, events = np.zeros((1, 1), np.int32), np.ones((1, 1), np.float32), np.ones((1, 1))
    with pytest.raises(NotFiniteError):
        policy.apply_many(items, scores * np.nan, n=1, ts_ms=0, events=events)
    with pytest.raises(ParameterError, match="needs the events"):
        policy.apply_many(items, scores, n=1, ts_ms=0)
    with pytest.raises(ParameterError, match="out of range"):
        policy.apply_many(items + 2, scores, n=1, ts_ms=0, events=events)
    with pytest.raises(ParameterError, match="differ in shape"):
        policy.apply_many(items, scores[:, :0], n=1, ts_ms=0, events=events)
    with pytest.raises(ParameterError, match="n must be"):
        policy.apply_many(items, scores, n=0, ts_ms=0, events=events)
    with pytest.raises(ParameterError, match="barred has 1 entries"):
        policy.apply_many(items, scores, n=1, ts_ms=0, events=events, barred=np.zeros(1, np.uint8))
