"""Word valences as a prior for sentiment: what a text says before anyone has labelled one.

The lexicon is VADER's (Hutto and Gilbert, 2014), read from the file inside its package.
"""

from collections.abc import Iterator, Sequence
from functools import cache
from importlib.resources import files

import numpy as np
from numpy.typing import NDArray

from operators.codepoints import (
    APOSTROPHE,
    EXCLAMATION,
    LOWER,
    PICTURE,
    QUESTION,
    SPACE,
    Codes,
    code_tables,
    codes_of,
    hash_code_spans,
    hash_codes,
    kind_of,
)
from operators.errors import ParameterError
from operators.hashing import FNV_OFFSET
from operators.kernel import kernel

LEXICON_COLUMNS = (
    "compound",
    "positive",
    "negative",
    "exclamations",
    "questions",
    "capitals",
    "negations",
)

LETTER_N, LETTER_T = 0x6E, 0x74

# What a word does to its neighbours; several may hold at once.
KNOWN, NEGATES, CONTRASTS, STANDS_ASIDE = 1, 2, 4, 8
BOOST = 0.293
SHOUT = 0.733
NEGATION = -0.74
REACH = 3
ALPHA = 15.0

NEGATIONS = (
    "no not never none nope nor nothing nowhere neither without cannot rarely seldom despite "
    "aint arent cant couldnt darent didnt doesnt dont hadnt hasnt havent isnt mightnt mustnt "
    "neednt oughtnt shant shouldnt uhuh uh-uh wasnt werent wont wouldnt"
)
BOOSTERS = (
    "absolutely amazingly awfully completely considerable considerably decidedly deeply enormous "
    "enormously entirely especially exceptional exceptionally extreme extremely fabulously "
    "fucking fully greatly hella highly hugely incredible incredibly intensely major majorly more "
    "most particularly purely quite really remarkably so substantially thoroughly total totally "
    "tremendous tremendously uber unbelievably unusually utter utterly very"
)
DAMPENERS = (
    "almost barely hardly kinda kindof kind-of less little marginal marginally occasional "
    "occasionally partly scarce scarcely slight slightly somewhat sorta sortof sort-of"
)


@kernel
def find_word(keys: NDArray[np.uint64], key: np.uint64) -> int:
    """Position of `key` in an open-addressing table with free places, or of its free place."""
    mask = len(keys) - 1
    place = np.int64(key & np.uint64(mask))
    while keys[place] != 0 and keys[place] != key:
        place = (place + 1) & mask
    return int(place)


@kernel
def insert_words(table: NDArray[np.uint64], hashes: NDArray[np.uint64]) -> NDArray[np.int64]:
    """Put hashes into an empty table; the place of each."""
    places = np.empty(len(hashes), np.int64)
    for i in range(len(hashes)):
        places[i] = find_word(table, hashes[i])
        table[places[i]] = hashes[i]
    return places


@kernel
def is_ascii_punctuation(code: int) -> bool:
    """Whether a code point is one of the 32 ASCII punctuation characters."""
    return 33 <= code <= 47 or 58 <= code <= 64 or 91 <= code <= 96 or 123 <= code <= 126


@kernel
def token_end(folded: NDArray[np.uint32], kinds: NDArray[np.uint8], start: int, end: int) -> int:
    """End of the token that starts here: one picture, or all up to a space or a picture."""
    if kind_of(folded[start], kinds) & PICTURE:
        return start + 1
    position = start + 1
    while position < end and not kind_of(folded[position], kinds) & (SPACE | PICTURE):
        position += 1
    return position


@kernel
def is_shouted(
    raw: NDArray[np.uint32],
    folded: NDArray[np.uint32],
    kinds: NDArray[np.uint8],
    start: int,
    end: int,
) -> bool:
    """Whether a token has capital letters and no small ones."""
    capitals = 0
    for position in range(start, end):
        if kind_of(raw[position], kinds) & LOWER:
            return False
        capitals += raw[position] != folded[position] and folded[position] != APOSTROPHE
    return capitals > 0


