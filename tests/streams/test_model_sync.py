"""Workers that learn one model together: each delta once, by everybody, whatever comes between."""

import asyncio
import logging
from collections.abc import AsyncIterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import pytest
from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaConnectionError
from numpy.typing import NDArray

from streams import model_records
from streams.errors import PublishError, TopicsError
from streams.model_ledger import LEDGER_ARRAY, MAX_INCARNATIONS, Ledger
from streams.model_records import Origin, encode
from streams.model_sync import Pace
from streams.model_topic import DELTAS, SNAPSHOTS
from streams.settings import Settings
from tests.streams.topics_for_tests import make_topic
from tests.streams.toy_models import CLUSTER, ToyShop, ToyWorker, open_shop

LARGE = 400_000
"""Keys of a toy whose delta takes more than one record where many keys have learned."""


@pytest.fixture
async def shop(settings: Settings, tmp_path: Path) -> AsyncIterator[ToyShop]:
    topic = f"models-{uuid4()}"
    await make_topic(settings, topic, 2)
    async with open_shop(settings, topic, tmp_path) as opened:
        yield opened


async def write(shop: ToyShop, partition: int, values: list[bytes]) -> None:
    for value in values:
        await shop.producer.send_and_wait(shop.topic, value, partition=partition)


def counting(keys: int = 4, **learned: int) -> Mapping[str, NDArray[Any]]:
    """Return a toy's delta; ``k2=3`` is three times key 2."""
    counts = np.zeros(keys, np.int64)
    for name, times in learned.items():
        counts[int(name[1:])] = times
    return {"toy/counts": counts, "toy/weights": counts * 0.125}


async def test_what_one_has_learned_all_have_and_they_are_byte_equal(shop: ToyShop) -> None:
    workers = [await shop.worker(name) for name in "abc"]
    for number, worker in enumerate(workers):
        worker.models.learn(number, times=10 + number)
        await worker.exchange()
    for worker in workers:
        await worker.until_counts(10, 11, 12, 0)
    assert len({worker.models.bytes() for worker in workers}) == 1


async def test_nothing_is_applied_by_whom_it_came_from_and_nothing_is_sent_on(
    shop: ToyShop,
) -> None:
    a, b = await shop.worker("a"), await shop.worker("b")
    a.models.learn(0, times=7)
    await a.exchange()
    await b.until_counts(7, 0, 0, 0)
    await b.exchange()  # it has learned nothing by itself
    a.models.learn(1)
    await a.exchange()
    await b.until_counts(7, 1, 0, 0)
    b.models.learn(3)
    await b.exchange()
    # That this one has come means that everything before it has been read.
    await a.until_counts(7, 1, 0, 1)
    assert a.sent == 2
    assert b.sent == 1
    assert a.taken_in == 1


async def test_nothing_is_written_where_nothing_was_learned(shop: ToyShop) -> None:
    a = await shop.worker("a")
    await a.exchange(save=True)
    assert await a.topic.bounds(DELTAS) == (0, 0)
    a.models.learn(2)
    await a.exchange()
    await a.exchange()
    assert await a.topic.bounds(DELTAS) == (0, 1)


async def test_learning_goes_on_while_a_delta_is_on_its_way(shop: ToyShop) -> None:
    a, b = await shop.worker("a"), await shop.worker("b")
    for _ in range(20):
        a.models.learn(0)
        exchange = asyncio.ensure_future(a.exchange(save=True))
        while not exchange.done():
            a.models.learn(1)
            await asyncio.sleep(0)
        await exchange
    await b.until(lambda: b.taken_in == a.sent)
    # The file is of one moment, too: it holds what was sent, and nothing that was learned since.
    await shop.crash(a)
    again = await shop.worker("a")
    assert again.models.bytes() == b.models.bytes()
    assert again.models.counts[0] == 20


async def test_a_large_delta_goes_in_parts_between_those_of_others(shop: ToyShop) -> None:
    a, b, c = [await shop.worker(name, keys=LARGE) for name in "abc"]
    rng = np.random.default_rng(3)
    for worker in (a, b):
        for key in rng.integers(0, LARGE, 20_000).tolist():
            worker.models.learn(key, times=int(rng.integers(1, 1 << 40)))
    expected = (np.array(a.models.counts) + np.array(b.models.counts)).tolist()
    await asyncio.gather(a.exchange(), b.exchange())
    assert a.topic.written > 5
    assert b.topic.written > 5
    await c.until(lambda: c.taken_in == 2)
    assert c.models.counts == expected
    sent = a.metrics.of("sync_bytes_total", direction="out")
    sent += b.metrics.of("sync_bytes_total", direction="out")
    assert c.metrics.of("sync_bytes_total", direction="in") == sent


