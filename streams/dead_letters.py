"""Dead letters: records that could not be used, kept with the reason and ready for replay.

A letter always fits into a record of 1 MiB: of a value at most the first 256 KiB are kept, of a
key the first 4 KiB, of a traceback the last 8,192 characters. A letter that was cut says so by the
true sizes in `value_bytes` and `key_bytes`, and cannot be replayed.
"""

from base64 import b64decode, b64encode
from typing import Annotated, NamedTuple

import msgspec
from msgspec import Meta, Struct

from streams.errors import ReplayError
from streams.rejects import ERROR_MAX_CHARACTERS, Reason

VALUE_MAX_BYTES = 256 * 1024
KEY_MAX_BYTES = 4 * 1024
TRACEBACK_MAX_CHARACTERS = 8_192

BASE64_MARK = "base64:"
"""How a key begins that is not plain text; what follows is the base64 of its bytes."""


class DeadLetter(Struct, frozen=True):
    """One record of the topic `dead-letters`.

    Attributes
    ----------
    id
        Made from topic, partition and offset, so that a repeat carries the same id.
    topic, partition, offset
        Where the record lies.
    ts
        When it was refused, milliseconds since the Unix epoch.
    stage, reason
        Where and why, from the closed sets in `streams.rejects`.
    error
        The same in words, at most 500 characters.
    key
        The record's key as text; where its bytes are not UTF-8, or begin with the mark itself,
        ``base64:`` and their base64. None where it had none.
    key_bytes
        True size of the key; 0 where it had none.
    value
        Base64 of at most the first 256 KiB; None where the record had no value.
    value_bytes
        True size of the value; 0 where it had none.
    traceback
        Where code raised, the end of the traceback.
    """

    id: str
    topic: Annotated[str, Meta(min_length=1)]
    partition: int
    offset: int
    ts: int
    stage: str
    error: str
    key: str | None
    value: str | None
    value_bytes: int
    reason: str | None = None
    key_bytes: int | None = None
    traceback: str | None = None


class Replay(NamedTuple):
    """A record to be sent again, to its own topic."""

    topic: str
    key: bytes | None
    value: bytes | None


_LETTERS = msgspec.json.Decoder(DeadLetter)
_ENCODER = msgspec.json.Encoder()


def dead_letter(
    *,
    topic: str,
    partition: int,
    offset: int,
    key: bytes | None,
    value: bytes | None,
    reason: Reason,
    error: str,
    ts_ms: int,
    traceback: str | None = None,
) -> tuple[str, bytes]:
    """Write the dead letter of a record; its own record key is the source topic.

    Parameters
    ----------
    topic, partition, offset, key, value
        The record.
    reason
        Why it was refused; the stage follows from it.
    error
        The same in words; what exceeds 500 characters is cut.
    ts_ms
        When it was refused, milliseconds since the Unix epoch.
    traceback
        Of code that raised; its last 8,192 characters are kept.

    Returns
    -------
    The letter's id and its JSON.

    Examples
    --------
    >>> identifier, letter = dead_letter(
    ...     topic="clicks", partition=3, offset=42, key=b"ada", value=b"{",
    ...     reason=Reason.INVALID_JSON, error="Input data was truncated", ts_ms=1700000000000,
    ... )
    >>> identifier
    'clicks-3-42'
    >>> replay_of(letter)
    Replay(topic='clicks', key=b'ada', value=b'{')
    """
    identifier = f"{topic}-{partition}-{offset}"
    letter = DeadLetter(
        id=identifier,
        topic=topic,
        partition=partition,
        offset=offset,
        ts=ts_ms,
        stage=reason.stage.value,
        error=_encodable(error[:ERROR_MAX_CHARACTERS]),
        key=None if key is None else _text_of_key(key[:KEY_MAX_BYTES]),
        value=None if value is None else b64encode(value[:VALUE_MAX_BYTES]).decode(),
        value_bytes=len(value or b""),
        reason=reason.value,
        key_bytes=len(key or b""),
        traceback=None if traceback is None else _encodable(traceback[-TRACEBACK_MAX_CHARACTERS:]),
    )
    return identifier, _ENCODER.encode(letter)


def parse_dead_letter(letter: bytes) -> DeadLetter:
    """Read a dead letter.

    Raises
    ------
    ReplayError
        Where `letter` is not one.
    """
    try:
        return _LETTERS.decode(letter)
    except (ValueError, RecursionError) as error:
        raise ReplayError(f"not a dead letter: {error}") from error


def replay_of(letter: bytes) -> Replay:
    """Restore the record of which a dead letter tells.

    Raises
    ------
    ReplayError
        Where the letter cannot be read, or holds only a part of the record.
    """
    parsed = parse_dead_letter(letter)
    try:
        key = None if parsed.key is None else _bytes_of_key(parsed.key)
        value = None if parsed.value is None else b64decode(parsed.value, validate=True)
    except ValueError as error:
        raise ReplayError(f"dead letter {parsed.id}: its base64 is damaged: {error}") from error
    _require_whole(parsed, "value", value, parsed.value_bytes)
    _require_whole(parsed, "key", key, parsed.key_bytes)
    return Replay(parsed.topic, key, value)


def _require_whole(letter: DeadLetter, part: str, kept: bytes | None, true: int | None) -> None:
    size = len(kept or b"")
    if true is not None and size != true:
        held = f"holds {size} of the {part}'s {true} bytes"
        raise ReplayError(f"dead letter {letter.id} {held}; send the record again from its source")


def _text_of_key(key: bytes) -> str:
    try:
        text = key.decode()
    except UnicodeDecodeError:
        text = BASE64_MARK
    return BASE64_MARK + b64encode(key).decode() if text.startswith(BASE64_MARK) else text


def _bytes_of_key(text: str) -> bytes:
    if text.startswith(BASE64_MARK):
        return b64decode(text.removeprefix(BASE64_MARK), validate=True)
    return text.encode()


def _encodable(text: str) -> str:
    """Replace what UTF-8 cannot carry (lone surrogates, as in some file names)."""
    return text.encode(errors="backslashreplace").decode()
