"""Business rules of recommendation lists, and the bounded book that holds them."""

from dataclasses import dataclass
from enum import IntEnum
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from operators.errors import ParameterError
from operators.hashing import hash_strings
from operators.vocabulary import Vocabulary

MOST_RULES = 10_000
FACTOR_MAX = 1_000.0
EARLIEST_MS, LATEST_MS = -(2**63), 2**63 - 1


class Act(IntEnum):
    """What a rule does, in the order in which rules act."""

    EXCLUDE = 0
    BOOST = 1
    BURY = 2
    PIN = 3


class Target(IntEnum):
    """What a rule speaks of."""

    ITEM = 0
    CATEGORY = 1
    TAG = 2


class Scope(IntEnum):
    """Whose lists a rule is for, the most special first."""

    CUSTOMER = 0
    SEGMENT = 1
    EVERYONE = 2


@dataclass(frozen=True, slots=True)
class Rule:
    """One business rule.

    Attributes
    ----------
    rule_id
        Its name, not empty.
    act
        What it does.
    target, name
        What it speaks of: an item's id, or the name of a category or of a tag; not empty.
    scope, whom
        Whose lists it is for: a customer's id or a segment's name; empty for everyone.
    factor
        What scores are multiplied by: above 1 and at most 1,000 for a boost, above 0 and below 1
        to bury.
    position
        1-based place of a pin, at least 1.
    from_ms, until_ms
        The rule is valid from the one, included, until the other, excluded; ms since the epoch.

    Raises
    ------
    ParameterError
        Where one of these does not hold.

    Examples
    --------
    >>> Rule("spring", Act.BOOST, Target.TAG, "garden", factor=3.0).is_valid_at(0)
    True
    >>> Rule("spring", Act.BURY, Target.TAG, "garden", factor=3.0)
    Traceback (most recent call last):
    operators.errors.ParameterError: rule spring: factor must be above 0 and below 1, is 3.0
    """

    rule_id: str
    act: Act
    target: Target
    name: str
    scope: Scope = Scope.EVERYONE
    whom: str = ""
    factor: float = 1.0
    position: int = 1
    from_ms: int = EARLIEST_MS
    until_ms: int = LATEST_MS

    def __post_init__(self) -> None:
        complaint = self._complaint()
        if complaint:
            raise ParameterError(f"rule {self.rule_id}: {complaint}")

    def _complaint(self) -> str:
        if not self.rule_id or not self.name:
            return "the rule's id and what it speaks of must not be empty"
        if bool(self.whom) == (self.scope is Scope.EVERYONE):
            return "a segment or a customer must be named, and for everyone neither"
        if self.act is Act.BOOST and not 1.0 < self.factor <= FACTOR_MAX:
            return f"factor must be above 1 and at most {FACTOR_MAX:g}, is {self.factor}"
        if self.act is Act.BURY and not 0.0 < self.factor < 1.0:
            return f"factor must be above 0 and below 1, is {self.factor}"
        if self.position < 1:
            return f"position must be at least 1, is {self.position}"
        if self.from_ms >= self.until_ms:
            return "it must become valid before it ends"
        return ""

    def is_valid_at(self, ts_ms: int) -> bool:
        """Tell whether the rule is valid at a time, ms."""
        return self.from_ms <= ts_ms < self.until_ms


class RuleChains(NamedTuple):
    """By which what speaks of an item is found without a look at all other rules.

    Attributes
    ----------
    after
        int32 by rule, the next one with the same target and code; -1 for none.
    of_items, of_categories, of_tags
        int32 by code, the first rule that speaks of it; -1 for none.
    """

    after: NDArray[np.int32]
    of_items: NDArray[np.int32]
    of_categories: NDArray[np.int32]
    of_tags: NDArray[np.int32]


class RuleArrays(NamedTuple):
    """The rules in the order in which they act, for kernels.

    Attributes
    ----------
    acts, targets, scopes
        uint8, `Act`, `Target` and `Scope` of each rule.
    codes
        int32, the item's index, or the code of the category or tag; -1 matches nothing.
    segments
        int32, the segment's code; -1 for other scopes.
    customers
        uint64, the customer's key; 0 for other scopes.
    factors
        float64.
    positions
        int32, 1-based.
    from_ms, until_ms
        int64.
    chains
        `RuleChains`.
    """

    acts: NDArray[np.uint8]
    targets: NDArray[np.uint8]
    scopes: NDArray[np.uint8]
    codes: NDArray[np.int32]
    segments: NDArray[np.int32]
    customers: NDArray[np.uint64]
    factors: NDArray[np.float64]
    positions: NDArray[np.int32]
    from_ms: NDArray[np.int64]
    until_ms: NDArray[np.int64]
    chains: RuleChains


