"""A bounded vocabulary: item ids as small numbers."""

from collections.abc import Mapping, Sequence
from itertools import pairwise, repeat
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from operators.deltas import Expected, require_delta, require_ends
from operators.errors import ParameterError, StateMismatchError
from operators.hashing import hash_strings, spans_of
from operators.kernel import kernel


class KeyTable(NamedTuple):
    """Open-addressing hash table from a 64-bit key to an index, with linear probing.

    Attributes
    ----------
    keys
        uint64, a power of two long and at least half empty; 0 is a free place.
    indices
        int32, the index of the key at the same place.
    """

    keys: NDArray[np.uint64]
    indices: NDArray[np.int32]


@kernel
def find_key(table: KeyTable, key: np.uint64) -> int:
    """Index of `key`, -1 where it is not in `table` or is 0."""
    mask = len(table.keys) - 1
    place = np.int64(key & np.uint64(mask))
    while table.keys[place] != 0:
        if table.keys[place] == key:
            return int(table.indices[place])
        place = (place + 1) & mask
    return -1


@kernel
def find_keys(table: KeyTable, keys: NDArray[np.uint64]) -> NDArray[np.int32]:
    """Index of each key of a flat array, -1 where unknown."""
    found = np.empty(len(keys), np.int32)
    for i in range(len(keys)):
        found[i] = find_key(table, keys[i])
    return found


@kernel
def insert_keys(table: KeyTable, keys: NDArray[np.uint64], first: int) -> None:
    """Give `keys` the indices from `first` on; a key that is there already keeps its index."""
    mask = len(table.keys) - 1
    for i in range(len(keys)):
        place = np.int64(keys[i] & np.uint64(mask))
        while table.keys[place] != 0 and table.keys[place] != keys[i]:
            place = (place + 1) & mask
        if table.keys[place] == 0:
            table.keys[place] = keys[i]
            table.indices[place] = first + i


