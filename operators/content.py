"""What items are about: words of the catalogue, and which of them a customer looks at."""

import math
import re
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from operators.arrays import load_into
from operators.batches import require_lengths
from operators.deltas import Expected, require_delta, require_within
from operators.errors import ParameterError, require_finite
from operators.fast_log import fast_log
from operators.hashing import hash_strings
from operators.kernel import kernel

WORD = re.compile(r"\w+")
# Smoothing of the share of a customer's items that have a word: by its share of all items, and
# by a constant that keeps rare words from deciding alone.
BACK_OFF, FLOOR = 0.3, 1e-3
_WORD_FLOOR = 1e-4
# Words of one customer's items that are told apart, a power of two, and how far a word may lie
# from its home; what finds no place is left out.
INTERESTS, WORD_PROBES = 1024, 16
_FIRST_EVENTS = 10.0


class ContentState(NamedTuple):
    """Arrays of `ItemContent`, for kernels.

    Attributes
    ----------
    words
        int32[capacity, words_per_item], hashed words of each item, -1 padded.
    counts
        float64[buckets], weight of the events of items with each word.
    total
        float64[1], weight of all events.
    added, added_total
        What the other replicas have not been told of.
    """

    words: NDArray[np.int32]
    counts: NDArray[np.float64]
    total: NDArray[np.float64]
    added: NDArray[np.float64]
    added_total: NDArray[np.float64]


class Interests(NamedTuple):
    """What one customer looks at, as a small hash table with linear probing.

    Attributes
    ----------
    words
        int32[INTERESTS], one more than each word, 0 where free.
    weights
        float32[INTERESTS].
    """

    words: NDArray[np.int32]
    weights: NDArray[np.float32]


@kernel
def make_interests() -> Interests:
    """Room for one customer."""
    return Interests(np.empty(INTERESTS, np.int32), np.empty(INTERESTS, np.float32))


@kernel
def place_of_word(words: NDArray[np.int32], word: int) -> int:
    """Where a word stands or would stand; -1 where it is not there and there is no room."""
    place = np.int64(word) & (INTERESTS - 1)
    for _ in range(WORD_PROBES):
        if words[place] == word + 1 or words[place] == 0:
            return int(place)
        place = (place + 1) & (INTERESTS - 1)
    return -1


@kernel
def learn_content(state: ContentState, item: int, weight: float) -> None:
    """Count the words of one event's item."""
    if item < 0 or item >= len(state.words) or weight <= 0.0:
        return
    state.total[0] += weight
    state.added_total[0] += weight
    for place in range(state.words.shape[1]):
        word = state.words[item, place]
        if word < 0:
            break
        state.counts[word] += weight
        state.added[word] += weight


@kernel
def gather_interests(
    state: ContentState,
    context: NDArray[np.int32],
    recency: NDArray[np.float32],
    count: int,
    interests: Interests,
) -> float:
    """Add up the words of a customer's items; return the weight of all items."""
    words, known, weights = state.words, interests.words, interests.weights
    known[:] = 0
    total = 0.0
    for position in range(count):
        item = context[position]
        if item >= len(words) or recency[position] <= 0.0:
            continue
        for place in range(words.shape[1]):
            word = words[item, place]
            if word < 0:
                break
            at = place_of_word(known, word)
            if at < 0:
                continue
            if known[at] == 0:
                known[at] = word + 1
                weights[at] = 0.0
            weights[at] += recency[position]
        total += recency[position]
    return total


@kernel
def match_interests(
    state: ContentState,
    interests: Interests,
    total: float,
    items: NDArray[np.int32],
    count: int,
    lifts: NDArray[np.float32],
    shared: NDArray[np.float32],
) -> None:
    """Write how well the words of the first `count` items are those that the customer looks at.

    See `ItemContent`; `total` is what `gather_interests` returned. Items of -1 match by 0.
    """
    words, counts, known, weights = state.words, state.counts, interests.words, interests.weights
    events = state.total[0] + _FIRST_EVENTS
    for k in range(count):
        item = items[k]
        lift, rare, length = 0.0, 0.0, 0
        if total > 0.0 and 0 <= item < len(words):
            for place in range(words.shape[1]):
                word = words[item, place]
                if word < 0:
                    break
                base, share = counts[word] / events, 0.0
                at = place_of_word(known, word)
                if at >= 0 and known[at] != 0:
                    share = weights[at] / total
                    rare -= share * fast_log(base + _WORD_FLOOR)
                lift += fast_log(
                    (share + BACK_OFF * base + FLOOR) / ((1.0 + BACK_OFF) * base + FLOOR)
                )
                length += 1
        scale = 1.0 / math.sqrt(max(length, 1))
        lifts[k] = lift * scale
        shared[k] = rare * scale


