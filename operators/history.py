"""What a customer has touched and bought: the last distinct items, with how often and when."""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from operators.batches import require_lengths, require_rows
from operators.errors import ParameterError
from operators.kernel import kernel
from operators.vocabulary import KeyTable, Vocabulary, find_key

DAY_MS = 86_400_000
BOUGHT = np.uint8(0x80)
MAX_COUNT = 0x7F
LAST_DAY = 0xFFFF
# A full history gives up the item that came longest ago; each further time that an item came
# counts as if it had come so many orders later.
ORDERS_PER_REPEAT = 5


class HistoryColumns(NamedTuple):
    """The columns of `History.row_dtype`, for kernels; one row per customer."""

    keys: NDArray[np.uint64]
    orders: NDArray[np.uint16]
    days: NDArray[np.uint16]
    intervals: NDArray[np.uint16]
    counts: NDArray[np.uint8]
    orders_seen: NDArray[np.uint32]
    last_ts_ms: NDArray[np.int64]
    usual: NDArray[np.float32]
    had: NDArray[np.uint64]


class Context(NamedTuple):
    """One customer's history as items of this worker, newest first, for kernels.

    Attributes
    ----------
    items
        int32[length], -1 padded.
    lags
        int32[length], orders since each came: 0 for those of the newest one.
    places
        int32[length], where each stands in the customer's columns.
    """

    items: NDArray[np.int32]
    lags: NDArray[np.int32]
    places: NDArray[np.int32]


def history_columns(columns: NDArray[np.void]) -> HistoryColumns:
    """Return views of the fields of `columns` (dtype `History.row_dtype`)."""
    return HistoryColumns(*(columns[name] for name in HistoryColumns._fields))


@kernel
def make_context(length: int) -> Context:
    """Room for one customer."""
    return Context(
        np.empty(length, np.int32), np.empty(length, np.int32), np.empty(length, np.int32)
    )


@kernel
def read_context(
    columns: HistoryColumns, slot: int, table: KeyTable, known: int, context: Context
) -> int:
    """Write the items below `known` that a customer had, newest first; return how many.

    Keys of items that this worker does not know are left out; the rest of the items is -1.
    """
    keys, orders = columns.keys, columns.orders
    items, lags, places = context.items, context.lags, context.places
    newest = columns.orders_seen[slot]
    count = 0
    for place in range(min(keys.shape[1], len(items))):
        key = keys[slot, place]
        if key == 0:
            break
        index = find_key(table, key)
        if 0 <= index < known:
            items[count] = index
            # Orders are numbered modulo 2^16.
            lags[count] = (newest - orders[slot, place]) & np.uint32(0xFFFF)
            places[count] = place
            count += 1
    for position in range(count, len(items)):
        items[position] = -1
    return count


