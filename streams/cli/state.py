"""``crm-streams state``."""

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from streams.cli.options import settings_options
from streams.errors import DataDirectoryError, StreamsError
from streams.settings import Settings

if TYPE_CHECKING:
    from state.partition import ChangelogPosition, PartitionDescription


@click.group("state")
def command() -> None:
    """Look into the local state, also while a worker uses it."""


@command.command("info")
@settings_options("data_dir")
def info(settings: Settings) -> None:
    """Show what the state holds, a partition a line, and what was set aside."""
    from state.errors import StateError
    from state.partition import describe_partition

    partitions, aside = _directories(settings.data_dir)
    for path in partitions:
        try:
            click.echo(_line(describe_partition(path)))
        except StateError as error:
            raise StreamsError(str(error)) from error
    for path in aside:
        click.echo(f"set aside, and no longer used: {path}")


@command.command("verify")
@settings_options("data_dir")
def verify(settings: Settings) -> None:
    """Read everything and check every checksum; exit status 1 where something is damaged."""
    from state.arrays import ArrayStore
    from state.errors import StateError
    from state.partition import describe_partition

    rows, damaged = 0, []
    partitions, _ = _directories(settings.data_dir)
    for path in partitions:
        try:
            described = describe_partition(path)
        except StateError as error:
            damaged.append(str(error))
        else:
            rows += described.rows
            click.echo(f"partition {path.name}: {described.rows:,} rows are sound")
    try:
        arrays = ArrayStore(settings.data_dir / "models").load()
    except StateError as error:
        damaged.append(str(error))
    else:
        click.echo(f"models: {len(arrays)} arrays are sound")
    click.echo(f"{rows} rows in all")
    if damaged:
        raise StreamsError("; ".join(damaged))


def _directories(data_dir: Path) -> tuple[list[Path], list[Path]]:
    """List the directories of partitions, and of those that were set aside."""
    from state.directories import find_partitions

    directory = data_dir / "partitions"
    if not directory.is_dir():
        raise DataDirectoryError(f"{data_dir} holds no state of a worker")
    return find_partitions(directory)


def _line(described: "PartitionDescription") -> str:
    tables = (
        f"{name} {table.rows:,} rows of {table.row_bytes:,} bytes ({table.value_bytes:,} in all)"
        for name, table in described.tables.items()
    )
    offsets = " ".join(f"{topic}={offset}" for topic, offset in described.offsets.items())
    return "; ".join(
        [
            f"partition {described.identity.partition} of {described.identity.partitions}",
            *tables,
            f"{described.bytes_on_disk:,} bytes on disk",
            f"offsets {offsets or 'none'}",
            f"changelog {_position(described.changelog)}",
            f"layout {described.layout[:12]}, format {described.format_version}",
            f"cluster {described.identity.cluster_id}",
        ]
    )


def _position(position: "ChangelogPosition | None") -> str:
    if position is None:
        return "none"
    when = datetime.fromtimestamp(position.as_of_ms / 1_000, UTC).isoformat(timespec="seconds")
    rebuilding = "" if position.whole else ", in the middle of a rebuild"
    return f"at {position.offset}, as of {when}{rebuilding}"
