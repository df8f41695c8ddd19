"""The kernels behind `operators.policy` by which business rules act on one list.

A kernel that is called for each candidate takes the few arrays that it reads, not a whole tuple of
them: numba counts a reference to each at every call.
"""

import numpy as np
from numpy.typing import NDArray

from operators.kernel import kernel
from operators.policy_columns import FREE, OUTSIDE, Customers, Labels, Scratch, holds
from operators.policy_rules import Act, RuleArrays, RuleChains, Scope, Target

SCORE_MAX = 1e30
"""Where boosting ends, so that a score stays finite."""

EXCLUDE, BOOST, BURY, PIN = (int(act) for act in Act)
BY_ITEM, BY_CATEGORY = int(Target.ITEM), int(Target.CATEGORY)
OF_CUSTOMER, OF_SEGMENT = int(Scope.CUSTOMER), int(Scope.SEGMENT)


@kernel
def find_active(
    rules: RuleArrays, ts_ms: int, customers: Customers, row: int, active: NDArray[np.bool_]
) -> bool:
    """Mark the rules that are valid and for this customer; return whether there is one."""
    has_any = False
    for rule in range(len(rules.acts)):
        scope = rules.scopes[rule]
        is_for = (scope != OF_CUSTOMER or customers.keys[row] == rules.customers[rule]) and (
            scope != OF_SEGMENT or customers.segments[row] == rules.segments[rule]
        )
        active[rule] = is_for and rules.from_ms[rule] <= ts_ms < rules.until_ms[rule]
        has_any = has_any or active[rule]
    return has_any


@kernel
def find_rules(
    chains: RuleChains,
    categories: NDArray[np.int32],
    tags: NDArray[np.int32],
    item: int,
    active: NDArray[np.bool_],
    found: NDArray[np.int64],
) -> int:
    """Write the active rules that speak of an item to `found`; return how many."""
    count, category = 0, categories[item]
    for k in range(-2, tags.shape[1]):
        if k == -2:
            rule = chains.of_items[item]
        elif k == -1:
            rule = chains.of_categories[category] if category >= 0 else -1
        elif tags[item, k] >= 0:
            rule = chains.of_tags[tags[item, k]]
        else:
            break
        while rule >= 0:
            if active[rule]:
                found[count] = rule
                count += 1
            rule = chains.after[rule]
    return count


@kernel
def is_excluded(
    acts: NDArray[np.uint8], found: NDArray[np.int64], count: int, acted: NDArray[np.bool_]
) -> bool:
    """Tell whether one of the rules found excludes, and mark those that do in `acted`."""
    excluded = False
    for k in range(count):
        if acts[found[k]] == EXCLUDE:
            excluded = True
            acted[found[k]] = True
    return excluded


@kernel
def touch(touched: NDArray[np.int16], place: int, rule: int) -> None:
    """Keep the first few rules that acted on a candidate, in their order."""
    last = touched.shape[1]
    k = last
    while k > 0 and (touched[place, k - 1] < 0 or touched[place, k - 1] > rule):
        k -= 1
        if k + 1 < last:
            touched[place, k + 1] = touched[place, k]
    if k < last:
        touched[place, k] = rule


@kernel
def apply_rules(
    rules: RuleArrays,
    labels: Labels,
    items: NDArray[np.int32],
    count: int,
    scratch: Scratch,
    acted: NDArray[np.bool_],
) -> None:
    """Exclude, boost and bury candidates."""
    acts, factors, chains = rules.acts, rules.factors, rules.chains
    usable, relevance, touched = scratch.usable, scratch.relevance, scratch.touched
    active, found = scratch.active, scratch.found
    categories, tags = labels.categories, labels.tags
    for place in range(count):
        if not usable[place]:
            continue
        known = find_rules(chains, categories, tags, items[place], active, found)
        if known == 0:
            continue
        if is_excluded(acts, found, known, acted):
            usable[place] = False
            continue
        for k in range(known):
            rule = found[k]
            if acts[rule] == PIN:
                continue
            relevance[place] = min(relevance[place] * factors[rule], SCORE_MAX)
            acted[rule] = acted[rule] or acts[rule] == BURY
            touch(touched, place, rule)


@kernel
def find_all(rules: RuleArrays, labels: Labels, item: int, scratch: Scratch) -> int:
    """Do as `find_rules`, where it is not done for each candidate."""
    return find_rules(
        rules.chains, labels.categories, labels.tags, item, scratch.active, scratch.found
    )


@kernel
def has_label(labels: Labels, item: int, target: int, code: int) -> bool:
    """Tell whether an item is in a category, or has a tag."""
    if target == BY_CATEGORY:
        return bool(labels.categories[item] == code)
    return holds(labels.tags[item], code)


@kernel
def best_match(
    rules: RuleArrays, rule: int, labels: Labels, items: NDArray[np.int32], count: int,
    scratch: Scratch,
) -> int:  # fmt: skip
    """Return the place of the best open candidate that a rule speaks of, -1 for none."""
    best, target, code = -1, rules.targets[rule], rules.codes[rule]
    if code < 0:
        return best
    for place in range(count):
        if not scratch.usable[place] or not has_label(labels, items[place], target, code):
            continue
        if best < 0 or scratch.relevance[place] > scratch.relevance[best]:
            best = place
    return best


@kernel
def place_of(items: NDArray[np.int32], item: int) -> int:
    """Return the place of an item in a wide list."""
    for place in range(len(items)):
        if items[place] == item:
            return place
    return OUTSIDE


@kernel
def find_pin(
    rules: RuleArrays,
    rule: int,
    labels: Labels,
    items: NDArray[np.int32],
    count: int,
    excluded: NDArray[np.int32],
    scratch: Scratch,
    acted: NDArray[np.bool_],
) -> tuple[int, int]:
    """Return item and place of what a rule pins; the item is -1 where it may not be."""
    if rules.targets[rule] != BY_ITEM:
        place = best_match(rules, rule, labels, items, count, scratch)
        return (int(items[place]), place) if place >= 0 else (-1, FREE)
    item = int(rules.codes[rule])
    if item < 0 or labels.barred[item] != 0:
        return -1, FREE
    if holds(scratch.chosen_items, item) or holds(excluded, item):
        return -1, FREE
    if is_excluded(rules.acts, scratch.found, find_all(rules, labels, item, scratch), acted):
        return -1, FREE
    return item, place_of(items, item)


@kernel
def tell_rules(
    rules: RuleArrays,
    labels: Labels,
    scratch: Scratch,
    position: int,
    told: NDArray[np.int16],
    acted: NDArray[np.bool_],
) -> None:
    """Write the rules that acted on an entry, and mark the boosts among them."""
    count, place = 0, scratch.chosen[position]
    if scratch.pins[position] >= 0:
        told[0] = scratch.pins[position]
        count = 1
    if place < 0 or scratch.touched[place, 0] < 0:
        return
    for rule in scratch.touched[place]:
        if rule >= 0 and count < len(told):
            told[count] = rule
            count += 1
    for k in range(find_all(rules, labels, scratch.chosen_items[position], scratch)):
        if rules.acts[scratch.found[k]] == BOOST:
            acted[scratch.found[k]] = True
