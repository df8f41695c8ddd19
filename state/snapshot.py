"""Rows and keys in the form in which they are stored: bytes."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from state.errors import CorruptStateError


@dataclass(frozen=True, slots=True)
class RowsSnapshot:
    """What changed since the last snapshot, as bytes that no later change can reach.

    Attributes
    ----------
    keys
        UTF-8 keys of the changed rows, ascending by slot.
    rows
        The changed rows end to end, ``len(keys) * row_bytes`` long.
    row_bytes
        Size of a row.
    deleted
        UTF-8 keys of the rows removed since the last snapshot; none of them is in `keys`.
    """

    keys: list[bytes]
    rows: bytes
    row_bytes: int
    deleted: list[bytes]


def encode_keys(keys: Iterable[str]) -> list[bytes]:
    """Return keys as they are stored: UTF-8, lone surrogates too."""
    return [key.encode("utf-8", "surrogatepass") for key in keys]


def decode_keys(keys: Iterable[bytes]) -> list[str]:
    """Return stored keys as text.

    Raises
    ------
    CorruptStateError
        When one of them is not UTF-8.
    """
    try:
        return [key.decode("utf-8", "surrogatepass") for key in keys]
    except UnicodeDecodeError as error:
        raise CorruptStateError(
            f"a customer's key is not UTF-8 ({error.object!r}): "
            "remove the state's directory to rebuild it"
        ) from error


def decode_rows(
    keys: Sequence[bytes], rows: bytes | bytearray | memoryview, dtype: np.dtype[np.void]
) -> NDArray[np.void]:
    """Return the stored rows of `keys`, end to end, as an array that shares their bytes.

    Raises
    ------
    CorruptStateError
        When `rows` is not one row per key.
    """
    if len(rows) != len(keys) * dtype.itemsize:
        raise CorruptStateError(
            f"{len(rows)} bytes are not {len(keys)} rows of {dtype.itemsize} bytes: "
            "remove the state's directory to rebuild it"
        )
    return np.frombuffer(rows, dtype)
