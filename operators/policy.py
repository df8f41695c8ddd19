"""From what a customer is likely to want to what they are shown: the policy of lists."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from operators.batches import plain, require_lengths
from operators.errors import ParameterError, require_finite
from operators.policy_columns import (
    ENTRY_RULES,
    OUTSIDE,
    REPEATABLE,
    UNREPEATABLE,
    Customers,
    FinalLists,
    Labels,
    Limits,
    Wide,
)
from operators.policy_kernels import apply_policy
from operators.policy_rules import Act, Rule, RuleBook, Scope, Target
from operators.vocabulary import Vocabulary

__all__ = ["OUTSIDE", "Act", "FinalLists", "Options", "Policy", "Rule", "Scope", "Target"]

TAGS_MAX = 8
NAMES_MAX = 65_536


class Options(NamedTuple):
    """Settings of `Policy`; by default it changes nothing.

    Attributes
    ----------
    max_per_category
        Most entries of a list in one category, at least 0; 0 sets no bound. Pins are counted but
        not bound by it, and a list may become shorter by it.
    diversity
        How much likeness to entries before it counts against a candidate, 0..1; 0 is off.
    min_new_items
        Entries of a list that must be new items, as far as the wide list has some and
        `max_per_category` lets them in; at least 0.
    new_item_events
        An item with fewer events than this is new; above 0.
    drop_bought, drop_seen
        Whether what a customer bought, or saw, is left out. What is in no category is handled so.
    repeatable, unrepeatable
        Names of categories of which nothing is left out for having been bought or seen; and of
        those of which what was bought is left out even where `drop_bought` is off. A name in both
        is unrepeatable.
    max_rules
        Most rules that are kept, 1..10,000.
    """

    max_per_category: int = 0
    diversity: float = 0.0
    min_new_items: int = 0
    new_item_events: float = 10.0
    drop_bought: bool = False
    drop_seen: bool = False
    repeatable: tuple[str, ...] = ()
    unrepeatable: tuple[str, ...] = ()
    max_rules: int = 1_000


class Policy:
    """Makes final lists of a ranker's wide ones: repeats, business rules, diversity, novelty.

    For each list, in this order:

    1. What is barred is dropped, and what the customer bought or saw, unless its category is
       repeatable.
    2. Rules exclude candidates; then others multiply the scores of those that are left.
    3. Pins take their positions, or the next free ones. A pin needs no candidate and brings back
       what was bought, but not what is barred, what a rule excludes or what the caller excludes.
       A pinned category or tag stands for its best candidate. Pins beyond the end do nothing.
    4. The free positions are filled one after another by the candidate with the greatest

           ``(1 - λ) · score / max score - λ · max over the entries so far of J(candidate, entry)``

       where λ is `Options.diversity` and J is the Jaccard similarity of the sets of labels,
       category and tags (maximal marginal relevance; at λ = 0 simply the greatest score). Ties
       go to the better place in the wide list. A category that is full is passed over, and once
       there are only as many free positions as new items are missing, new items come first.

    Which rules acted is told with each list. Nothing is learned; labels and rules are set.

    Parameters
    ----------
    vocabulary
        Gives items their indices; items that rules pin join it while it has room.
    options
        See `Options`.

    Attributes
    ----------
    rules
        The `RuleBook`.

    Examples
    --------
    >>> vocabulary = Vocabulary(capacity=10)
    >>> tea, cup, pot = vocabulary.learn_many(["tea", "cup", "pot"]).tolist()
    >>> policy = Policy(vocabulary)
    >>> policy.set_item("tea", "drinks", ["green"])
    >>> policy.put_rule(Rule("no-drinks", Act.EXCLUDE, Target.CATEGORY, "drinks"))
    True
    >>> policy.put_rule(Rule("pots", Act.BOOST, Target.ITEM, "pot", factor=3.0))
    True
    >>> lists = policy.apply_many(
    ...     np.array([[tea, cup, pot]], np.int32), np.array([[0.5, 0.25, 0.125]], np.float32),
    ...     n=2, ts_ms=0)
    >>> [vocabulary.ids[item] for item in lists.items[0]], lists.places.tolist()
    (['pot', 'cup'], [[2, 1]])
    >>> [policy.rules.ids[rule] for rule in np.flatnonzero(lists.acted[0])]
    ['no-drinks', 'pots']

    References
    ----------
    Carbonell, J. and Goldstein, J. (1998). The use of MMR, diversity-based reranking for
    reordering documents and producing summaries. SIGIR.
    """

    def __init__(self, vocabulary: Vocabulary, options: Options | None = None) -> None:
        chosen = options if options is not None else Options()
        if chosen.max_per_category < 0 or chosen.min_new_items < 0:
            raise ParameterError("max_per_category and min_new_items must be at least 0")
        if not 0.0 <= chosen.diversity <= 1.0 or not chosen.new_item_events > 0.0:
            raise ParameterError("diversity must be in [0, 1] and new_item_events above 0")
        self.options = chosen
        self._vocabulary = vocabulary
        self._categories = Vocabulary(NAMES_MAX)
        self._tags = Vocabulary(NAMES_MAX)
        self.rules = RuleBook(chosen.max_rules, vocabulary, self._categories, self._tags)
        self._named: dict[str, tuple[int, tuple[int, ...]]] = {}
        self._known = 0
        capacity = vocabulary.capacity
        self._labels = Labels(
            np.full(capacity, -1, np.int32),
            np.full((capacity, TAGS_MAX), -1, np.int32),
            np.zeros(capacity, np.uint8),
            np.zeros(NAMES_MAX, np.uint8),
        )
        self._handle(chosen.repeatable, REPEATABLE)
        self._handle(chosen.unrepeatable, UNREPEATABLE)
        self._limits = Limits(
            chosen.max_per_category,
            float(chosen.diversity),
            chosen.min_new_items,
            float(chosen.new_item_events),
            chosen.drop_bought,
            chosen.drop_seen,
        )

    def _handle(self, names: Iterable[str], handling: int) -> None:
        codes = self._categories.learn_many(list(names))
        self._labels.handling[codes[codes >= 0]] = handling

    @property
    def handles_repeats(self) -> bool:
        """Whether it needs to be told what customers bought and saw."""
        chosen = self.options
        return chosen.drop_seen or bool(chosen.repeatable or chosen.unrepeatable)

    def is_active(self, ts_ms: int) -> bool:
        """Tell whether a list made at this time, ms, can be other than the ranker's."""
        chosen = self.options
        return (
            self.handles_repeats
            or chosen.max_per_category > 0
            or chosen.diversity > 0.0
            or chosen.min_new_items > 0
            or self.rules.is_any_valid_at(ts_ms)
        )

    def set_item(self, item_id: str, category: str | None, tags: Sequence[str]) -> None:
        """Say what category an item is in and what tags it has.

        The item need not be in the vocabulary yet. Labels of up to as many items as the
        vocabulary has room for are kept, those of further ones are not; nor are tags beyond the
        eighth, and categories and tags beyond 65,536 names. With neither, the item is forgotten.
        """
        if not category and not tags:
            if self._named.pop(item_id, None) is not None:
                self._label(item_id)
            return
        if item_id not in self._named and len(self._named) >= self._vocabulary.capacity:
            return
        kept = [tag for tag in dict.fromkeys(tags) if tag][:TAGS_MAX]
        codes = self._tags.learn_many(kept)
        code = int(self._categories.learn_many([category])[0]) if category else -1
        self._named[item_id] = (code, tuple(sorted(codes[codes >= 0].tolist())))
        self._label(item_id)

    def reset_items(self) -> None:
        """Find all items anew: their indices in the vocabulary have changed."""
        self._labels.categories.fill(-1)
        self._labels.tags.fill(-1)
        self._known = 0
        self.rules.reset_items()

    def put_rule(self, rule: Rule) -> bool:
        """Add a rule or replace the one with its id; return False where there is no room.

        A category, tag, segment or item that is not known matches nothing until it is.
        """
        return self.rules.put(rule)

    def remove_rule(self, rule_id: str) -> None:
        """Take a rule out, if it is there."""
        self.rules.remove(rule_id)

    def segment_codes(self, names: Sequence[str]) -> NDArray[np.int32]:
        """Return the code of each segment, int32; -1 where no rule names it."""
        codes = self.rules.segment_codes
        return np.array([codes.get(name, -1) for name in names], np.int32)

    def apply_many(
        self,
        items: NDArray[np.int32],
        scores: NDArray[np.float32],
        *,
        n: int,
        ts_ms: int,
        barred: NDArray[np.uint8] | None = None,
        events: NDArray[np.float64] | None = None,
        segments: NDArray[np.int32] | None = None,
        customers: NDArray[np.uint64] | None = None,
        bought: NDArray[np.int32] | None = None,
        seen: NDArray[np.int32] | None = None,
        excluded: NDArray[np.int32] | None = None,
    ) -> FinalLists:
        """Make final lists. Nothing is written but the indices of items that are new.

        Parameters
        ----------
        items, scores
            int32[m, w], each list's items, none twice, best first, -1 padded; float32[m, w],
            finite and at least 0.
        n
            Length of the final lists, at least 1.
        ts_ms
            The time, ms, at which rules must be valid.
        barred
            uint8[capacity], 1 for items that are not available; None where all are.
        events
            float64[m, w], events of each candidate; needed where `Options.min_new_items` is
            above 0. A pin from outside the wide list does not count as new.
        segments
            int32[m], from `segment_codes`; None where no customer is in a segment.
        customers
            uint64[m], `operators.hashing.hash_strings` of the ids; None where no rule shall know
            the customers.
        bought, seen, excluded
            int32[m, any], -1 padded: what each customer bought and saw of late, and what no pin
            may bring back.

        Returns
        -------
        `FinalLists` of shape (m, n).

        Raises
        ------
        NotFiniteError, ParameterError
            Where a score is NaN or infinite; lengths differ, `n` is below 1, an item is out of
            range or events are needed and missing.
        """
        rules = self.rules.arrays
        self._admit()
        wide = self._wide(items, scores, events, n)
        m = len(items)
        none = np.empty((m, 0), np.int32)
        told = Customers(
            np.full(m, -1, np.int32) if segments is None else plain(segments, np.int32),
            np.zeros(m, np.uint64) if customers is None else plain(customers, np.uint64),
            *(none if each is None else plain(each, np.int32) for each in (bought, seen, excluded)),
        )
        require_lengths("Policy", m, **told._asdict())
        labels = self._labels
        if barred is not None:
            require_lengths("Policy", len(labels.barred), barred=barred)
            labels = labels._replace(barred=plain(barred, np.uint8))
        lists = FinalLists(
            np.full((m, n), -1, np.int32),
            np.full((m, n), -1, np.int32),
            np.zeros((m, n), np.float32),
            np.full((m, n, ENTRY_RULES), -1, np.int16),
            np.zeros((m, len(self.rules)), np.bool_),
        )
        apply_policy(wide, told, labels, rules, self._limits, ts_ms, lists)
        return lists

    def _wide(
        self,
        items: NDArray[np.int32],
        scores: NDArray[np.float32],
        events: NDArray[np.float64] | None,
        n: int,
    ) -> Wide:
        if n < 1:
            raise ParameterError(f"n must be at least 1, is {n}")
        if events is None and self.options.min_new_items > 0:
            raise ParameterError("Policy: min_new_items needs the events of items")
        if items.shape != scores.shape or (events is not None and events.shape != items.shape):
            raise ParameterError("Policy: items, scores and events differ in shape")
        if items.size and items.max() >= self._vocabulary.capacity:
            raise ParameterError(f"Policy: item {items.max()} is out of range")
        require_finite("scores", scores)
        counts = np.empty((len(items), 0)) if events is None else events
        return Wide(plain(items, np.int32), plain(scores, np.float32), plain(counts, np.float64))

    def _admit(self) -> None:
        """Label the items that have joined the vocabulary."""
        ids = self._vocabulary.ids
        if self._known == len(ids):
            return
        for item_id in ids[self._known :]:
            if item_id in self._named:
                self._label(item_id)
        self._known = len(ids)

    def _label(self, item_id: str) -> None:
        index = int(self._vocabulary.index_many([item_id])[0])
        if index < 0:
            return
        category, tags = self._named.get(item_id, (-1, ()))
        self._labels.categories[index] = category
        self._labels.tags[index] = -1
        self._labels.tags[index, : len(tags)] = tags
