"""``crm-streams dead-letters``."""

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import click

from streams.cli.options import settings_options
from streams.errors import PublishError, ReplayError
from streams.settings import Settings

if TYPE_CHECKING:
    from streams.dead_letters import DeadLetter

_SELECTION = (
    click.option("--topic", metavar="T", help="Only records of this source topic."),
    click.option("--id", "identifier", metavar="ID", help="Only the letter with this id."),
)


def _selection(function: Callable[..., None]) -> Callable[..., None]:
    for option in reversed(_SELECTION):
        function = option(function)
    return function


@click.group("dead-letters")
def command() -> None:
    """List or replay records that were refused."""


@command.command("list")
@_selection
@settings_options("broker")
def list_letters(settings: Settings, topic: str | None, identifier: str | None) -> None:
    """List the dead letters, one a line: time, id, stage, customer, error.

    For all of a letter as JSON: crm-streams tail dead-letters --from-beginning.
    """
    for letter, _ in asyncio.run(_read(settings, topic, identifier)):
        when = datetime.fromtimestamp(letter.ts / 1_000, UTC).isoformat(timespec="seconds")
        customer = "-" if letter.key is None else letter.key
        error = " ".join(letter.error.split())
        click.echo(f"{when}  {letter.id}  {letter.stage}  {customer}  {error}")


@command.command("replay")
@_selection
@settings_options("broker")
def replay_letters(settings: Settings, topic: str | None, identifier: str | None) -> None:
    """Send refused records to their topics again.

    A letter that holds only a part of its record is named on stderr and left out. The letters stay
    where they are: a second replay sends the records a second time.
    """
    sent, refused = asyncio.run(_replay(settings, topic, identifier))
    click.echo(f"{sent:,} records replayed")
    if refused:
        raise ReplayError(f"{refused:,} dead letters cannot be replayed")


async def _read(
    settings: Settings, topic: str | None, identifier: str | None
) -> list[tuple["DeadLetter", bytes]]:
    """Return the selected letters and their raw form, each id once."""
    from streams.dead_letters import parse_dead_letter
    from streams.reading import read_to_end

    selected: dict[str, tuple[DeadLetter, bytes]] = {}
    async for record in read_to_end(settings, "dead-letters"):
        if record.value is None:
            continue
        letter = parse_dead_letter(record.value)
        if topic in (None, letter.topic) and identifier in (None, letter.id):
            # A repeat after a crash carries the same id.
            selected[letter.id] = (letter, record.value)
    return list(selected.values())


async def _replay(settings: Settings, topic: str | None, identifier: str | None) -> tuple[int, int]:
    """Return how many records were sent, and how many letters cannot be."""
    from aiokafka.errors import KafkaError

    from streams.dead_letters import replay_of
    from streams.replay import producer

    receipts, refused = [], 0
    letters = await _read(settings, topic, identifier)
    async with producer(settings) as client:
        try:
            for _, raw in letters:
                try:
                    record = replay_of(raw)
                except ReplayError as error:
                    click.echo(str(error), err=True)
                    refused += 1
                    continue
                receipts.append(await client.send(record.topic, record.value, key=record.key))
            await asyncio.gather(*receipts)
        except KafkaError as error:
            raise PublishError(f"the broker refused a record: {error}") from error
    return len(receipts), refused
