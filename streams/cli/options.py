"""Options that are settings: type, help and default come from where the setting is declared."""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from streams.settings import DECLARED, ENVIRONMENT_PREFIX, load_here

Function = Callable[..., Any]


def settings_options(*names: str) -> Callable[[Function], Function]:
    """Give a command the options for some settings, and ``--config``; it gets `settings`.

    Parameters
    ----------
    names
        Settings that have an option; all others come from the environment, the file or their
        defaults.

    Examples
    --------
    >>> @click.command()
    ... @settings_options("broker")
    ... def show(settings):
    ...     print(settings.broker)
    >>> show.main(["--broker", "kafka://far:9092"], standalone_mode=False)
    kafka://far:9092
    """

    def decorate(function: Function) -> Function:
        @functools.wraps(function)
        def with_settings(*, config: Path | None, **values: Any) -> Any:
            flags = {name: values.pop(name) for name in names}
            return function(settings=load_here(flags, config), **values)

        decorated: Function = click.option(
            "--config",
            type=click.Path(path_type=Path),
            metavar="FILE",
            help="Settings as a TOML file.",
        )(with_settings)
        for name in reversed(names):
            decorated = _option(name)(decorated)
        return decorated

    return decorate


def _option(name: str) -> Callable[[Function], Function]:
    declared = DECLARED[name]
    flag = "--" + name.replace("_", "-")
    if declared.kind is bool:
        flag = f"{flag}/--no-{name.replace('_', '-')}"
    kind: Any = click.Path(path_type=Path) if declared.kind is Path else declared.kind
    choices = declared.about.choices
    default = "found out" if declared.default is None and choices else declared.default
    return click.option(
        flag,
        name,
        type=kind,
        # Without a default here, a flag that was not given can be told from one that was.
        default=None,
        metavar=None if declared.kind is bool else "|".join(choices) or _METAVARS[declared.kind],
        help=f"{declared.about.help} [{ENVIRONMENT_PREFIX}{name.upper()}; {default}]",
    )


_METAVARS = {str: "TEXT", int: "N", float: "X", Path: "PATH"}