class RuleBook:
    """At most so many rules by id, and the same as arrays.

    Rules act in the order of `Act`; those that do the same, the most special scope first, then
    by id. So all workers that know the same rules make the same lists.

    Parameters
    ----------
    max_rules
        Most rules that are kept, 1..10,000. At the bound a new rule is refused; one that is
        there can still be replaced.
    items
        Vocabulary of items. The items that rules pin join it.
    categories, tags
        Vocabularies of names, which the rules' own join.

    Examples
    --------
    >>> book = RuleBook(1, Vocabulary(8), Vocabulary(8), Vocabulary(8))
    >>> book.put(Rule("a", Act.PIN, Target.ITEM, "tea")), book.put(
    ...     Rule("b", Act.EXCLUDE, Target.ITEM, "tea"))
    (True, False)
    >>> book.ids, book.arrays.codes.tolist()
    (['a'], [0])
    >>> book.remove("a")
    >>> len(book)
    0
    """

    def __init__(
        self, max_rules: int, items: Vocabulary, categories: Vocabulary, tags: Vocabulary
    ) -> None:
        if not 1 <= max_rules <= MOST_RULES:
            raise ParameterError(f"max_rules must be 1..{MOST_RULES}, is {max_rules}")
        self.max_rules = max_rules
        self._vocabularies = {Target.ITEM: items, Target.CATEGORY: categories, Target.TAG: tags}
        self._first = tuple(
            np.full(each.capacity, -1, np.int32) for each in (items, categories, tags)
        )
        self._rules: dict[str, Rule] = {}
        self._items_known = 0
        self._compile()

    def __len__(self) -> int:
        return len(self._rules)

    def put(self, rule: Rule) -> bool:
        """Add a rule or replace the one with its id; return False where there is no room."""
        if rule.rule_id not in self._rules and len(self) >= self.max_rules:
            return False
        self._rules[rule.rule_id] = rule
        self._is_stale = True
        return True

    def remove(self, rule_id: str) -> None:
        """Take a rule out, if it is there."""
        self._is_stale = self._rules.pop(rule_id, None) is not None or self._is_stale

    def reset_items(self) -> None:
        """Look up all items anew: their indices have changed."""
        self._is_stale = True

    @property
    def arrays(self) -> RuleArrays:
        """All rules in their order, with the indices that items have by now."""
        self._refresh()
        return self._arrays

    @property
    def ids(self) -> list[str]:
        """Rule ids in the order of `arrays`."""
        self._refresh()
        return self._ids

    @property
    def keys(self) -> NDArray[np.uint64]:
        """Hashes of `ids`."""
        self._refresh()
        return self._keys

    @property
    def segment_codes(self) -> dict[str, int]:
        """The code of each segment that a rule names."""
        self._refresh()
        return self._segment_codes

    def is_any_valid_at(self, ts_ms: int) -> bool:
        """Tell whether a rule is valid at a time, ms."""
        arrays = self.arrays
        return bool(((arrays.from_ms <= ts_ms) & (ts_ms < arrays.until_ms)).any())

    def _refresh(self) -> None:
        """Bring the arrays up to date; many rules that come at once are sorted once."""
        items = self._vocabularies[Target.ITEM]
        if self._is_stale:
            self._compile()
        elif self._items_known != len(items):
            self._items_known = len(items)
            found = items.index_many(self._item_ids)
            if (found != self._arrays.codes[self._of_items]).any():
                self._arrays.codes[self._of_items] = found
                self._link()

    def _compile(self) -> None:
        rules = sorted(self._rules.values(), key=lambda each: (each.act, each.scope, each.rule_id))
        self._is_stale = False
        self._ids = [rule.rule_id for rule in rules]
        self._keys = hash_strings(self._ids)
        named = {rule.whom: 0 for rule in rules if rule.scope is Scope.SEGMENT}
        self._segment_codes = {name: code for code, name in enumerate(named)}
        customers = hash_strings([rule.whom for rule in rules])
        scopes = np.array([rule.scope for rule in rules], np.uint8)
        self._arrays = RuleArrays(
            np.array([rule.act for rule in rules], np.uint8),
            np.array([rule.target for rule in rules], np.uint8),
            scopes,
            np.array([self._code(rule) for rule in rules], np.int32),
            np.array([self._segment_codes.get(rule.whom, -1) for rule in rules], np.int32),
            np.where(scopes == Scope.CUSTOMER, customers, np.uint64(0)),
            np.array([rule.factor for rule in rules], np.float64),
            np.array([min(rule.position, 2**31 - 1) for rule in rules], np.int32),
            np.array([rule.from_ms for rule in rules], np.int64),
            np.array([rule.until_ms for rule in rules], np.int64),
            RuleChains(np.empty(len(rules), np.int32), *self._first),
        )
        self._of_items = np.flatnonzero(self._arrays.targets == Target.ITEM)
        self._item_ids = [rules[i].name for i in self._of_items.tolist()]
        self._items_known = len(self._vocabularies[Target.ITEM])
        self._link()

    def _code(self, rule: Rule) -> int:
        vocabulary = self._vocabularies[rule.target]
        if rule.target is Target.ITEM and rule.act is not Act.PIN:
            return int(vocabulary.index_many([rule.name])[0])
        return int(vocabulary.learn_many([rule.name])[0])

    def _link(self) -> None:
        """Chain the rules that speak of the same."""
        for first in self._first:
            first.fill(-1)
        arrays, after = self._arrays, self._arrays.chains.after
        codes, targets = arrays.codes.tolist(), arrays.targets.tolist()
        for rule in range(len(codes) - 1, -1, -1):
            after[rule] = -1
            if codes[rule] >= 0:
                first = self._first[targets[rule]]
                after[rule] = first[codes[rule]]
                first[codes[rule]] = rule
