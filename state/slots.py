"""The table under `state.rows`: which key has which slot, and what is in a slot."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

# What a slot is. A zero-filled array of states is an array of free slots.
FREE, CLEAN, DIRTY, IN_FLIGHT = 0, 1, 2, 3


class _SlotOfKey(dict[str, int]):
    """A dictionary that answers -1 for what it does not know, and does not learn it."""

    def __missing__(self, key: str) -> int:
        return -1


class SlotTable:
    """A structured array, a state and a time of last use for each of its slots, and the keys.

    A slot keeps its row until it is freed; then it is zeroed and given to the next new key. The
    arrays double as needed, up to `max_rows`. While they grow, the old ones and the new ones
    exist side by side.

    Parameters
    ----------
    dtype
        Layout of a row.
    max_rows
        Most slots ever; whoever adds keys sees to it that they fit.
    initial_rows
        Slots to begin with.

    Attributes
    ----------
    data
        The rows, shape (capacity,); zeros where no row is. `add` may replace it.
    states
        One of `FREE`, `CLEAN`, `DIRTY`, `IN_FLIGHT` for each slot, uint8.
    ticks
        When each slot was last used, int64, in whatever whoever sets it counts.
    """

    def __init__(self, dtype: np.dtype[np.void], max_rows: int, initial_rows: int) -> None:
        # Rows are copied through this opaque type: a structured copy goes field by field, is
        # slower, and leaves the padding behind.
        self._raw_dtype = np.dtype((np.void, dtype.itemsize))
        self._max_rows = max_rows
        capacity = min(initial_rows, max_rows)
        self.data: NDArray[np.void] = np.zeros(capacity, dtype)
        self.states = np.zeros(capacity, np.uint8)
        self.ticks = np.zeros(capacity, np.int64)
        self._slots = _SlotOfKey()
        self._keys: list[str] = []  # by slot; as long as slots were ever used; "" where free
        self._free: list[int] = []  # slots below len(_keys) without a row

    def __len__(self) -> int:
        """Return the number of slots in use."""
        return len(self._slots)

    @property
    def raw(self) -> NDArray[np.void]:
        """The rows as opaque bytes, shape (capacity,); a view of `data`."""
        return self.data.view(self._raw_dtype)

    @property
    def raw_dtype(self) -> np.dtype[np.void]:
        """A row as opaque bytes."""
        return self._raw_dtype

    @property
    def nbytes(self) -> int:
        """Bytes of the arrays."""
        return self.data.nbytes + self.states.nbytes + self.ticks.nbytes

    def find(self, keys: Sequence[str]) -> NDArray[np.int64]:
        """Return the slot of each key, -1 where it has none."""
        return np.array(list(map(self._slots.__getitem__, keys)), np.int64)

    def require(self, slots: NDArray[np.int64]) -> None:
        """Refuse slots without a row, so that no row is written under another's key.

        Raises
        ------
        IndexError
            When there is one.
        """
        if (slots < 0).any() or not self.states[slots].all():
            raise IndexError("a slot without a row: it is -1, or its row was removed")

    def keys_of(self, slots: NDArray[np.int64]) -> list[str]:
        """Return the key of each of `slots`, all of which are in use."""
        keys = self._keys
        return [keys[slot] for slot in slots.tolist()]

    def rows_in(self, slots: NDArray[np.int64]) -> NDArray[np.void]:
        """Return a copy of the rows in `slots`."""
        return self.raw[slots].view(self.data.dtype)

    def add(self, keys: list[str], state: int) -> NDArray[np.int64]:
        """Give each of `keys`, distinct and unknown, a zeroed row in `state`; return the slots."""
        wanted = len(self) + len(keys)
        self._grow(wanted)
        reused = self._free[len(self._free) - min(len(self._free), len(keys)) :]
        del self._free[len(self._free) - len(reused) :]
        for slot, key in zip(reused, keys, strict=False):
            self._keys[slot] = key
        first_new = len(self._keys)
        self._keys += keys[len(reused) :]
        slots = [*reused, *range(first_new, len(self._keys))]
        self._slots.update(zip(keys, slots, strict=True))
        assert len(self) == wanted, "a key was added twice"
        added = np.array(slots, np.int64)
        self.states[added] = state
        return added

    def free(self, slots: NDArray[np.int64]) -> None:
        """Forget the rows in `slots`, distinct and all in use, and their keys."""
        freed: list[int] = slots.tolist()
        for slot in freed:
            del self._slots[self._keys[slot]]
            self._keys[slot] = ""
        self._free += freed
        self.states[slots] = FREE
        self.raw[slots] = np.zeros((), self._raw_dtype)

    def _grow(self, rows: int) -> None:
        """Make room for `rows` rows in all."""
        capacity = len(self.data)
        if rows <= capacity:
            return
        while capacity < rows:
            capacity *= 2
        capacity = min(capacity, self._max_rows)
        data: NDArray[np.void] = np.zeros(capacity, self.data.dtype)
        data.view(self._raw_dtype)[: len(self.data)] = self.raw
        states, ticks = np.zeros(capacity, np.uint8), np.zeros(capacity, np.int64)
        states[: len(self.states)] = self.states
        ticks[: len(self.ticks)] = self.ticks
        self.data, self.states, self.ticks = data, states, ticks
