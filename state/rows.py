"""The customers' rows in memory: customer id → slot → row of one structured array."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from state.errors import CorruptStateError, RowsFullError
from state.layout import fingerprint

# What a slot is. A zero-filled array of states is an array of free slots.
FREE, CLEAN, DIRTY = 0, 1, 2


class _SlotOfKey(dict[str, int]):
    """A dictionary that answers -1 for what it does not know, and does not learn it."""

    def __missing__(self, key: str) -> int:
        return -1


@dataclass(frozen=True, slots=True)
class RowsSnapshot:
    """What changed since the last snapshot, as bytes that no later change can reach.

    Attributes
    ----------
    keys
        UTF-8 keys of the changed rows, ascending by slot.
    rows
        The changed rows end to end, ``len(keys) * row_bytes`` long.
    row_bytes
        Size of a row.
    deleted
        UTF-8 keys of the rows removed since the last snapshot; none of them is in `keys`.
    """

    keys: list[bytes]
    rows: bytes
    row_bytes: int
    deleted: list[bytes]


class KeyedRows:
    """Rows of a structured array, found by key: a dictionary, an array, a byte of state a slot.

    A slot is free, clean (as it is stored) or dirty (changed since the last snapshot). A slot
    keeps its row until the row is removed; then it is zeroed and given to the next new key.
    A zero-filled row is a valid new row. Not for use by several threads at once.

    Parameters
    ----------
    dtype
        Layout of a row: a structured dtype of fixed-size fields.
    max_rows
        Most rows ever held, ≥ 1. A claim beyond it raises and changes nothing.
    initial_rows
        Capacity to begin with, ≥ 1; it doubles as needed, up to `max_rows`. While it grows, the
        old array and the new one exist side by side.

    Raises
    ------
    ValueError
        When a parameter is out of its range.

    Examples
    --------
    >>> rows = KeyedRows(np.dtype([("clicks", np.int64)]), max_rows=1000)
    >>> slots = rows.claim(["ada", "bob", "ada"])
    >>> np.add.at(rows.data["clicks"], slots, 1)
    >>> rows.mark_dirty(slots)
    >>> rows.data["clicks"][rows.slots_of(["ada", "bob"])].tolist()
    [2, 1]
    >>> rows.take_snapshot().keys, rows.dirty_count
    ([b'ada', b'bob'], 0)
    """

    def __init__(
        self, dtype: np.dtype[np.void], *, max_rows: int, initial_rows: int = 1024
    ) -> None:
        fingerprint(dtype)
        if max_rows < 1 or initial_rows < 1:
            raise ValueError(
                f"max_rows and initial_rows are at least 1, not {max_rows} and {initial_rows}"
            )
        self._dtype = dtype
        # Rows are copied through this opaque type: a structured copy goes field by field, is
        # slower, and leaves the padding behind.
        self._raw_dtype = np.dtype((np.void, dtype.itemsize))
        self._max_rows = max_rows
        self._data: NDArray[np.void] = np.zeros(min(initial_rows, max_rows), dtype)
        self._state = np.zeros(len(self._data), np.uint8)
        self._slots = _SlotOfKey()
        self._keys: list[str] = []  # by slot; as long as slots were ever used; "" where free
        self._free: list[int] = []  # slots below len(_keys) without a row
        self._deleted: dict[str, None] = {}

    @property
    def dtype(self) -> np.dtype[np.void]:
        """Layout of a row."""
        return self._dtype

    @property
    def max_rows(self) -> int:
        """Most rows ever held."""
        return self._max_rows

    @property
    def data(self) -> NDArray[np.void]:
        """The live array, shape (capacity,); zeros where no row is.

        `claim` and `load` may replace it, so ask for it anew after them.
        """
        return self._data

    @property
    def nbytes(self) -> int:
        """Bytes of the arrays; the dictionary comes on top, some 200 bytes a key."""
        return self._data.nbytes + self._state.nbytes

    @property
    def dirty_count(self) -> int:
        """Number of rows changed since the last snapshot; one pass over a byte a row."""
        return int(np.count_nonzero(self._state == DIRTY))

    def __len__(self) -> int:
        """Return the number of rows in use."""
        return len(self._slots)

    def slots_of(self, keys: Sequence[str]) -> NDArray[np.int64]:
        """Find the slot of each key.

        Returns
        -------
        int64 of shape (len(keys),), -1 where a key is unknown. Nothing is changed.
        """
        return np.array(list(map(self._slots.__getitem__, keys)), np.int64)

    def claim(self, keys: Sequence[str]) -> NDArray[np.int64]:
        """Find the slot of each key, and create a zeroed, dirty row for each unknown one.

        Parameters
        ----------
        keys
            Any number of keys; one that occurs several times gets one row.

        Returns
        -------
        int64 of shape (len(keys),), never negative.

        Raises
        ------
        RowsFullError
            When the new keys do not fit under `max_rows`; then nothing was changed.
        """
        slots = self.slots_of(keys)
        unknown = np.flatnonzero(slots < 0).tolist()
        if not unknown:
            return slots
        self._create(list(dict.fromkeys(keys[position] for position in unknown)))
        return self.slots_of(keys)

    def key_of(self, slot: int) -> str:
        """Return the key of the row in `slot`; see `keys_of`."""
        return self.keys_of(np.array([slot], np.int64))[0]

    def keys_of(self, slots: NDArray[np.int64]) -> list[str]:
        """Return the key of the row in each of `slots`.

        Raises
        ------
        IndexError
            When a slot holds no row.
        """
        self._require_rows(slots)
        keys = self._keys
        return [keys[slot] for slot in slots.tolist()]

    def occupied(self) -> NDArray[np.int64]:
        """Return the slots that hold a row, ascending, as int64."""
        return np.flatnonzero(self._state).astype(np.int64, copy=False)

    def mark_dirty(self, slots: NDArray[np.int64]) -> None:
        """Have the rows in `slots` written with the next snapshot.

        Raises
        ------
        IndexError
            When a slot holds no row (its customer was removed); then nothing was marked.
        """
        self._require_rows(slots)
        self._state[slots] = DIRTY

    def remove(self, keys: Iterable[str]) -> None:
        """Remove rows; the next snapshot names their keys as deleted. Unknown keys are skipped."""
        freed: list[int] = []
        for key in keys:
            slot = self._slots.pop(key, -1)
            if slot >= 0:
                freed.append(slot)
                self._keys[slot] = ""
                self._deleted[key] = None
        self._free += freed
        self._state[freed] = FREE
        self._data.view(self._raw_dtype)[freed] = np.zeros((), self._raw_dtype)

    def take_snapshot(self) -> RowsSnapshot:
        """Copy what changed since the last snapshot, and call it clean.

        Costs a copy of the dirty rows and one pass over a byte a row (0.2 ms a million rows).
        """
        slots = np.flatnonzero(self._state == DIRTY)
        keys = [self._keys[slot].encode("utf-8", "surrogatepass") for slot in slots.tolist()]
        rows = self._data.view(self._raw_dtype)[slots].tobytes()
        deleted = [key.encode("utf-8", "surrogatepass") for key in self._deleted]
        self._state[slots] = CLEAN
        self._deleted.clear()
        return RowsSnapshot(keys, rows, self._dtype.itemsize, deleted)

    def load(self, keys: Sequence[bytes], rows: bytes | bytearray | memoryview) -> None:
        """Take in stored rows, as clean ones; a row that is here already is overwritten.

        Parameters
        ----------
        keys
            UTF-8 keys, each at most once.
        rows
            The rows end to end, in the order of `keys`.

        Raises
        ------
        CorruptStateError
            When `rows` is not one row per key; then nothing was changed.
        RowsFullError
            When they do not fit under `max_rows`; then nothing was changed.
        """
        row_bytes = self._dtype.itemsize
        if len(rows) != len(keys) * row_bytes:
            raise CorruptStateError(
                f"{len(rows)} bytes are not {len(keys)} rows of {row_bytes} bytes: "
                "remove the state's directory to rebuild it"
            )
        if not keys:
            return
        slots = self.claim([key.decode("utf-8", "surrogatepass") for key in keys])
        self._data.view(self._raw_dtype)[slots] = np.frombuffer(rows, self._raw_dtype)
        self._state[slots] = CLEAN

    def _require_rows(self, slots: NDArray[np.int64]) -> None:
        """Refuse slots without a row, so that no row is written under another's key."""
        if (slots < 0).any() or not self._state[slots].all():
            raise IndexError("a slot without a row: it is -1, or its row was removed")

    def _create(self, keys: list[str]) -> None:
        """Give each of `keys`, distinct and unknown, a zeroed row."""
        wanted = len(self._slots) + len(keys)
        if wanted > self._max_rows:
            raise RowsFullError(
                f"{wanted} customers do not fit under the cap of {self._max_rows} rows: "
                "raise the cap, or spread the customers over more workers"
            )
        self._grow(wanted)
        reused = self._free[len(self._free) - min(len(self._free), len(keys)) :]
        del self._free[len(self._free) - len(reused) :]
        for slot, key in zip(reused, keys, strict=False):
            self._keys[slot] = key
        first_new = len(self._keys)
        self._keys += keys[len(reused) :]
        slots = [*reused, *range(first_new, len(self._keys))]
        self._slots.update(zip(keys, slots, strict=True))
        self._state[slots] = DIRTY
        for key in keys:
            self._deleted.pop(key, None)

    def _grow(self, rows: int) -> None:
        """Make room for `rows` rows in all."""
        capacity = len(self._data)
        if rows <= capacity:
            return
        while capacity < rows:
            capacity *= 2
        capacity = min(capacity, self._max_rows)
        data: NDArray[np.void] = np.zeros(capacity, self._dtype)
        data.view(self._raw_dtype)[: len(self._data)] = self._data.view(self._raw_dtype)
        state = np.zeros(capacity, np.uint8)
        state[: len(self._state)] = self._state
        self._data, self._state = data, state
