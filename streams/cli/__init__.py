"""The command line: ``crm-streams``.

Each command is a module of this package with a click command called ``command``, imported when it
is asked for, so that ``crm-streams --help`` and short commands do not wait for the engine's
libraries. An error that somebody can act on is one line on stderr: exit status 1, or 2 for a
command that was called wrongly.
"""

import errno
import importlib
import logging
import os
import sys
from collections.abc import Sequence
from typing import NoReturn

import click

from streams import __version__
from streams.errors import StreamsError

PROGRAM = "crm-streams"
EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_INTERRUPTED = 130

COMMANDS = {
    "demo": "Show the whole engine on this machine.",
    "broker": "Run the embedded broker.",
    "topics": "Create or list topics.",
    "worker": "Run one worker of the consumer group.",
    "replay": "Send records from files to a topic.",
    "tail": "Print records of a topic as JSON lines.",
    "customer": "Show one customer's profile.",
    "dead-letters": "List or replay records that were refused.",
    "state": "Look into the local state, also while a worker uses it.",
}
"""Every command with its line of help, so that the overview imports none of them."""


class LazyGroup(click.Group):
    """A group whose commands are imported when they are asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        """Return the names of the commands, the most wanted first."""
        return list(COMMANDS)

    def get_command(
        self,
        ctx: click.Context,  # noqa: ARG002 - click's signature
        cmd_name: str,
    ) -> click.Command | None:
        """Import the command called `cmd_name`, or return None where there is no such."""
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(f"streams.cli.{cmd_name.replace('-', '_')}")
        command = module.command
        assert isinstance(command, click.Command)
        return command

    def format_commands(
        self,
        ctx: click.Context,  # noqa: ARG002 - click's signature
        formatter: click.HelpFormatter,
    ) -> None:
        """Write the overview of the commands."""
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name=PROGRAM)
def cli() -> None:
    """Turn every click, purchase and chat into a recommendation or an alert."""
    # Clients log each failed attempt to connect; what is wrong is told once, in the error. The
    # worker sets up its own log.
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run a command and exit; the one place where errors become lines and statuses."""
    sys.exit(run(arguments))


def run(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit status."""
    try:
        status = cli.main(arguments, prog_name=PROGRAM, standalone_mode=False)
        sys.stdout.flush()
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message(), err=True)
        return EXIT_USAGE
    except click.UsageError as error:
        path = error.ctx.command_path if error.ctx is not None else PROGRAM
        return _complain(f"{error.format_message()} Try: {path} --help", EXIT_USAGE)
    except click.ClickException as error:
        return _complain(error.format_message(), EXIT_FAILED)
    except StreamsError as error:
        return _complain(str(error), EXIT_FAILED)
    except (click.Abort, KeyboardInterrupt):
        return EXIT_INTERRUPTED
    except OSError as error:
        if error.errno != errno.EPIPE:
            raise
        # The reader, such as head, has seen enough; the interpreter's last flush must not fail.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_FAILED
    return status if isinstance(status, int) else 0


def _complain(message: str, status: int) -> int:
    click.echo(f"{PROGRAM}: {' '.join(message.split())}", err=True)
    return status
