import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from numpy.typing import NDArray

from state.errors import CorruptStateError, RowsFullError
from state.rows import KeyedRows, RowsSnapshot

# Padding after each flag: seven bytes that a field-wise copy would lose.
ROW = np.dtype([("flag", "u1"), ("profile", [("clicks", "<i8"), ("seen", "u1")])], align=True)
RAW = f"V{ROW.itemsize}"
MAX_ROWS = 12
KEYS = st.text(min_size=1, max_size=2, alphabet="aé😀\ud800z")
KEY_LISTS = st.lists(KEYS, max_size=8)


def rows_of(**clicks: int) -> KeyedRows:
    rows = KeyedRows(ROW, max_rows=MAX_ROWS, initial_rows=2)
    rows.data["profile"]["clicks"][rows.claim(list(clicks))] = list(clicks.values())
    return rows


def clicks_of(rows: KeyedRows, *keys: str) -> list[int]:
    clicks: list[int] = rows.data["profile"]["clicks"][rows.slots_of(keys)].tolist()
    return clicks


def written(rows: KeyedRows) -> RowsSnapshot:
    """A snapshot that is durable at once."""
    snapshot = rows.take_snapshot()
    rows.settle()
    return snapshot


def as_dict(snapshot: RowsSnapshot) -> dict[bytes, bytes]:
    size = snapshot.row_bytes
    assert len(snapshot.rows) == size * len(snapshot.keys)
    starts = range(0, len(snapshot.rows), size)
    return {
        key: snapshot.rows[start : start + size]
        for key, start in zip(snapshot.keys, starts, strict=True)
    }


def everything_of(rows: KeyedRows) -> tuple[bytes, int, list[int], int]:
    return rows.data.tobytes(), len(rows), rows.occupied().tolist(), rows.dirty_count


class RowsAgainstADictionary(RuleBasedStateMachine):
    """Any sequence of calls leaves what a plain dictionary would hold, in memory and stored."""

    def __init__(self) -> None:
        super().__init__()
        self.rows = KeyedRows(ROW, max_rows=MAX_ROWS, initial_rows=1)
        self.model: dict[str, bytes] = {}
        self.dirty: set[str] = set()
        self.stored: dict[bytes, bytes] = {}
        self.is_in_flight = False

    def bytes_at(self, slot: int) -> bytes:
        return self.rows.data[slot : slot + 1].tobytes()

    @rule(keys=KEY_LISTS)
    def claim(self, keys: list[str]) -> None:
        fresh = set(keys) - set(self.model)
        if len(fresh) + len(self.model) > MAX_ROWS:
            before = everything_of(self.rows)
            with pytest.raises(RowsFullError):
                self.rows.claim(keys)
            assert everything_of(self.rows) == before
            return
        slots = self.rows.claim(keys)
        assert slots.dtype == np.int64
        assert self.rows.keys_of(slots) == keys
        for key in fresh:
            self.model[key] = bytes(ROW.itemsize)
        self.dirty |= fresh

    @rule(keys=KEY_LISTS, values=st.binary(min_size=ROW.itemsize, max_size=ROW.itemsize))
    def change(self, keys: list[str], values: bytes) -> None:
        known = [key for key in keys if key in self.model]
        slots = self.rows.slots_of(known)
        self.rows.data.view(RAW)[slots] = np.void(values)
        self.rows.mark_dirty(slots)
        self.model.update(dict.fromkeys(known, values))
        self.dirty.update(known)

    @rule(keys=KEY_LISTS)
    def remove(self, keys: list[str]) -> None:
        self.rows.remove(keys)
        for key in keys:
            self.model.pop(key, None)
            self.dirty.discard(key)

    @rule()
    def settle(self) -> None:
        if self.is_in_flight:
            self.rows.settle()
            self.is_in_flight = False

    @rule()
    def snapshot(self) -> None:
        self.settle()
        snapshot = self.rows.take_snapshot()
        self.is_in_flight = True
        changed = as_dict(snapshot)
        assert set(changed) == {key.encode("utf-8", "surrogatepass") for key in self.dirty}
        assert not set(changed) & set(snapshot.deleted)
        for key in snapshot.deleted:
            self.stored.pop(key, None)
        self.stored.update(changed)
        self.dirty.clear()
        expected = {k.encode("utf-8", "surrogatepass"): row for k, row in self.model.items()}
        assert self.stored == expected

    @rule()
    def load_what_is_stored_into_new_rows(self) -> None:
        self.snapshot()
        self.is_in_flight = False
        self.rows = KeyedRows(ROW, max_rows=MAX_ROWS, initial_rows=3)
        self.rows.load(list(self.stored), b"".join(self.stored.values()))

    @invariant()
    def memory_agrees(self) -> None:
        assert len(self.rows) == len(self.model)
        assert self.rows.dirty_count == len(self.dirty)
        slots = self.rows.slots_of(list(self.model))
        assert sorted(slots.tolist()) == self.rows.occupied().tolist()
        assert [self.bytes_at(slot) for slot in slots] == list(self.model.values())
        assert len(self.rows.data) <= MAX_ROWS
        free = np.setdiff1d(np.arange(len(self.rows.data)), slots)
        assert not self.rows.data.view(RAW)[free].tobytes().strip(b"\0")


