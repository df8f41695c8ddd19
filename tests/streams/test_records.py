from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streams.records import (
    Activity,
    CatalogItem,
    Chat,
    Click,
    Customer,
    Feedback,
    PrivacyRequest,
    Purchase,
    Rule,
    milliseconds_of,
    text_of,
)
from tests.streams.raw_records import NOW_MS, chat, click, encoded, purchase

EVENT = {"event_id": "e-1", "customer_id": "ada", "ts": NOW_MS}
MINIMAL: list[tuple[type[msgspec.Struct], dict[str, Any]]] = [
    (Click, EVENT | {"action": "search"}),
    (Purchase, EVENT | {"items": [{"item_id": "mug"}]}),
    (Chat, EVENT | {"text": ""}),
    (CatalogItem, {"item_id": "mug"}),
    (Customer, {"customer_id": "ada"}),
    (Rule, {"rule_id": "r", "action": "exclude"}),
    (Activity, EVENT | {"deal_id": "d-1"}),
    (Feedback, EVENT | {"outcome": "impression"}),
    (PrivacyRequest, {"request_id": "r", "customer_id": "ada", "ts": NOW_MS, "kind": "erase"}),
]


@pytest.mark.parametrize(("kind", "fields"), MINIMAL)
def test_required_fields_are_enough_and_each_is_required(
    kind: type[msgspec.Struct], fields: dict[str, Any]
) -> None:
    msgspec.json.decode(encoded(fields), type=kind)
    for name in fields:
        rest = {other: value for other, value in fields.items() if other != name}
        with pytest.raises(msgspec.ValidationError, match=f"missing required field `{name}`"):
            msgspec.json.decode(encoded(rest), type=kind)


@pytest.mark.parametrize(("kind", "fields"), MINIMAL)
def test_unknown_fields_are_ignored_and_null_counts_as_absent(
    kind: type[msgspec.Struct], fields: dict[str, Any]
) -> None:
    optional = {name: None for name in kind.__struct_fields__ if name not in fields}
    plain = msgspec.json.decode(encoded(fields), type=kind)
    assert msgspec.json.decode(encoded(fields | optional | {"zzz": [1, {}]}), type=kind) == plain


FULL: list[tuple[type[msgspec.Struct], dict[str, Any]]] = [
    (
        Click,
        click(
            channel="web",
            session_id="s",
            dwell_ms=1.5,
            query="red",
            context={"a": 1, "b": "x", "c": None, "d": True, "e": 0.5},
        ),
    ),
    (
        Purchase,
        purchase(
            order_id="o", currency="EUR", promotion=True, payment_method="card", channel="web"
        ),
    ),
    (
        Chat,
        chat(conversation_id="c", sender="bot", language="en", sentiment=-1, intent="refund"),
    ),
    (
        Customer,
        {
            "customer_id": "ada",
            "age_group": "30s",
            "region": "north",
            "membership_level": "gold",
            "signup_ts": 1,
            "group": {"a": "b"},
            "consent": {"recommendations": True, "messages": False, "profiling": True},
            "max_messages_per_week": 3,
        },
    ),
    (
        CatalogItem,
        {
            "item_id": "mug",
            "title": "Mug",
            "category": "kitchen",
            "tags": ["red"],
            "price": 4.5,
            "available": False,
            "attributes": {"size": [1, 2]},
        },
    ),
    (
        Rule,
        {
            "rule_id": "spring",
            "action": "pin",
            "item_id": "mug",
            "category": "kitchen",
            "tag": "red",
            "segment": "champions",
            "customer_id": "ada",
            "factor": 1.5,
            "position": 2,
            "valid_from": 1,
            "valid_until": 2,
        },
    ),
    (
        Activity,
        EVENT
        | {"deal_id": "d", "stage": "quotation", "type": "call", "note": "x", "amount": 5.0}
        | {"level": "warm"},
    ),
    (
        Feedback,
        EVENT
        | {"outcome": "click", "recommendation_id": "r", "decision_id": "d", "item_id": "mug"}
        | {"value": -2.0},
    ),
]


@pytest.mark.parametrize(("kind", "fields"), FULL)
def test_every_field_of_the_contract_is_read(
    kind: type[msgspec.Struct], fields: dict[str, Any]
) -> None:
    decoded = msgspec.json.decode(encoded(fields), type=kind)
    assert msgspec.to_builtins(decoded) == fields
    assert set(kind.__struct_fields__) == set(fields)


@pytest.mark.parametrize(
    ("text", "milliseconds"),
    [
        ("2024-01-01T00:00:00Z", 1_704_067_200_000),
        ("2024-01-01t00:00:00z", 1_704_067_200_000),
        ("2024-01-01 00:00:00Z", 1_704_067_200_000),
        ("2024-01-01T05:30:00+05:30", 1_704_067_200_000),
        ("2023-12-31T16:00:00-08:00", 1_704_067_200_000),
        ("2024-01-01T00:00:00-00:00", 1_704_067_200_000),
        ("2024-01-01T00:00:00.5Z", 1_704_067_200_500),
        ("2024-01-01T00:00:00.123Z", 1_704_067_200_123),
        ("2024-01-01T00:00:00.123456Z", 1_704_067_200_123),
        ("2024-01-01T00:00:00.123456789Z", 1_704_067_200_123),
        ("1969-12-31T23:59:59.9995Z", -1),
        ("9999-12-31T23:59:59-23:59", 253_402_387_139_000),
        ("0001-01-01T00:00:00+23:59", -62_135_683_140_000),
    ],
)
def test_an_rfc_3339_time_is_read_to_the_millisecond(text: str, milliseconds: int) -> None:
    decoded = msgspec.json.decode(encoded(click(ts=text)), type=Click)
    assert milliseconds_of(decoded.ts) == milliseconds


@given(st.datetimes(timezones=st.just(UTC)))
def test_any_time_with_a_zone_survives(moment: datetime) -> None:
    decoded = msgspec.json.decode(encoded(click(ts=moment.isoformat())), type=Click)
    epoch = datetime(1970, 1, 1, tzinfo=UTC)
    expected = (moment - epoch).days * 86_400_000 + (moment - epoch).seconds * 1_000
    assert milliseconds_of(decoded.ts) == expected + moment.microsecond // 1_000


@given(st.integers(-(10**255), 10**256 - 1))
def test_an_integer_is_read_as_its_decimal_string(number: int) -> None:
    decoded = msgspec.json.decode(b'{"item_id":%d}' % number, type=CatalogItem)
    assert text_of(decoded.item_id) == str(number)
