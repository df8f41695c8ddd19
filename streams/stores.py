"""The stores of a worker's partitions on disk: opened one at a time, set aside when useless."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from pathlib import Path

from state.errors import CorruptStateError, LayoutMismatchError
from state.partition import Identity, Partition, SharedOptions, set_aside
from streams.models import Models
from streams.settings import Settings
from streams.sources import SOURCES

log = logging.getLogger(__name__)


class Stores:
    """Holds the open stores by partition number. `open`, `replace` and `close` block.

    Parameters
    ----------
    settings, models
        The worker's.
    cluster_id
        Of the broker; state made on another cluster is refused.
    replaceable
        Whether a store that is of no use may be set aside, since the changelog can rebuild it.
    """

    def __init__(
        self, settings: Settings, cluster_id: str, models: Models, *, replaceable: bool
    ) -> None:
        self._settings = settings
        self._cluster_id = cluster_id
        self._models = models
        self._replaceable = replaceable
        self._options = SharedOptions()
        self._opening = threading.Lock()
        self._stores: dict[int, Partition] = {}
        self._locks: dict[int, asyncio.Lock] = {}

    def lock(self, number: int) -> asyncio.Lock:
        """Return the lock under which a partition's store is opened, written and closed."""
        return self._locks.setdefault(number, asyncio.Lock())

    def __contains__(self, number: object) -> bool:
        """Tell whether a partition's store is open."""
        return number in self._stores

    def get(self, number: int) -> Partition:
        """Return an open store."""
        return self._stores[number]

    def numbers(self) -> set[int]:
        """Return the numbers of the open stores."""
        return set(self._stores)

    def open(self, number: int) -> Partition:
        """Open a partition's store, unless it is open already.

        Raises
        ------
        StateError
            Where it cannot be opened, or is not this cluster's, and cannot be replaced.
        """
        if number in self._stores:
            return self._stores[number]
        try:
            store = self._open(number)
        except (CorruptStateError, LayoutMismatchError) as error:
            if not self._replaceable:
                raise
            return self.replace(number, str(error))
        self._stores[number] = store
        return store

    def replace(self, number: int, why: str) -> Partition:
        """Set a partition's store aside and open a new, empty one."""
        self.close(number)
        aside = set_aside(self._path(number), int(time.time() * 1000))
        log.warning(
            "partition %d: its state is rebuilt from the changelog, since %s; the old one was set "
            "aside in %s and may be removed",
            number, why, aside,
        )  # fmt: skip
        store = self._stores[number] = self._open(number)
        return store

    def close(self, number: int) -> None:
        """Close a partition's store where it is open."""
        store = self._stores.pop(number, None)
        if store is not None:
            store.close()

    def _open(self, number: int) -> Partition:
        settings = self._settings
        identity = Identity(
            self._cluster_id, tuple(SOURCES), number, settings.partitions, settings.app_id
        )
        # One at a time: stores share options, cache and write buffers, and opening takes 20 ms.
        with self._opening:
            return Partition.open(
                self._path(number),
                identity=identity,
                layout=self._models.row_dtype,
                options=self._options,
            )

    def _path(self, number: int) -> Path:
        return self._settings.data_dir / "partitions" / str(number)