class Vocabulary:
    """Ids of items as indices 0, 1, 2, …, in the order in which they were first learned.

    Two ids with the same 64-bit hash (one chance in 10^9 for 200,000 ids) keep their own indices;
    only the look-up by key then finds the older one for both.

    Parameters
    ----------
    capacity
        Most ids that are kept, at least 1. At the bound new ids are refused: they get index -1
        and are counted in `refused`; ids that were known stay known.

    Attributes
    ----------
    ids
        list of str, by index.
    keys
        uint64[capacity], the hash of each id by index; 0 where free.
    table
        The same keys as a hash table, for kernels.

    Examples
    --------
    >>> vocabulary = Vocabulary(capacity=2)
    >>> vocabulary.learn_many(["tea", "cup", "tea", "pot"]).tolist()
    [0, 1, 0, -1]
    >>> vocabulary.index_many(["cup", "pan"]).tolist(), vocabulary.refused
    ([1, -1], 1)
    >>> vocabulary.indices_of_keys(vocabulary.keys[:2]).tolist()
    [0, 1]
    """

    def __init__(self, capacity: int) -> None:
        if capacity < 1:
            raise ParameterError(f"capacity must be at least 1, is {capacity}")
        self.capacity = capacity
        self.ids: list[str] = []
        self.keys = np.zeros(capacity, np.uint64)
        places = 1 << (2 * capacity - 1).bit_length()
        self.table = KeyTable(np.zeros(places, np.uint64), np.zeros(places, np.int32))
        self._index: dict[str, int] = {}
        self._untold: list[str] = []
        self._refused = np.zeros(1, np.int64)

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def refused(self) -> int:
        """How often an id was refused because the vocabulary was full (times, not ids)."""
        return int(self._refused[0])

    def index_many(self, ids: Sequence[str]) -> NDArray[np.int32]:
        """Index of each id.

        Returns
        -------
        int32[n], -1 where an id is not known. Nothing is written.
        """
        return np.fromiter(map(self._index.get, ids, repeat(-1)), np.int32, len(ids))

    def learn_many(self, ids: Sequence[str]) -> NDArray[np.int32]:
        """Index of each id, adding those that are new.

        Returns
        -------
        int32[n], -1 where an id is new and the vocabulary is full.

        Raises
        ------
        ParameterError
            Where an id is empty or no string. Nothing was added then.
        """
        known = len(self)
        indices = self.admit_many(ids)
        self._untold += self.ids[known:]
        return indices

    def admit_many(self, ids: Sequence[str]) -> NDArray[np.int32]:
        """Do as `learn_many`, with ids that another replica learned: they are not told on."""
        indices = self.index_many(ids)
        missing = np.flatnonzero(indices < 0).tolist()
        if missing:
            unknown = [ids[position] for position in missing]
            self._add(list(dict.fromkeys(unknown)))
            indices[missing] = self.index_many(unknown)
            self._refused[0] += int(np.count_nonzero(indices[missing] < 0))
        return indices

    def indices_of_keys(self, keys: NDArray[np.uint64]) -> NDArray[np.int32]:
        """Index of each key (`operators.hashing.hash_strings` of the id).

        Parameters
        ----------
        keys
            uint64 of any shape; 0 means none.

        Returns
        -------
        int32 of the same shape, -1 where a key is not known or 0.
        """
        flat = np.ascontiguousarray(keys).reshape(-1)
        return find_keys(self.table, flat).reshape(keys.shape)

    def take_untold(self) -> list[str]:
        """Return the ids learned here since the last time, in order."""
        untold, self._untold = self._untold, []
        return untold

    def take_delta(self) -> dict[str, NDArray[Any]]:
        """Return the ids learned here since the last time, as in `arrays`; empty where none."""
        untold = self.take_untold()
        return pack_ids(untold) if untold else {}

    def apply_delta(self, delta: Mapping[str, NDArray[Any]]) -> None:
        """Admit the ids that another replica learned; those without room are counted in `refused`.

        The ids get other indices here than there. While there is room, replicas end with the same
        set of ids in whatever order deltas are applied.

        Raises
        ------
        StateMismatchError
            Where names or dtypes are not those of `take_delta`, or the bytes are no ids; nothing
            is changed then.
        """
        if delta:
            self.admit_many(unpack_ids("Vocabulary", delta))

    def arrays(self) -> dict[str, NDArray[Any]]:
        """All state: the ids' UTF-8 bytes end to end, where each ends, and `refused`."""
        return pack_ids(self.ids) | {"refused": self._refused}

    def load_arrays(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Replace all state by what `arrays` of a vocabulary of any capacity returned.

        Raises
        ------
        StateMismatchError
            Where names are missing, the ids do not fit the capacity, or the bytes are no ids.
        """
        if arrays.keys() != {"ids", "ends", "refused"}:
            raise StateMismatchError(f"Vocabulary needs ids, ends, refused, not {sorted(arrays)}")
        packed = {name: arrays[name] for name in DELTA}
        ids = unpack_ids("Vocabulary", packed)
        if len(ids) > self.capacity:
            raise StateMismatchError(f"{len(ids)} ids do not fit a capacity of {self.capacity}")
        if arrays["refused"].shape != (1,):
            raise StateMismatchError(f"Vocabulary: refused is {arrays['refused'].shape}, not (1,)")
        self.ids, self._index, self._untold = [], {}, []
        for array in (self.keys, self.table.keys, self.table.indices):
            array.fill(0)
        self._add(ids)
        self._refused[:] = arrays["refused"]

    def _add(self, ids: list[str]) -> None:
        for text in ids:
            if not isinstance(text, str) or not text:
                raise ParameterError(f"an item id is a non-empty string, not {text!r}")
        first = len(self.ids)
        added = ids[: self.capacity - first]
        if added:
            keys = hash_strings(added)
            self.keys[first : first + len(added)] = keys
            insert_keys(self.table, keys, first)
            self._index.update(zip(added, range(first, first + len(added)), strict=True))
            self.ids += added


DELTA: Expected = {"ids": (np.uint8, ("bytes",)), "ends": (np.int64, ("n",))}


def pack_ids(ids: Sequence[str]) -> dict[str, NDArray[Any]]:
    """Return ids as arrays: ``ids``, their UTF-8 bytes end to end, and where each ``ends``."""
    buffer, ends = spans_of(ids)
    return {"ids": buffer, "ends": ends}


def unpack_ids(owner: str, packed: Mapping[str, NDArray[Any]]) -> list[str]:
    """Return what `pack_ids` was given.

    Raises
    ------
    StateMismatchError
        Where names, shapes or dtypes are others, or the bytes are not those of distinct,
        non-empty strings.

    Examples
    --------
    >>> unpack_ids("Model", pack_ids(["tea", "cup"]))
    ['tea', 'cup']
    """
    checked = require_delta(owner, packed, DELTA)
    require_ends(owner, checked["ends"], len(checked["ids"]))
    raw, bounds = checked["ids"].tobytes(), [0, *checked["ends"].tolist()]
    try:
        ids = [raw[start:end].decode("utf-8", "surrogatepass") for start, end in pairwise(bounds)]
    except UnicodeDecodeError as error:
        raise StateMismatchError(f"{owner}: the ids are not UTF-8: {error}") from error
    if len(set(ids)) < len(ids) or "" in ids:
        raise StateMismatchError(f"{owner}: the ids are not distinct non-empty strings")
    return ids
