"""Hashed features of short texts: word and character n-grams, and the lexicon's numbers."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from operators.codepoints import (
    ALONE,
    APOSTROPHE,
    MAX_CHARS,
    SPACE,
    WORD,
    code_tables,
    codes_of,
    hash_codes,
    kind_of,
)
from operators.errors import ParameterError
from operators.hashing import FNV_PRIME, avalanche
from operators.kernel import kernel
from operators.lexicon import vader_lexicon

BITS = 18

WORD_SEED = np.uint64(0x9AE16A3B2F90404F)
CHAR_SEED = np.uint64(0xC949D7C7509E6557)
URL_HASH = np.uint64(0x75726C)
HANDLE_HASH = np.uint64(0x68616E646C65)
BLANK = np.uint64(0x20)
AT, COLON, DOT, SLASH, UNDERSCORE = 0x40, 0x3A, 0x2E, 0x2F, 0x5F
LETTER_H, LETTER_P, LETTER_S, LETTER_T, LETTER_W = 0x68, 0x70, 0x73, 0x74, 0x77


@dataclass(frozen=True, slots=True)
class Features:
    """Features of n texts, as compressed sparse rows and a few dense columns.

    Attributes
    ----------
    indices, values
        int32[m] in [0, 2**bits) and float32[m] > 0; within a text the indices are distinct and
        the squares of the values sum to 1 (a text without words has none).
    ends
        int64[n]: the position after each text's last feature.
    lexicon
        float32[n, 7]: the columns of `operators.lexicon.LEXICON_COLUMNS`.
    bits
        Size of the hashed space.
    """

    indices: NDArray[np.int32]
    values: NDArray[np.float32]
    ends: NDArray[np.int64]
    lexicon: NDArray[np.float32]
    bits: int

    def __len__(self) -> int:
        return len(self.ends)

    def take(self, positions: NDArray[np.integer]) -> "Features":
        """Give the features of the texts at `positions`, in that order; copied.

        Examples
        --------
        >>> features = TextFeatures().transform_many(["thank you", "", "where is my card"])
        >>> len(features.take(np.array([2, 0])))
        2
        """
        starts = np.concatenate((np.zeros(1, np.int64), self.ends))[positions]
        lengths = self.ends[positions] - starts
        ends = np.cumsum(lengths)
        within = np.arange(ends[-1] if len(ends) else 0) - np.repeat(ends - lengths, lengths)
        kept = np.repeat(starts, lengths) + within
        return Features(
            self.indices[kept], self.values[kept], ends, self.lexicon[positions], self.bits
        )


@kernel
def url_starts(folded: NDArray[np.uint32], p: int, end: int) -> bool:
    """Whether ``http://``, ``https://`` or ``www.`` stands at `p`."""
    if p + 4 > end:
        return False
    if folded[p] == LETTER_W:
        return bool(
            folded[p + 1] == LETTER_W and folded[p + 2] == LETTER_W and folded[p + 3] == DOT
        )
    if not (
        folded[p] == LETTER_H
        and folded[p + 1] == LETTER_T
        and folded[p + 2] == LETTER_T
        and folded[p + 3] == LETTER_P
    ):
        return False
    p += 4
    if p < end and folded[p] == LETTER_S:
        p += 1
    return bool(
        p + 3 <= end and folded[p] == COLON and folded[p + 1] == SLASH and folded[p + 2] == SLASH
    )


@kernel
def word_end(folded: NDArray[np.uint32], kinds: NDArray[np.uint8], p: int, end: int) -> int:
    """End of the word that starts at `p`; an apostrophe between letters belongs to it."""
    p += 1
    while p < end:
        joins = folded[p] == APOSTROPHE and p + 1 < end and kind_of(folded[p + 1], kinds) & WORD
        if not (joins or kind_of(folded[p], kinds) & WORD):
            break
        p += 1
    return p