TestRowsAgainstADictionary = RowsAgainstADictionary.TestCase
TestRowsAgainstADictionary.settings = settings(
    max_examples=60, stateful_step_count=30, deadline=None
)


def test_growth_keeps_rows_and_their_slots() -> None:
    rows = rows_of(ada=1, bob=2)
    before = rows.slots_of(["ada", "bob"])
    rows.claim([f"customer-{i}" for i in range(8)])
    assert rows.slots_of(["ada", "bob"]).tolist() == before.tolist()
    assert clicks_of(rows, "ada", "bob") == [1, 2]
    assert len(rows.data) == MAX_ROWS == rows.max_rows
    assert rows.nbytes >= MAX_ROWS * ROW.itemsize
    assert rows.dtype == ROW


def test_a_claim_beyond_the_cap_raises_and_changes_nothing() -> None:
    rows = rows_of(ada=1)
    before = everything_of(rows)
    with pytest.raises(RowsFullError, match="13 customers do not fit under the cap of 12 rows"):
        rows.claim([f"customer-{i}" for i in range(MAX_ROWS)])
    assert everything_of(rows) == before
    assert rows.slots_of(["customer-0"]).tolist() == [-1]


def test_a_key_that_occurs_twice_gets_one_row() -> None:
    rows = rows_of()
    slots = rows.claim(["ada", "bob", "ada"])
    assert slots[0] == slots[2] != slots[1]
    assert len(rows) == 2


def test_looking_up_never_changes_anything() -> None:
    rows = rows_of(ada=1)
    before = everything_of(rows)
    assert rows.slots_of(["ada", "nobody"]).tolist() == [0, -1]
    assert rows.slots_of([]).tolist() == []
    assert everything_of(rows) == before


def test_a_snapshot_holds_the_bytes_of_its_moment() -> None:
    rows = rows_of(ada=1)
    snapshot = rows.take_snapshot()
    rows.data["profile"]["clicks"][rows.slots_of(["ada"])] = 99
    rows.claim([f"customer-{i}" for i in range(8)])
    stored = np.frombuffer(snapshot.rows, ROW)
    assert stored["profile"]["clicks"].tolist() == [1]


def test_a_second_snapshot_holds_only_what_changed_after_the_first() -> None:
    rows = rows_of(ada=1, bob=2)
    written(rows)
    rows.mark_dirty(rows.slots_of(["bob", "bob"]))
    assert rows.dirty_count == 1
    assert written(rows).keys == [b"bob"]
    assert written(rows) == RowsSnapshot([], b"", ROW.itemsize, [])


def test_only_one_snapshot_is_in_flight() -> None:
    rows = rows_of(ada=1)
    rows.take_snapshot()
    with pytest.raises(RuntimeError, match="a snapshot is in flight already"):
        rows.take_snapshot()
    rows.settle()
    with pytest.raises(RuntimeError, match="no snapshot is in flight"):
        rows.settle()
    assert rows.take_snapshot().keys == []


