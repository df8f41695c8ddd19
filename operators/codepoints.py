"""Texts as code points: read once, then used by every text operator.

Code points rather than UTF-8 bytes, so that a character counts alike in every script.
"""

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from itertools import accumulate

import numpy as np
from numpy.typing import NDArray

from operators.hashing import FNV_OFFSET, FNV_PRIME, avalanche
from operators.kernel import kernel

MAX_CHARS = 1_024

# What a code point is; several may hold at once.
WORD, SPACE, ALONE, PICTURE, LOWER = 1, 2, 4, 8, 16
PLANE = 0x10000
APOSTROPHE, EXCLAMATION, QUESTION = 0x27, 0x21, 0x3F
# Scripts written without spaces: each character stands for itself.
UNSPACED = ((0x3040, 0x30FF), (0x3400, 0x9FFF), (0xF900, 0xFAFF))
INVISIBLE = frozenset((0x200D, *range(0xFE00, 0xFE10)))


@dataclass(frozen=True, slots=True)
class Codes:
    """Texts as code points, laid end to end.

    Attributes
    ----------
    raw, folded
        uint32[m]: the code points as written, and lower-cased.
    ends
        int64[n]: the position after each text's last code point.
    """

    raw: NDArray[np.uint32]
    folded: NDArray[np.uint32]
    ends: NDArray[np.int64]


@cache
def code_tables() -> tuple[NDArray[np.uint32], NDArray[np.uint8]]:
    """Lower case and kind of every code point of the basic multilingual plane.

    Returns
    -------
    fold, kinds
        uint32[65536] and uint8[65536]. Only one-to-one lower-casing is done, so that a text
        keeps its length; a typographic apostrophe becomes a plain one.
    """
    fold = np.arange(PLANE, dtype=np.uint32)
    kinds = np.zeros(PLANE, np.uint8)
    for code in range(PLANE):
        character = chr(code)
        lower = character.lower()
        if len(lower) == 1:
            fold[code] = ord(lower)
        kinds[code] = _kind(code, character)
    fold[0x2019] = APOSTROPHE
    return fold, kinds


def _kind(code: int, character: str) -> int:
    category = unicodedata.category(character)
    if character.isspace() or code in INVISIBLE:
        return SPACE
    if category == "So":
        return ALONE | PICTURE
    if category[0] == "S" or code in (EXCLAMATION, QUESTION):
        return ALONE
    if any(first <= code <= last for first, last in UNSPACED):
        return ALONE
    if category[0] in "LNM":
        return WORD | (LOWER if character.islower() else 0)
    return 0


def codes_of(texts: Sequence[str], max_chars: int = MAX_CHARS) -> Codes:
    """Read the first `max_chars` characters of each text as code points.

    Any string is accepted, lone surrogates included.

    Examples
    --------
    >>> codes = codes_of(["Hi", "", "OK!"])
    >>> codes.ends.tolist(), bytes(codes.folded.astype("uint8")).decode()
    ([2, 2, 5], 'hiok!')
    """
    cut = [text[:max_chars] for text in texts]
    encoded = "".join(cut).encode("utf-32-le", "surrogatepass")
    raw = np.frombuffer(encoded, np.uint32)
    ends = np.fromiter(accumulate(map(len, cut)), np.int64, len(cut))
    return Codes(raw, fold_codes(raw, code_tables()[0]), ends)


@kernel
def fold_codes(raw: NDArray[np.uint32], fold: NDArray[np.uint32]) -> NDArray[np.uint32]:
    """Lower-case code points; those outside the table stay as they are."""
    folded = raw.copy()
    for i in range(len(raw)):
        if raw[i] < PLANE:
            folded[i] = fold[raw[i]]
    return folded


@kernel
def kind_of(code: int, kinds: NDArray[np.uint8]) -> int:
    """Kind of one code point; outside the table nearly all are pictures or unspaced scripts."""
    return int(kinds[code]) if code < PLANE else ALONE | PICTURE


@kernel
def hash_codes(codes: NDArray[np.uint32], start: int, end: int, seed: np.uint64) -> np.uint64:
    """Hash a span of code points: FNV-1a by code point, then the avalanche; never 0."""
    value = seed
    for position in range(start, end):
        value = (value ^ np.uint64(codes[position])) * FNV_PRIME
    value = avalanche(value)
    return value if value != 0 else np.uint64(1)


@kernel
def hash_code_spans(codes: NDArray[np.uint32], ends: NDArray[np.int64]) -> NDArray[np.uint64]:
    """Hash consecutive spans of code points."""
    hashes = np.empty(len(ends), np.uint64)
    start = 0
    for i in range(len(ends)):
        hashes[i] = hash_codes(codes, start, ends[i], FNV_OFFSET)
        start = ends[i]
    return hashes
