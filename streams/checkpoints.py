"""A checkpoint's way: snapshot, broker, disk; each before the next, all of it or none.

1. The snapshot: rows, offsets and watermark, in one call; under exactly once the outputs too.
2. At least once: the receipts of all outputs that were sent.
3. Where there is a changelog: one transaction with the changed rows, the marker that carries the
   offsets and, under exactly once, the outputs. From its commit on the checkpoint counts.
4. The local store: the same rows and offsets, and the position in the changelog, in one write.

A worker that dies in between finds the local store behind the changelog and catches up. Offsets
of the consumer group follow later, for lag tools only.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from state.changelog import encode
from state.partition import ChangelogPosition
from streams.steps import Step
from streams.threads import in_thread

if TYPE_CHECKING:
    from streams.loading import Promise
    from streams.outbox import Publisher
    from streams.partitions import OpenPartition, Snapshot


class Checkpoints:
    """Makes snapshots durable.

    Parameters
    ----------
    promise
        What a checkpoint has to keep.
    publisher
        Sends outputs, where they are not part of the transaction.
    changelog
        The changelog's name.
    """

    def __init__(self, promise: Promise, publisher: Publisher, changelog: str) -> None:
        self._promise = promise
        self._publisher = publisher
        self._changelog = changelog

    def take(self, partition: OpenPartition) -> Snapshot:
        """Copy what is to become durable."""
        snapshot = partition.take_snapshot(with_outputs=self._promise.guarantee.exactly_once)
        self._tell(Step.SNAPSHOT_TAKEN, partition)
        return snapshot

    async def make_durable(self, partition: OpenPartition, snapshot: Snapshot) -> None:
        """Take a snapshot all the way.

        Raises
        ------
        PublishError
            Where the broker refused something or left it in doubt; the partition must be reopened.
        StateError
            Where the disk failed; the worker must end.
        """
        if not self._promise.guarantee.exactly_once:
            await partition.outbox.acknowledged(self._publisher)
            self._tell(Step.OUTPUTS_SENT, partition)
        position = None
        if partition.producer is not None:
            end = await partition.producer.write(
                encode(snapshot.rows, snapshot.progress, partition.rows.dtype),
                self._changelog,
                partition.number,
                snapshot.outputs,
                size=snapshot.size,
                before_commit=lambda: self._tell(Step.CHANGELOG_SENT, partition),
            )
            position = ChangelogPosition(end, int(time.time() * 1000), whole=True)
            self._tell(Step.COMMITTED, partition)
            for (topic, _), outputs in snapshot.outputs.items():
                self._publisher.observe(topic, outputs)
        await in_thread(partition.store.write, snapshot.rows, snapshot.progress, position)
        partition.rows.settle()
        self._tell(Step.WRITTEN, partition)

    def _tell(self, step: Step, partition: OpenPartition) -> None:
        self._promise.on_step(step, partition.number)
