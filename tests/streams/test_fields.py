from datetime import UTC, datetime

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streams.fields import (
    AHEAD_MAX_MS,
    EARLIEST_TS_MS,
    Faults,
    check_keys,
    check_times,
    floats_of,
    ids_of,
    optional_ids_of,
    times_of,
)
from streams.rejects import Reason
from tests.streams.raw_records import NOW_MS, RawRecord

names = st.text(st.sampled_from("ab\0é"), min_size=1, max_size=3)


def reasons(faults: Faults) -> dict[int, Reason]:
    return {row: reason for row, (reason, _) in faults.items()}


@given(st.lists(st.tuples(names, names | st.none() | st.just(""))))
def test_a_key_must_name_the_customer_where_there_is_one(
    pairs: list[tuple[str, str | None]],
) -> None:
    keys = [None if key is None else key.encode() for _, key in pairs]
    faults: Faults = {}
    records = [RawRecord(row, b"", key=key) for row, key in enumerate(keys)]
    check_keys(records, [customer for customer, _ in pairs], faults)
    wrong = {row for row, (name, key) in enumerate(pairs) if key is not None and key != name}
    assert reasons(faults) == dict.fromkeys(wrong, Reason.KEY_MISMATCH)


def test_keys_that_agree_only_when_joined_do_not_pass() -> None:
    faults: Faults = {}
    records = [RawRecord(0, b"", key=b"a\0b"), RawRecord(1, b"", key=b"c")]
    check_keys(records, ["a", "b\0c"], faults)
    assert set(faults) == {0, 1}


def test_a_key_that_is_no_text_is_a_mismatch() -> None:
    faults: Faults = {}
    check_keys([RawRecord(0, b"", key=b"\xff")], ["ada"], faults)
    assert reasons(faults) == {0: Reason.KEY_MISMATCH}


@pytest.mark.parametrize(
    ("ts_ms", "accepted"),
    [
        (EARLIEST_TS_MS, True),
        (EARLIEST_TS_MS - 1, False),
        (NOW_MS + AHEAD_MAX_MS, True),
        (NOW_MS + AHEAD_MAX_MS + 1, False),
    ],
)
def test_event_time_is_accepted_up_to_its_bounds(ts_ms: int, accepted: bool) -> None:
    faults: Faults = {}
    check_times(np.array([NOW_MS, ts_ms]), NOW_MS, faults)
    assert reasons(faults) == ({} if accepted else {1: Reason.TIMESTAMP_OUT_OF_RANGE})


def test_times_of_both_kinds_become_milliseconds() -> None:
    times = times_of([5, datetime(1970, 1, 1, 0, 0, 1, tzinfo=UTC)])
    assert times.dtype == np.int64
    assert times.tolist() == [5, 1_000]


def test_integer_ids_become_text_and_too_long_ones_are_found() -> None:
    faults: Faults = {}
    assert ids_of(["a", -5], "event_id", faults) == ["a", "-5"]
    assert optional_ids_of([None, 10**255, "x"], "item_id", faults) == [None, str(10**255), "x"]
    assert faults == {}
    ids_of([1, 10**256], "event_id", faults)
    assert reasons(faults) == {1: Reason.ID_TOO_LONG}


def test_absent_numbers_take_the_default() -> None:
    assert floats_of([None, 2.0, 0.0], absent=1.0).tolist() == [1.0, 2.0, 0.0]
