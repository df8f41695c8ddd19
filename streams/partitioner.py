"""Where Kafka's default partitioner puts a customer.

The 32-bit MurmurHash2 (Appleby, 2008) of the key's bytes with the seed of Kafka's Java client, made
non-negative by dropping its highest bit, modulo the number of partitions.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from operators.hashing import spans_of
from operators.kernel import kernel

SEED = np.uint64(0x9747B28C)
MULTIPLIER = np.uint64(0x5BD1E995)
LOW_32 = np.uint64(0xFFFFFFFF)
LOW_31 = np.uint64(0x7FFFFFFF)


@kernel
def _scrambled(word: np.uint64) -> np.uint64:
    """Mix one little-endian word of four bytes."""
    word = (word * MULTIPLIER) & LOW_32
    word ^= word >> np.uint64(24)
    return (word * MULTIPLIER) & LOW_32


@kernel
def _murmur2(buffer: NDArray[np.uint8], start: int, end: int) -> np.uint64:
    """Hash the bytes from `start` to before `end` to 32 bits."""
    value = SEED ^ np.uint64(end - start)
    word = np.uint64(0)
    shift = np.uint64(0)
    for position in range(start, end):
        word |= np.uint64(buffer[position]) << shift
        shift += np.uint64(8)
        if shift == np.uint64(32):
            value = ((value * MULTIPLIER) & LOW_32) ^ _scrambled(word)
            word = np.uint64(0)
            shift = np.uint64(0)
    if shift > np.uint64(0):
        value = ((value ^ word) * MULTIPLIER) & LOW_32
    value ^= value >> np.uint64(13)
    value = (value * MULTIPLIER) & LOW_32
    return value ^ (value >> np.uint64(15))


@kernel
def _partitions_of_spans(
    buffer: NDArray[np.uint8], ends: NDArray[np.int64], partitions: np.uint64
) -> NDArray[np.int32]:
    """Place consecutive spans of `buffer`; span i ends before ``ends[i]``."""
    found = np.empty(len(ends), np.int32)
    start = 0
    for i in range(len(ends)):
        found[i] = np.int32((_murmur2(buffer, start, ends[i]) & LOW_31) % partitions)
        start = ends[i]
    return found


def partitions_of(customers: Sequence[str], partitions: int) -> NDArray[np.int32]:
    """Tell the partition of each customer.

    Parameters
    ----------
    customers
        Customer ids, n of them; a record's key is the id's UTF-8 bytes.
    partitions
        Partitions of the topic, 1 or more.

    Returns
    -------
    int32 of shape (n,), each 0 to ``partitions - 1``, as Kafka's Java client places them.

    Raises
    ------
    ValueError
        Where `partitions` is below 1.

    Examples
    --------
    >>> partitions_of(["ada", "bob", "ada"], 8).tolist()
    [5, 6, 5]
    """
    if partitions < 1:
        raise ValueError(f"a topic has 1 partition or more, not {partitions}")
    buffer, ends = spans_of(customers)
    return _partitions_of_spans(buffer, ends, np.uint64(partitions))


def partition_of(customer: str, partitions: int) -> int:
    """Tell the partition of one customer; see `partitions_of`.

    Examples
    --------
    >>> partition_of("ada", 8)
    5
    """
    return int(partitions_of([customer], partitions)[0])
