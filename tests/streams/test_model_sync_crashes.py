"""Workers that die, start again, join late or lose their disk: what is lost, and what never is."""

import asyncio
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from uuid import uuid4

import numpy as np
import pytest

from operators.errors import StateMismatchError
from state.errors import CorruptStateError
from streams import model_records, model_sync
from streams.model_ledger import LEDGER_ARRAY, Ledger
from streams.model_records import Origin, encode
from streams.model_sync import Pace
from streams.model_topic import DELTAS, SNAPSHOTS, ModelTopic
from streams.settings import Settings
from tests.streams.topics_for_tests import make_topic
from tests.streams.toy_models import (
    CLUSTER,
    DiedError,
    ToyModels,
    ToyShop,
    ToyWorker,
    open_shop,
)

LARGE = 100_000
"""Keys of a toy whose delta takes several records."""


@pytest.fixture
async def shop(settings: Settings, tmp_path: Path) -> AsyncIterator[ToyShop]:
    topic = f"models-{uuid4()}"
    await make_topic(settings, topic, 2)
    async with open_shop(settings, topic, tmp_path) as opened:
        yield opened


DEATHS: dict[str, tuple[dict[str, int], bool, bool]] = {
    # When it dies: which record of the exchange it is, whether at the file, and whether what was
    # learned since the exchange before it is lost.
    "before the first part of the delta": ({"dies_before": 1}, False, True),
    "after the first part of the delta": ({"dies_after": 1}, False, True),
    "before the last part of the delta": ({"dies_before": 4}, False, True),
    "after the delta, before the file": ({}, True, False),
    "after the file, before the snapshot": ({"dies_before": 5}, False, False),
    "after the first part of the snapshot": ({"dies_after": 5}, False, False),
    "before the last part of the snapshot": ({"dies_before": 8}, False, False),
    "after the snapshot": ({"dies_after": 8}, False, False),
}


@pytest.mark.parametrize("keeps_disk", [True, False], ids=["disk kept", "disk lost"])
@pytest.mark.parametrize("death", DEATHS)
async def test_a_crash_loses_one_interval_at_most_and_repeats_nothing(
    shop: ToyShop, death: str, keeps_disk: bool
) -> None:
    record, at_the_file, is_lost = DEATHS[death]
    a, b = [await shop.worker(name, keys=LARGE) for name in "ab"]
    a.models.learn(0, times=100)
    await a.exchange(save=True, snapshot=True)
    b.models.learn(1, times=10)
    await b.exchange(save=True)
    await a.until(lambda: a.models.counts[1] == 10)
    a.models.learn(0, times=5)  # the interval in danger
    first = a.topic.written
    assert first == 8, "a delta and a snapshot are 4 parts each"
    for moment, number in record.items():
        setattr(a.topic, moment, first + number)
    a.store.dies = at_the_file
    with pytest.raises(DiedError):
        await a.exchange(save=True, snapshot=True)
    await shop.crash(a)
    if not keeps_disk:
        shop.path("a").unlink()
    again = await shop.worker("a", keys=LARGE)
    joiner = await shop.worker("c", keys=LARGE)
    again.models.learn(2, times=3)
    await again.exchange(save=True, snapshot=True)
    total = 100 if is_lost else 105
    for worker in (again, b, joiner):
        await worker.until_learned(2, 3)
        assert worker.models.counts[:3] == [total, 10, 3]
    assert again.models.bytes() == b.models.bytes() == joiner.models.bytes()


async def test_who_joins_from_a_snapshot_equals_the_others(shop: ToyShop) -> None:
    a, b = await shop.worker("a"), await shop.worker("b")
    a.models.learn(0, times=3)
    await a.exchange()
    b.models.learn(1, times=4)
    await b.exchange()
    await a.until_counts(3, 4, 0, 0)
    a.models.learn(2)
    await a.exchange(snapshot=True)
    b.models.learn(3)
    await b.exchange()
    joiner = await shop.worker("c")
    assert joiner.models.counts == [3, 4, 1, 1]
    await a.until_counts(3, 4, 1, 1)
    await b.until_counts(3, 4, 1, 1)
    assert a.models.bytes() == b.models.bytes() == joiner.models.bytes()
    assert joiner.metrics.of("gaps_total") == 0