@kernel
def read_tokens(
    raw: NDArray[np.uint32],
    folded: NDArray[np.uint32],
    start: int,
    end: int,
    kinds: NDArray[np.uint8],
    keys: NDArray[np.uint64],
    entries: NDArray[np.float32],
    roles: NDArray[np.uint8],
    tokens: NDArray[np.float32],
    token_roles: NDArray[np.uint8],
) -> int:
    """Look each token up; fills valence, boost, shouted and roles per token. Returns how many.

    A token is what stands between spaces, without the punctuation around it unless at most two
    characters would be left (then it may be an emoticon).
    """
    count = 0
    position = start
    while position < end:
        if kind_of(folded[position], kinds) & SPACE:
            position += 1
            continue
        last = token_end(folded, kinds, position, end)
        left, right = position, last
        while left < right and is_ascii_punctuation(folded[left]):
            left += 1
        while right > left and is_ascii_punctuation(folded[right - 1]):
            right -= 1
        if right - left <= 2:
            left, right = position, last
        position = last
        place = find_word(keys, hash_codes(folded, left, right, FNV_OFFSET))
        found = keys[place] != 0
        tokens[count, 0] = entries[place, 0] if found else 0.0
        tokens[count, 1] = entries[place, 1] if found else 0.0
        tokens[count, 2] = is_shouted(raw, folded, kinds, left, right)
        tokens[count, 3] = right - left
        token_roles[count] = roles[place] if found else 0
        if (
            right - left > 3
            and folded[right - 1] == LETTER_T
            and folded[right - 2] == APOSTROPHE
            and folded[right - 3] == LETTER_N
        ):
            token_roles[count] |= NEGATES
        count += 1
    return count


@kernel
def weigh_token(
    tokens: NDArray[np.float32], roles: NDArray[np.uint8], i: int, count: int, emphasis: float
) -> float:
    """Valence of token `i` in its context: shouted, boosted, dampened, negated."""
    valence = float(tokens[i, 0])
    if valence == 0.0 or tokens[i, 1] != 0.0:
        return 0.0
    if roles[i] & STANDS_ASIDE and i + 1 < count and roles[i + 1] & KNOWN:
        return 0.0
    sign = 1.0 if valence > 0 else -1.0
    valence += sign * emphasis * float(tokens[i, 2])
    for back in range(1, min(REACH, i) + 1):
        before = i - back
        if tokens[before, 1] != 0.0:
            fade = 1.0 if back == 1 else (0.95 if back == 2 else 0.9)
            boost = float(tokens[before, 1]) + emphasis * float(tokens[before, 2])
            valence += (1.0 if valence > 0 else -1.0) * fade * boost
        if roles[before] & NEGATES and not (roles[before] & STANDS_ASIDE and back == REACH):
            valence *= NEGATION
    return valence


@kernel
def squash(total: float) -> float:
    """Map a sum of valences into (-1, 1): ``s / sqrt(s^2 + 15)``."""
    return float(total / np.sqrt(total * total + ALPHA))


@kernel
def weigh_tokens(
    tokens: NDArray[np.float32],
    roles: NDArray[np.uint8],
    count: int,
    exclamations: int,
    questions: int,
    row: NDArray[np.float32],
) -> None:
    """Fill one row of `LEXICON_COLUMNS` from the tokens of a text."""
    shouted, long_shouted, negations, contrast = 0, 0, 0, count
    for i in range(count):
        shouted += tokens[i, 2] > 0
        long_shouted += tokens[i, 2] > 0 and tokens[i, 3] > 1
        negations += (roles[i] & NEGATES) > 0
        if roles[i] & CONTRASTS and contrast == count:
            contrast = i
    emphasis = SHOUT if 0 < shouted < count else 0.0
    positive, negative = 0.0, 0.0
    for i in range(count):
        valence = weigh_token(tokens, roles, i, count, emphasis)
        if contrast < count:
            valence *= 0.5 if i < contrast else 1.5
        positive += max(valence, 0.0)
        negative += min(valence, 0.0)
    total = positive + negative
    stress = 0.292 * min(exclamations, 4)
    if questions > 1:
        stress += 0.18 * questions if questions <= 3 else 0.96
    if total != 0.0:
        total += stress if total > 0 else -stress
    row[0] = squash(total)
    row[1] = squash(positive)
    row[2] = squash(-negative)
    row[3] = min(exclamations, 4) / 4
    row[4] = min(questions, 4) / 4
    row[5] = long_shouted / max(count, 1)
    row[6] = min(negations, 4) / 4


@kernel
def score_codes(
    raw: NDArray[np.uint32],
    folded: NDArray[np.uint32],
    ends: NDArray[np.int64],
    kinds: NDArray[np.uint8],
    keys: NDArray[np.uint64],
    entries: NDArray[np.float32],
    roles: NDArray[np.uint8],
) -> NDArray[np.float32]:
    """Fill one row of `LEXICON_COLUMNS` for each text."""
    longest, start = 0, 0
    for i in range(len(ends)):
        longest = max(longest, ends[i] - start)
        start = ends[i]
    tokens = np.empty((longest, 4), np.float32)
    token_roles = np.empty(longest, np.uint8)
    scores = np.empty((len(ends), len(LEXICON_COLUMNS)), np.float32)
    start = 0
    for i in range(len(ends)):
        exclamations, questions = 0, 0
        for position in range(start, ends[i]):
            exclamations += folded[position] == EXCLAMATION
            questions += folded[position] == QUESTION
        count = read_tokens(
            raw, folded, start, ends[i], kinds, keys, entries, roles, tokens, token_roles
        )
        weigh_tokens(tokens, token_roles, count, exclamations, questions, scores[i])
        start = ends[i]
    return scores


