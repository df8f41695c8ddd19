"""Where partitions lie: a directory named after each one's number, and what was set aside."""

import os
from pathlib import Path

from state.rocks import named_errors

ASIDE = ".aside-"


def find_partitions(directory: Path) -> tuple[list[Path], list[Path]]:
    """List the directories of partitions in `directory`, and those that were set aside.

    Returns
    -------
    The partitions ascending by number; the others by name.

    Raises
    ------
    StateUnavailableError
        When `directory` cannot be read.
    """
    with named_errors(directory):
        paths = sorted(directory.iterdir())
    partitions = [path for path in paths if path.name.isdecimal()]
    aside = [path for path in paths if ASIDE in path.name and path.name.split(ASIDE)[0].isdecimal()]
    return sorted(partitions, key=_number), aside


def set_aside(path: Path, now_ms: int) -> Path:
    """Rename a partition's directory, so that it can be looked at later and a new one be made.

    Nothing is ever deleted. The store in it must be closed.

    Parameters
    ----------
    now_ms
        The clock, ms since the epoch.

    Returns
    -------
    The new path, ``<name>.aside-<now_ms>``, with a number behind it where that is taken.

    Raises
    ------
    StateUnavailableError
        When it cannot be renamed; then it is still where it was.
    """
    aside = path.with_name(f"{path.name}{ASIDE}{now_ms}")
    with named_errors(path):
        count = 1
        while aside.exists():
            count += 1
            aside = path.with_name(f"{path.name}{ASIDE}{now_ms}-{count}")
        path.rename(aside)
        sync_directory(path.parent)
    return aside


def _number(path: Path) -> int:
    return int(path.name)


def sync_directory(path: Path) -> None:
    """Make what was renamed in `path` survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
