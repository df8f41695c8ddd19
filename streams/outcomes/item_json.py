"""Ranked items as JSON, written by a kernel: they are most of what a list's record holds."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import orjson
from numpy.typing import NDArray

from operators.kernel import kernel

SCORE_DIGITS = 4
_INITIAL_BYTES = 1 << 16
_INITIAL_TEXTS = 1 << 10
# What stands around id, rank, score and reasons: kernels read global bytes as arrays.
_BEFORE_ID = np.frombuffer(b'{"item_id":', np.uint8)
_BEFORE_RANK = np.frombuffer(b',"rank":', np.uint8)
_BEFORE_SCORE = np.frombuffer(b',"score":', np.uint8)
_BEFORE_REASONS = np.frombuffer(b',"reasons":[', np.uint8)
_AFTER_REASONS = np.frombuffer(b"]}", np.uint8)
_NUMBER_BYTES = 24
_MARKS_BYTES = 64


class Texts(NamedTuple):
    """Texts end to end, uint8; text `i` lies at ``starts[i]`` up to ``starts[i + 1]``."""

    pool: NDArray[np.uint8]
    starts: NDArray[np.int64]


def pack(texts: Sequence[str]) -> Texts:
    """Lay texts end to end, each as a JSON string.

    Examples
    --------
    >>> texts = pack(["tea", "cup"])
    >>> bytes(texts.pool[texts.starts[1] : texts.starts[2]])
    b'"cup"'
    """
    return _lay_out([orjson.dumps(text) for text in texts])


def _lay_out(encoded: Sequence[bytes]) -> Texts:
    starts = np.zeros(len(encoded) + 1, np.int64)
    np.cumsum([len(each) for each in encoded], out=starts[1:])
    return Texts(np.frombuffer(b"".join(encoded), np.uint8), starts)


def pack_reasons(why: Sequence[tuple[str, Sequence[str]]]) -> Texts:
    """Lay out reasons for `write_items`, each with the ids of the rules that acted.

    Examples
    --------
    >>> texts = pack_reasons([("popular now", []), ("popular now", ["spring"])])
    >>> bytes(texts.pool[texts.starts[1] : texts.starts[2]])
    b'"popular now"],"rules":["spring"'
    """
    # A reason stands between brackets that `write_items` sets: what follows it reopens them.
    return _lay_out(
        [
            orjson.dumps(reason)
            + (b'],"rules":' + orjson.dumps(rules).removesuffix(b"]") if rules else b"")
            for reason, rules in why
        ]
    )


class GrowingTexts:
    """JSON strings to which more are added; room doubles, so that adding stays cheap.

    Examples
    --------
    >>> ids = GrowingTexts()
    >>> ids.extend(["tea"])
    >>> ids.extend(["cup", "mug"])
    >>> len(ids), ids.texts.starts[:4].tolist()
    (3, [0, 5, 10, 15])
    """

    def __init__(self) -> None:
        self._count = 0
        self.texts = Texts(
            np.empty(_INITIAL_BYTES, np.uint8), np.zeros(_INITIAL_TEXTS + 1, np.int64)
        )

    def __len__(self) -> int:
        return self._count

    def extend(self, texts: Sequence[str]) -> None:
        """Add texts behind those that are there."""
        more, (pool, starts) = pack(texts), self.texts
        used, count = int(starts[self._count]), self._count + len(texts)
        end = used + len(more.pool)
        if end > len(pool):
            pool = np.concatenate([pool[:used], np.empty(2 * end - used, np.uint8)])
        if count >= len(starts):
            starts = np.concatenate([starts, np.zeros(2 * count, np.int64)])
        pool[used:end] = more.pool
        starts[self._count + 1 : count + 1] = used + more.starts[1:]
        self._count, self.texts = count, Texts(pool, starts)

    def clear(self) -> None:
        """Forget all texts; their room is used again."""
        self._count = 0


def write_items(
    items: NDArray[np.int32],
    scores: NDArray[np.float32],
    ids: Texts,
    why: NDArray[np.int64],
    reasons: Texts,
) -> list[bytes]:
    """Write lists of items as the contract has them: id, rank, score and reasons.

    Parameters
    ----------
    items, scores
        (m, n): each list's items, padded with -1 at its end, and finite scores.
    ids
        Of all items.
    why, reasons
        (m, n): which of the reasons speaks for each item.

    Returns
    -------
    m JSON arrays.

    Examples
    --------
    >>> write_items(np.array([[1, 0], [0, -1]], np.int32), np.array([[0.75, 0.5], [2, 0]], "f4"),
    ...             pack(["tea", "cup"]), np.zeros((2, 2), np.int64), pack(["new"]))[1]
    b'[{"item_id":"tea","rank":1,"score":2.0,"reasons":["new"]}]'
    """
    written, ends = _write(items, scores, ids, why, reasons)
    text, begin, result = written.tobytes(), 0, []
    for end in ends.tolist():
        result.append(text[begin:end])
        begin = end
    return result


@kernel
def _write(
    items: NDArray[np.int32],
    scores: NDArray[np.float32],
    ids: Texts,
    why: NDArray[np.int64],
    reasons: Texts,
) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:  # pragma: no cover - compiled
    """Return all arrays end to end, and where each ends."""
    m, n = items.shape
    size = 0
    for i in range(m):
        size += 2
        for k in range(n):
            item = items[i, k]
            if item >= 0:
                size += ids.starts[item + 1] - ids.starts[item] + _MARKS_BYTES
                size += (
                    reasons.starts[why[i, k] + 1] - reasons.starts[why[i, k]] + 2 * _NUMBER_BYTES
                )
    out = np.empty(size, np.uint8)
    ends = np.empty(m, np.int64)
    at = 0
    for i in range(m):
        out[at] = ord("[")
        at += 1
        for k in range(n):
            item = items[i, k]
            if item < 0:
                break
            if k:
                out[at] = ord(",")
                at += 1
            at = _copy(out, at, _BEFORE_ID, 0, len(_BEFORE_ID))
            at = _copy(out, at, ids.pool, ids.starts[item], ids.starts[item + 1])
            at = _copy(out, at, _BEFORE_RANK, 0, len(_BEFORE_RANK))
            at = _put_integer(out, at, k + 1)
            at = _copy(out, at, _BEFORE_SCORE, 0, len(_BEFORE_SCORE))
            at = _put_score(out, at, np.float64(scores[i, k]))
            at = _copy(out, at, _BEFORE_REASONS, 0, len(_BEFORE_REASONS))
            reason = why[i, k]
            at = _copy(out, at, reasons.pool, reasons.starts[reason], reasons.starts[reason + 1])
            at = _copy(out, at, _AFTER_REASONS, 0, len(_AFTER_REASONS))
        out[at] = ord("]")
        at += 1
        ends[i] = at
    return out[:at], ends


@kernel
def _copy(
    out: NDArray[np.uint8], at: int, source: NDArray[np.uint8], begin: int, end: int
) -> int:  # pragma: no cover - compiled
    for i in range(begin, end):
        out[at + i - begin] = source[i]
    return at + end - begin


@kernel
def _put_integer(out: NDArray[np.uint8], at: int, value: int) -> int:  # pragma: no cover - compiled
    """Write a number of at least 0."""
    digits, rest = 1, value
    while rest >= 10:
        rest //= 10
        digits += 1
    rest = value
    for i in range(digits):
        out[at + digits - 1 - i] = ord("0") + rest % 10
        rest //= 10
    return at + digits


@kernel
def _put_score(out: NDArray[np.uint8], at: int, value: float) -> int:  # pragma: no cover - compiled
    """Write a number rounded to `SCORE_DIGITS`, without needless zeros at its end."""
    scaled = np.int64(np.rint(abs(value) * 10.0**SCORE_DIGITS))
    if value < 0 and scaled > 0:
        out[at] = ord("-")
        at += 1
    whole = np.int64(10**SCORE_DIGITS)
    at = _put_integer(out, at, int(scaled // whole))
    out[at] = ord(".")
    at += 1
    fraction, digits = scaled % whole, SCORE_DIGITS
    while digits > 1 and fraction % 10 == 0:
        fraction //= 10
        digits -= 1
    for i in range(digits):
        out[at + digits - 1 - i] = ord("0") + fraction % 10
        fraction //= 10
    return at + digits
