import asyncio
from contextlib import aclosing

import pytest

from streams.errors import TopicsError
from streams.reading import follow, read_to_end
from streams.replay import Line, replay
from streams.settings import Settings
from tests.streams.topics_for_tests import make_topic

LINES = [Line(f"c{number % 7}", b'{"n":%d}' % number, 0) for number in range(500)]


async def test_a_topic_is_read_to_its_true_end(settings: Settings) -> None:
    await make_topic(settings, "reading-end", 3)
    await replay(settings, "reading-end", 3, iter([LINES[:300], LINES[300:]]))
    values = [record.value async for record in read_to_end(settings, "reading-end")]
    assert sorted(values) == sorted(line.value for line in LINES)


async def test_an_empty_topic_has_nothing(settings: Settings) -> None:
    await make_topic(settings, "reading-empty", 2)
    assert [record async for record in read_to_end(settings, "reading-empty")] == []


async def test_a_topic_that_is_not_there_is_an_error(settings: Settings) -> None:
    with pytest.raises(TopicsError):
        await anext(read_to_end(settings, "reading-nowhere"))
    with pytest.raises(TopicsError):
        await anext(follow(settings, "reading-nowhere", from_beginning=True))


async def test_following_from_the_beginning_gives_everything_in_order(settings: Settings) -> None:
    await make_topic(settings, "reading-all", 1)
    await replay(settings, "reading-all", 1, iter([LINES]))
    values = []
    async with aclosing(follow(settings, "reading-all", from_beginning=True)) as records:
        async for record in records:
            values.append(record.value)
            if len(values) == len(LINES):
                break
    assert values == [line.value for line in LINES]


async def test_following_from_now_gives_only_what_comes_after(settings: Settings) -> None:
    await make_topic(settings, "reading-now", 1)
    await replay(settings, "reading-now", 1, iter([LINES]))
    async with aclosing(follow(settings, "reading-now", from_beginning=False)) as records:
        first = asyncio.ensure_future(anext(records))
        # Until the reader is there, there is no "after"; so write until it has seen something.
        number = 0
        while not first.done():
            line = Line("late", b'{"late":%d}' % number, 0)
            await replay(settings, "reading-now", 1, iter([[line]]))
            await asyncio.wait({first}, timeout=0.2)
            number += 1
        assert (await first).value.startswith(b'{"late"')
