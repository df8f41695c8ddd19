"""The worker's event loop: uvloop, with connections that break as aiokafka expects.

The system may have closed a connection before anybody was told. Writing to it then raises a
`RuntimeError` in uvloop, where aiokafka takes an `OSError` for a broken connection and any other
error for a reason to end the task that wrote. A client whose metadata task has ended never finds
its coordinator again: its consumer hangs, and does not even learn that the group has given it up.
"""

import asyncio
from typing import Any

import uvloop


class _Line:
    """A transport that says that its connection is closed by `ConnectionResetError`."""

    def __init__(self, transport: Any) -> None:
        self._transport = transport

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write(self, data: Any) -> None:
        """Send data."""
        try:
            self._transport.write(data)
        except RuntimeError as error:
            raise ConnectionResetError(str(error)) from error


class Loop(uvloop.Loop):
    """A loop of uvloop with such transports."""

    async def create_connection(self, *args: Any, **options: Any) -> Any:
        """Connect as uvloop does."""
        transport, protocol = await super().create_connection(*args, **options)
        return _Line(transport), protocol


class LoopPolicy(asyncio.DefaultEventLoopPolicy):
    """Makes such loops, in whatever thread one is asked for."""

    def new_event_loop(self) -> Loop:
        """Return a new loop."""
        return Loop()