@kernel
def victim(columns: HistoryColumns, slot: int) -> int:
    """Place of the item that a full history gives up: never one of the newer half."""
    length = columns.keys.shape[1]
    newest = columns.orders_seen[slot]
    oldest, found = -(1 << 30), length - 1
    for place in range(length - 1, length // 2 - 1, -1):
        lag = int(np.int64((newest - columns.orders[slot, place]) & np.uint32(0xFFFF)))
        count = int(np.int64(columns.counts[slot, place] & np.uint8(MAX_COUNT)))
        age = lag - ORDERS_PER_REPEAT * (count - 1)
        if age > oldest:
            oldest, found = age, place
    return int(found)


@kernel
def place_of_key(columns: HistoryColumns, slot: int, key: np.uint64) -> tuple[int, bool]:
    """Where `key` stands, or where a new one may; and whether it is there."""
    keys = columns.keys
    for place in range(keys.shape[1]):
        if keys[slot, place] == key:
            return place, True
        if keys[slot, place] == 0:
            return place, False
    return victim(columns, slot), False


@kernel
def push_event(
    columns: HistoryColumns, slot: int, key: np.uint64, ts_ms: int, bought: bool
) -> None:
    """Make `key` the newest item of the order that `begin_order` began."""
    keys, orders, days = columns.keys, columns.orders, columns.days
    intervals, counts = columns.intervals, columns.counts
    place, is_known = place_of_key(columns, slot, key)
    day = min(max(ts_ms // DAY_MS, 0), LAST_DAY)
    interval, count, flag = 0, 0, np.uint8(0)
    if is_known:
        interval = int(np.int64(intervals[slot, place]))
        count = int(np.int64(counts[slot, place] & np.uint8(MAX_COUNT)))
        flag = counts[slot, place] & BOUGHT
        before = int(np.int64(days[slot, place]))
        passed = day - before
        if passed > 0:
            # The first interval counts whole, each further one as a third.
            interval = passed if interval == 0 else (2 * interval + passed + 1) // 3
        day = max(day, before)
    for to in range(place, 0, -1):
        keys[slot, to] = keys[slot, to - 1]
        orders[slot, to] = orders[slot, to - 1]
        days[slot, to] = days[slot, to - 1]
        intervals[slot, to] = intervals[slot, to - 1]
        counts[slot, to] = counts[slot, to - 1]
    keys[slot, 0] = key
    orders[slot, 0] = np.uint16(columns.orders_seen[slot] & np.uint32(0xFFFF))
    days[slot, 0] = day
    intervals[slot, 0] = interval
    counts[slot, 0] = (
        np.uint8(min(count + 1, MAX_COUNT)) | flag | (BOUGHT if bought else np.uint8(0))
    )
    columns.last_ts_ms[slot] = max(columns.last_ts_ms[slot], ts_ms)
    note_had(columns.had, slot, key)


@kernel
def had_bits(key: np.uint64, words: int) -> tuple[int, np.uint64, int, np.uint64]:
    """Words and bits of a filter of `words` words in which a key is noted."""
    mask = np.uint64(64 * words - 1)
    first, second = key & mask, (key >> np.uint64(32)) & mask
    six, low = np.uint64(6), np.uint64(63)
    return (
        int(np.int64(first >> six)),
        np.uint64(1) << (first & low),
        int(np.int64(second >> six)),
        np.uint64(1) << (second & low),
    )


@kernel
def note_had(had: NDArray[np.uint64], slot: int, key: np.uint64) -> None:
    """Note in a customer's filter that they had an item."""
    if had.shape[1] > 1:
        word, bit, other_word, other_bit = had_bits(key, had.shape[1])
        had[slot, word] |= bit
        had[slot, other_word] |= other_bit


@kernel
def has_had(had: NDArray[np.uint64], slot: int, key: np.uint64) -> bool:
    """Whether a customer's filter has an item; a few that they never had are in it, too."""
    if had.shape[1] <= 1:
        return False
    word, bit, other_word, other_bit = had_bits(key, had.shape[1])
    return bool((had[slot, word] & bit) != 0 and (had[slot, other_word] & other_bit) != 0)


@kernel
def begin_order(columns: HistoryColumns, slot: int) -> None:
    """Let what is pushed from now on belong to a new order."""
    columns.orders_seen[slot] += np.uint32(1)


@kernel
def group_end(slots: NDArray[np.int64], groups: NDArray[np.int32], start: int) -> int:
    """End of the run of lines of one order that begins at `start`; no groups, no runs."""
    end = start + 1
    if len(groups) > 0:
        while end < len(slots) and groups[end] == groups[start] and slots[end] == slots[start]:
            end += 1
    return end


@kernel
def push_many(
    columns: HistoryColumns,
    item_keys: NDArray[np.uint64],
    slots: NDArray[np.int64],
    items: NDArray[np.int32],
    ts_ms: NDArray[np.int64],
    groups: NDArray[np.int32],
    bought: bool,
) -> None:
    """Push many events, order by order."""
    start = 0
    while start < len(slots):
        end = group_end(slots, groups, start)
        begin_order(columns, slots[start])
        for i in range(start, end):
            if items[i] >= 0:
                push_event(columns, slots[i], item_keys[items[i]], ts_ms[i], bought)
        start = end


@kernel
def read_many(
    columns: HistoryColumns, slots: NDArray[np.int64], table: KeyTable, bought_only: bool
) -> NDArray[np.int32]:
    """Return the items of many customers, newest first, -1 padded."""
    length = columns.keys.shape[1]
    found = np.full((len(slots), length), -1, np.int32)
    context = make_context(length)
    for i in range(len(slots)):
        count = read_context(columns, slots[i], table, len(table.keys), context)
        kept = 0
        for k in range(count):
            if not bought_only or columns.counts[slots[i], context.places[k]] & BOUGHT:
                found[i, kept] = context.items[k]
                kept += 1
    return found


class History:
    """The distinct items that each customer had, newest first, with how often and when.

    Kept in the customer's row as 64-bit keys (never indices: a row may move to a worker whose
    vocabulary differs). "Newest" is the order of arrival: a late event is the newest when it
    arrives. An item that is there already moves to the front, so that ten looks at one product do
    not push nine others out. A full history gives up, among its older half, the item that came
    longest ago, where each further time that it came counts as five orders less. A row of zeros
    is a customer without a history.

    Parameters
    ----------
    length
        Items kept, 2..255.
    filter_bits
        Bits of a filter of everything that a customer ever had (Bloom, 1970, with two bits an
        item): a power of two from 128 on, or 0 for none. With n items in b bits it also has the
        share ``(1 - exp(-2 n / b))²`` of those that they never had.

    Attributes
    ----------
    row_dtype
        By item: ``keys`` uint64[length]; ``orders`` uint16[length], the number of the customer's
        order (or single event) that it last came with, modulo 2^16; ``days`` uint16[length], the
        day that it last came on since 1970; ``intervals`` uint16[length], the usual days between
        two times that it came, 0 before the second; ``counts`` uint8[length], how often it came,
        at most 127, and the highest bit where it was bought. Then ``orders_seen`` uint32,
        ``last_ts_ms`` int64, ``usual`` float32[3], which `operators.features` keeps, and the
        filter, ``had`` uint64[filter_bits / 64], of one unused word where there is none.

    Examples
    --------
    >>> vocabulary = Vocabulary(8)
    >>> items = vocabulary.learn_many(["tea", "cup", "tea"])
    >>> history = History(length=3)
    >>> columns, slots = np.zeros(1, history.row_dtype), np.zeros(3, np.int64)
    >>> history.learn_many(columns, slots, items, np.arange(3), None, True, vocabulary)
    >>> history.items_many(columns, slots[:1], vocabulary).tolist()
    [[0, 1, -1]]
    >>> (columns["counts"][0] & MAX_COUNT).tolist()
    [2, 1, 0]

    References
    ----------
    Bloom, B. (1970). Space/time trade-offs in hash coding with allowable errors. CACM.
    """

    def __init__(self, length: int = 96, filter_bits: int = 0) -> None:
        if not 2 <= length <= 255:
            raise ParameterError(f"length must be 2..255, is {length}")
        if filter_bits and (filter_bits < 128 or filter_bits & (filter_bits - 1)):
            raise ParameterError(f"filter_bits must be a power of two from 128, is {filter_bits}")
        self.length = length
        fields: list[Any] = [
            ("keys", np.uint64, (length,)),
            ("last_ts_ms", np.int64),
            ("orders_seen", np.uint32),
            ("usual", np.float32, (3,)),
            ("orders", np.uint16, (length,)),
            ("days", np.uint16, (length,)),
            ("intervals", np.uint16, (length,)),
            ("counts", np.uint8, (length,)),
            ("had", np.uint64, (max(1, filter_bits // 64),)),
        ]
        self.row_dtype: np.dtype[np.void] = np.dtype(fields, align=True)

    def learn_many(
        self,
        columns: NDArray[np.void],
        slots: NDArray[np.int64],
        items: NDArray[np.int32],
        ts_ms: NDArray[np.int64],
        groups: NDArray[np.int32] | None,
        bought: bool,
        vocabulary: Vocabulary,
    ) -> None:
        """Push each event's item in turn.

        Parameters
        ----------
        columns
            Customers' rows (dtype `row_dtype`); written.
        slots
            int64[n], each event's row.
        items
            int32[n], indices of `vocabulary`; -1 is not pushed.
        ts_ms
            int64[n], event times.
        groups
            int32[n]; consecutive events of one customer with one number are one order. None where
            no two events belong together.
        bought
            Whether the events are purchases.
        vocabulary
            The items' keys.

        Raises
        ------
        ParameterError
            Where lengths differ, or a slot or an item is out of range.
        StateMismatchError
            Where `columns` are not of `row_dtype`.
        """
        lines = np.empty(0, np.int32) if groups is None else groups
        require_rows("History", columns, self.row_dtype, slots)
        require_lengths("History", len(slots), items=items, ts_ms=ts_ms)
        if len(lines):
            require_lengths("History", len(slots), groups=lines)
        if len(items) and items.max() >= len(vocabulary):
            raise ParameterError(f"History: item {items.max()} of {len(vocabulary)} items")
        push_many(history_columns(columns), vocabulary.keys, slots, items, ts_ms, lines, bought)

    def items_many(
        self,
        columns: NDArray[np.void],
        slots: NDArray[np.int64],
        vocabulary: Vocabulary,
        *,
        bought_only: bool = False,
    ) -> NDArray[np.int32]:
        """Items of each customer: int32[n, length], newest first, -1 padded."""
        require_rows("History", columns, self.row_dtype, slots)
        return read_many(history_columns(columns), slots, vocabulary.table, bought_only)