class Lexicon:
    """Valences of words, negations and intensifiers; a few numbers for each text.

    The rules are those of VADER: a capital word among others counts 0.733 more; an intensifier or
    dampener among the three words before counts 0.293 more or less (times 0.95 and 0.9 with the
    distance); a negation among them ("no": among two) multiplies by -0.74; what stands before
    "but" counts half and what stands after one and a half; up to four exclamation marks add 0.292
    each. Then

        compound = s / sqrt(s^2 + 15),  s = the sum of the valences.

    An emoji has the summed valence of the words that describe it. VADER's few fixed idioms are
    left out.

    Parameters
    ----------
    valences
        Words or emoticons, and their valences in [-4, 4].
    max_words
        At most this many words, modifiers included; more are refused.

    Raises
    ------
    ParameterError
        More than `max_words` words, or a valence outside [-4, 4].

    Examples
    --------
    >>> lexicon = Lexicon([("good", 1.9), ("late", -1.5)])
    >>> scores = lexicon.score_many(["Very good!", "not good", "late", "so-so"])
    >>> [round(float(compound), 2) for compound in scores[:, 0]]
    [0.54, -0.34, -0.36, 0.0]

    References
    ----------
    C. J. Hutto and E. Gilbert (2014). VADER: a parsimonious rule-based model for sentiment
    analysis of social media text. ICWSM.
    """

    def __init__(self, valences: Sequence[tuple[str, float]], max_words: int = 16_384) -> None:
        words = {word: (valence, 0.0, KNOWN) for word, valence in valences}
        for word, (valence, boost, role) in _modifiers():
            known = words.get(word, (0.0, 0.0, 0))
            words[word] = (known[0] or valence, boost, known[2] | role)
        if len(words) > max_words:
            raise ParameterError(f"lexicon holds {len(words)} words, more than {max_words}")
        if any(not -4 <= entry[0] <= 4 for entry in words.values()):
            raise ParameterError("a valence lies outside [-4, 4]")
        size = 1 << (2 * len(words)).bit_length()
        self._keys = np.zeros(size, np.uint64)
        self._entries = np.zeros((size, 2), np.float32)
        self._roles = np.zeros(size, np.uint8)
        codes = codes_of(list(words))
        places = insert_words(self._keys, hash_code_spans(codes.folded, codes.ends))
        for place, (valence, boost, role) in zip(places.tolist(), words.values(), strict=True):
            self._entries[place] = valence, boost
            self._roles[place] = role

    def score_many(self, texts: Sequence[str] | Codes) -> NDArray[np.float32]:
        """Score each text.

        Parameters
        ----------
        texts
            Strings, or their code points from `codes_of`.

        Returns
        -------
        float32 of shape (n, 7), one column for each of `LEXICON_COLUMNS`: compound in (-1, 1);
        positive and negative sums, squashed into [0, 1); exclamation marks, question marks and
        negations, up to four, as quarters; share of words in capitals. An empty text is all 0.
        """
        codes = texts if isinstance(texts, Codes) else codes_of(texts)
        return score_codes(
            codes.raw,
            codes.folded,
            codes.ends,
            code_tables()[1],
            self._keys,
            self._entries,
            self._roles,
        )


def _modifiers() -> Iterator[tuple[str, tuple[float, float, int]]]:
    yield from ((word, (0.0, 0.0, NEGATES)) for word in NEGATIONS.split())
    yield from ((word, (0.0, BOOST, 0)) for word in BOOSTERS.split())
    yield from ((word, (0.0, -BOOST, 0)) for word in DAMPENERS.split())
    yield "but", (0.0, 0.0, CONTRASTS)
    yield "no", (0.0, 0.0, NEGATES | STANDS_ASIDE)


def vader_valences() -> list[tuple[str, float]]:
    """Words, emoticons and emoji of the VADER lexicon with their mean valences in [-4, 4].

    Read as data files: the package's module would import an HTTP client.
    """
    folder = files("vaderSentiment")
    lines = folder.joinpath("vader_lexicon.txt").read_text("utf-8").splitlines()
    valences: dict[str, float] = {}
    for line in lines:
        word, valence = line.split("\t")[:2]
        valences.setdefault(word.lower(), float(valence))
    for line in folder.joinpath("emoji_utf8_lexicon.txt").read_text("utf-8").splitlines():
        emoji, description = line.split("\t")[:2]
        total = sum(valences.get(word, 0.0) for word in description.split())
        if len(emoji) == 1 and total:
            valences[emoji] = min(4.0, max(-4.0, total))
    return list(valences.items())


@cache
def vader_lexicon() -> Lexicon:
    """Give the VADER lexicon, read at the first call and shared after that."""
    return Lexicon(vader_valences())