@kernel
def next_token(
    folded: NDArray[np.uint32], kinds: NDArray[np.uint8], p: int, end: int
) -> tuple[int, int, np.uint64]:
    """Find the next token at or after `p`.

    Returns
    -------
    start, end, hash
        start == end where none is left; hash 0 says "a word, hash its characters".
    """
    while p < end:
        kind = kind_of(folded[p], kinds)
        if kind & WORD:
            if url_starts(folded, p, end):
                last = p
                while last < end and not kind_of(folded[last], kinds) & SPACE:
                    last += 1
                return p, last, URL_HASH
            return p, word_end(folded, kinds, p, end), np.uint64(0)
        if folded[p] == AT and p + 1 < end and kind_of(folded[p + 1], kinds) & WORD:
            last = p + 1
            while last < end and (
                folded[last] == UNDERSCORE or kind_of(folded[last], kinds) & WORD
            ):
                last += 1
            return p, last, HANDLE_HASH
        if kind & ALONE:
            return p, p + 1, hash_codes(folded, p, p + 1, WORD_SEED)
        p += 1
    return end, end, np.uint64(0)


@kernel
def add_feature(
    key: np.uint64,
    first: int,
    count: int,
    indices: NDArray[np.int32],
    values: NDArray[np.float32],
    table: NDArray[np.int32],
    table_mask: int,
    index_mask: int,
) -> int:
    """Count one feature of the text whose features start at `first`; the new number of them."""
    index = np.int32(np.int64(key) & index_mask)
    place = np.int64(index) & table_mask
    while table[place] != 0:
        held = first + table[place] - 1
        if indices[held] == index:
            values[held] += np.float32(1)
            return count
        place = (place + 1) & table_mask
    indices[first + count] = index
    values[first + count] = 1
    table[place] = count + 1
    return count + 1


@kernel
def add_characters(
    folded: NDArray[np.uint32],
    start: int,
    end: int,
    shortest: int,
    longest: int,
    first: int,
    count: int,
    indices: NDArray[np.int32],
    values: NDArray[np.float32],
    table: NDArray[np.int32],
    table_mask: int,
    index_mask: int,
) -> int:
    """Count the character n-grams of one word with a blank on either side of it."""
    for left in range(start - 1, end):
        key = CHAR_SEED
        for position in range(left, min(left + longest, end + 1)):
            blank = position < start or position == end
            code = BLANK if blank else np.uint64(folded[position])
            key = (key ^ code) * FNV_PRIME
            if position - left + 1 >= shortest:
                count = add_feature(
                    avalanche(key), first, count, indices, values, table, table_mask, index_mask
                )
    return count


@kernel
def add_words(
    recent: NDArray[np.uint64],
    held: int,
    first: int,
    count: int,
    indices: NDArray[np.int32],
    values: NDArray[np.float32],
    table: NDArray[np.int32],
    table_mask: int,
    index_mask: int,
) -> int:
    """Count the word n-grams that end with the newest word; `recent` is newest first."""
    key = WORD_SEED
    for n in range(held):
        key = avalanche((key ^ recent[n]) * FNV_PRIME)
        count = add_feature(key, first, count, indices, values, table, table_mask, index_mask)
    return count


@kernel
def scale_features(values: NDArray[np.float32], first: int, last: int) -> None:
    """Turn counts into ``1 + ln(count)``, then scale to length 1."""
    total = 0.0
    for position in range(first, last):
        weight = 1.0
        if values[position] > 1:
            weight += np.log(float(values[position]))
        values[position] = weight
        total += weight * weight
    if last > first:
        scale = 1.0 / np.sqrt(total)
        for position in range(first, last):
            values[position] *= scale


