"""The watchdog: a stall ends the worker, quiet and a broker's silence do not."""

import asyncio
from types import SimpleNamespace
from typing import Any

from faust.types import TP

from streams.admin import create_topics
from streams.errors import StalledError
from streams.settings import Settings
from streams.watchdog import Watchdog
from tests.streams.workers import click, send

CLICKS_0 = TP("clicks", 0)
LIMIT_SECONDS = 60.0


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def engine_of(settings: Settings, durable: dict[TP, int]) -> Any:
    """Return what the watchdog looks at of an engine."""
    engine = SimpleNamespace(
        settings=settings,
        failure=None,
        assigned={0},
        partitions={0: None},
        was_assigned=True,
        next_offsets=lambda: durable,
        durable_offset=durable.get,
    )

    def fail(error: BaseException) -> None:
        engine.failure = error

    engine.fail = fail
    return engine


async def watch(settings: Settings, engine: Any, *looks: tuple[float, int | None]) -> None:
    """Look several times: after so many seconds, with so much durable."""
    await create_topics(settings)
    topic, _, record = click("ada", 1)
    await send(settings.broker, [(topic, b"ada", record)] * 3, partition=0)
    clock = Clock()
    watchdog = Watchdog(engine, clock)
    await watchdog._consumer.start()
    try:
        for seconds, durable in looks:
            clock.now += seconds
            if durable is not None:
                engine.next_offsets()[CLICKS_0] = durable
            await watchdog.look()
        # aiokafka stumbles over a consumer that is stopped in the moment of its start.
        await asyncio.sleep(0.1)
    finally:
        await watchdog._consumer.stop()


async def test_records_waiting_without_progress_end_the_worker(settings: Settings) -> None:
    engine = engine_of(settings, {CLICKS_0: 0})
    await watch(settings, engine, (1, None), (LIMIT_SECONDS + 1, None))
    assert isinstance(engine.failure, StalledError)
    assert "clicks-0" in str(engine.failure)


async def test_a_worker_that_makes_progress_is_left_alone(settings: Settings) -> None:
    engine = engine_of(settings, {CLICKS_0: 0})
    await watch(settings, engine, (1, None), (LIMIT_SECONDS + 1, 1), (LIMIT_SECONDS - 1, None))
    assert engine.failure is None


async def test_a_worker_that_was_idle_for_long_is_not_blamed_when_work_comes(
    settings: Settings,
) -> None:
    engine = engine_of(settings, {CLICKS_0: 10**9})
    await watch(settings, engine, (1, None), (10**6, None), (LIMIT_SECONDS - 1, 0))
    assert engine.failure is None


async def test_a_partition_that_does_not_get_open_ends_the_worker(settings: Settings) -> None:
    engine = engine_of(settings, {})
    engine.assigned = {0, 3}
    await watch(settings, engine, (1, None), (10 * LIMIT_SECONDS + 1, None))
    assert isinstance(engine.failure, StalledError)
    assert "[3]" in str(engine.failure)


async def test_a_group_that_is_never_joined_ends_the_worker(settings: Settings) -> None:
    engine = engine_of(settings, {})
    engine.was_assigned = False
    await watch(settings, engine, (1, None), (10 * LIMIT_SECONDS + 1, None))
    assert isinstance(engine.failure, StalledError)
    assert "not joined" in str(engine.failure)


async def test_one_topic_that_moves_does_not_hide_another_that_is_stuck(
    settings: Settings,
) -> None:
    engine = engine_of(settings, {CLICKS_0: 0, TP("purchases", 0): 0})
    looks = [(1.0, None)] + [(LIMIT_SECONDS / 2, None)] * 3
    moving = iter(range(100))
    offsets: dict[TP, int] = engine.next_offsets()

    def next_offsets() -> dict[TP, int]:
        offsets[TP("purchases", 0)] = -next(moving) - 1
        return offsets

    engine.next_offsets = next_offsets
    await watch(settings, engine, *looks)
    assert isinstance(engine.failure, StalledError)
    assert "clicks-0" in str(engine.failure)
    assert "purchases-0" not in str(engine.failure)
