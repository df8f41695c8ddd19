"""An event loop whose power can be cut: from that moment on nothing of it reaches broker or disk.

This is how the chaos harness kills an engine in this process as ``kill -9`` kills one in its own:
connections end without a word, what is in memory is gone, and only disk writes that were under way
in a thread may still be completed, as they may be by the operating system.
"""

import asyncio
import weakref
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any

THREADS = 8
UNWIND_SECONDS = 3.0


class PowerCutError(BaseException):
    """The power is off; not an `Exception`, so that no handler takes it for a mishap."""


class MortalLoop(asyncio.SelectorEventLoop):
    """A loop with its own threads, for use in a thread of its own.

    Attributes
    ----------
    is_dead
        Whether the power was cut.
    """

    def __init__(self) -> None:
        super().__init__()
        self.is_dead = False
        self._lines: weakref.WeakSet[asyncio.BaseTransport] = weakref.WeakSet()
        self._threads = ThreadPoolExecutor(THREADS)
        self.set_default_executor(self._threads)

    async def create_connection(self, *args: Any, **options: Any) -> Any:
        """Connect as any loop does, while there is power."""
        self.require_power()
        transport, protocol = await super().create_connection(*args, **options)
        self._lines.add(transport)
        self.require_power()
        return transport, protocol

    def require_power(self) -> None:
        """Raise `PowerCutError` where there is none."""
        if self.is_dead:
            raise PowerCutError

    def cut_power(self) -> None:
        """End everything at once; for calls from the loop's own thread.

        The caller should go on with `require_power`.
        """
        self.is_dead = True
        for line in list(self._lines):
            if isinstance(line, asyncio.WriteTransport):
                line.abort()
        self._threads.shutdown(wait=False, cancel_futures=True)
        self.stop()

    def live(self, life: Callable[[], Coroutine[Any, Any, None]]) -> BaseException | None:
        """Run `life` to its end, or to the end of power; return what it raised."""
        task = self.create_task(life())
        task.add_done_callback(lambda _: None if self.is_dead else self.stop())
        self.run_forever()
        self._threads.shutdown(wait=True)
        if self.is_dead:
            self._unwind()
            return None
        return task.exception()

    def _unwind(self) -> None:
        """Let what was running fall, so that it leaves no memory behind; none of it can do harm."""
        self.set_exception_handler(lambda *_: None)
        tasks = asyncio.all_tasks(self)
        for task in tasks:
            task.cancel()
        if tasks:
            self.run_until_complete(asyncio.wait(tasks, timeout=UNWIND_SECONDS))
