import tracemalloc
from collections.abc import Sequence

import numpy as np
import pytest
from numpy.typing import NDArray

from state.changelog import ChangelogPage
from state.errors import CorruptStateError, RowsFullError, StateUnavailableError
from state.rows import KeyedRows

ROW = np.dtype([("owed", "u1"), ("clicks", "<i8")], align=True)
CAP = 32


class Shelf:
    """A cold store that remembers what it was asked for."""

    def __init__(self) -> None:
        self.rows: dict[bytes, bytes] = {}
        self.asked: list[list[bytes]] = []

    def read_many(self, keys: list[bytes]) -> list[bytes | None]:
        self.asked.append(keys)
        return [self.rows.get(key) for key in keys]


def owed(rows: NDArray[np.void]) -> NDArray[np.bool_]:
    return np.asarray(rows["owed"] > 0)


def row_of(clicks: int, is_owed: bool = False) -> bytes:
    row = np.zeros(1, ROW)
    row[0] = (is_owed, clicks)
    return row.tobytes()


def names(start: int, end: int) -> list[str]:
    return [f"c{number}" for number in range(start, end)]


class Customers:
    """Rows with a shelf behind them, each with its number as clicks."""

    def __init__(self, end: int = 0, cap: int = CAP) -> None:
        self.shelf = Shelf()
        self.rows = KeyedRows(ROW, max_rows=cap, initial_rows=1, cold=self.shelf, pinned=owed)
        for number in range(end):
            self.change([f"c{number}"], number)
            self.checkpoint()

    def change(self, keys: Sequence[str], clicks: int, is_owed: bool = False) -> None:
        slots = self.rows.claim(keys)
        self.rows.data["clicks"][slots] = clicks
        self.rows.data["owed"][slots] = is_owed
        self.rows.mark_dirty(slots)

    def write(self) -> None:
        snapshot = self.rows.take_snapshot()
        for key in snapshot.deleted:
            self.shelf.rows.pop(key, None)
        for number, key in enumerate(snapshot.keys):
            start = number * ROW.itemsize
            self.shelf.rows[key] = snapshot.rows[start : start + ROW.itemsize]

    def checkpoint(self) -> None:
        self.write()
        self.rows.settle()

    def clicks(self, keys: Sequence[str]) -> list[int]:
        slots = self.rows.find(keys)
        assert (slots >= 0).all()
        clicks: list[int] = self.rows.data["clicks"][slots].tolist()
        return clicks

    def here(self, keys: Sequence[str]) -> list[str]:
        slots = self.rows.slots_of(keys).tolist()
        return [key for key, slot in zip(keys, slots, strict=True) if slot >= 0]


def test_nothing_is_looked_up_before_anything_can_be_cold() -> None:
    customers = Customers(CAP)
    customers.rows.reserve(names(0, CAP))
    assert customers.rows.find(["nobody"]).tolist() == [-1]
    assert not customers.rows.has_cold
    assert customers.shelf.asked == []
    assert (customers.rows.hits, customers.rows.misses) == (0, 0)


def test_one_customer_too_many_makes_room_for_a_few_more() -> None:
    customers = Customers(CAP + 1)
    assert customers.rows.has_cold
    assert len(customers.rows) == CAP - CAP // 16
    assert customers.here(names(0, CAP + 1)) == names(3, CAP + 1)


def test_who_was_not_used_for_the_longest_time_leaves_first() -> None:
    customers = Customers(CAP)
    customers.rows.find(["c0"])
    customers.rows.claim(["c1"])
    customers.rows.reserve(["c2", "new"])
    assert customers.here(names(0, 6)) == ["c0", "c1", "c2"]


def test_a_sweep_over_all_rows_does_not_make_them_equally_recent() -> None:
    customers = Customers(CAP)
    customers.rows.find(["c0"])
    customers.rows.mark_dirty(customers.rows.occupied())
    customers.checkpoint()
    customers.rows.claim(["new"])
    assert customers.here(names(0, 5)) == ["c0", "c4"]