@kernel
def hash_features(
    folded: NDArray[np.uint32],
    ends: NDArray[np.int64],
    kinds: NDArray[np.uint8],
    bits: int,
    word_ngrams: int,
    shortest: int,
    longest: int,
) -> tuple[NDArray[np.int32], NDArray[np.float32], NDArray[np.int64]]:
    """Features of each text; see `TextFeatures`."""
    # From length 3 on, a word of L characters and its two blanks has at most L n-grams of each.
    per_character = word_ngrams + longest - shortest + 1
    indices = np.empty(len(folded) * per_character, np.int32)
    values = np.empty(len(indices), np.float32)
    feature_ends = np.empty(len(ends), np.int64)
    recent = np.empty(word_ngrams, np.uint64)
    longest_text, start = 1, 0
    for i in range(len(ends)):
        longest_text = max(longest_text, ends[i] - start)
        start = ends[i]
    size = 2
    while size < 2 * longest_text * per_character:
        size *= 2
    whole_table = np.empty(size, np.int32)
    index_mask = (1 << bits) - 1
    start, first = 0, 0
    for i in range(len(ends)):
        size = 2
        while size < 2 * (ends[i] - start) * per_character:
            size *= 2
        table = whole_table[:size]
        table[:] = 0
        count, held, p = 0, 0, start
        while True:
            p, last, key = next_token(folded, kinds, p, ends[i])
            if p == last:
                break
            if key == 0:
                key = hash_codes(folded, p, last, WORD_SEED)
                count = add_characters(
                    folded, p, last, shortest, longest, first, count,
                    indices, values, table, size - 1, index_mask,
                )  # fmt: skip
            held = min(held + 1, word_ngrams)
            for n in range(held - 1, 0, -1):
                recent[n] = recent[n - 1]
            recent[0] = key
            count = add_words(
                recent, held, first, count, indices, values, table, size - 1, index_mask
            )
            p = last
        scale_features(values, first, first + count)
        first += count
        feature_ends[i] = first
        start = ends[i]
    return indices[:first].copy(), values[:first].copy(), feature_ends


class TextFeatures:
    """Turn texts into hashed word and character n-grams, and the lexicon's dense columns.

    A text is lower-cased and cut into words (letters, marks and digits, with apostrophes between
    them), symbols, exclamation and question marks, emoji, and single characters of scripts
    without spaces. A web address counts as one fixed word, an @handle as another. Features are
    the n-grams of 1 to `word_ngrams` such tokens, and of `char_ngrams` characters inside each
    word with a blank on either side. A feature that occurs f times weighs 1 + ln(f); a text's
    weights are scaled to Euclidean length 1. Nothing is learned, so features never go stale.

    Parameters
    ----------
    bits
        The hashed space has 2**bits places, 1 to 30.
    word_ngrams
        Longest run of words, 1 to 4.
    char_ngrams
        Shortest and longest run of characters, at least 3 and at most 8.
    max_chars
        Only this many characters of a text are read. A text has at most
        ``max_chars * (word_ngrams + longest - shortest + 1)`` features.

    Raises
    ------
    ParameterError
        A parameter outside its range.

    Examples
    --------
    >>> features = TextFeatures().transform_many(["My card has not arrived", ""])
    >>> len(features), round(float(np.square(features.values).sum()), 3)
    (2, 1.0)

    References
    ----------
    K. Weinberger, A. Dasgupta, J. Langford, A. Smola and J. Attenberg (2009). Feature hashing
    for large scale multitask learning. ICML.
    """

    def __init__(
        self,
        bits: int = BITS,
        word_ngrams: int = 2,
        char_ngrams: tuple[int, int] = (3, 5),
        max_chars: int = MAX_CHARS,
    ) -> None:
        shortest, longest = char_ngrams
        if not 1 <= bits <= 30:
            raise ParameterError(f"bits must be 1 to 30, not {bits}")
        if not 1 <= word_ngrams <= 4:
            raise ParameterError(f"word_ngrams must be 1 to 4, not {word_ngrams}")
        if not 3 <= shortest <= longest <= 8:
            raise ParameterError(f"char_ngrams must lie in 3 to 8, not {char_ngrams}")
        if max_chars < 1:
            raise ParameterError(f"max_chars must be at least 1, not {max_chars}")
        self.bits = bits
        self.word_ngrams = word_ngrams
        self.char_ngrams = char_ngrams
        self.max_chars = max_chars

    def transform_many(self, texts: Sequence[str]) -> Features:
        """Features of each text; any string is accepted, lone surrogates included."""
        codes = codes_of(texts, self.max_chars)
        indices, values, ends = hash_features(
            codes.folded, codes.ends, code_tables()[1], self.bits, self.word_ngrams,
            *self.char_ngrams,
        )  # fmt: skip
        return Features(indices, values, ends, vader_lexicon().score_many(codes), self.bits)
