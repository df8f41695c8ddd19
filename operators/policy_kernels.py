"""The kernel behind `operators.policy`: one wide list after another becomes a final one."""

import numpy as np
from numpy.typing import NDArray

from operators.kernel import kernel, long_kernel
from operators.policy_columns import (
    FREE,
    REPEATABLE,
    UNREPEATABLE,
    Customers,
    FinalLists,
    Labels,
    Limits,
    Scratch,
    Wide,
    holds,
    make_scratch,
)
from operators.policy_rule_kernels import PIN, apply_rules, find_active, find_pin, tell_rules
from operators.policy_rules import RuleArrays


@kernel
def similarity(
    categories: NDArray[np.int32], tags: NDArray[np.int32], left: int, right: int
) -> float:
    """Jaccard similarity of two items' labels, category and tags; 0 where neither has any."""
    common, total = 0, 0
    mine, theirs = categories[left], categories[right]
    if mine >= 0 and mine == theirs:
        common, total = 1, 1
    else:
        total = int(mine >= 0) + int(theirs >= 0)
    i, j, size = 0, 0, tags.shape[1]
    while i < size and tags[left, i] >= 0 and j < size and tags[right, j] >= 0:
        total += 1
        if tags[left, i] == tags[right, j]:
            common += 1
            i += 1
            j += 1
        elif tags[left, i] < tags[right, j]:
            i += 1
        else:
            j += 1
    while i < size and tags[left, i] >= 0:
        total += 1
        i += 1
    while j < size and tags[right, j] >= 0:
        total += 1
        j += 1
    return common / total if total > 0 else 0.0


@kernel
def is_done(labels: Labels, limits: Limits, customers: Customers, row: int, item: int) -> bool:
    """Tell whether the customer has had this item, and once is enough."""
    code = labels.categories[item]
    handling = labels.handling[code] if code >= 0 else 0
    if handling == REPEATABLE:
        return False
    drop_bought = limits.drop_bought or handling == UNREPEATABLE
    if drop_bought and holds(customers.bought[row], item):
        return True
    return limits.drop_seen and holds(customers.seen[row], item)


@kernel
def open_candidates(
    wide: Wide, customers: Customers, labels: Labels, limits: Limits, row: int, scratch: Scratch
) -> int:
    """Open what may be recommended; return how many candidates there are, open or not."""
    has_items = customers.bought.shape[1] > 0 or customers.seen.shape[1] > 0
    has_events = wide.events.shape[1] > 0
    count = 0
    for item in wide.items[row]:
        if item < 0:
            break
        scratch.usable[count] = labels.barred[item] == 0
        if has_items and is_done(labels, limits, customers, row, item):
            scratch.usable[count] = False
        scratch.is_new[count] = has_events and wide.events[row, count] < limits.new_item_events
        scratch.relevance[count] = wide.scores[row, count]
        scratch.nearest[count] = 0.0
        scratch.crowd[count] = 0
        count += 1
    scratch.chosen[:] = FREE
    scratch.chosen_items[:] = -1
    scratch.pins[:] = -1
    return count


@kernel
def choose(
    labels: Labels,
    limits: Limits,
    items: NDArray[np.int32],
    count: int,
    scratch: Scratch,
    position: int,
    place: int,
    item: int,
) -> None:
    """Put an item at a position, and note what that means for the candidates left."""
    scratch.chosen[position] = place
    scratch.chosen_items[position] = item
    if place >= 0:
        scratch.usable[place] = False
    if limits.max_per_category == 0 and limits.diversity == 0.0:
        return
    category = labels.categories[item]
    for other in range(count):
        if not scratch.usable[other]:
            continue
        if category >= 0 and labels.categories[items[other]] == category:
            scratch.crowd[other] += 1
        if limits.diversity > 0.0:
            alike = similarity(labels.categories, labels.tags, items[other], item)
            scratch.nearest[other] = max(scratch.nearest[other], alike)


