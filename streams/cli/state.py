"""``crm-streams state``."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from streams.cli.options import settings_options
from streams.settings import Settings

if TYPE_CHECKING:
    from state.partition import PartitionDescription


@click.group("state")
def command() -> None:
    """Look into the local state, also while a worker uses it."""


@command.command("info")
@settings_options("data_dir")
def info(settings: Settings) -> None:
    """Show what the state holds: rows, bytes, offsets, layout, whose it is."""
    for described in _describe_all(settings.data_dir):
        offsets = " ".join(f"{topic}={offset}" for topic, offset in described.offsets.items())
        click.echo(
            f"partition {described.identity.partition}: {described.rows} customers, "
            f"{described.bytes_on_disk:,} bytes, layout {described.layout[:12]}, "
            f"cluster {described.identity.cluster_id}, {offsets or 'no offsets'}"
        )


@command.command("verify")
@settings_options("data_dir")
def verify(settings: Settings) -> None:
    """Read everything and check every checksum; exit status 1 where something is damaged."""
    rows = 0
    for described in _describe_all(settings.data_dir):
        rows += described.rows
        click.echo(f"partition {described.identity.partition}: {described.rows} rows are sound")
    click.echo(f"{rows} rows in all")


def _describe_all(data_dir: Path) -> "list[PartitionDescription]":
    from state.errors import StateError
    from state.partition import describe_partition
    from streams.errors import DataDirectoryError, StreamsError

    directory = data_dir / "partitions"
    if not directory.is_dir():
        raise DataDirectoryError(f"{data_dir} holds no state of a worker")
    numbers = sorted(int(path.name) for path in directory.iterdir() if path.name.isdecimal())
    try:
        return [describe_partition(directory / str(number)) for number in numbers]
    except StateError as error:
        raise StreamsError(str(error)) from error