async def test_a_delta_whose_receipt_was_lost_is_written_again_and_counts_once(
    shop: ToyShop,
) -> None:
    a, b = await shop.worker("a"), await shop.worker("b")
    a.topic.loses_receipts_from = 1
    a.models.learn(0, times=5)
    for _ in range(3):
        with pytest.raises(PublishError):
            await a.exchange(save=True)
        a.models.learn(1)  # goes with the next delta
    assert not shop.path("a").exists()
    a.topic.loses_receipts_from = None
    await a.exchange(save=True)
    await b.until_counts(5, 3, 0, 0)
    b.models.learn(3)
    await b.exchange()
    await a.until_counts(5, 3, 0, 1)
    assert await a.topic.bounds(DELTAS) == (0, 6)
    assert b.taken_in == 2
    assert b.metrics.of("gaps_total") == 0


async def test_parts_that_were_lost_on_the_way_are_there_after_the_next_try(shop: ToyShop) -> None:
    a, b = await shop.worker("a", keys=LARGE), await shop.worker("b", keys=LARGE)
    for key in range(0, LARGE, 3):
        a.models.learn(key, times=key**2)
    a.topic.loses_receipts_from = 3
    with pytest.raises(PublishError):
        await a.exchange()
    a.topic.loses_receipts_from = None
    await a.exchange()
    await b.until(lambda: b.models.counts == a.models.counts)
    assert b.taken_in == 1


async def test_a_gap_is_noted_and_counted(shop: ToyShop, caplog: pytest.LogCaptureFixture) -> None:
    b = await shop.worker("b")
    for sequence in (1, 4):
        await write(shop, DELTAS, list(encode(counting(k0=1), Origin("lossy", sequence, 0))))
    await b.until_counts(2, 0, 0, 0)
    assert b.metrics.of("gaps_total") == 2
    assert "2 deltas of worker run lossy before its delta 4 never came" in caplog.text


async def test_a_delta_of_another_shape_is_refused_in_one_line_and_the_rest_goes_on(
    shop: ToyShop, caplog: pytest.LogCaptureFixture
) -> None:
    b = await shop.worker("b")
    for sequence in (1, 2, 3):
        values = encode(counting(keys=9, k0=1), Origin("other-settings", sequence, 0))
        await write(shop, DELTAS, list(values))
    await write(shop, DELTAS, list(encode(counting(k1=1), Origin("fitting", 1, 0))))
    await b.until_counts(0, 1, 0, 0)
    assert b.metrics.of("refused_total") == 3
    assert b.metrics.of("gaps_total") == 0
    [line] = [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR]
    assert line == (
        "what worker run other-settings learned is left out here: its delta 1: "
        "ToyModels of 4 keys cannot take in those of others"
    )