@kernel
def place_pins(
    rules: RuleArrays,
    labels: Labels,
    limits: Limits,
    items: NDArray[np.int32],
    count: int,
    excluded: NDArray[np.int32],
    scratch: Scratch,
    acted: NDArray[np.bool_],
) -> None:
    """Put what is pinned at its position, or at the next free one."""
    n = len(scratch.chosen)
    for rule in range(len(rules.acts)):
        if rules.acts[rule] != PIN or not scratch.active[rule]:
            continue
        position = int(rules.positions[rule]) - 1
        while position < n and scratch.chosen[position] != FREE:
            position += 1
        if position >= n:
            continue
        item, place = find_pin(rules, rule, labels, items, count, excluded, scratch, acted)
        if item >= 0:
            choose(labels, limits, items, count, scratch, position, place, item)
            scratch.pins[position] = rule
            acted[rule] = True


@kernel
def pick(limits: Limits, count: int, scratch: Scratch, scale: float, fresh: bool) -> int:
    """Return the place of the next entry, of new items only where `fresh`; -1 for none."""
    best, highest = -1, 0.0
    most = limits.max_per_category
    for place in range(count):
        if not scratch.usable[place] or (most > 0 and scratch.crowd[place] >= most):
            continue
        if fresh and not scratch.is_new[place]:
            continue
        value = scratch.relevance[place]
        if limits.diversity > 0.0:
            value = (1.0 - limits.diversity) * value * scale
            value -= limits.diversity * scratch.nearest[place]
        if best < 0 or value > highest:
            best, highest = place, value
    return best


@kernel
def score_scale(count: int, scratch: Scratch) -> float:
    """Return one over the greatest score of a candidate, 0 where none is above 0."""
    greatest = 0.0
    for place in range(count):
        if scratch.usable[place]:
            greatest = max(greatest, scratch.relevance[place])
    return 1.0 / greatest if greatest > 0.0 else 0.0


@kernel
def fill(
    labels: Labels, limits: Limits, items: NDArray[np.int32], count: int, scratch: Scratch
) -> None:
    """Fill the free positions, the best candidate first; late ones with new items, if need be."""
    scale = score_scale(count, scratch)
    missing, free = limits.min_new_items, 0
    for place in scratch.chosen:
        free += place == FREE
        missing -= missing > 0 and place >= 0 and scratch.is_new[place]
    for position in range(len(scratch.chosen)):
        if scratch.chosen[position] != FREE:
            continue
        place = -1
        if missing > 0 and missing >= free:
            place = pick(limits, count, scratch, scale, True)
        if place < 0:
            place = pick(limits, count, scratch, scale, False)
        if place < 0:
            break
        free -= 1
        missing -= missing > 0 and scratch.is_new[place]
        choose(labels, limits, items, count, scratch, position, place, items[place])


@kernel
def write_list(
    rules: RuleArrays,
    labels: Labels,
    scratch: Scratch,
    lists: FinalLists,
    row: int,
    has_rules: bool,
) -> None:
    """Write the positions that are filled, without gaps."""
    at = 0
    for position in range(len(scratch.chosen)):
        place = scratch.chosen[position]
        if place == FREE:
            continue
        lists.places[row, at] = place
        lists.items[row, at] = scratch.chosen_items[position]
        if place >= 0:
            lists.scores[row, at] = min(scratch.relevance[place], 1.0)
        if has_rules:
            tell_rules(rules, labels, scratch, position, lists.rules[row, at], lists.acted[row])
        at += 1


@long_kernel
def apply_policy(
    wide: Wide,
    customers: Customers,
    labels: Labels,
    rules: RuleArrays,
    limits: Limits,
    ts_ms: int,
    lists: FinalLists,
) -> None:
    """Write one final list per wide one; reads everything and writes nothing but `lists`."""
    scratch = make_scratch(wide.items.shape[1], lists.items.shape[1], len(rules.acts))
    for row in range(len(wide.items)):
        count = open_candidates(wide, customers, labels, limits, row, scratch)
        items, acted, excluded = wide.items[row], lists.acted[row], customers.excluded[row]
        has_rules = find_active(rules, ts_ms, customers, row, scratch.active)
        if has_rules:
            scratch.touched[:count] = -1
            apply_rules(rules, labels, items, count, scratch, acted)
            place_pins(rules, labels, limits, items, count, excluded, scratch, acted)
        fill(labels, limits, items, count, scratch)
        write_list(rules, labels, scratch, lists, row, has_rules)
