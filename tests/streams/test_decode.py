from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from operators.hashing import hash_strings
from streams.columns import Action, Reaction, Refusal, Sender
from streams.decode import (
    CatalogChange,
    decode_catalog_item,
    decode_chats,
    decode_clicks,
    decode_customers,
    decode_feedback,
    decode_purchases,
)
from streams.parsing import FORWARDED_HEADER, Decoded
from streams.records import CatalogItem, Record
from streams.rejects import Reason, Reject, Stage
from tests.streams.raw_records import NOW_MS, RawRecord, chat, click, encoded, feedback, purchase

unhurried = settings(deadline=None)  # the first call loads a kernel

Decode = Callable[[Sequence[Record]], Decoded[Any]]
DECODERS: list[tuple[Decode, dict[str, Any]]] = [
    (lambda records: decode_clicks(records, NOW_MS), click()),
    (lambda records: decode_purchases(records, NOW_MS), purchase()),
    (lambda records: decode_chats(records, NOW_MS), chat()),
    (decode_customers, {"customer_id": "ada"}),
    (lambda records: decode_feedback(records, NOW_MS), feedback()),
]
EVENTS = (0, 1, 2, 4)
"""Those of `DECODERS` to which a record without a value means nothing."""

ids = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=30)
any_id = ids | st.integers()
times = st.integers(946_684_800_000, NOW_MS)


def chunk(*values: Any) -> list[RawRecord]:
    """Return records with these values, encoded unless they are bytes or None."""
    return [
        RawRecord(100 + i, value if value is None or isinstance(value, bytes) else encoded(value))
        for i, value in enumerate(values)
    ]


def as_text(identifier: str | int | None) -> str | None:
    return None if identifier is None else str(identifier)


clicks = st.fixed_dictionaries(
    {
        "event_id": any_id,
        "customer_id": any_id,
        "ts": times,
        "action": st.sampled_from([action.name.lower() for action in Action]),
        "item_id": any_id,
    },
    optional={"dwell_ms": st.none() | st.floats(0, 1e12), "channel": st.text("aé")},
)


@unhurried
@given(st.lists(clicks, max_size=8))
def test_valid_clicks_come_back_as_they_were(events: list[dict[str, Any]]) -> None:
    decoded = decode_clicks(chunk(*events), NOW_MS)
    columns, n = decoded.columns, len(events)
    assert decoded.rejects == []
    assert len(columns) == n
    assert columns.positions.tolist() == list(range(n))
    assert columns.offsets.tolist() == list(range(100, 100 + n))
    assert columns.timestamps_ms.tolist() == [NOW_MS] * n
    assert columns.ts_ms.tolist() == [event["ts"] for event in events]
    assert columns.event_ids == [as_text(event["event_id"]) for event in events]
    assert columns.customers == [as_text(event["customer_id"]) for event in events]
    assert columns.item_ids == [as_text(event["item_id"]) for event in events]
    assert [Action(code).name.lower() for code in columns.actions] == [e["action"] for e in events]
    assert columns.event_keys.tolist() == hash_strings(columns.event_ids).tolist()
    dwells = [event.get("dwell_ms") for event in events]
    np.testing.assert_array_equal(columns.dwell_ms, np.array(dwells, np.float32))
    assert not columns.already_forwarded.any()


lines = st.fixed_dictionaries(
    {"item_id": any_id},
    optional={
        "quantity": st.floats(1e-9, 1e9) | st.integers(1, 10**9),
        "unit_price": st.none() | st.floats(0, 1e12),
        "category": st.none() | st.text("aé"),
    },
)


@unhurried
@given(st.lists(st.tuples(st.lists(lines, min_size=1, max_size=5), st.none() | st.booleans())))
def test_valid_orders_come_back_with_their_lines_and_sums(
    orders: list[tuple[list[dict[str, Any]], bool | None]],
) -> None:
    values = [purchase(items=items, promotion=promotion) for items, promotion in orders]
    decoded = decode_purchases(chunk(*values), NOW_MS)
    columns = decoded.columns
    assert decoded.rejects == []
    pairs = [(row, line) for row, (items, _) in enumerate(orders) for line in items]
    assert columns.line_event.tolist() == [row for row, _ in pairs]
    assert columns.line_items == [as_text(line["item_id"]) for _, line in pairs]
    assert columns.line_quantity.tolist() == [line.get("quantity", 1) for _, line in pairs]
    assert columns.line_price.tolist() == [line.get("unit_price") or 0 for _, line in pairs]
    assert columns.line_categories == [line.get("category") for _, line in pairs]
    assert columns.lines.tolist() == [len(items) for items, _ in orders]
    for row in range(len(orders)):
        mine = columns.line_event == row
        np.testing.assert_allclose(columns.quantity[row], columns.line_quantity[mine].sum())
        paid = (columns.line_quantity * columns.line_price)[mine].sum()
        np.testing.assert_allclose(columns.amount[row], paid)
    assert columns.promotion.tolist() == [promotion is True for _, promotion in orders]


