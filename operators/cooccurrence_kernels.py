"""The kernels of `operators.cooccurrence`; its class says what they compute."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from operators.cooccurrence_rows import (
    BACKWARD,
    CHANNELS,
    FORWARD,
    HEARD,
    HISTORY,
    NEXT,
    ORDER,
    Channel,
    CooccurrenceState,
    heft,
    make_room,
    slot_of,
)
from operators.draws import splitmix64
from operators.kernel import kernel

__all__ = ["CHANNELS", "Channel", "CooccurrenceState", "learn_order", "learn_pairs"]


@kernel
def row_end(state: CooccurrenceState, item: int) -> int:
    """Slot after the last of an item's row; its start where it has none."""
    start, size = int(state.starts[item]), int(np.int64(state.sizes[item]))
    return start + (1 << size) if size >= 0 else start


@kernel
def forget(state: CooccurrenceState, item: int) -> None:
    """Halve an item's weights until they are within the horizon."""
    totals, known_totals = state.totals, state.known_totals
    passed = max(totals[item, FORWARD] + totals[item, BACKWARD], totals[item, ORDER])
    factor = 1.0
    while factor * passed > state.horizon:
        factor *= 0.5
    for channel in range(CHANNELS):
        totals[item, channel] *= factor
        known_totals[item, channel] *= factor
    if factor == 1.0:
        return
    weights, known = state.weights, state.known
    for slot in range(state.starts[item], row_end(state, item)):
        for channel in range(CHANNELS):
            weights[slot, channel] *= np.float32(factor)
            known[slot, channel] *= np.float32(factor)


@kernel
def count_given(items: NDArray[np.int32], most: int) -> int:
    """How many of the first items there are, up to `most`; -1 ends them."""
    count = 0
    while count < min(most, len(items)) and items[count] >= 0:
        count += 1
    return count


@kernel
def learn_pairs(
    state: CooccurrenceState,
    item: int,
    context: NDArray[np.int32],
    recency: NDArray[np.float32],
    weight: float,
    key: np.uint64,
) -> None:
    """Pair one event's item with the items of its context, newest first; -1 ends them."""
    # Arrays are named outside the loop: taking one out of a tuple costs reference counts.
    keys, weights, totals = state.keys, state.weights, state.totals
    starts, sizes, horizon = state.starts, state.sizes, state.horizon
    capacity = len(totals)
    if item < 0 or item >= capacity or not weight > 0.0:
        return
    amount = min(float(weight), horizon)
    for position in range(count_given(context, min(len(recency), state.depth))):
        before = context[position]
        if before == item or before >= capacity:
            continue
        part = amount * recency[position]
        following = amount * (position == 0)
        slot = slot_of(keys, starts, sizes, before, item)
        if slot < 0:
            slot = make_room(state, before, item, part, key)
        if slot >= 0:
            weights[slot, NEXT] += following
            weights[slot, FORWARD] += part
            weights[slot, HISTORY] += amount
        totals[before, NEXT] += following
        totals[before, FORWARD] += part
        totals[before, HISTORY] += amount
        if totals[before, FORWARD] + totals[before, BACKWARD] > horizon:
            forget(state, before)
        slot = slot_of(keys, starts, sizes, item, before)
        if slot < 0:
            slot = make_room(state, item, before, part, key)
        if slot >= 0:
            weights[slot, BACKWARD] += part
            weights[slot, HISTORY] += amount
        totals[item, BACKWARD] += part
        totals[item, HISTORY] += amount
    if totals[item, FORWARD] + totals[item, BACKWARD] > horizon:
        forget(state, item)


@kernel
def learn_order(
    state: CooccurrenceState,
    item: int,
    others: NDArray[np.int32],
    count: int,
    weight: float,
    key: np.uint64,
) -> None:
    """Pair an item with the first `count` of the others in its order; -1 ends them."""
    keys, weights, totals = state.keys, state.weights, state.totals
    starts, sizes, horizon = state.starts, state.sizes, state.horizon
    capacity = len(totals)
    if item < 0 or item >= capacity or not weight > 0.0:
        return
    amount = min(float(weight), horizon)
    for position in range(count_given(others, count)):
        other = others[position]
        if other == item or other >= capacity:
            continue
        for row, neighbour in ((other, item), (item, other)):
            slot = slot_of(keys, starts, sizes, row, neighbour)
            if slot < 0:
                slot = make_room(state, row, neighbour, amount, key)
            if slot >= 0:
                weights[slot, ORDER] += amount
            totals[row, ORDER] += amount
            if totals[row, ORDER] > horizon:
                forget(state, row)


@kernel
def learn_pairs_many(
    state: CooccurrenceState,
    items: NDArray[np.int32],
    contexts: NDArray[np.int32],
    recency: NDArray[np.float32],
    weights: NDArray[np.float32],
    event_keys: NDArray[np.uint64],
) -> None:
    """Learn many events' contexts, one after another."""
    for i in range(len(items)):
        learn_pairs(state, items[i], contexts[i], recency, weights[i], event_keys[i])


