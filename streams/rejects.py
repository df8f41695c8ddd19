"""Records that are refused: where, why as one of a closed set of reasons, and in words.

The reasons are values of a metric's label, so they are an enumeration and not free text.
"""

import re
from dataclasses import dataclass
from enum import StrEnum

import msgspec

from streams.records import Record

ERROR_MAX_CHARACTERS = 500


class Stage(StrEnum):
    """The step at which a record was refused."""

    DECODE = "decode"
    VALIDATE = "validate"
    PROCESS = "process"


class Reason(StrEnum):
    """Why a record was refused."""

    EMPTY = "empty"
    TOMBSTONE = "tombstone"
    INVALID_JSON = "invalid_json"
    INVALID_UTF8 = "invalid_utf8"
    TOO_DEEP = "too_deep"
    MISSING_FIELD = "missing_field"
    WRONG_TYPE = "wrong_type"
    EMPTY_ID = "empty_id"
    ID_TOO_LONG = "id_too_long"
    MISSING_KEY = "missing_key"
    KEY_MISMATCH = "key_mismatch"
    INVALID_TIMESTAMP = "invalid_timestamp"
    TIMESTAMP_OUT_OF_RANGE = "timestamp_out_of_range"
    UNKNOWN_ACTION = "unknown_action"
    UNKNOWN_VALUE = "unknown_value"
    MISSING_ITEM = "missing_item"
    NO_ITEMS = "no_items"
    TOO_MANY_ITEMS = "too_many_items"
    INVALID_QUANTITY = "invalid_quantity"
    INVALID_PRICE = "invalid_price"
    INVALID_SENTIMENT = "invalid_sentiment"
    TEXT_TOO_LONG = "text_too_long"
    NUMBER_OUT_OF_RANGE = "number_out_of_range"
    INVALID_RULE = "invalid_rule"
    TOO_MANY_RULES = "too_many_rules"
    MISPLACED = "misplaced"
    APPLY_RAISED = "apply_raised"

    @property
    def stage(self) -> Stage:
        """The step to which the reason belongs.

        Examples
        --------
        >>> str(Reason.INVALID_JSON.stage), str(Reason.KEY_MISMATCH.stage)
        ('decode', 'validate')
        """
        if self in _DECODE_REASONS:
            return Stage.DECODE
        return Stage.PROCESS if self is Reason.APPLY_RAISED else Stage.VALIDATE


_DECODE_REASONS = frozenset(
    {
        Reason.EMPTY,
        Reason.TOMBSTONE,
        Reason.INVALID_JSON,
        Reason.INVALID_UTF8,
        Reason.TOO_DEEP,
    }
)

_RANGE_REASONS = {
    "ts": Reason.TIMESTAMP_OUT_OF_RANGE,
    "signup_ts": Reason.TIMESTAMP_OUT_OF_RANGE,
    "valid_from": Reason.TIMESTAMP_OUT_OF_RANGE,
    "valid_until": Reason.TIMESTAMP_OUT_OF_RANGE,
    "quantity": Reason.INVALID_QUANTITY,
    "unit_price": Reason.INVALID_PRICE,
    "price": Reason.INVALID_PRICE,
    "sentiment": Reason.INVALID_SENTIMENT,
    "position": Reason.INVALID_RULE,
}

_FIELD = re.compile(r"([a-z_]+)(?:\[[^]]*\])*`$")
_OUT_OF_RANGE = re.compile(r"Expected `(?:int|float)` [<>]|(?:Number|Integer value) out of range")


@dataclass(frozen=True, slots=True)
class Reject:
    """One refused record.

    Attributes
    ----------
    offset
        Position in the topic's partition.
    position
        Index of the record within its chunk.
    stage, reason
        Where and why, both from closed sets.
    error
        The same in words, at most 500 characters.
    key, value
        The raw record.
    """

    offset: int
    position: int
    stage: Stage
    reason: Reason
    error: str
    key: bytes | None
    value: bytes | None


class RefusedError(ValueError):
    """A record that is refused for a known reason."""

    def __init__(self, reason: Reason, error: str) -> None:
        super().__init__(error)
        self.reason = reason


def reject(record: Record, position: int, reason: Reason, error: str) -> Reject:
    """Describe the refusal of `record`, the one at `position` of its chunk."""
    text = error[:ERROR_MAX_CHARACTERS]
    return Reject(record.offset, position, reason.stage, reason, text, record.key, record.value)


def reason_of(error: Exception) -> Reason:
    """Name the reason behind an error that decoding raised.

    Parameters
    ----------
    error
        A `RefusedError`, or what decoding bytes or JSON raises: `UnicodeDecodeError`,
        `RecursionError`, msgspec's ``ValidationError`` and ``DecodeError``.

    Examples
    --------
    >>> str(reason_of(msgspec.ValidationError("Expected `float` > 0.0 - at `$.items[3].quantity`")))
    'invalid_quantity'
    """
    if isinstance(error, RefusedError):
        return error.reason
    if isinstance(error, UnicodeDecodeError):
        return Reason.INVALID_UTF8
    if isinstance(error, RecursionError):
        return Reason.TOO_DEEP
    if isinstance(error, msgspec.ValidationError):
        return _violated(str(error))
    return Reason.INVALID_JSON


def _violated(error: str) -> Reason:
    """Name the rule that a well-formed record broke, from msgspec's message."""
    found = _FIELD.search(error)
    field = found.group(1) if found else ""
    reason = Reason.WRONG_TYPE
    if error.startswith("Object missing required field"):
        reason = Reason.MISSING_FIELD
    elif error.startswith("Invalid enum value"):
        reason = Reason.UNKNOWN_ACTION if field == "action" else Reason.UNKNOWN_VALUE
    elif error.startswith(("Invalid RFC3339", "Expected `datetime` with a timezone")):
        reason = Reason.INVALID_TIMESTAMP
    elif " of length " in error:
        reason = _wrong_length(error, field)
    elif _OUT_OF_RANGE.match(error):
        beyond = Reason.ID_TOO_LONG if field.endswith("_id") else Reason.NUMBER_OUT_OF_RANGE
        reason = _RANGE_REASONS.get(field, beyond)
    return reason


def _wrong_length(error: str, field: str) -> Reason:
    too_short = ">=" in error
    if field == "items":
        return Reason.NO_ITEMS if too_short else Reason.TOO_MANY_ITEMS
    if field == "text":
        return Reason.TEXT_TOO_LONG
    return Reason.EMPTY_ID if too_short else Reason.ID_TOO_LONG
