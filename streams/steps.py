"""The named moments of a partition's life, so that a test can make each of them the last."""

from collections.abc import Callable
from enum import StrEnum


class Step(StrEnum):
    """A moment at which a worker may die; in the order in which they come."""

    STORE_OPENED = "store-opened"
    FENCED = "fenced"
    CHANGELOG_PAGE = "changelog-page"
    RECOVERED = "recovered"
    SNAPSHOT_TAKEN = "snapshot-taken"
    OUTPUTS_SENT = "outputs-sent"
    CHANGELOG_SENT = "changelog-sent"
    COMMITTED = "committed"
    WRITTEN = "written"


OnStep = Callable[[Step, int], None]
"""Told of a step and the partition's number, on the worker's loop."""


def go_on(step: Step, partition: int) -> None:
    """Let the step pass."""
    del step, partition