def test_what_was_evicted_comes_back_as_it_was() -> None:
    customers = Customers(CAP + 8)
    assert customers.here(names(0, 4)) == []
    assert customers.clicks(["c2", "c0", "c2"]) == [2, 0, 2]
    claimed = customers.rows.claim(["c1", "new", "c3"])
    assert customers.rows.data["clicks"][claimed].tolist() == [1, 0, 3]
    assert customers.rows.take_snapshot().keys == [b"new"]


def test_slots_of_looks_into_memory_only() -> None:
    customers = Customers(CAP + 8)
    customers.shelf.asked.clear()
    assert customers.rows.slots_of(["c0", "nobody"]).tolist() == [-1, -1]
    assert customers.shelf.asked == []


def test_find_creates_nothing() -> None:
    customers = Customers(CAP + 8)
    before = len(customers.rows)
    assert customers.rows.find(["nobody"]).tolist() == [-1]
    assert len(customers.rows) == before
    assert customers.rows.dirty_count == 0


def test_a_batch_is_read_in_one_look_up_and_claimed_without_another() -> None:
    customers = Customers(CAP + 8)
    customers.shelf.asked.clear()
    customers.rows.reserve(["c0", "new", "c1", "c0", "c39"])
    assert customers.shelf.asked == [[b"c0", b"new", b"c1"]]
    slots = customers.rows.claim(["c39", "c1", "new", "c0"])
    assert customers.rows.data["clicks"][slots].tolist() == [39, 1, 0, 0]
    assert len(customers.shelf.asked) == 1


def test_hits_are_keys_in_memory_and_misses_keys_looked_up() -> None:
    customers = Customers(CAP + 8)
    start = customers.rows.misses
    customers.rows.reserve(["c0", "c39", "new", "c39"])
    customers.rows.claim(["c0", "c39", "new"])
    assert (customers.rows.hits, customers.rows.misses - start) == (1, 2)
    customers.rows.find(["new", "c0"])
    assert (customers.rows.hits, customers.rows.misses - start) == (3, 2)


def test_a_customer_known_to_be_absent_is_looked_up_again_once_they_came_and_went() -> None:
    customers = Customers(CAP)
    customers.rows.reserve([*names(0, CAP - 1), "new"])
    customers.change(["new"], 77)
    customers.checkpoint()
    for number in range(100, 100 + CAP):
        customers.rows.claim([f"c{number}"])
        customers.checkpoint()
    assert customers.here(["new"]) == []
    claimed = customers.rows.claim(["new"])
    assert customers.rows.data["clicks"][claimed].tolist() == [77]


@pytest.mark.parametrize("how", ["take_in", "load_what_fits", "note_cold"])
def test_a_customer_known_to_be_absent_is_looked_up_once_the_store_knows_more(how: str) -> None:
    customers = Customers(CAP + 1)
    customers.rows.reserve(["new"])
    customers.shelf.rows[b"new"] = row_of(77)
    if how == "take_in":
        customers.rows.take_in(ChangelogPage([b"new"], row_of(77), ROW.itemsize, [], None))
    elif how == "load_what_fits":
        customers.rows.load_what_fits([b"new"], row_of(77))
    else:
        customers.rows.note_cold()
    assert customers.here(["new"]) == []
    claimed = customers.rows.claim(["new"])
    assert customers.rows.data["clicks"][claimed].tolist() == [77]


def test_an_erased_customer_never_comes_back_from_the_store() -> None:
    customers = Customers(CAP + 8)
    customers.rows.remove(["c0", "c39"])
    assert customers.rows.find(["c0", "c39"]).tolist() == [-1, -1]
    snapshot = customers.rows.take_snapshot()
    assert sorted(snapshot.deleted) == [b"c0", b"c39"]
    # In flight: the store still has both.
    assert customers.rows.find(["c0", "c39"]).tolist() == [-1, -1]
    claimed = customers.rows.claim(["c0"])
    assert customers.rows.data["clicks"][claimed].tolist() == [0]
    for key in snapshot.deleted:
        del customers.shelf.rows[key]
    customers.rows.settle()
    assert customers.rows.find(["c39"]).tolist() == [-1]
    assert customers.rows.take_snapshot().keys == [b"c0"]


