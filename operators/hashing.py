"""Stable 64-bit hashes of strings, computed for a whole batch in one kernel.

FNV-1a over the UTF-8 bytes (Fowler, Noll and Vo, 1991), finished with the 64-bit avalanche of
MurmurHash3 (Appleby, 2011), so that every output bit depends on every input bit.
"""

from collections.abc import Iterable, Sequence
from itertools import accumulate

import numpy as np
from numpy.typing import NDArray

from operators.kernel import kernel

FNV_OFFSET = np.uint64(0xCBF29CE484222325)
FNV_PRIME = np.uint64(0x100000001B3)
MIX_1 = np.uint64(0xFF51AFD7ED558CCD)
MIX_2 = np.uint64(0xC4CEB9FE1A85EC53)
SHIFT = np.uint64(33)


@kernel
def avalanche(value: np.uint64) -> np.uint64:
    """Mix all bits of `value` (the finaliser of MurmurHash3)."""
    value ^= value >> SHIFT
    value *= MIX_1
    value ^= value >> SHIFT
    value *= MIX_2
    value ^= value >> SHIFT
    return value


@kernel
def hash_spans(buffer: NDArray[np.uint8], ends: NDArray[np.int64]) -> NDArray[np.uint64]:
    """Hash consecutive spans of `buffer`; span i ends before ``ends[i]``. Never returns 0."""
    hashes = np.empty(len(ends), np.uint64)
    start = 0
    for i in range(len(ends)):
        value = FNV_OFFSET
        for position in range(start, ends[i]):
            value = (value ^ np.uint64(buffer[position])) * FNV_PRIME
        value = avalanche(value)
        hashes[i] = value if value != 0 else np.uint64(1)
        start = ends[i]
    return hashes


def spans_of(strings: Sequence[str]) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Lay the UTF-8 bytes of `strings` end to end.

    Returns
    -------
    buffer, ends
        All bytes, and for each string the position after its last byte.
    """
    joined = "".join(strings)
    encoded = joined.encode("utf-8", "surrogatepass")
    lengths: Iterable[int]
    if len(encoded) == len(joined):
        lengths = map(len, strings)
    else:
        lengths = (len(text.encode("utf-8", "surrogatepass")) for text in strings)
    ends = np.fromiter(accumulate(lengths), np.int64, len(strings))
    return np.frombuffer(encoded, np.uint8), ends


def hash_strings(strings: Sequence[str]) -> NDArray[np.uint64]:
    """Hash each string to 64 bits, the same in every process and on every machine.

    Parameters
    ----------
    strings
        Any number of strings; hashed by their UTF-8 bytes.

    Returns
    -------
    uint64 of shape (len(strings),), never 0, so that 0 can mean "none".

    Examples
    --------
    >>> hash_strings(["ada", "bob", "ada"]).tolist()  # doctest: +ELLIPSIS
    [..., ..., ...]
    >>> bool(hash_strings(["ada"])[0] == hash_strings(["bob", "ada"])[1])
    True
    """
    return hash_spans(*spans_of(strings))
