"""What a customer touched and bought of late."""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from operators.batches import require_lengths, require_rows
from operators.errors import ParameterError
from operators.kernel import kernel
from operators.vocabulary import KeyTable, Vocabulary, find_key


class HistoryColumns(NamedTuple):
    """The columns of `History.row_dtype`, for kernels; one row per customer."""

    recent: NDArray[np.uint64]
    recent_ts_ms: NDArray[np.int64]
    bought: NDArray[np.uint64]


def history_columns(columns: NDArray[np.void]) -> HistoryColumns:
    """Return views of the fields of `columns` (dtype `History.row_dtype`)."""
    return HistoryColumns(columns["recent"], columns["recent_ts_ms"], columns["bought"])


@kernel
def read_keys(
    keys: NDArray[np.uint64], slot: int, table: KeyTable, known: int, out: NDArray[np.int32]
) -> int:
    """Write the indices below `known` of a customer's keys to `out`, newest first; return how many.

    Keys of items that this worker does not know are left out; the rest of `out` is -1.
    """
    count = 0
    for position in range(keys.shape[1]):
        key = keys[slot, position]
        if key == 0:
            break
        index = find_key(table, key)
        if 0 <= index < known:
            out[count] = index
            count += 1
    for position in range(count, len(out)):
        out[position] = -1
    return count


@kernel
def push_key(keys: NDArray[np.uint64], slot: int, key: np.uint64) -> int:
    """Put `key` in front; one that is there already moves. Returns the place it came from."""
    last = keys.shape[1] - 1
    place = 0
    while place < last and keys[slot, place] != key and keys[slot, place] != 0:
        place += 1
    for position in range(place, 0, -1):
        keys[slot, position] = keys[slot, position - 1]
    keys[slot, 0] = key
    return place


@kernel
def push_event(
    columns: HistoryColumns, slot: int, key: np.uint64, ts_ms: int, bought: bool
) -> None:
    """Make `key` the customer's most recent item, and most recently bought one if it was."""
    place = push_key(columns.recent, slot, key)
    for position in range(place, 0, -1):
        columns.recent_ts_ms[slot, position] = columns.recent_ts_ms[slot, position - 1]
    columns.recent_ts_ms[slot, 0] = ts_ms
    if bought:
        push_key(columns.bought, slot, key)


@kernel
def group_end(slots: NDArray[np.int64], groups: NDArray[np.int32], start: int) -> int:
    """End of the run of lines of one order that begins at `start`; no groups, no runs."""
    end = start + 1
    if len(groups) > 0:
        while end < len(slots) and groups[end] == groups[start] and slots[end] == slots[start]:
            end += 1
    return end


@kernel
def learn_contexts(
    columns: HistoryColumns,
    table: KeyTable,
    item_keys: NDArray[np.uint64],
    slots: NDArray[np.int64],
    items: NDArray[np.int32],
    ts_ms: NDArray[np.int64],
    groups: NDArray[np.int32],
    bought: bool,
) -> NDArray[np.int32]:
    """Read each event's context, then push its items; see `History.contexts_many`."""
    contexts = np.empty((len(slots), columns.recent.shape[1]), np.int32)
    start = 0
    while start < len(slots):
        end = group_end(slots, groups, start)
        for i in range(start, end):
            read_keys(columns.recent, slots[i], table, len(item_keys), contexts[i])
        for i in range(start, end):
            if items[i] >= 0:
                push_event(columns, slots[i], item_keys[items[i]], ts_ms[i], bought)
        start = end
    return contexts


@kernel
def read_many(
    keys: NDArray[np.uint64], slots: NDArray[np.int64], table: KeyTable
) -> NDArray[np.int32]:
    """Return indices of many customers' keys, newest first, -1 padded."""
    indices = np.empty((len(slots), keys.shape[1]), np.int32)
    for i in range(len(slots)):
        read_keys(keys, slots[i], table, len(table.keys), indices[i])
    return indices