def test_rows_that_wait_for_a_checkpoint_stay_and_the_error_says_so() -> None:
    customers = Customers()
    customers.change(names(0, CAP // 2), 1)
    customers.write()
    customers.change(names(CAP // 2, CAP), 2)
    for ask in (customers.rows.claim, customers.rows.reserve):
        with pytest.raises(RowsFullError, match="while 32 rows wait for a checkpoint") as caught:
            ask(["c0", "new"])
        assert caught.value.checkpoint_helps
    assert customers.here(names(0, CAP)) == names(0, CAP)
    customers.rows.settle()
    customers.rows.reserve(["c0", "new"])
    assert set(customers.here(names(0, CAP))) >= {"c0", *names(CAP // 2, CAP)}
    customers.checkpoint()
    assert customers.clicks(["c1", f"c{CAP - 1}"]) == [1, 2]


def test_pinned_rows_stay_and_the_error_says_so() -> None:
    customers = Customers()
    customers.change(names(0, CAP), 5, is_owed=True)
    customers.checkpoint()
    with pytest.raises(RowsFullError, match="beside those in use or pinned") as caught:
        customers.rows.claim(["new"])
    assert not caught.value.checkpoint_helps
    customers.change(["c7"], 5, is_owed=False)
    customers.checkpoint()
    customers.rows.claim(["new"])
    assert customers.here(["c6", "c7", "c8"]) == ["c6", "c8"]


def test_a_batch_larger_than_the_cap_is_refused_whatever_is_in_memory() -> None:
    customers = Customers(CAP)
    with pytest.raises(RowsFullError, match="in use or pinned") as caught:
        customers.rows.reserve(names(0, CAP + 1))
    assert not caught.value.checkpoint_helps
    assert len(customers.rows) == CAP
    customers.rows.reserve(names(0, CAP))


def test_rows_found_on_the_way_do_not_push_each_other_out() -> None:
    customers = Customers(3 * CAP)
    keys = names(0, CAP)
    assert customers.clicks(keys) == list(range(CAP))
    with pytest.raises(RowsFullError):
        customers.rows.find(names(0, CAP + 1))
    assert customers.here(keys) == keys


def test_without_a_store_nothing_is_evicted() -> None:
    rows = KeyedRows(ROW, max_rows=2)
    rows.claim(["a", "b"])
    rows.take_snapshot()
    rows.settle()
    for ask in (rows.claim, rows.reserve):
        with pytest.raises(RowsFullError, match="3 customers do not fit under the cap of 2"):
            ask(["c"])
    with pytest.raises(RowsFullError, match="3 customers do not fit"):
        rows.load_what_fits([b"c"], row_of(1))
    with pytest.raises(ValueError, match="no cold store"):
        rows.note_cold()
    assert len(rows) == 2


def test_a_store_that_fails_changes_nothing() -> None:
    class Failing(Shelf):
        def read_many(self, keys: list[bytes]) -> list[bytes | None]:
            raise StateUnavailableError("the disk is gone")

    rows = KeyedRows(ROW, max_rows=4, cold=Failing())
    rows.note_cold()
    rows.load([b"a"], row_of(1))
    before = rows.data.tobytes()
    for ask in (rows.claim, rows.find, rows.reserve):
        with pytest.raises(StateUnavailableError, match="the disk is gone"):
            ask(["a", "b"])
    assert rows.data.tobytes() == before
    assert (len(rows), rows.dirty_count) == (1, 0)


def test_loading_fills_the_memory_and_leaves_the_rest_cold() -> None:
    customers = Customers(cap=4)
    keys = [name.encode() for name in names(0, 10)]
    customers.shelf.rows = {key: row_of(number) for number, key in enumerate(keys)}
    for start in range(0, 10, 3):
        part = keys[start : start + 3]
        customers.rows.load_what_fits(part, b"".join(map(customers.shelf.rows.__getitem__, part)))
    assert customers.here(names(0, 10)) == names(0, 4)
    assert customers.rows.has_cold
    assert customers.clicks(["c9", "c0"]) == [9, 0]


def test_loading_admits_every_pinned_row_in_the_place_of_others() -> None:
    customers = Customers(cap=4)
    customers.rows.load_what_fits([b"c0", b"c1", b"c2"], row_of(1) * 3)
    page = [row_of(1), row_of(1), row_of(5, is_owed=True)]
    customers.rows.load_what_fits([b"c3", b"c4", b"c5"], b"".join(page))
    assert customers.here(names(0, 6)) == ["c0", "c1", "c2", "c5"]
    customers.rows.load_what_fits([b"c6", b"c7", b"c8"], row_of(5, is_owed=True) + row_of(1) * 2)
    assert set(customers.here(names(0, 9))) > {"c5", "c6"}
    assert len(customers.rows) == 4
    assert customers.rows.dirty_count == 0


def test_more_pinned_rows_than_fit_cannot_be_loaded() -> None:
    customers = Customers(cap=4)
    keys = [name.encode() for name in names(0, 5)]
    with pytest.raises(RowsFullError, match="in use or pinned"):
        customers.rows.load_what_fits(keys, row_of(1, is_owed=True) * 5)


def test_following_the_changelog_replaces_and_removes_without_a_trace() -> None:
    customers = Customers(4)
    page = ChangelogPage(
        [b"c1", b"c9"], row_of(11) + row_of(99), ROW.itemsize, [b"c0", b"nobody"], None
    )
    customers.rows.take_in(page)
    assert customers.clicks(["c1", "c2", "c9"]) == [11, 2, 99]
    assert customers.rows.find(["c0"]).tolist() == [-1]
    snapshot = customers.rows.take_snapshot()
    assert (snapshot.keys, snapshot.deleted) == ([], [])


def test_rows_that_were_changed_here_follow_nothing() -> None:
    page = ChangelogPage([b"c1"], row_of(11), ROW.itemsize, [], None)
    for customers in (dirty := Customers(2), removed := Customers(2), flying := Customers(2)):
        customers.rows.take_in(page)
    dirty.change(["c0"], 5)
    removed.rows.remove(["c0"])
    flying.rows.take_snapshot()
    for customers in (dirty, removed, flying):
        with pytest.raises(RuntimeError, match="cannot follow a changelog"):
            customers.rows.take_in(page)
    flying.rows.settle()
    flying.rows.take_in(page)


def test_a_page_of_another_size_is_refused() -> None:
    with pytest.raises(CorruptStateError, match="are not 1 rows"):
        Customers(2).rows.take_in(ChangelogPage([b"c1"], b"short", 5, [], None))


def test_ever_new_customers_do_not_take_ever_more_memory() -> None:
    class Forgetful:
        def read_many(self, keys: list[bytes]) -> list[bytes | None]:
            return [None] * len(keys)

    cap = 2_000
    rows = KeyedRows(ROW, max_rows=cap, cold=Forgetful())

    def pass_by(start: int, end: int) -> None:
        for number in range(start, end, 100):
            rows.reserve(names(number, number + 100))
            rows.claim(names(number, number + 100))
            rows.take_snapshot()
            rows.settle()

    tracemalloc.start()
    try:
        pass_by(0, 3 * cap)
        before, _ = tracemalloc.get_traced_memory()
        pass_by(3 * cap, 20 * cap)
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert after < 1.5 * before
    assert len(rows.data) == cap >= len(rows)
