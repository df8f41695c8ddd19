"""Blocking work in a thread, waited for to its end."""

import asyncio
import logging
from collections.abc import Callable
from typing import ParamSpec, TypeVar

log = logging.getLogger(__name__)

Params = ParamSpec("Params")
Result = TypeVar("Result")


async def in_thread(
    function: Callable[Params, Result], *args: Params.args, **kwargs: Params.kwargs
) -> Result:
    """Run `function` in a thread; a caller who is cancelled waits for its end all the same.

    A thread cannot be stopped. What it works on must not be closed or read under its hands.
    """
    work = asyncio.ensure_future(asyncio.to_thread(function, *args, **kwargs))
    cancelled: asyncio.CancelledError | None = None
    while not work.done():
        try:
            await asyncio.wait({work})
        except asyncio.CancelledError as error:  # it may come more than once
            cancelled = error
    if cancelled is None:
        return work.result()
    if (failure := work.exception()) is not None:
        log.error("%s, whose caller was cancelled, raised", function.__name__, exc_info=failure)
    raise cancelled
