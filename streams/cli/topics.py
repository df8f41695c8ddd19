"""``crm-streams topics``."""

import asyncio

import click

from streams.cli.options import settings_options
from streams.settings import Settings


@click.group("topics")
def command() -> None:
    """Create or list topics."""


@command.command("create")
@settings_options("broker", "partitions", "app_id")
def create(settings: Settings) -> None:
    """Create the topics that are missing.

    Topics that are there already are left as they are. Prints the names of the new ones.
    """
    from streams.admin import create_topics

    created = asyncio.run(create_topics(settings))
    for name in created:
        click.echo(name)
    if not created:
        click.echo("all topics exist already", err=True)


@command.command("list")
@settings_options("broker", "partitions", "app_id")
def list_all(settings: Settings) -> None:
    """List the topics: name, partitions, direction, what for.

    A topic of the engine that is missing, or has other partitions than it should, is marked.
    """
    from streams.admin import list_topics
    from streams.topics import ALL

    existing = {facts.name: facts.partitions for facts in asyncio.run(list_topics(settings))}
    for topic in ALL:
        name, wanted = topic.name_of(settings), topic.partitions(settings)
        count = existing.pop(name, None)
        mark = "(missing) " if count is None else "" if count == wanted else f"(not {wanted}) "
        click.echo(_row(name, count, topic.direction, mark + topic.about))
    for name, count in sorted(existing.items()):
        click.echo(_row(name, count, "other", ""))


def _row(name: str, count: int | None, direction: str, about: str) -> str:
    shown = "-" if count is None else str(count)
    return f"{name:<24} {shown:>4}  {direction:<8}  {about}".rstrip()