def test_a_chat_comes_back_with_its_labels() -> None:
    full = chat(conversation_id=7, sender="agent", language="en", sentiment=-0.5, intent="refund")
    columns = decode_chats(chunk(full, chat(text="zażółć")), NOW_MS).columns
    assert columns.texts == ["hello", "zażółć"]
    assert columns.conversation_ids == ["7", None]
    assert columns.senders.tolist() == [Sender.AGENT, Sender.CUSTOMER]
    np.testing.assert_array_equal(columns.labels, np.array([-0.5, np.nan], np.float32))
    assert columns.intents == ["refund", None]
    assert columns.languages == ["en", None]


def test_feedback_comes_back_with_what_it_is_about() -> None:
    outcomes = ("impression", "click", "conversion", "dismiss")
    on_items = [feedback(outcome=outcome, item_id=7) for outcome in outcomes]
    on_a_list = feedback(item_id=...)
    on_a_decision = feedback(recommendation_id=..., decision_id=5)
    columns = decode_feedback(chunk(*on_items, on_a_list, on_a_decision), NOW_MS).columns
    assert [Reaction(code).name.lower() for code in columns.outcomes[:4]] == list(outcomes)
    assert columns.item_ids == ["7"] * 4 + [None, "mug"]
    assert columns.recommendation_ids == ["r-1"] * 5 + [None]
    assert columns.decision_ids == [None] * 5 + ["5"]
    assert columns.about_items().tolist() == [0, 1, 2, 3]


def test_a_customer_comes_back_with_what_they_refuse() -> None:
    full = {
        "customer_id": 5,
        "age_group": "30s",
        "region": "north",
        "membership_level": "gold",
        "signup_ts": "1970-01-01T00:00:01Z",
        "group": {"a": 1},
        "consent": {"recommendations": True, "messages": False, "profiling": False},
        "max_messages_per_week": 0,
    }
    columns = decode_customers(chunk(full, {"customer_id": "bob", "consent": {}})).columns
    assert columns.customers == ["5", "bob"]
    assert columns.ts_ms.tolist() == columns.timestamps_ms.tolist() == [NOW_MS, NOW_MS]
    assert columns.tombstone.tolist() == [False, False]
    assert (columns.age_groups, columns.regions) == (["30s", None], ["north", None])
    assert columns.membership_levels == ["gold", None]
    assert columns.signup_ts_ms.tolist() == [1_000, 0]
    assert columns.refusals.tolist() == [Refusal.MESSAGES | Refusal.PROFILING, 0]
    assert columns.max_messages_per_week.tolist() == [0, -1]
    assert columns.groups == [{"a": 1}, None]


def test_a_customer_without_a_value_is_erased_by_the_key() -> None:
    records = [
        RawRecord(0, None, key=b"ada"),
        RawRecord(1, b"", key="łucja".encode()),
        RawRecord(2, None, key=None),
        RawRecord(3, None, key=b"\xff"),
        RawRecord(4, None, key=b"x" * 257),
        RawRecord(5, encoded({"customer_id": "bob"}), key=b"bob"),
    ]
    decoded = decode_customers(records)
    assert decoded.columns.customers == ["ada", "łucja", "bob"]
    assert decoded.columns.tombstone.tolist() == [True, True, False]
    assert decoded.columns.positions.tolist() == [0, 1, 5]
    assert [refused.reason for refused in decoded.rejects] == [
        Reason.MISSING_KEY,
        Reason.INVALID_UTF8,
        Reason.ID_TOO_LONG,
    ]


def test_a_catalogue_item_is_set_and_removed() -> None:
    item = {"item_id": 12, "title": "Żółty kubek"}
    change = decode_catalog_item(RawRecord(0, encoded(item), key=b"12"))
    assert change == CatalogChange("12", CatalogItem(item_id=12, title="Żółty kubek"))
    assert decode_catalog_item(RawRecord(1, None, key=b"12")) == CatalogChange("12", None)


