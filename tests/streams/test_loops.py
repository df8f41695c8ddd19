"""Connections that break under a write must look broken, and not end the one who wrote."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import uvloop
from aiokafka.conn import AIOKafkaConnection
from aiokafka.errors import KafkaConnectionError
from aiokafka.protocol.admin import ApiVersionRequest

from streams.loops import Loop, LoopPolicy


def on_a_closed_line(
    loop: asyncio.AbstractEventLoop, deed: Callable[[Any, Any], Awaitable[None]]
) -> None:
    """Connect to a server, have the connection closed, and do something as if it were not."""

    async def hang_up(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()
        await writer.wait_closed()

    async def run() -> None:
        server = await asyncio.start_server(hang_up, "127.0.0.1", 0)
        host, port = server.sockets[0].getsockname()
        reader, writer = await asyncio.open_connection(host, port)
        writer.transport.abort()
        await asyncio.sleep(0.05)
        try:
            await deed(reader, writer)
        finally:
            server.close()
            await server.wait_closed()

    try:
        loop.run_until_complete(run())
    finally:
        loop.close()


async def write(_: Any, writer: Any) -> None:
    writer.write(b"x")


def test_a_write_to_a_connection_that_is_closed_already_says_that_it_is_broken() -> None:
    with pytest.raises(ConnectionResetError, match="closed"):
        on_a_closed_line(Loop(), write)


def test_uvloop_says_it_in_a_way_that_aiokafka_does_not_understand() -> None:
    # When this fails, `streams.loops` has become needless.
    with pytest.raises(RuntimeError, match="closed"):
        on_a_closed_line(uvloop.Loop(), write)


def test_aiokafka_takes_such_a_connection_for_broken() -> None:
    async def send(reader: Any, writer: Any) -> None:
        connection = AIOKafkaConnection("127.0.0.1", 1)
        connection._reader, connection._writer = reader, writer
        connection._read_task = connection._create_reader_task()
        with pytest.raises(KafkaConnectionError, match="broken"):
            await connection.send(ApiVersionRequest())

    on_a_closed_line(Loop(), send)


def test_data_go_through_and_every_thread_gets_such_a_loop() -> None:
    loop = LoopPolicy().new_event_loop()
    assert isinstance(loop, Loop)

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(await reader.readexactly(4))
        await writer.drain()
        writer.close()

    async def run() -> bytes:
        server = await asyncio.start_server(echo, "127.0.0.1", 0)
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        writer.write(b"ping")
        answer = await reader.read()
        writer.close()
        await writer.wait_closed()
        server.close()
        await server.wait_closed()
        return answer

    try:
        assert loop.run_until_complete(run()) == b"ping"
    finally:
        loop.close()
