"""Event time: the watermark and the sweeps that hang on it."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from state.partition import Progress
from streams.watermarks import advance, runs_between_boundaries, sweep_due

DAY_MS = 86_400_000
TOPICS = ("clicks", "purchases", "chats")


def test_a_backlog_of_one_topic_holds_the_watermark_back() -> None:
    progress = Progress(offsets={"clicks": 5, "purchases": 1}, max_ts_ms={"clicks": 500})
    progress.max_ts_ms["purchases"] = 9000
    advance(progress, {"clicks": 10, "purchases": 1}, TOPICS, 100)
    assert progress.watermark_ms == 400


def test_a_backlog_that_nobody_has_looked_at_yet_holds_the_watermark_at_the_start() -> None:
    progress = Progress(offsets={"clicks": 5}, max_ts_ms={"clicks": 500})
    advance(progress, {"clicks": 5, "purchases": 7}, TOPICS, 100)
    assert progress.watermark_ms == 0


@given(st.lists(st.tuples(st.sampled_from(TOPICS), st.integers(0, 10**6)), max_size=50))
def test_the_watermark_never_goes_back(seen: list[tuple[str, int]]) -> None:
    progress = Progress()
    ends = {topic: len(seen) for topic in TOPICS}
    before = progress.watermark_ms
    for topic, ts_ms in seen:
        newest = progress.max_ts_ms.get(topic, 0)
        progress.max_ts_ms[topic] = max(newest, ts_ms)
        progress.offsets[topic] = progress.offsets.get(topic, 0) + 1
        advance(progress, ends, TOPICS, 1000)
        assert progress.watermark_ms >= before
        before = progress.watermark_ms


def test_a_sweep_is_due_once_per_boundary_and_not_at_the_first_sight_of_time() -> None:
    progress = Progress()
    progress.watermark_ms = 10 * DAY_MS + 5
    assert sweep_due(progress, DAY_MS) is None
    progress.watermark_ms = 11 * DAY_MS
    assert sweep_due(progress, DAY_MS) == 11 * DAY_MS
    assert sweep_due(progress, DAY_MS) is None
    progress.watermark_ms = 40 * DAY_MS + 1
    assert sweep_due(progress, DAY_MS) == 40 * DAY_MS


@given(st.lists(st.integers(0, 6 * DAY_MS), min_size=1, max_size=40))
def test_runs_hold_every_row_once_and_cut_where_a_day_is_first_reached(ts: list[int]) -> None:
    runs = runs_between_boundaries(np.array(ts, np.int64), DAY_MS)
    assert np.concatenate(runs).tolist() == list(range(len(ts)))
    days = np.maximum.accumulate(ts) // DAY_MS
    assert [len(set(days[run])) for run in runs] == [1] * len(runs)
    assert len(runs) == len(set(days.tolist()))