@pytest.mark.parametrize(
    ("key", "value", "reason"),
    [
        (b"13", b'{"item_id":12}', Reason.KEY_MISMATCH),
        (None, None, Reason.MISSING_KEY),
        (None, b'{"item_id":1' + b"0" * 256 + b"}", Reason.ID_TOO_LONG),
        (None, b'{"item_id":"a","zzz":"\xff"}', Reason.INVALID_UTF8),
        (None, b'{"item_id":"a","attributes":{"a":' + b"[" * 10_000, Reason.TOO_DEEP),
        (None, b"{}", Reason.MISSING_FIELD),
    ],
)
def test_a_bad_catalogue_record_is_one_reject(
    key: bytes | None, value: bytes | None, reason: Reason
) -> None:
    refused = decode_catalog_item(RawRecord(9, value, key=key))
    assert isinstance(refused, Reject)
    assert (refused.offset, refused.reason) == (9, reason)


def test_a_search_needs_no_item() -> None:
    decoded = decode_clicks(chunk(click(action="search", item_id=...), click()), NOW_MS)
    assert decoded.columns.item_ids == [None, "mug"]
    assert decoded.rejects == []


def test_an_empty_chunk_gives_empty_columns() -> None:
    for decode, _ in DECODERS:
        decoded = decode([])
        assert len(decoded.columns) == 0
        assert decoded.rejects == []


POISON: list[tuple[int, Any, Reason]] = [
    (0, click(event_id=10**256), Reason.ID_TOO_LONG),
    (0, click(item_id=10**256), Reason.ID_TOO_LONG),
    (0, click(item_id=...), Reason.MISSING_ITEM),
    (0, click(item_id=None, action="cart"), Reason.MISSING_ITEM),
    (0, click(action="jump"), Reason.UNKNOWN_ACTION),
    (0, click(ts="1999-12-31T23:59:59.999Z"), Reason.TIMESTAMP_OUT_OF_RANGE),
    (0, click(ts=NOW_MS + 86_400_001), Reason.TIMESTAMP_OUT_OF_RANGE),
    (0, click(ts=NOW_MS * 1_000), Reason.TIMESTAMP_OUT_OF_RANGE),
    (0, click(ts=0, item_id=..., event_id=10**256), Reason.ID_TOO_LONG),
    (1, purchase(items=[{"item_id": "a"}, {"item_id": 10**256}]), Reason.ID_TOO_LONG),
    (1, purchase(items=[{"item_id": "a"}] * 10_000), Reason.TOO_MANY_ITEMS),
    (1, purchase(items=[]), Reason.NO_ITEMS),
    (2, chat(conversation_id=10**256), Reason.ID_TOO_LONG),
    (2, chat(text="x" * 8_193), Reason.TEXT_TOO_LONG),
    (3, {"customer_id": 10**256}, Reason.ID_TOO_LONG),
    (4, feedback(outcome="loved"), Reason.UNKNOWN_VALUE),
    (4, feedback(outcome=None), Reason.WRONG_TYPE),
    (4, feedback(outcome=...), Reason.MISSING_FIELD),
    (4, feedback(ts=0), Reason.TIMESTAMP_OUT_OF_RANGE),
    (4, feedback(item_id=""), Reason.EMPTY_ID),
    (4, feedback(item_id=10**256), Reason.ID_TOO_LONG),
    (4, feedback(decision_id=10**256), Reason.ID_TOO_LONG),
    (3, {"customer_id": "bob", "region": 5}, Reason.WRONG_TYPE),
    *[(topic, None, Reason.TOMBSTONE) for topic in EVENTS],
    *[(topic, b"", Reason.EMPTY) for topic in EVENTS],
    *[(topic, b'{"zzz":"\xff"}', Reason.INVALID_UTF8) for topic in range(len(DECODERS))],
    *[(topic, b'{"zzz":' + b"[" * 50_000, Reason.TOO_DEEP) for topic in range(len(DECODERS))],
    *[(topic, b'{"zzz":NaN}', Reason.INVALID_JSON) for topic in range(len(DECODERS))],
    *[(topic, b"\0", Reason.INVALID_JSON) for topic in range(len(DECODERS))],
    *[(topic, {}, Reason.MISSING_FIELD) for topic in range(len(DECODERS))],
    *[(topic, {"customer_id": ""}, Reason.EMPTY_ID) for topic in range(len(DECODERS))],
]


