"""``crm-streams broker``."""

import asyncio
import contextlib
import signal

import click

DEFAULT_PORT = 9092


@click.command("broker")
@click.option(
    "--port",
    type=click.IntRange(0, 65_535),
    default=DEFAULT_PORT,
    show_default=True,
    help="Port on 127.0.0.1; 0 takes a free one.",
)
def command(port: int) -> None:
    """Run the embedded broker.

    In the foreground, on loopback, all in memory, until Ctrl-C or SIGTERM. Prints its URL.
    """
    asyncio.run(_run(port))


async def _run(port: int) -> None:
    from streams.broker import EmbeddedBroker
    from streams.errors import BrokerError

    loop = asyncio.get_running_loop()
    stopped = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stopped.set)
    async with EmbeddedBroker(port) as broker:
        click.echo(broker.url)
        click.echo("in memory, on loopback only; Ctrl-C stops it", err=True)
        ended = asyncio.ensure_future(broker.wait())
        asked = asyncio.ensure_future(stopped.wait())
        await asyncio.wait({ended, asked}, return_when=asyncio.FIRST_COMPLETED)
        if not stopped.is_set():
            raise BrokerError(f"the embedded broker ended: {broker.last_words()}")
        asked.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await ended
