"""What a stored row looks like, reduced to a short text that can be compared.

Rows are stored as their raw bytes, so whoever reads them must agree with whoever wrote them on
every field's name, place and type. The fingerprint stands for that agreement.
"""

import hashlib
import json

import numpy as np

#: Version of the way state is laid out on disk (tables, keys, records); see `state.partition`.
FORMAT_VERSION = 1

# 128 bits: an accidental match of two layouts is out of the question.
FINGERPRINT_HEX_DIGITS = 32


def fingerprint(dtype: np.dtype[np.void]) -> str:
    """Hash the byte layout of a structured dtype, alike in every process and on every machine.

    Covers, at every depth of nesting: names, offsets, byte order, types, shapes of sub-arrays
    and the size of the whole, padding included. Titles and metadata do not count.

    Parameters
    ----------
    dtype
        A structured dtype of fixed-size fields, nested as deep as you like.

    Returns
    -------
    32 hexadecimal digits.

    Raises
    ------
    ValueError
        When `dtype` has no fields, or holds Python objects, which have no bytes to store.

    Examples
    --------
    >>> narrow = np.dtype([("clicks", "<i4"), ("spend", "<f4")])
    >>> wide = np.dtype([("clicks", "<i8"), ("spend", "<f4")])
    >>> len(fingerprint(narrow)), fingerprint(narrow) == fingerprint(wide)
    (32, False)
    """
    if dtype.names is None or dtype.itemsize == 0:
        raise ValueError(f"a row needs a dtype with named fields, not {dtype}")
    if dtype.hasobject:
        raise ValueError("a row cannot hold Python objects: they have no bytes to store")
    text = json.dumps(_description(dtype), separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:FINGERPRINT_HEX_DIGITS]


def _description(dtype: np.dtype[np.void]) -> object:
    """Describe `dtype` as nested lists of plain values."""
    if dtype.subdtype is not None:
        base, shape = dtype.subdtype
        return ["array", list(shape), _description(base)]
    if dtype.fields is None or dtype.names is None:
        return dtype.str
    fields = [
        [name, dtype.fields[name][1], _description(dtype.fields[name][0])] for name in dtype.names
    ]
    return ["row", dtype.itemsize, fields]