@pytest.mark.parametrize(("topic", "poison", "reason"), POISON)
def test_a_poison_record_is_one_reject_and_its_neighbours_are_decoded(
    topic: int, poison: Any, reason: Reason
) -> None:
    decode, good = DECODERS[topic]
    records = chunk(good, poison, poison, good)
    decoded = decode(records)
    assert decoded.columns.positions.tolist() == [0, 3]
    assert decoded.columns.offsets.tolist() == [100, 103]
    assert decoded.columns.customers == ["ada", "ada"]
    for position, refused in zip([1, 2], decoded.rejects, strict=True):
        assert (refused.position, refused.offset) == (position, 100 + position)
        assert (refused.reason, refused.stage) == (reason, reason.stage)
        assert refused.value == records[position].value
        assert 0 < len(refused.error) <= 500


def test_a_foreign_key_is_one_reject() -> None:
    for decode, good in DECODERS:
        records = chunk(good, good, good)
        records[0].key, records[1].key = b"ada", b"bob"
        decoded = decode(records)
        assert decoded.columns.positions.tolist() == [0, 2]
        assert [(r.position, r.reason, r.key) for r in decoded.rejects] == [
            (1, Reason.KEY_MISMATCH, b"bob")
        ]
        assert decoded.rejects[0].stage is Stage.VALIDATE


def test_rejects_of_all_kinds_come_in_the_order_of_offsets() -> None:
    values = [click(ts=0), b"{", click(item_id=...), None, click(), b"", click(ts=0)]
    decoded = decode_clicks(chunk(*values), NOW_MS)
    assert [refused.position for refused in decoded.rejects] == [0, 1, 2, 3, 5, 6]
    assert decoded.columns.positions.tolist() == [4]


def test_only_the_forwarding_header_marks_a_record() -> None:
    records = chunk(b"{", click(), click(), click())
    records[1].headers = [("other", b"")]
    records[2].headers = [("other", b""), (FORWARDED_HEADER, b"1")]
    columns = decode_clicks(records, NOW_MS).columns
    assert columns.already_forwarded.tolist() == [False, True, False]


A, B = encoded(click(event_id="a")), encoded(click(event_id="b"))
pieces = [A, B, A[:20], A[20:], b"", b",", b"\n", b"[", b"]", b"{", b"}", b'"', b"1", b" "]
values_of_pieces = st.lists(st.sampled_from(pieces), max_size=4).map(b"".join)


@unhurried
@given(st.lists(values_of_pieces, min_size=1, max_size=6))
def test_no_value_reaches_into_its_neighbours(values: list[bytes]) -> None:
    decoded = decode_clicks(chunk(*values), NOW_MS)
    alone = [decode_clicks(chunk(value), NOW_MS) for value in values]
    assert decoded.columns.positions.tolist() == [i for i, d in enumerate(alone) if d.columns]
    assert decoded.columns.event_ids == [name for d in alone for name in d.columns.event_ids]
    assert [r.reason for r in decoded.rejects] == [r.reason for d in alone for r in d.rejects]
    whole = [value.strip() in (A, B) for value in values]
    assert [bool(d.columns) for d in alone] == whole


keys = st.none() | st.binary(max_size=5) | st.just(b"ada")
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=5,
)


@unhurried
@given(st.lists(st.tuples(keys, st.none() | st.binary(max_size=40) | st.just(A)), max_size=5))
def test_no_bytes_raise(pairs: list[tuple[bytes | None, bytes | None]]) -> None:
    records = [RawRecord(i, value, key=key) for i, (key, value) in enumerate(pairs)]
    for decode, _ in DECODERS:
        decoded = decode(records)
        positions = [*decoded.columns.positions, *(r.position for r in decoded.rejects)]
        assert sorted(positions) == list(range(len(records)))
    for record in records:
        decode_catalog_item(record)


@unhurried
@given(st.data(), st.sampled_from(range(len(DECODERS))), json_values)
def test_no_value_of_a_field_raises(data: st.DataObject, topic: int, value: Any) -> None:
    decode, good = DECODERS[topic]
    names = ["item_id", "dwell_ms", "context", "sentiment", "signup_ts", "consent", "group", *good]
    name = data.draw(st.sampled_from(names))
    decoded = decode(chunk(good, good | {name: value}, good))
    assert len(decoded.columns) + len(decoded.rejects) == 3
    assert {0, 2} <= set(decoded.columns.positions.tolist())
