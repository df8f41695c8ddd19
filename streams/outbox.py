"""What goes out: a partition's outputs, from the call that decided them to the broker's receipt.

An output is added while a chunk is applied. At least once: it is sent as soon as the loop is free,
and a checkpoint waits for the receipts of everything added before its snapshot, so it may repeat
after a crash, with the same id. Exactly once: it waits for the checkpoint, which takes it into its
transaction. Either way an output that cannot be written fails the checkpoint, and the partition is
reopened from its last durable state: none is lost.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from aiokafka.errors import KafkaError

from streams.errors import PublishError

if TYPE_CHECKING:
    from aiokafka import AIOKafkaProducer

    from streams.metrics import Metrics

Headers = Sequence[tuple[str, bytes]]


@dataclass(frozen=True, slots=True)
class Output:
    """One record on its way out.

    Attributes
    ----------
    key, value
        As written to the topic; no value is a tombstone.
    caused_ms
        The broker's timestamp of the newest event behind it, ms; 0 where no event is.
    headers
        Kafka headers.
    """

    key: bytes
    value: bytes | None
    caused_ms: int = 0
    headers: Headers = ()


class Outbox:
    """The outputs of one source partition that the broker has not acknowledged yet."""

    def __init__(self) -> None:
        self._waiting: dict[tuple[str, int], list[Output]] = {}
        self._waiting_bytes = 0
        self._sent: set[asyncio.Future[Any]] = set()
        self._failure: BaseException | None = None
        self.sending = asyncio.Lock()

    def add(self, topic: str, partition: int, output: Output) -> None:
        """Take one output for a topic partition."""
        self._waiting.setdefault((topic, partition), []).append(output)
        self._waiting_bytes += len(output.key) + len(output.value or b"")

    @property
    def waiting_bytes(self) -> int:
        """How many bytes have not been handed to the producer yet."""
        return self._waiting_bytes

    @property
    def waiting(self) -> int:
        """How many outputs have not been handed to the producer yet."""
        return sum(map(len, self._waiting.values()))

    def take_waiting(self) -> dict[tuple[str, int], list[Output]]:
        """Hand over everything that waits, grouped by topic partition."""
        waiting, self._waiting = self._waiting, {}
        self._waiting_bytes = 0
        return waiting

    def track(self, receipt: asyncio.Future[Any]) -> None:
        """Remember a send until the broker has acknowledged it."""
        self._sent.add(receipt)
        receipt.add_done_callback(self._settle)

    def fail(self, error: BaseException) -> None:
        """Note that an output could not be sent; the next checkpoint fails with it."""
        self._failure = self._failure or error

    def _settle(self, receipt: asyncio.Future[Any]) -> None:
        self._sent.discard(receipt)
        if receipt.cancelled():
            self.fail(PublishError("sending was cancelled"))
        elif (error := receipt.exception()) is not None:
            self.fail(error)

    async def acknowledged(self, publisher: Publisher) -> None:
        """Wait until everything added so far is acknowledged by the broker.

        Raises
        ------
        PublishError
            Where an output could not be written, now or earlier.
        """
        await publisher.publish(self)
        if self._sent:
            await asyncio.wait(set(self._sent))
        if self._failure is not None:
            raise PublishError(f"an output could not be written: {self._failure!r}")


class Publisher:
    """Sends outputs in record batches built here, one per topic partition and flush."""

    def __init__(self, producer: AIOKafkaProducer, metrics: Metrics) -> None:
        self._producer = producer
        self._metrics = metrics

    async def publish(self, outbox: Outbox) -> None:
        """Hand everything that waits in `outbox` to the producer."""
        # The lock makes a checkpoint wait for what an earlier call has taken but not yet tracked.
        async with outbox.sending:
            await asyncio.gather(
                *(
                    self._send(outbox, topic, partition, outputs)
                    for (topic, partition), outputs in outbox.take_waiting().items()
                )
            )

    async def _send(
        self, outbox: Outbox, topic: str, partition: int, outputs: list[Output]
    ) -> None:
        position = 0
        try:
            while position < len(outputs):
                batch = self._producer.create_batch()
                first = position
                while position < len(outputs) and self._append(batch, outputs[position]):
                    position += 1
                if position == first:
                    outbox.fail(PublishError(f"an output for {topic} does not fit a record batch"))
                    return
                receipt = await self._producer.send_batch(batch, topic, partition=partition)
                outbox.track(receipt)
                part = outputs[first:position]
                receipt.add_done_callback(
                    lambda done, part=part: self._on_receipt(topic, part, done)
                )
        except KafkaError as error:
            outbox.fail(error)
        except BaseException as error:
            # Cancelled or broken in between: what was taken must not be forgotten.
            outbox.fail(error)
            raise

    @staticmethod
    def _append(batch: Any, output: Output) -> bool:
        appended = batch.append(
            key=output.key, value=output.value, timestamp=None, headers=list(output.headers)
        )
        return appended is not None

    def _on_receipt(self, topic: str, part: list[Output], receipt: asyncio.Future[Any]) -> None:
        if not receipt.cancelled() and receipt.exception() is None:
            self.observe(topic, part)

    def observe(self, topic: str, outputs: Sequence[Output]) -> None:
        """Count outputs that readers can see from now on."""
        self._metrics.outputs.labels(topic).inc(len(outputs))
        observe = self._metrics.event_to_output.labels(topic).observe
        now = time.time()
        for output in outputs:
            if output.caused_ms:
                observe(max(0.0, now - output.caused_ms / 1000))
