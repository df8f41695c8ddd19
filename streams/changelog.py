"""Checkpoints on their way to the broker: one transactional producer per source partition.

Its transactional id is the partition's, so whoever opens the partition fences whoever wrote
before, and settles what that one left in doubt. After any error a producer is discarded: aiokafka
commits a transaction although a batch of it was refused, so every receipt is looked at first.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from aiokafka import AIOKafkaProducer
from aiokafka.errors import IllegalOperation, KafkaError

from streams.errors import PublishError, TransactionError

if TYPE_CHECKING:
    from streams.outbox import Output
    from streams.settings import Settings

log = logging.getLogger(__name__)

BATCH_BYTES = 512 << 10
REQUEST_BYTES = 8 << 20
START_SECONDS = 30.0
"""aiokafka would try to become a transactional producer for ever."""
WRITE_SECONDS = 15.0
WRITE_BYTES_PER_SECOND = 10e6
"""A transaction has `WRITE_SECONDS`, and a second more for so many bytes, as after a sweep."""
TRANSACTION_MS = 90_000
"""What a dead worker left open keeps readers waiting for this long, unless someone takes over. No
write may take as long, or the broker would abort it under way."""
REQUEST_MS = 10_000
DISCARD_SECONDS = 5.0

Records = Iterable[tuple[bytes, bytes | None]]
Headers = Sequence[tuple[str, bytes]]


class _Sent(NamedTuple):
    """A batch on its way, and how many records it holds."""

    receipt: asyncio.Future[Any]
    records: int


class TransactionalProducer:
    """An aiokafka producer with a transactional id, deadlines, and an end without a flush.

    Parameters
    ----------
    settings
        Where the broker is.
    transactional_id
        Two producers with the same id: the one started last fences the other.
    """

    def __init__(self, settings: Settings, transactional_id: str) -> None:
        self.id = transactional_id
        self._producer = AIOKafkaProducer(
            bootstrap_servers=settings.bootstrap_servers(),
            client_id=settings.app_id,
            transactional_id=transactional_id,
            transaction_timeout_ms=TRANSACTION_MS,
            request_timeout_ms=REQUEST_MS,
            max_batch_size=BATCH_BYTES,
            max_request_size=REQUEST_BYTES,
            **settings.client_security(),
        )

    async def start(self) -> None:
        """Fence the id's last producer, and wait until its transaction is committed or aborted.

        Raises
        ------
        TransactionError
            Where that takes too long.
        KafkaError
            Where the broker refuses.
        """
        try:
            async with asyncio.timeout(START_SECONDS):
                await self._producer.start()
        except TimeoutError as error:
            raise TransactionError(
                f"the broker did not let {self.id} write transactions within "
                f"{START_SECONDS:.0f} s: see that enough brokers are up for its "
                "transaction.state.log.replication.factor and transaction.state.log.min.isr"
            ) from error

    async def write(
        self,
        records: Records,
        topic: str,
        partition: int,
        outputs: Mapping[tuple[str, int], Sequence[Output]],
        size: int,
        before_commit: Callable[[], None],
    ) -> int:
        """Write outputs and changelog records in one transaction; all of them or none.

        Parameters
        ----------
        records
            Keys and values for the changelog, at least one.
        topic, partition
            The changelog's.
        outputs
            Outputs by topic and partition.
        size
            About how many bytes all that has, for the deadline.
        before_commit
            Called when everything is written and nothing is committed.

        Returns
        -------
        The offset in the changelog after the last record.

        Raises
        ------
        PublishError
            Where a record was refused, or where it is in doubt whether they were committed. This
            producer must be discarded then.
        """
        seconds = min(WRITE_SECONDS + size / WRITE_BYTES_PER_SECOND, 0.8 * TRANSACTION_MS / 1000)
        try:
            async with asyncio.timeout(seconds):
                await self._producer.begin_transaction()
                receipts = []
                for (output_topic, number), part in outputs.items():
                    shaped = ((each.key, each.value, each.headers) for each in part)
                    receipts += await self._send(shaped, output_topic, number)
                rows = ((key, value, ()) for key, value in records)
                own = await self._send(rows, topic, partition)
                await asyncio.gather(*(sent.receipt for sent in (*receipts, *own)))
                before_commit()
                await self._producer.commit_transaction()
        except TimeoutError as error:
            raise PublishError(f"{self.id}: not committed in {seconds:.0f} s") from error
        except (KafkaError, IllegalOperation, AssertionError) as error:
            # aiokafka asserts what a transaction of another state cannot do.
            raise PublishError(f"{self.id}: the transaction failed: {error!r}") from error
        return int(own[-1].receipt.result().offset) + own[-1].records

    async def _send(
        self, records: Iterable[tuple[bytes, bytes | None, Headers]], topic: str, partition: int
    ) -> list[_Sent]:
        """Send records in batches built here."""
        sent: list[_Sent] = []

        async def send() -> None:
            receipt = await self._producer.send_batch(batch, topic, partition=partition)
            sent.append(_Sent(receipt, batch.record_count()))

        batch = self._producer.create_batch()
        for key, value, headers in records:
            record = {"key": key, "value": value, "headers": list(headers), "timestamp": None}
            if batch.append(**record) is None:
                await send()
                batch = self._producer.create_batch()
                # aiokafka takes the first record of a batch whatever its size; the broker judges.
                if batch.append(**record) is None:
                    raise PublishError(f"a record for {topic} does not fit a batch")
        if batch.record_count():
            await send()
        return sent

    async def discard(self) -> None:
        """End without flushing: what was not committed is for the next producer to settle."""
        producer, sender = self._producer, self._producer._sender.sender_task
        producer._closed = True
        # The connections first: the sender waits for its requests, and they end with these.
        await producer.client.close()
        if sender is not None:
            sender.cancel()
            await asyncio.wait({sender}, timeout=DISCARD_SECONDS)
