"""The records of every input topic, as types that decode and validate JSON in one step.

Fields that a type does not name are ignored, and an optional field that is null counts as absent.
What one field can tell by itself (its type, its range, its length) is checked here by the decoder;
what needs more (the clock, the record's key, another field) is checked in `streams.decode`.

Identifiers and times keep the form in which they came, which is the fastest to decode:
`text_of` and `milliseconds_of` bring them to one form.
"""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Literal, Protocol, TypeAlias

from msgspec import Meta, Struct

ID_MAX_CHARACTERS = 256
TEXT_MAX_CHARACTERS = 8_192
LINES_MAX = 1_000
QUANTITY_MAX = 1e9
MONEY_MAX = 1e12
DWELL_MAX_MS = 1e12
POSITION_MAX = 1_000

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND = timedelta(milliseconds=1)

Id: TypeAlias = Annotated[str, Meta(min_length=1, max_length=ID_MAX_CHARACTERS)] | int
"""1 to 256 characters, or a JSON integer, which is read as its decimal string."""

Name: TypeAlias = Annotated[str, Meta(min_length=1, max_length=ID_MAX_CHARACTERS)]
"""Of a category, a tag or a segment: 1 to 256 characters."""

Timestamp: TypeAlias = (
    Annotated[int, Meta(ge=-62_135_596_800_000, le=253_402_300_799_999)]
    | Annotated[datetime, Meta(tz=True)]
)
"""Milliseconds since the Unix epoch within the years 1 to 9999, or an RFC 3339 string."""

Money: TypeAlias = Annotated[float, Meta(ge=0, le=MONEY_MAX)]
"""An amount in the record's currency, 0 to 10^12."""

Scalar: TypeAlias = str | int | float | bool | None

ActionName: TypeAlias = Literal["view", "cart", "wishlist", "search", "dwell", "pickup", "remove"]
SenderName: TypeAlias = Literal["customer", "agent", "bot"]
OutcomeName: TypeAlias = Literal["impression", "click", "conversion", "dismiss"]


class Record(Protocol):
    """What is read of a raw record; aiokafka's ``ConsumerRecord`` has all of it."""

    @property
    def offset(self) -> int:
        """Position in the topic's partition."""

    @property
    def timestamp(self) -> int:
        """The broker's timestamp, milliseconds since the Unix epoch."""

    @property
    def key(self) -> bytes | None:
        """Raw bytes, or None."""

    @property
    def value(self) -> bytes | None:
        """Raw bytes, or None."""

    @property
    def headers(self) -> Sequence[tuple[str, bytes]]:
        """Pairs of name and value."""


class Click(Struct, frozen=True, gc=False):
    """One thing that a customer did on a channel (topic `clicks`).

    `dwell_ms` is a duration of 0 to 10^12 milliseconds. `item_id` is required unless the action is
    ``search``.
    """

    event_id: Id
    customer_id: Id
    ts: Timestamp
    action: ActionName
    item_id: Id | None = None
    channel: str | None = None
    session_id: Id | None = None
    dwell_ms: Annotated[float, Meta(ge=0, le=DWELL_MAX_MS)] | None = None
    query: str | None = None
    context: dict[str, Scalar] | None = None


class Line(Struct, frozen=True, gc=False):
    """One line of an order: `quantity` pieces (above 0, to 10^9; absent means 1) of an item.

    `unit_price` is the price of one piece in the order's currency; absent means unknown.
    """

    item_id: Id
    quantity: Annotated[float, Meta(gt=0, le=QUANTITY_MAX)] | None = None
    unit_price: Money | None = None
    category: str | None = None


class Purchase(Struct, frozen=True, gc=False):
    """One order with 1 to 1,000 lines (topic `purchases`)."""

    event_id: Id
    customer_id: Id
    ts: Timestamp
    items: Annotated[list[Line], Meta(min_length=1, max_length=LINES_MAX)]
    order_id: Id | None = None
    currency: str | None = None
    promotion: bool | None = None
    payment_method: str | None = None
    channel: str | None = None


