"""The watchdog: a stall ends the worker, quiet and a broker's silence do not."""

import asyncio
import time
from types import SimpleNamespace
from typing import Any

from faust.types import TP

from streams.admin import create_topics
from streams.duties import Watchdog
from streams.errors import StalledError
from streams.settings import Settings
from tests.streams.workers import click, send


def engine_at(settings: Settings, offsets: dict[TP, int], quiet_seconds: float) -> Any:
    """Return what the watchdog looks at of an engine."""
    engine = SimpleNamespace(
        settings=settings,
        failure=None,
        last_progress=time.monotonic() - quiet_seconds,
        next_offsets=lambda: offsets,
    )

    def fail(error: BaseException) -> None:
        engine.failure = error

    engine.fail = fail
    return engine


async def looked_at(settings: Settings, waiting: bool, quiet_seconds: float) -> Any:
    await create_topics(settings)
    topic, _, record = click("ada", 1)
    await send(settings.broker, [(topic, b"ada", record)], partition=0)
    position = 0 if waiting else 10**6
    engine = engine_at(settings, {TP("clicks", 0): position}, quiet_seconds)
    watchdog = Watchdog(engine)
    await watchdog._consumer.start()
    try:
        await watchdog._look()
        # aiokafka stumbles over a consumer that is stopped in the moment of its start.
        await asyncio.sleep(0.1)
    finally:
        await watchdog._consumer.stop()
    return engine


async def test_records_waiting_without_progress_end_the_worker(settings: Settings) -> None:
    engine = await looked_at(settings, True, 10_000)
    assert isinstance(engine.failure, StalledError)
    assert "clicks-0" in str(engine.failure)


async def test_a_worker_that_made_progress_lately_is_left_alone(settings: Settings) -> None:
    assert (await looked_at(settings, True, 0)).failure is None


async def test_a_worker_with_nothing_to_do_is_left_alone(settings: Settings) -> None:
    assert (await looked_at(settings, False, 10_000)).failure is None