async def test_who_joins_without_a_snapshot_reads_all_deltas(shop: ToyShop) -> None:
    a = await shop.worker("a")
    for key in (0, 1, 1):
        a.models.learn(key)
        await a.exchange()
    joiner = await shop.worker("b")
    assert joiner.models.bytes() == a.models.bytes()


async def test_what_leads_further_is_loaded_be_it_the_file_or_the_snapshot(
    shop: ToyShop, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    a, b = await shop.worker("a"), await shop.worker("b")
    a.models.learn(0)
    await a.exchange(snapshot=True)
    await b.until_counts(1, 0, 0, 0)
    await b.exchange(save=True)
    await shop.crash(b)
    caplog.clear()
    b = await shop.worker("b")
    assert "the models are as last saved here" in caplog.text
    a.models.learn(1)
    await a.exchange()
    await b.until_counts(1, 1, 0, 0)
    await a.until(lambda: a.sync is not None)
    a.models.learn(2)
    await shop.crash(b)
    # Its own records are behind it by now, so that the snapshot leads beyond b's file.
    await a.until(lambda: a.topic.position == 2)
    await a.exchange(snapshot=True)
    caplog.clear()
    b = await shop.worker("b")
    assert f"those of a snapshot by worker run {a.incarnation}" in caplog.text
    assert b.models.counts == [1, 1, 1, 0]
    assert b.taken_in == 0, "the snapshot has its delta already"


async def test_a_torn_snapshot_is_passed_over(shop: ToyShop) -> None:
    a = await shop.worker("a", keys=LARGE)
    a.models.learn(0, times=5)
    await a.exchange(snapshot=True)
    whole = await a.topic.bounds(SNAPSHOTS)
    a.models.learn(1, times=6)
    a.topic.dies_after = a.topic.written + 4 + 3
    with pytest.raises(DiedError):
        await a.exchange(snapshot=True)
    assert (await a.topic.bounds(SNAPSHOTS))[1] == whole[1] + 3
    joiner = await shop.worker("b", keys=LARGE)
    assert joiner.models.bytes() == a.models.bytes()
    # It stands on the older snapshot: only the newer delta was read.
    assert joiner.taken_in == 1


async def test_snapshots_of_two_who_lead_at_once_do_not_mix(shop: ToyShop) -> None:
    a, b = [await shop.worker(name, keys=LARGE) for name in "ab"]
    a.models.learn(0)
    b.models.learn(1)
    await asyncio.gather(a.exchange(snapshot=True), b.exchange(snapshot=True))
    joiner = await shop.worker("c", keys=LARGE)
    assert joiner.models.counts[:3] == [1, 1, 0]


async def test_a_snapshot_that_does_not_fit_or_cannot_be_read_is_refused(
    shop: ToyShop, caplog: pytest.LogCaptureFixture
) -> None:
    other = await shop.worker("other", keys=9)
    other.models.learn(0)
    await other.exchange(snapshot=True)
    await shop.crash(other)
    a = await shop.worker("a")
    assert a.models.counts == [0, 0, 0, 0]
    assert "its snapshot 1: ToyModels of 4 keys cannot take in" in caplog.text
    half_fitting = {
        "toy/counts": np.ones(4, np.int64),
        "toy/weights": np.ones(9),
        LEDGER_ARRAY: Ledger().as_array(CLUSTER),
    }
    for writer, arrays, reason in (
        ("half-fitting", half_fitting, "ToyModels of 4 keys cannot take in"),
        ("strange", {"x": np.zeros(2)}, "it is not about the deltas of this topic"),
    ):
        [value] = encode(arrays, Origin(writer, 1, 50))
        await shop.producer.send_and_wait(shop.topic, value, partition=SNAPSHOTS)
        b = await shop.worker(writer)
        assert b.models.bytes() == ToyModels().bytes()
        assert f"worker run {writer} learned is left out here: its snapshot 1: {reason}" in (
            caplog.text
        )
        assert b.metrics.of("refused_total") == 2, "the snapshot, and the delta of nine keys"


async def test_a_snapshot_that_was_written_while_a_worker_starts_is_good_for_it(
    shop: ToyShop, monkeypatch: pytest.MonkeyPatch
) -> None:
    a = await shop.worker("a")
    a.models.learn(0)
    await a.exchange()
    bounds = ModelTopic.bounds

    async def bounds_of_a_moment_ago(self: ModelTopic, partition: int) -> tuple[int, int]:
        found = await bounds(self, partition)
        if partition == DELTAS:
            await a.until(lambda: a.topic.position == 1)
            a.models.learn(1)
            await a.exchange()
            await a.until(lambda: a.topic.position == 2)
            await a.exchange(snapshot=True)
        return found

    with monkeypatch.context() as patch:
        patch.setattr(ModelTopic, "bounds", bounds_of_a_moment_ago)
        b = await shop.worker("b")
    assert b.models.counts == [1, 1, 0, 0]
    assert b.metrics.of("refused_total") == 0
    a.models.learn(2)
    await a.exchange()
    await b.until_counts(1, 1, 1, 0)
    assert b.taken_in == 1


async def test_damaged_records_at_the_end_do_not_hide_the_snapshot(
    shop: ToyShop, monkeypatch: pytest.MonkeyPatch
) -> None:
    a = await shop.worker("a")
    a.models.learn(0)
    await a.exchange(snapshot=True)
    with monkeypatch.context() as patch:
        patch.setattr(model_records, "FORMAT", 9)
        [newer] = encode({"x": np.zeros(1)}, Origin("newer", 1, 99))
    for value in (b"nonsense", newer) * 5:
        await shop.producer.send_and_wait(shop.topic, value, partition=SNAPSHOTS)
    b = await shop.worker("b")
    assert b.models.counts == [1, 0, 0, 0]
    assert b.taken_in == 0, "it had it from the snapshot"


async def test_a_file_of_another_cluster_is_kept_where_there_is_nothing_better(
    shop: ToyShop,
) -> None:
    a = await shop.worker("a", cluster_id="the-one-before")
    a.models.learn(0, times=9)
    await a.exchange(save=True)
    await shop.crash(a)
    fresh = f"models-{uuid4()}"
    await make_topic(shop.settings, fresh, 2)
    shop.topic = fresh
    again = await shop.worker("a", leads=True, pace=Pace(sync_seconds=0.01))
    assert again.models.counts == [9, 0, 0, 0]
    # It alone knows what is in its file: so the others get it in a snapshot, at once.
    async with again.exchanging():
        again.models.learn(1)
        await again.until(lambda: again.sent == 1)
        again.models.learn(1)
        await again.until(lambda: again.sent == 2)  # so that the exchange before is complete
    joiner = await shop.worker("b")
    assert joiner.models.counts == [9, 2, 0, 0]
    assert await again.topic.bounds(SNAPSHOTS) == (0, 1)


async def test_a_file_of_a_topic_that_was_made_anew_leads_nowhere(shop: ToyShop) -> None:
    a = await shop.worker("a")
    for _ in range(3):
        a.models.learn(0)
        await a.exchange()
    await a.until(lambda: a.topic.position == 3)
    await a.exchange(save=True)
    await shop.crash(a)
    fresh = f"models-{uuid4()}"
    await make_topic(shop.settings, fresh, 2)
    shop.topic = fresh
    b = await shop.worker("b")
    b.models.learn(1)
    await b.exchange()
    again = await shop.worker("a")
    assert again.models.counts == [3, 1, 0, 0]


async def test_a_file_from_before_there_was_an_exchange_is_loaded(shop: ToyShop) -> None:
    before = ToyWorker(shop.settings, shop.topic, shop.producer, shop.path("a"))
    before.models.learn(3, times=8)
    before.store.save(before.models.copy_arrays(), 5)
    a = await shop.worker("a")
    assert a.models.counts == [0, 0, 0, 8]
    await a.exchange(save=True)
    assert a.store.version == 6


async def test_a_file_that_does_not_fit_or_is_damaged_is_an_error(shop: ToyShop) -> None:
    a = await shop.worker("a", keys=9)
    a.models.learn(0)
    await a.exchange(save=True)
    await shop.crash(a)
    stored = shop.path("a").read_bytes()
    other = ToyWorker(shop.settings, shop.topic, shop.producer, shop.path("a"))
    with pytest.raises(StateMismatchError, match="of 4 keys"):
        await other.start()
    await other.end()
    shop.path("a").write_bytes(stored[:-9])
    damaged = ToyWorker(shop.settings, shop.topic, shop.producer, shop.path("a"), keys=9)
    with pytest.raises(CorruptStateError):
        await damaged.start()
    await damaged.end()


async def test_many_deltas_bring_a_snapshot_before_its_time_and_few_none(
    shop: ToyShop, monkeypatch: pytest.MonkeyPatch
) -> None:
    seconds = 0.0
    pace = Pace(sync_seconds=0.01, snapshot_seconds=300.0)
    a = await shop.worker("a", leads=True, pace=pace, clock=lambda: seconds)

    async def snapshots_after_learning() -> int:
        for count in range(int(a.sent) + 1, int(a.sent) + 3):
            a.models.learn(0)
            await a.until(partial(lambda count: a.sent == count, count))
        return (await a.topic.bounds(SNAPSHOTS))[1]

    async with a.exchanging():
        assert await snapshots_after_learning() == 0
        monkeypatch.setattr(model_sync, "EARLY_SNAPSHOT_BYTES", 100)
        early = await snapshots_after_learning()
        assert early >= 1
        monkeypatch.undo()
        monkeypatch.setattr(model_sync, "SNAPSHOT_SHARE", 0.001)  # what is worth one is far more
        seconds = 1_000.0
        assert await snapshots_after_learning() == early
        monkeypatch.undo()
        assert await snapshots_after_learning() == early + 1


class History:
    """What befell three workers, and how much they were acknowledged to have learned."""

    def __init__(self, shop: ToyShop, rng: np.random.Generator) -> None:
        self.shop = shop
        self.rng = rng
        self.running: dict[str, ToyWorker] = {}
        self.unsent = dict.fromkeys("abc", 0)
        self.acknowledged = 0

    async def ensure(self, name: str) -> ToyWorker:
        """Start a worker that does not run; its disk may be lost."""
        if name not in self.running:
            if self.rng.random() < 0.3:
                self.shop.path(name).unlink(missing_ok=True)
            self.running[name] = await self.shop.worker(name)
            self.unsent[name] = 0
        return self.running[name]

    def learn(self, name: str) -> None:
        times = int(self.rng.integers(3))
        self.running[name].models.learn(int(self.rng.integers(4)), times=times)
        self.unsent[name] += times

    async def exchange(self, name: str, *, may_die: bool) -> None:
        worker = self.running[name]
        next_record = worker.topic.written + int(self.rng.integers(1, 12))
        worker.topic.dies_before = next_record if may_die else None
        worker.store.dies = may_die and bool(self.rng.random() < 0.1)
        save, snapshot = bool(self.rng.random() < 0.5), bool(self.rng.random() < 0.2)
        sent = worker.sent
        try:
            await worker.exchange(save=save, snapshot=snapshot)
        except DiedError:
            await self.shop.crash(self.running.pop(name))
        if worker.sent > sent:
            self.acknowledged += self.unsent[name]
            self.unsent[name] = 0


@pytest.mark.parametrize("seed", range(3))
async def test_replicas_are_equal_after_any_history(shop: ToyShop, seed: int) -> None:
    """Every replica ends with the first arrays and every acknowledged delta, each once."""
    rng = np.random.default_rng(seed)
    history = History(shop, rng)
    for name in rng.choice(list("abc"), size=60).tolist():
        await history.ensure(name)
        history.learn(name)
        await history.exchange(name, may_die=True)
    for name in "abc":
        await history.ensure(name)
        await history.exchange(name, may_die=False)
    total = history.acknowledged
    workers = [*history.running.values(), await shop.worker("joiner")]
    for worker in workers:
        await worker.until(partial(lambda worker: sum(worker.models.counts) == total, worker))
    assert len({worker.models.bytes() for worker in workers}) == 1
