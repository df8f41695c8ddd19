"""Chunks: what they hold, what they cover, how they are bounded."""

from types import SimpleNamespace
from typing import Any

from faust.types import TP
from hypothesis import given
from hypothesis import strategies as st

from streams.transport import BatchConsumerThread, cut, interleave

CLICKS_0 = TP("clicks", 0)


def record(offset: int, size: int = 10) -> Any:
    return SimpleNamespace(offset=offset, key=b"", value=b"x" * size)


class AssignedConsumer:
    def __init__(self, highwater: int | None) -> None:
        self._highwater = highwater
        self.sought: list[tuple[TP, int]] = []

    def assignment(self) -> set[TP]:
        return {CLICKS_0}

    def highwater(self, tp: TP) -> int | None:
        return self._highwater

    def seek(self, tp: TP, offset: int) -> None:
        self.sought.append((tp, offset))


def consumer_thread(chunk_records: int = 100, chunk_bytes: int = 10_000) -> Any:
    """Return a thread object that never ran: only what covers and seeks is looked at."""
    thread = BatchConsumerThread.__new__(BatchConsumerThread)
    thread._covered = {}
    thread._generation = 1
    thread.app = SimpleNamespace(
        chunk_records=chunk_records, chunk_bytes=chunk_bytes, consumer_generation_id=1
    )  # type: ignore[assignment] # all that covering asks of it
    thread.consumer = SimpleNamespace(_read_offset={})  # type: ignore[assignment] # likewise
    return thread


@given(
    st.lists(st.integers(0, 50), min_size=1, max_size=60),
    st.integers(1, 10),
    st.integers(1, 120),
)
def test_cutting_keeps_every_record_in_order_within_both_bounds(
    sizes: list[int], most_records: int, most_bytes: int
) -> None:
    records = [record(offset, size) for offset, size in enumerate(sizes)]
    runs = list(cut(records, most_records, most_bytes))
    assert [each for run in runs for each in run] == records
    for run in runs:
        assert 1 <= len(run) <= most_records
        assert len(run) == 1 or sum(len(each.value) for each in run) <= most_bytes


def test_partitions_take_turns_so_that_none_starves_another() -> None:
    fetched = {TP("clicks", 0): ["a", "b", "c"], TP("chats", 0): ["x"]}
    assert [item for _, item in interleave(fetched)] == ["a", "x", "b", "c"]


def test_a_chunk_starts_where_the_one_before_it_ended_even_over_offsets_without_records() -> None:
    thread = consumer_thread()
    consumer = AssignedConsumer(highwater=30)
    first = thread._cover(consumer, CLICKS_0, [record(5), record(6)])
    second = thread._cover(consumer, CLICKS_0, [record(9), record(10)])
    assert [(chunk.start, chunk.end) for chunk in first + second] == [(5, 7), (7, 11)]
    assert second[0].highwater == 30


async def test_after_a_seek_a_chunk_starts_where_the_seek_went() -> None:
    thread = consumer_thread()
    consumer = AssignedConsumer(highwater=None)
    thread._cover(consumer, CLICKS_0, [record(100)])
    thread._ensure_consumer = lambda: consumer
    await thread._reposition({CLICKS_0: 40, TP("clicks", 7): 3})
    assert consumer.sought == [(CLICKS_0, 40)]
    assert thread.consumer._read_offset == {CLICKS_0: 40}
    (chunk,) = thread._cover(consumer, CLICKS_0, [record(42)])
    assert (chunk.start, chunk.end, chunk.highwater) == (40, 43, 43)


def test_many_records_become_several_chunks_without_a_hole_between_them() -> None:
    thread = consumer_thread(chunk_records=2)
    chunks = thread._cover(AssignedConsumer(20), CLICKS_0, [record(n) for n in (0, 1, 4, 5, 6)])
    assert [(chunk.start, chunk.end) for chunk in chunks] == [(0, 2), (2, 6), (6, 7)]


def test_after_a_rebalance_nothing_counts_as_covered_by_what_was_read_before() -> None:
    thread = consumer_thread()
    consumer = AssignedConsumer(highwater=600)
    thread._cover(consumer, CLICKS_0, [record(99)])
    thread.app.consumer_generation_id = 2
    thread._forget_other_generations()
    (chunk,) = thread._cover(consumer, CLICKS_0, [record(500)])
    assert (chunk.start, chunk.end) == (500, 501)


def test_offsets_passed_without_a_record_are_covered_by_an_empty_chunk() -> None:
    thread = consumer_thread()
    consumer: Any = AssignedConsumer(highwater=8)
    thread._cover(consumer, CLICKS_0, [record(5)])
    state = SimpleNamespace(has_valid_position=True, position=8, highwater=8)
    assignment = SimpleNamespace(state_value=lambda tp: state)
    consumer._subscription = SimpleNamespace(subscription=SimpleNamespace(assignment=assignment))
    (chunk,) = thread._cover_nothing(consumer, CLICKS_0)
    assert (chunk.start, chunk.end, chunk.records) == (6, 8, ())
    assert thread._cover_nothing(consumer, CLICKS_0) == []
