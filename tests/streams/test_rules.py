"""Business rules, consent and the settings of lists, on a partition in this process."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from operators.policy import Act, Rule, Scope, Target
from streams.decode import CatalogChange
from streams.records import CatalogItem
from streams.rejects import Reason, RefusedError, Reject, Stage
from streams.rules import RuleChange, decode_rule
from tests.streams.raw_records import RawRecord, encoded
from tests.streams.shop_in_memory import ShopInMemory
from tests.streams.workers import START_TS_MS, click, order

NOW_MS = START_TS_MS + 86_400_000
MakeShop = Callable[..., ShopInMemory]
ITEMS = [f"i{n}" for n in range(12)]


@pytest.fixture
def make_shop(tmp_path: Path) -> Iterator[MakeShop]:
    """Open a shop in which buyers looked at twelve items, two kinds of six."""
    shops: list[ShopInMemory] = []

    def make(list_length: int = 4, **settings: Any) -> ShopInMemory:
        path = tmp_path / str(len(shops))
        shop = ShopInMemory(path, list_length=list_length, **settings)
        shops.append(shop)
        for n, item in enumerate(ITEMS):
            labelled = CatalogItem(item, category=f"c{n % 2}", tags=["even"] if n % 2 == 0 else [])
            shop.models.catalog.apply(CatalogChange(item, labelled))
        shop.feed(
            [
                click(f"buyer-{b}", b * 20 + n, ITEMS[(b + n) % 12], event_id=f"e{b}-{n}")
                for b in range(24)
                for n in range(6)
            ],
            NOW_MS,
        )
        shop.pay(NOW_MS)
        shop.outputs.clear()
        return shop

    yield make
    for shop in shops:
        shop.store.close()


def give_rule(shop: ShopInMemory, rule_id: str, **fields: Any) -> None:
    change = decode_rule(RawRecord(0, encoded({"rule_id": rule_id, **fields}), rule_id.encode()))
    assert isinstance(change, RuleChange), change
    shop.models.rules.apply(change)


def newest(shop: ShopInMemory, customer: str, number: int, item: str = "i0") -> dict[str, Any]:
    """Return the list that answers a click of the customer."""
    shop.feed([click(customer, 5_000 + number, item)], NOW_MS)
    shop.pay(NOW_MS)
    record: dict[str, Any] = shop.outputs["recommendations"][-1]
    assert record["customer_id"] == customer
    return record


def ids(record: dict[str, Any]) -> list[str]:
    return [item["item_id"] for item in record["items"]]


def test_without_rules_a_record_says_nothing_of_them(make_shop: MakeShop) -> None:
    record = newest(make_shop(), "ada", 1)
    assert len(record["items"]) == 4
    assert "rules" not in record
    assert all("rules" not in item for item in record["items"])


def test_a_record_tells_which_rules_acted_on_the_list_and_on_each_entry(
    make_shop: MakeShop,
) -> None:
    shop = make_shop()
    before = ids(newest(shop, "ada", 1))
    give_rule(shop, "no-first", action="exclude", item_id=before[0])
    give_rule(shop, "evens", action="boost", tag="even", factor=1.5)
    give_rule(shop, "novelty", action="pin", item_id="never-seen", position=2)
    record = newest(shop, "ada", 2)
    assert before[0] not in ids(record)
    assert ids(record)[1] == "never-seen"
    assert record["items"][1]["rules"] == ["novelty"]
    assert record["items"][1]["score"] == 0.0
    assert record["items"][1]["reasons"] == ["picked for you"]
    evens = {item for n, item in enumerate(ITEMS) if n % 2 == 0}
    for item in record["items"]:
        assert ("evens" in item.get("rules", [])) == (item["item_id"] in evens)
        assert item["reasons"]
    assert {"no-first", "novelty"} <= set(record["rules"]) <= {"no-first", "evens", "novelty"}
    assert [item["rank"] for item in record["items"]] == [1, 2, 3, 4]


def test_a_rule_that_changes_no_item_of_a_list_is_told_all_the_same(make_shop: MakeShop) -> None:
    shop = make_shop()
    first = newest(shop, "ada", 1)
    give_rule(shop, "top", action="boost", item_id=ids(first)[0])
    again = newest(shop, "ada", 2)
    assert ids(again) == ids(first)
    assert again["rules"] == ["top"]


def test_a_rule_acts_while_it_is_valid_and_not_once_it_was_removed(make_shop: MakeShop) -> None:
    shop = make_shop()
    favourite = ids(newest(shop, "ada", 1))[0]
    hidden = {"action": "exclude", "item_id": favourite}
    give_rule(shop, "r", **hidden, valid_from=NOW_MS + 1)
    assert favourite in ids(newest(shop, "bob", 2))
    give_rule(shop, "r", **hidden, valid_until=NOW_MS)
    assert favourite in ids(newest(shop, "cy", 3))
    give_rule(shop, "r", **hidden, valid_from="2001-01-01T00:00:00Z", valid_until=NOW_MS + 1)
    assert favourite not in ids(newest(shop, "dan", 4))
    shop.models.rules.apply(RuleChange("r", None))
    assert len(shop.models.rules) == 0
    assert favourite in ids(newest(shop, "eve", 5))


def test_a_rule_is_for_one_customer_or_for_a_segment(make_shop: MakeShop) -> None:
    shop = make_shop()
    orders = [order(f"o{n % 50}", n * 200, ("x", 1, 300.0 if n % 2 else 2.0)) for n in range(300)]
    shop.feed([*orders, order("ada", 70_000, ("x", 1, 300.0))], NOW_MS)
    shop.pay(NOW_MS)
    segment = next(
        each["segment"] for each in shop.outputs["segments"][::-1] if each["customer_id"] == "ada"
    )
    favourite = ids(newest(shop, "ada", 1))[0]
    give_rule(shop, "hers", action="exclude", item_id=favourite, customer_id="ada")
    give_rule(shop, "none", action="exclude", category="c1", segment="no-such-segment")
    assert newest(shop, "ada", 2)["rules"] == ["hers"]
    assert favourite in ids(newest(shop, "bob", 3))
    give_rule(shop, "all-of-them", action="bury", category="c0", segment=segment)
    assert newest(shop, "ada", 4)["rules"] == ["hers", "all-of-them"]


def test_an_unavailable_item_is_not_pinned(make_shop: MakeShop) -> None:
    shop = make_shop()
    shop.models.catalog.apply(CatalogChange("gone", CatalogItem("gone", available=False)))
    give_rule(shop, "r", action="pin", item_id="gone")
    record = newest(shop, "ada", 1)
    assert "gone" not in ids(record)
    assert "rules" not in record


def test_one_rule_too_many_is_refused_and_the_others_stay(make_shop: MakeShop) -> None:
    shop = make_shop(max_rules=1)
    give_rule(shop, "a", action="pin", item_id="i11")
    with pytest.raises(RefusedError, match="rule b: there are 1 rules already, see max_rules"):
        give_rule(shop, "b", action="pin", item_id="i10")
    assert ids(newest(shop, "ada", 1))[0] == "i11"


def test_saved_models_that_are_loaded_later_leave_rules_and_labels_in_force(
    make_shop: MakeShop,
) -> None:
    shop, other = make_shop(), make_shop()
    give_rule(shop, "r", action="exclude", category="c0")
    give_rule(shop, "p", action="pin", item_id="brand-new", position=4)
    other.feed([click("zoe", 1, f"other-{n}", event_id=f"z{n}") for n in range(5)], NOW_MS)
    shop.models.load_arrays(other.models.copy_arrays())
    listed = ids(newest(shop, "ada", 1))
    assert listed[3] == "brand-new"
    assert not {item for n, item in enumerate(ITEMS) if n % 2 == 0} & set(listed)


def test_of_a_repeatable_category_what_was_bought_comes_again(make_shop: MakeShop) -> None:
    bought = [order("ada", 6_000 + n, (item, 1, 1.0)) for n, item in enumerate(["i0", "i1"])]
    for settings, expected in (
        ({}, set()),
        ({"repeatable_categories": "c0"}, {"i0"}),
        ({"exclude_bought": False}, {"i0", "i1"}),
        ({"exclude_bought": False, "unrepeatable_categories": "c0, c7"}, {"i1"}),
    ):
        shop = make_shop(list_length=12, **settings)
        shop.feed(bought, NOW_MS)
        assert set(ids(newest(shop, "ada", 9_000, "i2"))) & {"i0", "i1"} == expected, settings


def test_what_was_seen_stays_out_where_that_is_set(make_shop: MakeShop) -> None:
    assert "i3" in ids(newest(make_shop(list_length=12), "ada", 1, "i3"))
    assert "i3" not in ids(newest(make_shop(list_length=12, exclude_seen=True), "ada", 1, "i3"))


def test_a_list_has_no_more_of_a_category_and_no_fewer_new_items_than_set(
    make_shop: MakeShop,
) -> None:
    listed = ids(newest(make_shop(max_per_category=2, diversity=0.2), "ada", 1))
    assert sorted(ITEMS.index(item) % 2 for item in listed) == [0, 0, 1, 1]
    shop = make_shop(min_new_items=1, new_item_events=3)
    shop.feed([click("finder", 5_000, "i3"), click("finder", 5_001, "fresh")], NOW_MS)
    assert "fresh" in ids(newest(shop, "ada", 9_000, "i3"))


def consent(customer: str, **allowed: bool) -> tuple[str, str, dict[str, Any]]:
    return "customers", customer, {"customer_id": customer, "consent": allowed}


def test_who_refuses_recommendations_is_sent_one_empty_list(make_shop: MakeShop) -> None:
    shop = make_shop()
    give_rule(shop, "r", action="pin", item_id="i11")
    assert newest(shop, "ada", 1)["items"]
    shop.feed([consent("ada", recommendations=False)], NOW_MS)
    shop.pay(NOW_MS)
    record = shop.outputs["recommendations"][-1]
    assert (record["customer_id"], record["items"]) == ("ada", [])
    assert record["trigger"]["topic"] == "customers"
    assert "rules" not in record
    sent = len(shop.outputs["recommendations"])
    shop.feed([consent("ada", recommendations=False), click("ada", 6_000)], NOW_MS)
    shop.pay(NOW_MS)
    assert len(shop.outputs["recommendations"]) == sent
    shop.feed([consent("ada", recommendations=True)], NOW_MS)
    shop.pay(NOW_MS)
    assert shop.outputs["recommendations"][-1]["items"]


def test_who_refuses_profiling_is_shown_what_is_popular(make_shop: MakeShop) -> None:
    shop = make_shop()
    shop.feed([consent("ada", profiling=False), order("ada", 1, ("i0", 1, 1.0))], NOW_MS)
    record = newest(shop, "ada", 1, "i7")
    assert {reason for item in record["items"] for reason in item["reasons"]} == {"popular now"}
    popular = shop.models.hybrid.rank_unknown(4, now_ms=NOW_MS)
    assert ids(record) == [shop.models.hybrid.vocabulary.ids[item] for item in popular.items[0]]
    give_rule(shop, "everyone", action="boost", item_id=ids(record)[-1], factor=1000)
    give_rule(shop, "hers", action="bury", item_id=ids(record)[0], customer_id="ada")
    assert newest(shop, "ada", 2, "i7")["rules"] == ["everyone", "hers"]


def test_attributes_alone_call_for_no_list(make_shop: MakeShop) -> None:
    shop = make_shop()
    shop.feed([("customers", "new", {"customer_id": "new", "region": "north"})], NOW_MS)
    shop.pay(NOW_MS)
    assert shop.outputs["recommendations"] == []


def test_what_the_caller_excludes_is_neither_ranked_nor_pinned(make_shop: MakeShop) -> None:
    shop = make_shop()
    listed = ids(newest(shop, "ada", 1))
    give_rule(shop, "r", action="pin", item_id=listed[0])
    rows, index = shop.partition.rows, shop.models.hybrid.vocabulary.index_many(listed[:2])
    made = shop.models.maker.make_many(
        rows.data,
        rows.slots_of(["ada"]),
        ["ada"],
        n=4,
        ts_ms=NOW_MS,
        as_of_ms=NOW_MS,
        excluded=index[None, :],
    )
    assert not set(made.ranked.items[0].tolist()) & set(index.tolist())
    assert not made.acted.any()


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        (
            {"action": "pin", "item_id": 7, "position": 3},
            Rule("r", Act.PIN, Target.ITEM, "7", position=3),
        ),
        (
            {"action": "bury", "category": "c", "customer_id": "ada", "factor": None},
            Rule("r", Act.BURY, Target.CATEGORY, "c", Scope.CUSTOMER, "ada", 0.5),
        ),
        (
            {
                "action": "exclude",
                "tag": "t",
                "valid_from": 5,
                "valid_until": "1970-01-01T00:00:01Z",
            },
            Rule("r", Act.EXCLUDE, Target.TAG, "t", from_ms=5, until_ms=1_000),
        ),
    ],
)
def test_a_rule_is_read_as_it_is_written(fields: dict[str, Any], expected: Rule) -> None:
    value = encoded({"rule_id": "r", "zzz": [1], **fields})
    assert decode_rule(RawRecord(0, value, b"r")) == RuleChange("r", expected)


@pytest.mark.parametrize(
    ("fields", "reason", "error"),
    [
        ({}, Reason.INVALID_RULE, "exactly one of item_id, category and tag, this one of none"),
        ({"item_id": "a", "tag": "b"}, Reason.INVALID_RULE, "this one of item_id and tag"),
        ({"tag": "b", "segment": "s", "customer_id": "c"}, Reason.INVALID_RULE, "not for both"),
        ({"tag": "b", "factor": 0.5}, Reason.INVALID_RULE, "factor must be above 1"),
        ({"tag": "b", "action": "bury", "factor": 2}, Reason.INVALID_RULE, "below 1"),
        ({"tag": "b", "position": 0}, Reason.INVALID_RULE, "position"),
        ({"tag": "b", "valid_from": 2, "valid_until": 2}, Reason.INVALID_RULE, "before it ends"),
        ({"tag": "b", "valid_from": "soon"}, Reason.INVALID_TIMESTAMP, "valid_from"),
        ({"tag": "b", "valid_from": 10**18}, Reason.TIMESTAMP_OUT_OF_RANGE, "valid_from"),
        ({"tag": "b", "action": "hide"}, Reason.UNKNOWN_ACTION, "hide"),
        ({"tag": ""}, Reason.EMPTY_ID, "tag"),
        ({"item_id": 10**256}, Reason.ID_TOO_LONG, "item_id"),
        ({"tag": "b", "factor": "big"}, Reason.WRONG_TYPE, "factor"),
        ({"tag": "b", "rule_id": "s"}, Reason.KEY_MISMATCH, "the key is not the rule_id"),
    ],
)
def test_a_bad_rule_is_refused_with_a_clear_error(
    fields: dict[str, Any], reason: Reason, error: str
) -> None:
    value = encoded({"rule_id": "r", "action": "boost", **fields})
    refused = decode_rule(RawRecord(9, value, b"r"))
    assert isinstance(refused, Reject)
    assert (refused.offset, refused.reason, refused.stage) == (9, reason, Stage.VALIDATE)
    assert error in refused.error


def test_a_tombstone_removes_a_rule() -> None:
    assert decode_rule(RawRecord(0, None, b"r")) == RuleChange("r", None)
    refused = decode_rule(RawRecord(0, None))
    assert isinstance(refused, Reject)
    assert refused.reason is Reason.MISSING_KEY
