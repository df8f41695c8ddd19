"""``crm-streams worker``."""

import click

from streams.cli.options import settings_options
from streams.settings import Settings


@click.command("worker")
@settings_options(
    "broker",
    "data_dir",
    "web_port",
    "web_host",
    "guarantee",
    "changelog",
    "standby",
    "checkpoint_seconds",
    "partitions",
    "app_id",
    "log_level",
)
def command(settings: Settings) -> None:
    """Run one worker of the consumer group.

    In the foreground, until Ctrl-C or SIGTERM: then it applies what it has, checkpoints and leaves
    the group. Topics must exist: see "crm-streams topics create".
    """
    from state.errors import StateError
    from streams.errors import StreamsError
    from streams.worker import Worker

    try:
        Worker(settings).run()
    except StateError as error:
        raise StreamsError(str(error)) from error
