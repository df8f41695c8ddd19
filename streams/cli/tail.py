"""``crm-streams tail``."""

import asyncio
import contextlib
from typing import Any

import click

from streams.cli.options import settings_options
from streams.settings import Settings


@click.command("tail")
@click.argument("topic")
@click.option("-n", "limit", type=click.IntRange(1), metavar="N", help="Stop after N records.")
@click.option("--from-beginning", is_flag=True, help="Start with the oldest record, not from now.")
@click.option("--customer", metavar="ID", help="Only records of this customer.")
@settings_options("broker")
def command(
    settings: Settings, topic: str, limit: int | None, from_beginning: bool, customer: str | None
) -> None:
    """Print records of a topic as JSON lines.

    Follows TOPIC until N records were printed, or until Ctrl-C. A record that is not JSON is
    printed as a JSON string, a tombstone as null.
    """
    asyncio.run(_tail(settings, topic, limit, from_beginning, customer))


async def _tail(
    settings: Settings, topic: str, limit: int | None, from_beginning: bool, customer: str | None
) -> None:
    from streams.reading import follow

    printed = 0
    # Closed here and not by the garbage collector, which would leave its connection open.
    async with contextlib.aclosing(
        follow(settings, topic, from_beginning=from_beginning)
    ) as records:
        async for record in records:
            if customer is not None and not _is_about(record, customer):
                continue
            click.echo(json_line(record.value))
            printed += 1
            if printed == limit:
                return


def _is_about(record: Any, customer: str) -> bool:
    """Tell whether a record is keyed by a customer, or is the dead letter of one that was."""
    import orjson

    wanted = customer.encode()
    if record.key == wanted:
        return True
    if record.topic != "dead-letters" or wanted not in (record.value or b""):
        return False
    letter = orjson.loads(record.value)
    return bool(letter.get("key") == customer)


def json_line(value: bytes | None) -> bytes:
    """Return a record's value as one line of JSON.

    Examples
    --------
    >>> json_line(b'{"a": 1}'), json_line(b"{bad"), json_line(None)
    (b'{"a": 1}', b'"{bad"', b'null')
    """
    import orjson

    if value is None:
        return b"null"
    try:
        parsed = orjson.loads(value)
    except orjson.JSONDecodeError:
        return orjson.dumps(value.decode("utf-8", "replace"))
    # As it is, where possible: numbers keep their digits.
    return orjson.dumps(parsed) if b"\n" in value or b"\r" in value else value
