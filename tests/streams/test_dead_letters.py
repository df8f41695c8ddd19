import base64
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streams.dead_letters import (
    KEY_MAX_BYTES,
    TRACEBACK_MAX_CHARACTERS,
    VALUE_MAX_BYTES,
    Replay,
    dead_letter,
    parse_dead_letter,
    replay_of,
)
from streams.errors import ReplayError
from streams.rejects import Reason


def written(**changes: Any) -> bytes:
    fields: dict[str, Any] = {
        "topic": "clicks",
        "partition": 3,
        "offset": 42,
        "key": b"ada",
        "value": b'{"a":1}',
        "reason": Reason.MISSING_FIELD,
        "error": "Object missing required field `event_id`",
        "ts_ms": 1_700_000_000_000,
    }
    return dead_letter(**(fields | changes))[1]


def test_a_letter_has_the_fields_of_the_contract() -> None:
    assert json.loads(written(traceback="Traceback: x")) == {
        "id": "clicks-3-42",
        "topic": "clicks",
        "partition": 3,
        "offset": 42,
        "ts": 1_700_000_000_000,
        "stage": "validate",
        "reason": "missing_field",
        "error": "Object missing required field `event_id`",
        "key": "ada",
        "key_bytes": 3,
        "value": base64.b64encode(b'{"a":1}').decode(),
        "value_bytes": 7,
        "traceback": "Traceback: x",
    }


def test_the_id_follows_from_where_the_record_lies_alone() -> None:
    assert parse_dead_letter(written()).id == parse_dead_letter(written(ts_ms=5, error="x")).id
    others = [written(topic="chats"), written(partition=4), written(offset=43), written()]
    assert len({parse_dead_letter(letter).id for letter in others}) == 4


@given(st.none() | st.binary(max_size=50), st.none() | st.binary(max_size=200), st.text())
def test_a_whole_record_comes_back_as_it_was(
    key: bytes | None, value: bytes | None, error: str
) -> None:
    letter = written(key=key, value=value, error=error)
    assert replay_of(letter) == Replay("clicks", key, value)


@pytest.mark.parametrize("key", [b"base64:", b"base64:YWRh", b"\xff\xfe", "żółw".encode(), b""])
def test_a_key_that_looks_like_the_mark_or_is_no_text_comes_back(key: bytes) -> None:
    assert replay_of(written(key=key)).key == key


def test_a_value_at_the_bound_is_whole_and_one_byte_more_is_cut() -> None:
    whole = b"x" * VALUE_MAX_BYTES
    assert replay_of(written(value=whole)).value == whole
    cut = parse_dead_letter(written(value=whole + b"y"))
    assert cut.value is not None
    assert base64.b64decode(cut.value) == whole
    assert cut.value_bytes == VALUE_MAX_BYTES + 1
    with pytest.raises(ReplayError, match="holds 262144 of the value's 262145 bytes"):
        replay_of(written(value=whole + b"y"))


def test_a_key_that_was_cut_is_not_replayed() -> None:
    with pytest.raises(ReplayError, match="of the key's 4097 bytes"):
        replay_of(written(key=b"k" * (KEY_MAX_BYTES + 1)))


def test_the_largest_letter_fits_into_a_record() -> None:
    letter = written(
        key=b"\0" * 10**6, value=b"v" * 10**6, error="\0" * 10**6, traceback="\0" * 10**6
    )
    assert len(letter) < 1_000_000 / 2
    parsed = parse_dead_letter(letter)
    assert len(parsed.error) == 500
    assert len(parsed.traceback or "") == TRACEBACK_MAX_CHARACTERS


def test_the_end_of_a_traceback_is_kept() -> None:
    parsed = parse_dead_letter(written(traceback="x" * 10_000 + "ValueError: here"))
    assert parsed.traceback is not None
    assert parsed.traceback.endswith("ValueError: here")


def test_text_that_utf8_cannot_carry_is_written_all_the_same() -> None:
    parsed = parse_dead_letter(written(error="file \udcff", traceback="\ud800"))
    assert parsed.error == "file \\udcff"
    assert parsed.traceback == "\\ud800"


@pytest.mark.parametrize(
    "letter", [b"", b"{}", b"[]", b"\xff", b"[" * 100_000, written()[:-5], b'{"id":"x"}']
)
def test_what_is_no_letter_says_so(letter: bytes) -> None:
    with pytest.raises(ReplayError, match="not a dead letter"):
        replay_of(letter)


def test_damaged_base64_says_so() -> None:
    fields = json.loads(written())
    with pytest.raises(ReplayError, match="base64 is damaged"):
        replay_of(json.dumps(fields | {"value": "a"}).encode())
    with pytest.raises(ReplayError, match="base64 is damaged"):
        replay_of(json.dumps(fields | {"value": "é==="}).encode())
