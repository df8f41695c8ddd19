"""A worker whose consumer breaks in a way that nobody foresaw, once it has been fetching."""

from collections.abc import AsyncIterator
from typing import Any

from streams.settings import load_here
from streams.transport import BatchConsumer
from streams.worker import Worker

original = BatchConsumer.getmany


async def break_on_news(
    self: BatchConsumer,
    timeout: float,  # noqa: ASYNC109 - Faust's name
) -> AsyncIterator[Any]:
    async for item in original(self, timeout):
        yield item
        raise ZeroDivisionError("the fetcher broke")


if __name__ == "__main__":
    BatchConsumer.getmany = break_on_news  # type: ignore[method-assign] # what the test is about
    Worker(load_here({})).run()