async def test_records_of_another_format_and_damaged_ones_are_refused_and_the_rest_goes_on(
    shop: ToyShop, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    b = await shop.worker("b")
    with monkeypatch.context() as patch:
        patch.setattr(model_records, "FORMAT", 9)
        [newer] = encode(counting(k0=1), Origin("newer", 1, 0))
    [fitting] = encode(counting(k1=1), Origin("fitting", 1, 0))
    nonsense = list(encode({"x": np.zeros(1)}, Origin("strange", 1, 0)))
    await write(shop, DELTAS, [newer, newer, fitting[:-1] + b"\0", *nonsense, b"", fitting])
    await b.until_counts(0, 1, 0, 0)
    assert b.metrics.of("refused_total") == 5
    errors = [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR]
    assert len(errors) == 4
    assert "worker run newer" in errors[0]
    assert "has format 9, this program reads 1" in errors[0]
    assert "the record at offset 2: it is damaged" in errors[1]
    assert "worker run strange" in errors[2]


async def test_a_delta_that_nobody_finishes_is_given_up_and_holds_nothing_back(
    shop: ToyShop, caplog: pytest.LogCaptureFixture
) -> None:
    seconds = 0.0
    b = await shop.worker("b", keys=LARGE, clock=lambda: seconds)
    half = list(
        encode(counting(LARGE, **{f"k{i}": i for i in range(0, LARGE, 7)}), Origin("dead", 1, 0))
    )
    assert len(half) > 2
    await write(shop, DELTAS, half[:-1])
    await write(shop, DELTAS, list(encode(counting(LARGE, k1=1), Origin("alive", 1, 0))))
    await b.until(lambda: b.models.counts[1] == 1)
    await b.exchange(save=True)
    held = Ledger.of(b.store.load(), CLUSTER, 1_000)
    assert held is not None
    assert held.position == 0
    seconds = 1_000.0
    await write(shop, DELTAS, list(encode(counting(LARGE, k1=1), Origin("alive", 2, 0))))
    await b.until(lambda: b.models.counts[1] == 2)
    await b.until(lambda: "dead did not finish writing its delta 1" in caplog.text)
    await b.exchange(save=True)
    freed = Ledger.of(b.store.load(), CLUSTER, 1_000)
    assert freed is not None
    assert freed.position == (await b.topic.bounds(DELTAS))[1]
    # The rest of it, should it come, changes nothing; the whole of it does.
    await write(shop, DELTAS, half[-1:])
    await write(shop, DELTAS, half)
    await b.until(lambda: b.models.counts[7] == 7)
    assert b.metrics.of("gaps_total") == 0


class Unreachable:
    """A producer whose broker is gone at first; only that is made up."""

    is_reachable = False

    def __init__(self, producer: AIOKafkaProducer) -> None:
        self._producer = producer

    async def send_and_wait(self, *args: Any, **options: Any) -> None:
        if not self.is_reachable:
            raise KafkaConnectionError("no broker")
        await self._producer.send_and_wait(*args, **options)


class Silent:
    """A producer whose broker never answers."""

    async def send_and_wait(self, *args: Any, **options: Any) -> None:
        await asyncio.Event().wait()


async def test_a_worker_without_a_broker_keeps_what_it_has_and_delivers_it_later(
    shop: ToyShop, caplog: pytest.LogCaptureFixture
) -> None:
    producer = Unreachable(shop.producer)
    pace = Pace(sync_seconds=0.01, save_seconds=0.0)
    a = ToyWorker(shop.settings, shop.topic, producer, shop.path("a"), pace=pace)
    await a.start()
    try:
        async with a.exchanging():
            a.models.learn(0, times=3)
            await a.until(lambda: caplog.text.count("no broker") > 3)
            assert not shop.path("a").exists()
            a.models.learn(1, times=2)
            producer.is_reachable = True
            b = await shop.worker("b")
            await b.until_counts(3, 2, 0, 0)
    finally:
        await a.end()


async def test_the_last_exchange_brings_everything_home(shop: ToyShop) -> None:
    a, b = await shop.worker("a"), await shop.worker("b")
    async with a.exchanging():
        a.models.learn(0, times=3)
    await a.sync.finish(10)
    await shop.crash(a)
    again = await shop.worker("a")
    assert again.models.counts == [3, 0, 0, 0]
    await b.until_counts(3, 0, 0, 0)


async def test_a_last_exchange_that_fails_is_told_and_takes_no_longer_than_it_may(
    shop: ToyShop, caplog: pytest.LogCaptureFixture
) -> None:
    a = ToyWorker(shop.settings, shop.topic, Silent(), shop.path("a"))
    await a.start()
    try:
        a.models.learn(0)
        await a.sync.finish(0.05)
    finally:
        await a.end()
    assert "what was learned since the one before it is lost" in caplog.text
    assert not shop.path("a").exists()


async def test_exchanges_saves_and_snapshots_each_have_their_pace(shop: ToyShop) -> None:
    seconds = 0.0
    pace = Pace(sync_seconds=0.01, save_seconds=15.0, snapshot_seconds=300.0)
    a = await shop.worker("a", pace=pace, clock=lambda: seconds, leads=True)

    async def after(now_seconds: float) -> tuple[bool, int]:
        nonlocal seconds
        seconds = now_seconds
        for count in range(int(a.sent) + 1, int(a.sent) + 3):
            a.models.learn(0)
            await a.until(partial(lambda count: a.sent == count, count))
        # Where the second delta is out, all that came with the first one is done.
        return shop.path("a").exists(), (await a.topic.bounds(SNAPSHOTS))[1]

    async with a.exchanging():
        assert await after(14.0) == (False, 0)
        assert await after(16.0) == (True, 0)
        assert await after(299.0) == (True, 0)
        assert await after(301.0) == (True, 1)
        assert await after(302.0) == (True, 1)


async def test_a_topic_with_one_partition_is_refused_with_what_to_do(
    settings: Settings, tmp_path: Path
) -> None:
    topic = f"models-{uuid4()}"
    await make_topic(settings, topic, 1)
    async with open_shop(settings, topic, tmp_path) as shop:
        with pytest.raises(TopicsError, match="has 1 partition, but needs 2: delete it"):
            await shop.worker("a")


async def test_a_ledger_of_another_version_tells_nothing() -> None:
    assert Ledger.of({}, "here", 10) is None
    assert Ledger.of({LEDGER_ARRAY: np.frombuffer(b'{"a":1}', np.uint8)}, "here", 10) is None
    assert Ledger.of({LEDGER_ARRAY: np.zeros(0)}, "here", 10) is None


async def test_the_ledger_forgets_who_was_silent_longest() -> None:
    ledger = Ledger()
    for number in range(MAX_INCARNATIONS):
        ledger.note(Origin(f"w{number}", 1, 0))
    ledger.note(Origin("w0", 2, 0))
    ledger.note(Origin("new", 1, 0))
    kept = Ledger.of({LEDGER_ARRAY: ledger.as_array("here")}, "here", 0)
    assert kept is not None
    assert kept.has(Origin("w0", 2, 0))
    assert not kept.has(Origin("w1", 1, 0))
    assert kept.has(Origin("w2", 1, 0))
