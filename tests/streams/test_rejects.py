from typing import Any

import msgspec
import pytest

from streams.records import CatalogItem, Chat, Click, Customer, Feedback, Purchase
from streams.rejects import Reason, RefusedError, Stage, reason_of, reject
from tests.streams.raw_records import NOW_MS, RawRecord, chat, click, encoded, purchase

LINE = {"item_id": "mug"}


def with_lines(*lines: Any) -> dict[str, Any]:
    return purchase(items=list(lines))


VIOLATIONS: list[tuple[type[msgspec.Struct], Any, Reason]] = [
    (Click, click(event_id=...), Reason.MISSING_FIELD),
    (Click, click(event_id=None), Reason.WRONG_TYPE),
    (Click, click(event_id=True), Reason.WRONG_TYPE),
    (Click, click(event_id=1.0), Reason.WRONG_TYPE),
    (Click, click(event_id=""), Reason.EMPTY_ID),
    (Click, click(customer_id="x" * 257), Reason.ID_TOO_LONG),
    (Click, click(item_id=""), Reason.EMPTY_ID),
    (Click, click(action="jump"), Reason.UNKNOWN_ACTION),
    (Click, click(action="View"), Reason.UNKNOWN_ACTION),
    (Click, click(action=1), Reason.WRONG_TYPE),
    (Click, click(ts=1.5), Reason.WRONG_TYPE),
    (Click, click(ts=True), Reason.WRONG_TYPE),
    (Click, click(ts=10**40), Reason.TIMESTAMP_OUT_OF_RANGE),
    (Click, click(ts=-(10**40)), Reason.TIMESTAMP_OUT_OF_RANGE),
    (Click, click(ts="yesterday"), Reason.INVALID_TIMESTAMP),
    (Click, click(ts="2024-01-01T00:00:00"), Reason.INVALID_TIMESTAMP),
    (Click, click(ts="2024-02-30T00:00:00Z"), Reason.INVALID_TIMESTAMP),
    (Click, click(dwell_ms=-1), Reason.NUMBER_OUT_OF_RANGE),
    (Click, click(dwell_ms=10**400), Reason.NUMBER_OUT_OF_RANGE),
    (Click, click(context={"a": [1]}), Reason.WRONG_TYPE),
    (Click, [], Reason.WRONG_TYPE),
    (Click, None, Reason.WRONG_TYPE),
    (Purchase, with_lines(), Reason.NO_ITEMS),
    (Purchase, with_lines(*[LINE] * 1_001), Reason.TOO_MANY_ITEMS),
    (Purchase, with_lines(*[LINE] * 10_000), Reason.TOO_MANY_ITEMS),
    (Purchase, with_lines({}), Reason.MISSING_FIELD),
    (Purchase, with_lines(LINE, 3), Reason.WRONG_TYPE),
    (Purchase, with_lines(LINE, LINE | {"item_id": ""}), Reason.EMPTY_ID),
    (Purchase, with_lines(LINE | {"quantity": 0}), Reason.INVALID_QUANTITY),
    (Purchase, with_lines(LINE | {"quantity": -0.5}), Reason.INVALID_QUANTITY),
    (Purchase, with_lines(LINE | {"quantity": 10**400}), Reason.INVALID_QUANTITY),
    (Purchase, with_lines(LINE | {"quantity": 1e300}), Reason.INVALID_QUANTITY),
    (Purchase, with_lines(LINE | {"quantity": "2"}), Reason.WRONG_TYPE),
    (Purchase, with_lines(LINE | {"unit_price": -0.01}), Reason.INVALID_PRICE),
    (Purchase, with_lines(LINE | {"unit_price": 1e300}), Reason.INVALID_PRICE),
    (Purchase, purchase(promotion="yes"), Reason.WRONG_TYPE),
    (Chat, chat(text="é" * 8_193), Reason.TEXT_TOO_LONG),
    (Chat, chat(sentiment=1.01), Reason.INVALID_SENTIMENT),
    (Chat, chat(sentiment=-1.01), Reason.INVALID_SENTIMENT),
    (Chat, chat(sender="robot"), Reason.UNKNOWN_VALUE),
    (Feedback, click(outcome="?"), Reason.UNKNOWN_VALUE),
    (CatalogItem, {"item_id": "mug", "price": -1}, Reason.INVALID_PRICE),
    (Customer, {"customer_id": "a", "max_messages_per_week": -1}, Reason.NUMBER_OUT_OF_RANGE),
    (Customer, {"customer_id": "a", "consent": {"messages": "no"}}, Reason.WRONG_TYPE),
    (Customer, {"customer_id": "a", "signup_ts": 10**20}, Reason.TIMESTAMP_OUT_OF_RANGE),
]


@pytest.mark.parametrize(("kind", "fields", "reason"), VIOLATIONS)
def test_each_broken_rule_has_its_reason(
    kind: type[msgspec.Struct], fields: Any, reason: Reason
) -> None:
    with pytest.raises(msgspec.ValidationError) as raised:
        msgspec.json.decode(encoded(fields), type=kind)
    assert reason_of(raised.value) is reason
    assert reason.stage is Stage.VALIDATE


MALFORMED: list[tuple[bytes, Reason]] = [
    (b"{", Reason.INVALID_JSON),
    (b" ", Reason.INVALID_JSON),
    (encoded(click()) + b"," + encoded(click()), Reason.INVALID_JSON),
    (b'{"zzz":NaN}', Reason.INVALID_JSON),
    (b'{"zzz":-Infinity}', Reason.INVALID_JSON),
    (b'{"event_id":"\\ud800"}', Reason.INVALID_JSON),
    (b"\xef\xbb\xbf" + encoded(click()), Reason.INVALID_JSON),
    (b'{"event_id":"\xff"}', Reason.INVALID_UTF8),
    (b'{"zzz":' + b"[" * 100_000, Reason.TOO_DEEP),
    (b'{"zzz":' + b'{"a":' * 100_000, Reason.TOO_DEEP),
]


@pytest.mark.parametrize(("value", "reason"), MALFORMED)
def test_what_is_no_json_has_its_reason(value: bytes, reason: Reason) -> None:
    with pytest.raises((ValueError, RecursionError)) as raised:
        msgspec.json.decode(value, type=Click)
    assert reason_of(raised.value) is reason
    assert reason.stage is Stage.DECODE


def test_a_refusal_keeps_its_reason() -> None:
    assert reason_of(RefusedError(Reason.MISSING_KEY, "no key")) is Reason.MISSING_KEY


def test_a_reject_carries_the_record_and_a_bounded_text() -> None:
    record = RawRecord(7, b"{", key=b"ada", timestamp=NOW_MS)
    refused = reject(record, 3, Reason.APPLY_RAISED, "x" * 1_000)
    assert (refused.offset, refused.position, refused.key, refused.value) == (7, 3, b"ada", b"{")
    assert refused.stage is Stage.PROCESS
    assert refused.error == "x" * 500