class Chat(Struct, frozen=True, gc=False):
    """One message of a conversation (topic `chats`).

    `text` has at most 8,192 characters; `sentiment` (-1 to 1) and `intent` are human labels. An
    absent `sender` is the customer.
    """

    event_id: Id
    customer_id: Id
    ts: Timestamp
    text: Annotated[str, Meta(max_length=TEXT_MAX_CHARACTERS)]
    conversation_id: Id | None = None
    sender: SenderName | None = None
    language: str | None = None
    sentiment: Annotated[float, Meta(ge=-1, le=1)] | None = None
    intent: str | None = None


class CatalogItem(Struct, frozen=True):
    """One item of the catalogue (topic `catalog`, keyed by the item).

    `price` is in the catalogue's currency; an absent `available` means available.
    """

    item_id: Id
    title: str | None = None
    category: str | None = None
    tags: list[str] | None = None
    price: Money | None = None
    available: bool | None = None
    attributes: dict[str, Any] | None = None


class Rule(Struct, frozen=True):
    """One business rule of recommendation lists (topic `rules`, keyed by the rule).

    It speaks of exactly one of `item_id`, `category` and `tag`, and is for a `segment` (by name),
    a customer, or everyone. `factor` is for boost (above 1, to 1,000; default 2) and bury (above 0
    and below 1; default 0.5), `position` (1-based; default 1) for pin. The rule is valid from
    `valid_from`, included, until `valid_until`, excluded.
    """

    rule_id: Id
    action: Literal["pin", "boost", "bury", "exclude"]
    item_id: Id | None = None
    category: Name | None = None
    tag: Name | None = None
    segment: Name | None = None
    customer_id: Id | None = None
    factor: float | None = None
    position: Annotated[int, Meta(ge=1, le=POSITION_MAX)] | None = None
    valid_from: Timestamp | None = None
    valid_until: Timestamp | None = None


class Consent(Struct, frozen=True, gc=False):
    """What a customer agreed to; what is not stated is allowed."""

    recommendations: bool | None = None
    messages: bool | None = None
    profiling: bool | None = None


class Customer(Struct, frozen=True, gc=False):
    """What the CRM knows of a customer (topic `customers`).

    `max_messages_per_week` is 0 to 2^31 - 1; `group` holds attributes by which fairness is
    measured.
    """

    customer_id: Id
    age_group: str | None = None
    region: str | None = None
    membership_level: str | None = None
    signup_ts: Timestamp | None = None
    group: dict[str, Scalar] | None = None
    consent: Consent | None = None
    max_messages_per_week: Annotated[int, Meta(ge=0, le=2**31 - 1)] | None = None


class Activity(Struct, frozen=True, gc=False):
    """One step of a sales deal (topic `activities`); `level` is a human label."""

    event_id: Id
    customer_id: Id
    ts: Timestamp
    deal_id: Id
    stage: (
        Literal["new", "initial_meeting", "quotation", "negotiation", "payment", "paid"] | None
    ) = None
    type: Literal["call", "meeting", "email", "task", "note"] | None = None
    note: str | None = None
    amount: Money | None = None
    level: Literal["cold", "warm", "hot", "deal", "lost"] | None = None


class Feedback(Struct, frozen=True, gc=False):
    """What became of a recommendation or a decision (topic `feedback`)."""

    event_id: Id
    customer_id: Id
    ts: Timestamp
    outcome: OutcomeName
    recommendation_id: Id | None = None
    decision_id: Id | None = None
    item_id: Id | None = None
    value: float | None = None


class PrivacyRequest(Struct, frozen=True, gc=False):
    """One request of a customer about their own data (topic `privacy-requests`)."""

    request_id: Id
    customer_id: Id
    ts: Timestamp
    kind: Literal["erase", "export", "restrict", "unrestrict"]


def text_of(identifier: str | int) -> str:
    """Return an identifier as text; an integer becomes its decimal string.

    Examples
    --------
    >>> text_of("ada"), text_of(42)
    ('ada', '42')
    """
    return identifier if isinstance(identifier, str) else str(identifier)


def milliseconds_of(timestamp: int | datetime) -> int:
    """Return a time as whole milliseconds since the Unix epoch, rounded down.

    Examples
    --------
    >>> milliseconds_of(datetime(2024, 1, 1, 0, 0, 0, 1999, tzinfo=UTC))
    1704067200001
    """
    if isinstance(timestamp, int):
        return timestamp
    return (timestamp - _EPOCH) // _MILLISECOND