class History:
    """The last distinct items that each customer touched, and the last that they bought.

    Kept in the customer's row as 64-bit keys (never indices: a row may move to a worker whose
    vocabulary differs), newest first. "Newest" is the order of arrival: a late event is the
    newest when it arrives. An item that is there already moves to the front, so that ten looks at
    one product do not push nine others out. A row of zeros is a customer without a history.

    Parameters
    ----------
    length
        Items kept, 1..255. Beyond it the oldest is forgotten.
    bought_length
        Bought items kept, 1..255.

    Attributes
    ----------
    row_dtype
        ``recent`` uint64[length], ``recent_ts_ms`` int64[length] (when each was last touched),
        ``bought`` uint64[bought_length].

    Examples
    --------
    >>> vocabulary = Vocabulary(8)
    >>> items = vocabulary.learn_many(["tea", "cup", "tea"])
    >>> history = History(length=3)
    >>> columns, slots = np.zeros(1, history.row_dtype), np.zeros(3, np.int64)
    >>> history.contexts_many(
    ...     columns, slots, items, np.arange(3), np.arange(3, dtype=np.int32), False, vocabulary
    ... ).tolist()
    [[-1, -1, -1], [0, -1, -1], [1, 0, -1]]
    >>> history.recent_many(columns, slots[:1], vocabulary).tolist()
    [[0, 1, -1]]
    """

    def __init__(self, length: int = 16, bought_length: int = 16) -> None:
        if not (1 <= length <= 255 and 1 <= bought_length <= 255):
            raise ParameterError(f"lengths must be 1..255, are {length} and {bought_length}")
        self.length = length
        self.bought_length = bought_length
        fields: list[Any] = [
            ("recent", np.uint64, (length,)),
            ("recent_ts_ms", np.int64, (length,)),
            ("bought", np.uint64, (bought_length,)),
        ]
        self.row_dtype: np.dtype[np.void] = np.dtype(fields, align=True)

    def contexts_many(
        self,
        columns: NDArray[np.void],
        slots: NDArray[np.int64],
        items: NDArray[np.int32],
        ts_ms: NDArray[np.int64],
        groups: NDArray[np.int32],
        bought: bool,
        vocabulary: Vocabulary,
    ) -> NDArray[np.int32]:
        """For each event in turn: the customer's recent items before it; then push its item.

        Consecutive events of one customer with one group number are the lines of one order. They
        all see the items from before the order, never each other.

        Parameters
        ----------
        columns
            Customers' rows (dtype `row_dtype`); written.
        slots
            int64[n], each event's row.
        items
            int32[n], indices of `vocabulary`; events with -1 are read for, but not pushed.
        ts_ms
            int64[n], event times.
        groups
            int32[n]; empty where no two events belong together.
        bought
            Whether the events are purchases.
        vocabulary
            The items' keys.

        Returns
        -------
        int32[n, length], newest first, -1 padded.

        Raises
        ------
        ParameterError
            Where lengths differ, or a slot or an item is out of range.
        StateMismatchError
            Where `columns` are not of `row_dtype`.
        """
        require_rows("History", columns, self.row_dtype, slots)
        require_lengths("History", len(slots), items=items, ts_ms=ts_ms)
        if len(groups):
            require_lengths("History", len(slots), groups=groups)
        if len(items) and items.max() >= len(vocabulary):
            raise ParameterError(f"History: item {items.max()} of {len(vocabulary)} items")
        return learn_contexts(
            history_columns(columns),
            vocabulary.table,
            vocabulary.keys,
            slots,
            items,
            ts_ms,
            groups,
            bought,
        )

    def recent_many(
        self, columns: NDArray[np.void], slots: NDArray[np.int64], vocabulary: Vocabulary
    ) -> NDArray[np.int32]:
        """Recent items of each customer: int32[n, length], newest first, -1 padded."""
        require_rows("History", columns, self.row_dtype, slots)
        return read_many(columns["recent"], slots, vocabulary.table)

    def bought_many(
        self, columns: NDArray[np.void], slots: NDArray[np.int64], vocabulary: Vocabulary
    ) -> NDArray[np.int32]:
        """Recently bought items: int32[n, bought_length], newest first, -1 padded."""
        require_rows("History", columns, self.row_dtype, slots)
        return read_many(columns["bought"], slots, vocabulary.table)
