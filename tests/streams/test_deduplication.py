"""Repeated events: recognised while they are in the window, in one batch or in many."""

from collections import deque

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from streams.deduplication import ROW_DTYPE, WINDOW, take_fresh


@given(
    st.lists(st.tuples(st.integers(0, 2), st.integers(1, 60)), max_size=300),
    st.sampled_from(sorted(WINDOW)),
    st.integers(1, 40),
)
def test_an_event_is_fresh_unless_its_id_is_among_the_customers_last(
    events: list[tuple[int, int]], topic: str, batch: int
) -> None:
    rows = np.zeros(3, ROW_DTYPE)
    windows: list[deque[int]] = [deque(maxlen=WINDOW[topic]) for _ in range(3)]
    found: list[bool] = []
    for start in range(0, len(events), batch):
        part = events[start : start + batch]
        slots = np.array([slot for slot, _ in part], np.int64)
        keys = np.array([key for _, key in part], np.uint64)
        found += take_fresh(rows, topic, slots, keys).tolist()
    expected = []
    for slot, key in events:
        expected.append(key not in windows[slot])
        if expected[-1]:
            windows[slot].append(key)
    assert found == expected


def test_topics_do_not_crowd_each_other_out() -> None:
    rows = np.zeros(1, ROW_DTYPE)
    slot, key = np.zeros(1, np.int64), np.array([99], np.uint64)
    assert take_fresh(rows, "purchases", slot, key).all()
    clicks = np.arange(1, 200, dtype=np.uint64)
    take_fresh(rows, "clicks", np.zeros(len(clicks), np.int64), clicks)
    assert not take_fresh(rows, "purchases", slot, key).any()
