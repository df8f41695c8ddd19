"""Rows under a small cap with a real RocksDB behind them, against a plain dictionary."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)
from numpy.typing import NDArray

from state import records
from state.changelog import ChangelogPage
from state.errors import RowsFullError
from state.partition import ChangelogPosition, Partition, Progress, SharedOptions
from state.rows import KeyedRows, RowsSnapshot
from tests.state.partitions import open_at, quick_directory

ROW = np.dtype([("pinned", "u1"), ("value", "<i8")], align=True)
RAW = f"V{ROW.itemsize}"
CAP = 5
NAMES = [f"{letter}{number}" for letter in ("a", "é", "\ud800") for number in range(4)]
KEYS = st.lists(st.sampled_from(NAMES), max_size=4)
MANY_KEYS = st.lists(st.sampled_from(NAMES), min_size=2, max_size=8)

Row = tuple[bool, int]
NEW: Row = (False, 0)


def encoded(key: str) -> bytes:
    return key.encode("utf-8", "surrogatepass")


def to_bytes(row: Row) -> bytes:
    array = np.zeros(1, ROW)  # the padding too
    array[0] = row
    return array.tobytes()


def pinned(rows: NDArray[np.void]) -> NDArray[np.bool_]:
    assert rows.dtype == ROW
    return np.asarray(rows["pinned"] > 0)


class Cold:
    """The partition, which also remembers what it was asked for."""

    def __init__(self, partition: Partition) -> None:
        self.partition = partition
        self.asked: list[str] = []

    def read_many(self, keys: list[bytes]) -> list[bytes | None]:
        self.asked += [key.decode("utf-8", "surrogatepass") for key in keys]
        return self.partition.read_many(keys)


class ColdRowsAgainstADictionary(RuleBasedStateMachine):
    """Whatever is evicted, read back, deleted or lost, a key's row is what the model says.

    `model` is what the caller did. `durable` is what the last written snapshot held: what a
    reopen goes back to. `dirty`, `removed` and `in_flight` follow from the calls alone.
    """

    @initialize(
        initial_rows=st.integers(1, CAP),
        has_pins=st.booleans(),
        chunk=st.sampled_from([1, 3, 99]),
        stored=st.dictionaries(
            st.sampled_from(NAMES), st.tuples(st.booleans(), st.integers(1, 99))
        ),
    )
    def start(self, initial_rows: int, has_pins: bool, chunk: int, stored: dict[str, Row]) -> None:
        self.patch = pytest.MonkeyPatch()
        self.patch.setattr(records, "LOAD_ROWS", chunk)
        self.directory = quick_directory()
        self.path = Path(self.directory.name, "0")
        self.options = SharedOptions(write_buffer_bytes=64 << 10)
        self.initial_rows = initial_rows
        self.pinned = pinned if has_pins else None
        self.count = 0
        self.durable = stored
        self.partition = open_at(self.path, layout=ROW, options=self.options)
        self.write_durable()
        self.reopen()

    def write_durable(self) -> None:
        keys = [encoded(key) for key in self.durable]
        rows = b"".join(map(to_bytes, self.durable.values()))
        progress = Progress({"clicks": self.count})
        self.partition.write(RowsSnapshot(keys, rows, ROW.itemsize, []), progress)

    def begin(self) -> None:
        self.cold = Cold(self.partition)
        self.rows = KeyedRows(
            ROW,
            max_rows=CAP,
            initial_rows=self.initial_rows,
            cold=self.cold,
            pinned=self.pinned,
        )
        self.model = dict(self.durable)
        self.dirty: set[str] = set()
        self.removed: set[str] = set()
        self.perhaps_removed: set[str] = set()
        self.in_flight: set[str] = set()
        self.removed_in_flight: set[str] = set()
        self.snapshot: RowsSnapshot | None = None
        self.snapshot_model: dict[str, Row] = {}
        self.is_written = False
        self.must_stay: set[str] = set()

    def teardown(self) -> None:
        self.partition.close()
        self.directory.cleanup()
        self.patch.undo()

    # What must be so.

    def here(self) -> set[str]:
        slots = self.rows.occupied()
        return set(self.rows.keys_of(slots))

    def is_pinned(self, key: str) -> bool:
        return self.pinned is not None and self.model[key][0]

    def stuck(self, batch: set[str], *, for_ever: bool = False) -> set[str]:
        """Rows in memory, outside `batch`, that may not leave it."""
        unsettled = set() if for_ever else self.dirty | self.in_flight
        return {k for k in self.here() - batch if k in unsettled or self.is_pinned(k)}

    def value_at(self, slot: int) -> Row:
        row = self.rows.data[slot]
        return bool(row["pinned"]), int(row["value"])

    def refused(self, error: RowsFullError, batch: set[str]) -> None:
        """See that there really was no room for `batch`, and that the error says why."""
        assert len(self.stuck(batch)) + len(batch) > CAP
        helped = len(self.stuck(batch, for_ever=True)) + len(batch) <= CAP
        assert error.checkpoint_helps == helped
        assert ("wait for a checkpoint" in str(error)) == helped

    def nothing_was_asked_of_removed_keys(self) -> None:
        assert not set(self.cold.asked) & (self.removed | self.removed_in_flight)
        self.cold.asked.clear()

    def change(self, slots: NDArray[np.int64], row: Row) -> None:
        self.rows.data["pinned"][slots], self.rows.data["value"][slots] = row
        self.rows.mark_dirty(slots)
        keys = self.rows.keys_of(slots)
        self.model.update(dict.fromkeys(keys, row))
        self.dirty.update(keys)

    def note_created(self, keys: list[str]) -> None:
        for key in set(keys) - set(self.model):
            self.model[key] = NEW
            self.dirty.add(key)
            self.removed.discard(key)

    # What a caller does.

    def try_claim(self, keys: list[str]) -> NDArray[np.int64] | None:
        try:
            slots = self.rows.claim(keys)
        except RowsFullError as error:
            self.refused(error, set(keys))
            return None
        assert len(self.stuck(set(keys))) + len(set(keys)) <= CAP
        self.note_created(keys)
        assert self.rows.keys_of(slots) == keys
        return slots

    @rule(keys=KEYS, value=st.integers(1, 99), pin=st.booleans())
    def claim_and_change(self, keys: list[str], value: int, pin: bool) -> None:
        slots = self.try_claim(keys)
        self.nothing_was_asked_of_removed_keys()
        if slots is not None:
            self.change(slots, (pin, value))

    @rule(keys=KEYS)
    def claim_only(self, keys: list[str]) -> None:
        self.try_claim(keys)
        self.nothing_was_asked_of_removed_keys()

    @rule(keys=KEYS, value=st.integers(100, 199), removed=KEYS, split=st.integers(0, 6))
    def apply_a_batch(self, keys: list[str], value: int, removed: list[str], split: int) -> None:
        """What the engine does: reserve everything, then change it bit by bit."""
        try:
            self.rows.reserve(keys)
        except RowsFullError as error:
            self.refused(error, set(keys))
            return
        finally:
            self.nothing_was_asked_of_removed_keys()
        slots_before = dict(zip(NAMES, self.rows.slots_of(NAMES).tolist(), strict=True))
        gone = [key for key in removed if key in keys]
        self.remove(gone)
        for part in (keys[:split], keys[split:], keys):
            slots = self.try_claim(part)
            assert slots is not None
            self.change(slots, (False, value))
        assert self.cold.asked == []
        for name, slot in slots_before.items():
            if slot >= 0 and name not in gone:
                assert self.rows.slots_of([name]).tolist() == [slot]

    @rule(keys=MANY_KEYS)
    def find(self, keys: list[str]) -> None:
        stored = {key for key in keys if key in self.model}
        try:
            slots = self.rows.find(keys)
        except RowsFullError as error:
            self.refused(error, stored)
        else:
            assert [slot >= 0 for slot in slots.tolist()] == [key in self.model for key in keys]
        self.nothing_was_asked_of_removed_keys()

    @rule(keys=KEYS)
    def remove(self, keys: list[str]) -> None:
        self.rows.remove(keys)
        for key in keys:
            was_known = self.model.pop(key, None) is not None
            (self.removed if was_known else self.perhaps_removed).add(key)
            self.dirty.discard(key)
            self.in_flight.discard(key)
        self.must_stay -= set(keys)

    @rule(keys=KEYS, others=KEYS, claims=st.booleans())
    def erase_and_ask_before_it_is_durable(
        self, keys: list[str], others: list[str], claims: bool
    ) -> None:
        """The store still has the rows; nobody may see them."""
        self.find(keys)
        self.remove(keys)
        if self.snapshot is None:
            self.take_snapshot()
        self.find(others)
        if claims:
            self.claim_only(keys)
        else:
            self.find(keys)

    @rule(keys=KEYS)
    def reserve_only(self, keys: list[str]) -> None:
        try:
            self.rows.reserve(keys)
        except RowsFullError as error:
            self.refused(error, set(keys))
        self.nothing_was_asked_of_removed_keys()

    @rule(value=st.integers(200, 299))
    def sweep(self, value: int) -> None:
        """Change everything that is in memory."""
        for slot in self.rows.occupied().tolist():
            was_pinned = self.value_at(slot)[0]
            self.change(np.array([slot]), (was_pinned, value))

    # Checkpoints.

    @rule()
    def take_snapshot(self) -> None:
        if self.snapshot is not None:
            with pytest.raises(RuntimeError, match="a snapshot is in flight already"):
                self.rows.take_snapshot()
            return
        snapshot = self.rows.take_snapshot()
        assert set(snapshot.keys) == {encoded(key) for key in self.dirty}
        expected = {encoded(key): to_bytes(self.model[key]) for key in self.dirty}
        assert snapshot.rows == b"".join(expected[key] for key in snapshot.keys)
        assert {encoded(key) for key in self.removed} <= set(snapshot.deleted)
        perhaps = {encoded(key) for key in self.perhaps_removed | self.removed}
        assert set(snapshot.deleted) <= perhaps - {encoded(key) for key in self.model}
        self.perhaps_removed = set()
        self.snapshot, self.snapshot_model = snapshot, dict(self.model)
        self.in_flight, self.dirty = self.dirty, set()
        self.removed_in_flight, self.removed = self.removed, set()

    @precondition(lambda self: self.snapshot is not None and not self.is_written)
    @rule()
    def write(self) -> None:
        assert self.snapshot is not None
        self.count += 1
        self.partition.write(self.snapshot, Progress({"clicks": self.count}))
        self.durable = self.snapshot_model
        self.is_written = True

    @rule()
    def settle(self) -> None:
        if self.snapshot is None:
            with pytest.raises(RuntimeError, match="no snapshot is in flight"):
                self.rows.settle()
        elif self.is_written:
            self.rows.settle()
            self.snapshot, self.is_written = None, False
            self.in_flight, self.removed_in_flight = set(), set()

    @rule()
    def whole_checkpoint(self) -> None:
        if self.snapshot is None:
            self.take_snapshot()
        if not self.is_written:
            self.write()
        self.settle()

    @rule()
    def reopen(self) -> None:
        """Lose what was not written, as after a crash or a failed checkpoint."""
        self.partition.close()
        self.partition = open_at(self.path, layout=ROW, options=self.options)
        assert self.partition.progress.offsets.get("clicks", 0) == self.count
        self.begin()
        if sum(map(self.is_pinned, self.model)) > CAP:
            with pytest.raises(RowsFullError, match="in use or pinned") as caught:
                self.partition.load_rows(self.rows)
            assert not caught.value.checkpoint_helps
            self.durable = {key: (False, value) for key, (_, value) in self.durable.items()}
            self.write_durable()
            self.begin()
        assert self.partition.load_rows(self.rows) == len(self.model)
        assert {key for key in self.model if self.is_pinned(key)} <= self.here()
        assert len(self.rows) == min(CAP, len(self.model))
        assert self.rows.has_cold == (len(self.model) > CAP)

    @rule()
    def reopen_with_nothing_in_memory(self) -> None:
        self.partition.close()
        self.partition = open_at(self.path, layout=ROW, options=self.options)
        self.begin()
        self.rows.note_cold()

    @rule(changed=KEYS, deleted=KEYS, value=st.integers(300, 399), pin=st.booleans())
    def follow_the_changelog(
        self, changed: list[str], deleted: list[str], value: int, pin: bool
    ) -> None:
        changed = [key for key in dict.fromkeys(changed) if key not in deleted]
        page = ChangelogPage(
            [encoded(key) for key in changed],
            to_bytes((pin, value)) * len(changed),
            ROW.itemsize,
            [encoded(key) for key in dict.fromkeys(deleted)],
            None,
        )
        if self.dirty or self.removed or self.snapshot is not None:
            with pytest.raises(RuntimeError, match="cannot follow a changelog"):
                self.rows.take_in(page)
            return
        if self.perhaps_removed:
            return
        self.partition.take_in(page, ChangelogPosition(1, 1, whole=value % 2 == 0))
        kept = {key: row for key, row in self.model.items() if key not in deleted}
        self.model = kept | dict.fromkeys(changed, (pin, value))
        self.durable = dict(self.model)
        self.must_stay -= {*changed, *deleted}
        staying = {key for key in self.here() & set(self.model) if self.is_pinned(key)}
        coming = {key for key in changed if self.is_pinned(key)}
        if len(staying | coming) > CAP:
            with pytest.raises(RowsFullError, match="in use or pinned"):
                self.rows.take_in(page)
            self.reopen()
        else:
            self.rows.take_in(page)
            assert coming <= self.here()

    # At every moment.

    @invariant()
    def memory_holds_what_it_must(self) -> None:
        here = self.here()
        assert len(here) == len(self.rows) <= CAP
        assert len(self.rows.data) <= CAP
        assert self.dirty | self.in_flight <= here <= set(self.model)
        assert self.rows.dirty_count == len(self.dirty)
        assert self.must_stay <= here
        self.must_stay = {key for key in here if self.is_pinned(key)}
        if not self.rows.has_cold:
            assert here == set(self.model)
        occupied = self.rows.occupied()
        for key, slot in zip(self.rows.keys_of(occupied), occupied.tolist(), strict=True):
            assert self.value_at(slot) == self.model[key]
        free = np.setdiff1d(np.arange(len(self.rows.data)), occupied)
        assert not self.rows.data.view(RAW)[free].tobytes().strip(b"\0")

    @invariant()
    def the_disk_holds_the_rest(self) -> None:
        stored = dict(zip(*self.partition.read_page(None, 100), strict=True))
        assert stored == {encoded(key): to_bytes(row) for key, row in self.durable.items()}
        for key in set(self.model) - self.here():
            assert stored[encoded(key)] == to_bytes(self.model[key])


TestColdRowsAgainstADictionary = ColdRowsAgainstADictionary.TestCase
TestColdRowsAgainstADictionary.settings = settings(
    max_examples=150, stateful_step_count=50, deadline=None
)