@kernel
def has_word(words: NDArray[np.int32], item: int, word: int) -> bool:
    """Whether an item has a word."""
    for place in range(words.shape[1]):
        if words[item, place] < 0:
            return False
        if words[item, place] == word:
            return True
    return False


@kernel
def content_cause(
    state: ContentState, context: NDArray[np.int32], recency: NDArray[np.float32], item: int
) -> int:
    """Return the context item that shares the rarest words with `item`, or -1."""
    words, best, cause = state.words, 0.0, -1
    if item >= len(words):
        return -1
    events = state.total[0] + _FIRST_EVENTS
    for position in range(len(context)):
        other = context[position]
        if other < 0:
            break
        if other == item or other >= len(words):
            continue
        shared = 0.0
        for place in range(words.shape[1]):
            word = words[item, place]
            if word < 0:
                break
            if has_word(words, other, word):
                shared -= math.log(state.counts[word] / events + _WORD_FLOOR)
        if shared * recency[position] > best:
            best, cause = shared * recency[position], other
    return int(cause)


@kernel
def learn_contents(
    state: ContentState, items: NDArray[np.int32], weights: NDArray[np.float32]
) -> None:
    """Count many events in turn."""
    for i in range(len(items)):
        learn_content(state, items[i], weights[i])


@kernel
def match_many(
    state: ContentState, contexts: NDArray[np.int32], candidates: NDArray[np.int32]
) -> NDArray[np.float32]:
    """Match many customers' candidates; see `ItemContent.match_many`."""
    scores = np.zeros(candidates.shape, np.float32)
    shared = np.empty(candidates.shape[1], np.float32)
    interests = make_interests()
    recency = np.ones(contexts.shape[1], np.float32)
    for i in range(len(contexts)):
        count = 0
        while count < contexts.shape[1] and contexts[i, count] >= 0:
            count += 1
        total = gather_interests(state, contexts[i], recency, count, interests)
        items = candidates[i]
        match_interests(state, interests, total, items, len(items), scores[i], shared)
    return scores


def words_of(texts: Iterable[str]) -> list[str]:
    """Split texts into lower-case words, each once, in order.

    Examples
    --------
    >>> words_of(["Red mug", "Kitchen", "red"])
    ['red', 'mug', 'kitchen']
    """
    return list(dict.fromkeys(word for text in texts for word in WORD.findall(text.lower())))