def test_a_row_changed_while_it_was_in_flight_is_written_again() -> None:
    rows = rows_of(ada=1, bob=2)
    rows.take_snapshot()
    rows.data["profile"]["clicks"][rows.slots_of(["ada"])] = 9
    rows.mark_dirty(rows.slots_of(["ada"]))
    rows.settle()
    assert rows.dirty_count == 1
    assert np.frombuffer(as_dict(written(rows))[b"ada"], ROW)["profile"]["clicks"] == [9]


def test_a_slot_given_to_another_key_while_it_was_in_flight_is_written() -> None:
    rows = rows_of(ada=1, bob=2)
    rows.take_snapshot()
    freed = rows.slots_of(["ada", "bob"]).tolist()
    rows.remove(["ada", "bob"])
    assert rows.claim(["cleo"]).tolist()[0] in freed
    rows.settle()
    assert len(rows) == rows.dirty_count == 1
    snapshot = rows.take_snapshot()
    assert (snapshot.keys, sorted(snapshot.deleted)) == ([b"cleo"], [b"ada", b"bob"])


def test_a_removed_row_is_zeroed_and_its_slot_given_to_the_next_key() -> None:
    rows = rows_of(ada=1, bob=2)
    freed = rows.slots_of(["ada"]).tolist()
    rows.remove(["ada", "nobody"])
    assert rows.occupied().tolist() == rows.slots_of(["bob"]).tolist()
    assert rows.claim(["cleo"]).tolist() == freed
    assert clicks_of(rows, "cleo") == [0]
    assert rows.take_snapshot().deleted == [b"ada"]


def test_a_key_removed_and_claimed_again_is_written_as_a_new_row() -> None:
    rows = rows_of(ada=1)
    written(rows)
    rows.remove(["ada"])
    rows.claim(["ada"])
    snapshot = rows.take_snapshot()
    assert as_dict(snapshot) == {b"ada": bytes(ROW.itemsize)}
    assert snapshot.deleted == []


def test_a_slot_without_a_row_is_refused() -> None:
    rows = rows_of(ada=1)
    slots = rows.slots_of(["ada"])
    rows.remove(["ada"])
    unknown: NDArray[np.int64] = np.array([-1], np.int64)
    for stale in (slots, unknown):
        with pytest.raises(IndexError, match="a slot without a row"):
            rows.mark_dirty(stale)
        with pytest.raises(IndexError, match="a slot without a row"):
            rows.key_of(int(stale[0]))
    assert rows.dirty_count == 0


def test_loading_overwrites_rows_that_are_there() -> None:
    rows = rows_of(ada=1, bob=2)
    written(rows)
    rows.load([b"ada"], bytes(ROW.itemsize))
    assert clicks_of(rows, "ada", "bob") == [0, 2]
    assert rows.dirty_count == 0


def test_loading_a_key_that_is_not_text_is_refused() -> None:
    rows = rows_of()
    with pytest.raises(CorruptStateError, match=r"a customer's key is not UTF-8 \(b'a\\xff'\)"):
        rows.load([b"a\xff"], bytes(ROW.itemsize))
    assert len(rows) == 0


def test_a_key_loaded_twice_at_once_is_refused() -> None:
    with pytest.raises(AssertionError, match="added twice"):
        rows_of().load([b"ada", b"ada"], bytes(2 * ROW.itemsize))


@pytest.mark.parametrize("size", [0, ROW.itemsize - 1, ROW.itemsize + 1])
def test_loading_bytes_that_are_not_whole_rows_is_refused(size: int) -> None:
    rows = rows_of()
    with pytest.raises(CorruptStateError, match="are not 1 rows"):
        rows.load([b"ada"], bytes(size))
    assert len(rows) == 0


@given(st.integers(-2, 0))
def test_a_cap_below_one_row_is_refused(cap: int) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        KeyedRows(ROW, max_rows=cap)
    with pytest.raises(ValueError, match="at least 1"):
        KeyedRows(ROW, max_rows=1, initial_rows=cap)