@kernel
def learn_orders_many(
    state: CooccurrenceState,
    items: NDArray[np.int32],
    others: NDArray[np.int32],
    weights: NDArray[np.float32],
    event_keys: NDArray[np.uint64],
) -> None:
    """Learn many lines' orders, one after another."""
    for i in range(len(items)):
        learn_order(state, items[i], others[i], others.shape[1], weights[i], event_keys[i])


class PairsDelta(NamedTuple):
    """What was added to the pairs of some items, for kernels; see `ItemCooccurrence.take_delta`."""

    items: NDArray[np.int32]
    totals: NDArray[np.float64]
    ends: NDArray[np.int64]
    neighbours: NDArray[np.int32]
    weights: NDArray[np.float32]


@kernel
def is_touched(totals: NDArray[np.float64], known_totals: NDArray[np.float64], item: int) -> bool:
    """Whether an item has learned since it was last taken; whatever it learns adds to these two."""
    return bool(
        totals[item, HISTORY] != known_totals[item, HISTORY]
        or totals[item, ORDER] != known_totals[item, ORDER]
    )


@kernel
def has_gained(weights: NDArray[np.float32], known: NDArray[np.float32], slot: int) -> bool:
    """Whether a neighbour weighs more than the other replicas were told."""
    gained = False
    for channel in range(CHANNELS):
        gained |= weights[slot, channel] > known[slot, channel]
    return gained


@kernel
def count_added(state: CooccurrenceState) -> tuple[int, int]:
    """How many items have learned since they were last taken, and neighbours of these."""
    weights, known = state.weights, state.known
    totals, known_totals = state.totals, state.known_totals
    items, pairs = 0, 0
    for item in range(len(totals)):
        if is_touched(totals, known_totals, item):
            items += 1
            for slot in range(state.starts[item], row_end(state, item)):
                pairs += has_gained(weights, known, slot)
    return items, pairs


@kernel
def take_added(state: CooccurrenceState, delta: PairsDelta) -> None:
    """Write what `count_added` counted to `delta`; then it is known."""
    keys, weights, known = state.keys, state.weights, state.known
    totals, known_totals = state.totals, state.known_totals
    neighbours, gained = delta.neighbours, delta.weights
    items, pairs = 0, 0
    for item in range(len(totals)):
        if not is_touched(totals, known_totals, item):
            continue
        for slot in range(state.starts[item], row_end(state, item)):
            if has_gained(weights, known, slot):
                neighbours[pairs] = keys[slot] - 1
                for channel in range(CHANNELS):
                    more = weights[slot, channel] - known[slot, channel]
                    gained[pairs, channel] = max(more, np.float32(0.0))
                pairs += 1
            known[slot, :] = weights[slot, :]
        delta.items[items] = item
        delta.ends[items] = pairs
        for channel in range(CHANNELS):
            more_in_all = totals[item, channel] - known_totals[item, channel]
            delta.totals[items, channel] = max(more_in_all, 0.0)
        known_totals[item, :] = totals[item, :]
        items += 1


@kernel
def add_neighbour(
    state: CooccurrenceState,
    item: int,
    neighbour: int,
    gained: NDArray[np.float32],
    pair: int,
    key: np.uint64,
) -> None:
    """Add what another replica added to one neighbour, and take it for known."""
    weights, known = state.weights, state.known
    slot = slot_of(state.keys, state.starts, state.sizes, item, neighbour)
    if slot < 0:
        slot = make_room(state, item, neighbour, heft(gained, pair), key)
    if slot >= 0:
        for channel in range(CHANNELS):
            weights[slot, channel] += gained[pair, channel]
            known[slot, channel] += gained[pair, channel]


@kernel
def add_pairs(state: CooccurrenceState, delta: PairsDelta) -> None:
    """Add what another replica added."""
    totals, known_totals = state.totals, state.known_totals
    neighbours, gained = delta.neighbours, delta.weights
    capacity = len(totals)
    # Else a pair that was heard of again and again would meet the same draw each time.
    key = splitmix64(np.uint64(state.pool[HEARD]))
    state.pool[HEARD] += 1
    start = 0
    for k in range(len(delta.items)):
        item, end = delta.items[k], delta.ends[k]
        if 0 <= item < capacity:
            for channel in range(CHANNELS):
                totals[item, channel] += delta.totals[k, channel]
                known_totals[item, channel] += delta.totals[k, channel]
            for pair in range(start, end):
                if 0 <= neighbours[pair] < capacity and neighbours[pair] != item:
                    add_neighbour(state, item, neighbours[pair], gained, pair, key)
            forget(state, item)
        start = end
