"""``crm-streams replay``."""

import asyncio
import contextlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from streams.cli.options import settings_options
from streams.settings import Settings

if TYPE_CHECKING:
    from streams.replay import Chunks


@click.command("replay")
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="FILE…")
@click.option("--topic", metavar="T", help="Topic to send to; a --format knows its own.")
@click.option("--format", "form", metavar="F", help="Data set in its own format; see below.")
@click.option("--rate", type=click.FloatRange(0, min_open=True), help="Records per second.")
@click.option(
    "--speedup",
    type=click.FloatRange(0, min_open=True),
    help="Keep the distances of event times, X times faster.",
)
@settings_options("broker")
def command(
    settings: Settings,
    files: tuple[Path, ...],
    topic: str | None,
    form: str | None,
    rate: float | None,
    speedup: float | None,
) -> None:
    """Send records from files to a topic.

    A FILE holds JSON lines, plain or packed (.gz); "-" is standard input. Records are keyed by
    customer_id (catalog: item_id) and go out as they are, as fast as the broker takes them or at a
    --rate or --speedup.

    With --format, a FILE is a known data set or its directory: online-retail, movielens, cdnow.
    """
    if rate is not None and speedup is not None:
        raise click.UsageError("--rate and --speedup exclude each other.")
    from streams.admin import partitions_of_topic
    from streams.replay import Pace, replay

    topic, chunks = _source(files, topic, form, timed=speedup is not None)
    partitions = asyncio.run(partitions_of_topic(settings, topic))
    started = time.monotonic()
    with _progress() as on_progress:
        count = asyncio.run(
            replay(settings, topic, partitions, chunks, Pace(rate, speedup), on_progress)
        )
    seconds = max(time.monotonic() - started, 1e-3)
    click.echo(f"{count:,} records to {topic} in {seconds:.1f} s ({count / seconds:,.0f}/s)")


def _source(
    files: tuple[Path, ...], topic: str | None, form: str | None, *, timed: bool
) -> tuple[str, "Chunks"]:
    """Return the topic and the records to send there."""
    from streams.replay import formatted, json_lines, key_field_of
    from streams.replay_formats import FORMATS

    if form is None:
        if topic is None:
            raise click.UsageError("Missing option '--topic'.")
        return topic, json_lines(files, key_field_of(topic), timed=timed)
    if form not in FORMATS:
        raise click.UsageError(f"--format {form} is not one of {', '.join(FORMATS)}.")
    return topic or FORMATS[form].default_topic, formatted(files, FORMATS[form])


@contextlib.contextmanager
def _progress() -> Iterator[Callable[[int], None]]:
    """Show a count and a rate on a terminal, and nothing elsewhere."""
    from rich.console import Console
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = (
        SpinnerColumn(),
        TextColumn("{task.completed:,.0f} records"),
        TextColumn("{task.fields[rate]:,.0f}/s"),
        TimeElapsedColumn(),
    )
    console = Console(stderr=True)
    with Progress(
        *columns, console=console, transient=True, disable=not console.is_terminal
    ) as bar:
        task = bar.add_task("replay", total=None, rate=0.0)
        started = time.monotonic()

        def show(count: int) -> None:
            seconds = max(time.monotonic() - started, 1e-3)
            bar.update(task, completed=count, rate=count / seconds)

        yield show