class ItemContent:
    """Items by the words of their catalogue entries, and customers by the words of their items.

    With c(t) the share of a customer's recent items (weighted by recency) that have the word t,
    and b(t) the share of all events whose items have it, an item of the words T matches by

        ``Σ_{t in T} log( (c(t) + β b(t) + ε) / ((1 + β) b(t) + ε) ) / √|T|``,

    the logarithm of how many times more likely the customer's items are to have its words than
    anybody's are (naive Bayes), and, a second number, by ``Σ c(t) · -log b(t) / √|T|``, what they
    share by its rarity (inverse document frequency). So an item that nobody has touched can be
    matched. Words are hashed (Weinberger et al., 2009): two may share a bucket.

    Parameters
    ----------
    capacity
        Items, indices 0..capacity-1.
    words_per_item
        Words kept of each item, the first ones, at least 1.
    buckets
        Buckets that words are hashed to, at least 1.

    Examples
    --------
    >>> content = ItemContent(capacity=3)
    >>> for item, text in enumerate(["red mug", "red cup", "garden hose"]):
    ...     content.set_words(item, words_of([text]))
    >>> content.learn_many(np.array([0, 1, 2], np.int32), np.ones(3, np.float32))
    >>> scores = content.match_many(np.array([[0]], np.int32), np.array([[1, 2]], np.int32))
    >>> bool(scores[0, 0] > 0 > scores[0, 1])
    True

    References
    ----------
    Lewis, D. (1998). Naive (Bayes) at forty: the independence assumption in information
    retrieval. ECML.
    Sparck Jones, K. (1972). A statistical interpretation of term specificity and its application
    in retrieval. Journal of Documentation.
    Weinberger, K., Dasgupta, A., Langford, J., Smola, A. and Attenberg, J. (2009). Feature
    hashing for large scale multitask learning. ICML.
    """

    def __init__(self, capacity: int, words_per_item: int = 16, buckets: int = 1 << 18) -> None:
        if capacity < 1 or words_per_item < 1 or buckets < 1:
            raise ParameterError("capacity, words_per_item and buckets must be at least 1")
        self.state = ContentState(
            words=np.full((capacity, words_per_item), -1, np.int32),
            counts=np.zeros(buckets),
            total=np.zeros(1),
            added=np.zeros(buckets),
            added_total=np.zeros(1),
        )

    def set_words(self, item: int, words: list[str]) -> None:
        """Say what an item is about; replaces what was said before.

        Raises
        ------
        ParameterError
            Where the item is out of range.
        """
        if not 0 <= item < len(self.state.words):
            raise ParameterError(f"item {item} of {len(self.state.words)}")
        row = self.state.words[item]
        row[:] = -1
        if words:
            buckets = hash_strings(words[: len(row)]) % np.uint64(len(self.state.counts))
            distinct = np.array(list(dict.fromkeys(buckets.tolist())), np.int32)
            row[: len(distinct)] = distinct

    def learn_many(self, items: NDArray[np.int32], weights: NDArray[np.float32]) -> None:
        """Count the words of events' items.

        Parameters
        ----------
        items
            int32[n]; -1 is skipped.
        weights
            float32[n], finite; events of weight 0 or below are not counted.

        Raises
        ------
        NotFiniteError, ParameterError
            Where a weight is NaN or infinite, or lengths differ.
        """
        require_finite("weights", weights)
        require_lengths("ItemContent", len(items), weights=weights)
        learn_contents(self.state, items, weights)

    def match_many(
        self, contexts: NDArray[np.int32], candidates: NDArray[np.int32]
    ) -> NDArray[np.float32]:
        """Match items with customers, all of whose items count alike.

        Parameters
        ----------
        contexts
            int32[n, length], each customer's items, -1 padded.
        candidates
            int32[n, m]; -1 matches by 0.

        Returns
        -------
        float32[n, m], above 0 where the customer's items have the words more than anybody's.
        """
        require_lengths("ItemContent", len(contexts), candidates=candidates)
        return match_many(self.state, contexts, candidates)

    def take_delta(self) -> dict[str, NDArray[Any]]:
        """Return what this replica counted since the last time; empty where nothing.

        Returns
        -------
        ``places`` int32[n], buckets; ``counts`` float64[n]; ``total`` float64[1].
        """
        if not self.state.added_total[0]:
            return {}
        places = np.flatnonzero(self.state.added).astype(np.int32)
        delta: dict[str, NDArray[Any]] = {
            "places": places,
            "counts": self.state.added[places],
            "total": self.state.added_total.copy(),
        }
        self.mark_known()
        return delta

    def check_delta(self, delta: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Refuse what `add_delta` cannot add; return it as a kernel takes it.

        Raises
        ------
        StateMismatchError
            Where names, shapes or dtypes are not those of `take_delta`, or a number is impossible.
        """
        checked = require_delta("ItemContent", delta, DELTA)
        require_within("ItemContent", delta, "places", 0, len(self.state.counts))
        require_within("ItemContent", delta, "counts", 0.0)
        require_within("ItemContent", delta, "total", 0.0)
        return checked

    def apply_delta(self, delta: Mapping[str, NDArray[Any]]) -> None:
        """Add what another replica counted.

        Raises
        ------
        StateMismatchError
            As `check_delta`; nothing is changed then.
        """
        if delta:
            self.add_delta(self.check_delta(delta))

    def add_delta(self, checked: Mapping[str, NDArray[Any]]) -> None:
        """Apply what `check_delta` returned."""
        np.add.at(self.state.counts, checked["places"], checked["counts"])
        self.state.total[0] += checked["total"][0]

    def mark_known(self) -> None:
        """Take everything counted so far for told, as after loading."""
        self.state.added.fill(0.0)
        self.state.added_total.fill(0.0)

    def arrays(self) -> dict[str, NDArray[Any]]:
        """All state, the live arrays by name."""
        return {name: getattr(self.state, name) for name in ("words", "counts", "total")}

    def load_arrays(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Copy in what `arrays` of an equally configured operator returned.

        Raises
        ------
        StateMismatchError
            Where names, shapes or dtypes differ.
        """
        load_into(self.arrays(), arrays)
        self.mark_known()


DELTA: Expected = {
    "places": (np.int32, ("n",)),
    "counts": (np.float64, ("n",)),
    "total": (np.float64, (1,)),
}
