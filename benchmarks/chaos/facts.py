"""What the chaos harness knows of the records it sends. Nothing in here is the engine's code.

Every record carries its serial number in a header, which a forwarded copy keeps. The serial
number leads to the fact behind the record: that is how the oracle knows what a record means
without reading it as the engine does.
"""

from dataclasses import dataclass

SERIAL_HEADER = "chaos-serial"
FORWARDED_HEADER = "crm-forwarded"
"""Contract: the header of a record that was re-published under its key."""
EVENT_TOPICS = ("clicks", "purchases", "chats")
SOURCE_TOPICS = (*EVENT_TOPICS, "customers", "feedback")
MONEY_UNIT = 64
"""Prices are whole 64ths: their sums are exact in floating point, in whatever order."""


@dataclass(frozen=True, slots=True)
class Deed:
    """An event that must count, once, however often and wherever it is sent.

    Attributes
    ----------
    topic, customer, event_id, ts_ms
        As in the record.
    cart
        Whether it is a click that puts something into the cart.
    pieces, amount
        Of an order: pieces, and money in 64ths.
    conversation
        Of a chat.
    life
        0, or 1 for what a customer does after having been erased.
    """

    topic: str
    customer: str
    event_id: str
    ts_ms: int
    cart: bool = False
    pieces: int = 0
    amount: int = 0
    conversation: str | None = None
    life: int = 0


@dataclass(frozen=True, slots=True)
class Poison:
    """A record that must become one dead letter of a stage, where it lies."""

    stage: str


@dataclass(frozen=True, slots=True)
class Statement:
    """What the CRM says of a customer; the last one in the partition counts."""

    customer: str
    signup_ts_ms: int


@dataclass(frozen=True, slots=True)
class Erasure:
    """A tombstone: whatever the customer did in life 0 is gone."""

    customer: str


Fact = Deed | Poison | Statement | Erasure


@dataclass(frozen=True, slots=True)
class Parcel:
    """A record to be sent to a partition, and its serial number in the ledger of facts."""

    serial: int
    topic: str
    partition: int
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes], ...] = ()

    @property
    def all_headers(self) -> list[tuple[str, bytes]]:
        """The record's headers, the serial number among them."""
        return [(SERIAL_HEADER, str(self.serial).encode()), *self.headers]


def murmur2(data: bytes) -> int:
    """Return the hash by which Kafka's Java client places a key, as an unsigned number.

    MurmurHash2 of 32 bits (Appleby, 2008) with the seed 0x9747b28c.

    Examples
    --------
    >>> murmur2(b"21"), murmur2(b"foobar")
    (3321034988, 3504634814)
    """
    mask, multiplier = 0xFFFFFFFF, 0x5BD1E995
    value = 0x9747B28C ^ len(data)
    whole = len(data) // 4 * 4
    for at in range(0, whole, 4):
        word = int.from_bytes(data[at : at + 4], "little") * multiplier & mask
        word = (word ^ word >> 24) * multiplier & mask
        value = (value * multiplier & mask) ^ word
    rest = data[whole:]
    if rest:
        value = (value ^ int.from_bytes(rest, "little")) * multiplier & mask
    value = (value ^ value >> 13) * multiplier & mask
    return value ^ value >> 15


def home_of(customer: str, partitions: int) -> int:
    """Return the partition in which a customer's records belong.

    Examples
    --------
    >>> home_of("ada", 8)
    5
    """
    return (murmur2(customer.encode()) & 0x7FFFFFFF) % partitions
