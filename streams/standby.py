"""Warm copies: the recovery reader left running on partitions that other workers process."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Set
from typing import TYPE_CHECKING

import numpy as np
from aiokafka.errors import KafkaError

from streams.errors import BrokerError
from streams.recovery import ChangelogReader, reader_of, require_copied
from streams.threads import in_thread

if TYPE_CHECKING:
    from streams.loading import Promise
    from streams.settings import Settings
    from streams.stores import Stores

log = logging.getLogger(__name__)

LOOK_SECONDS = 0.5
"""Between two looks at the end of a changelog that was read to its end."""
RETRY_SECONDS = 2.0


class Standby:
    """Keeps local stores of other workers' partitions close behind the changelog.

    Taking over then needs only what came since the last look. A partition's store is shared with
    the engine: `leave` returns when nothing here touches it any more.

    Parameters
    ----------
    settings, stores, promise
        The worker's.
    layout
        Of a row.
    fail
        Told of an error after which the worker cannot go on, as when the disk fails.
    """

    def __init__(
        self,
        settings: Settings,
        layout: np.dtype[np.void],
        stores: Stores,
        promise: Promise,
        fail: Callable[[BaseException], None],
    ) -> None:
        self._settings = settings
        self._layout = layout
        self._stores = stores
        self._promise = promise
        self._fail = fail
        self._wanted: Set[int] = frozenset()
        self._tasks: dict[int, asyncio.Task[None]] = {}

    def __contains__(self, number: object) -> bool:
        """Tell whether a copy of a partition is to be kept here."""
        return number in self._wanted

    def follow(self, numbers: Set[int]) -> None:
        """Keep copies of exactly the partitions in `numbers`.

        The stores of those left behind stay open; whoever calls this closes or opens them, after
        `leave`.
        """
        self._wanted = numbers
        for number in set(self._tasks) - numbers:
            self._tasks[number].cancel()
        for number in numbers:
            before = self._tasks.get(number)
            if before is None or before.done() or before.cancelling():
                task = asyncio.ensure_future(self._follow(number, before))
                task.add_done_callback(self._on_done)
                self._tasks[number] = task

    def _on_done(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            self._fail(error)

    async def leave(self, number: int) -> None:
        """Stop following a partition, and wait until its store is free."""
        task = self._tasks.pop(number, None)
        if task is not None:
            if not task.cancelling():
                task.cancel()
            await asyncio.wait({task})

    async def stop(self) -> None:
        """Leave every partition."""
        for number in list(self._tasks):
            await self.leave(number)

    async def _follow(self, number: int, before: asyncio.Task[None] | None) -> None:
        if before is not None:
            await asyncio.wait({before})
        log.info("partition %d: keeping a standby copy", number)
        while True:
            try:
                await self._read(number)
            except (KafkaError, BrokerError) as error:
                log.warning("standby of partition %d: %r; trying again", number, error)
                await asyncio.sleep(RETRY_SECONDS)

    async def _read(self, number: int) -> None:
        """Read for ever, or until an error."""
        promise = self._promise
        async with self._stores.lock(number):
            await in_thread(self._stores.open, number)
        async with reader_of(self._settings, number, self._layout, promise.on_step) as reader:
            while True:
                await self._catch_up(number, reader)
                await asyncio.sleep(LOOK_SECONDS)

    async def _catch_up(self, number: int, reader: ChangelogReader) -> None:
        bounds = await reader.bounds(self._promise.tombstones_ms)
        store = self._stores.get(number)
        require_copied(store, number)
        complaint = bounds.complaint(store.changelog_position)
        if complaint is not None:
            store = await in_thread(self._stores.replace, number, complaint)
        await reader.read(store, None, bounds, lambda _: None)
