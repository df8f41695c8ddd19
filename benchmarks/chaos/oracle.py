"""The oracle of the chaos harness: what must have come of the records that lie in the topics.

It is told every record of the source topics as they lie there, and knows from the ledger what each
means. It shares no code with the engine.
"""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from benchmarks.chaos.facts import (
    FORWARDED_HEADER,
    MONEY_UNIT,
    SERIAL_HEADER,
    Deed,
    Erasure,
    Fact,
    Poison,
    Statement,
    home_of,
)
from benchmarks.report import BenchmarkError


class Record(Protocol):
    """What is looked at of a record in a topic; aiokafka's ``ConsumerRecord`` has it."""

    @property
    def topic(self) -> str:
        """Where it lies."""

    @property
    def partition(self) -> int:
        """Where it lies."""

    @property
    def offset(self) -> int:
        """Where it lies."""

    @property
    def key(self) -> bytes | None:
        """Raw."""

    @property
    def value(self) -> bytes | None:
        """Raw."""

    @property
    def headers(self) -> Sequence[tuple[str, bytes]]:
        """Pairs of name and value."""


class Place(NamedTuple):
    """Where a record lies."""

    topic: str
    partition: int
    offset: int

    def __str__(self) -> str:
        return "-".join(map(str, self))


@dataclass(slots=True)
class Tally:
    """What a customer's profile must say, by the names of the contract."""

    clicks: int = 0
    carts: int = 0
    orders: int = 0
    items_bought: float = 0
    spend: float = 0
    chats: int = 0
    first_seen_ts: int | None = None
    last_seen_ts: int | None = None
    signup_ts: int | None = None

    def add(self, deed: Deed) -> None:
        """Count a deed.

        Examples
        --------
        >>> tally = Tally()
        >>> tally.add(Deed("purchases", "ada", "e1", 5_000, pieces=3, amount=96))
        >>> tally.orders, tally.items_bought, tally.spend, tally.last_seen_ts
        (1, 3, 1.5, 5000)
        """
        self.clicks += deed.topic == "clicks"
        self.carts += deed.cart
        self.orders += deed.topic == "purchases"
        self.items_bought += deed.pieces
        self.spend += deed.amount / MONEY_UNIT
        self.chats += deed.topic == "chats"
        first, last = self.first_seen_ts, self.last_seen_ts
        self.first_seen_ts = deed.ts_ms if first is None else min(first, deed.ts_ms)
        self.last_seen_ts = deed.ts_ms if last is None else max(last, deed.ts_ms)

    @property
    def events(self) -> int:
        """How many deeds were counted."""
        return self.clicks + self.orders + self.chats


@dataclass(frozen=True, slots=True)
class Letter:
    """What a dead letter must say."""

    stage: str
    key: bytes | None
    value: bytes | None


@dataclass(slots=True)
class Expected:
    """What must have come of everything.

    Attributes
    ----------
    customers, erased
        Everybody who did something, and who of them was erased.
    tallies
        What profiles must say; a customer who is not in it must be unknown.
    chats
        The deed behind each insight, by event id.
    letters
        By the id of the dead letter.
    triggers
        The deeds that may be named as the cause of an output, and nothing else: where the first
        record about each lies at home.
    forwards
        How many records lie, by serial number, where they do not belong, and how many of them
        were forwarded home.
    strangers
        Records that were forwarded to a partition that is not their customer's.
    """

    customers: set[str] = field(default_factory=set)
    erased: set[str] = field(default_factory=set)
    tallies: dict[str, Tally] = field(default_factory=dict)
    chats: dict[str, Deed] = field(default_factory=dict)
    letters: dict[str, Letter] = field(default_factory=dict)
    triggers: dict[Place, Deed] = field(default_factory=dict)
    forwards: dict[int, list[int]] = field(default_factory=dict)
    strangers: int = 0


class Oracle:
    """Takes the records of the source topics, in order within a partition.

    Parameters
    ----------
    ledger
        The fact behind each serial number.
    partitions
        Of the customer-keyed topics.
    """

    def __init__(self, ledger: Sequence[Fact], partitions: int) -> None:
        self._ledger = ledger
        self._partitions = partitions
        self._expected = Expected()
        self._serials: set[int] = set()
        self._deeds: dict[str, Deed] = {}
        self._at_home: set[str] = set()
        self._statements: dict[str, int] = {}

    def take_all(self, records: Iterable[Record]) -> None:
        """Take records one by one."""
        for record in records:
            self.take(record)

    def take(self, record: Record) -> None:
        """Note what must come of a record.

        Raises
        ------
        BenchmarkError
            Where it is not one of the harness's.
        """
        headers = dict(record.headers)
        if SERIAL_HEADER not in headers:
            raise BenchmarkError(f"{record.topic} holds a record that nobody sent: {record}")
        serial = int(headers[SERIAL_HEADER])
        fact = self._ledger[serial]
        self._serials.add(serial)
        place = Place(record.topic, record.partition, record.offset)
        if isinstance(fact, Deed):
            self._take_deed(fact, serial, place, is_copy=FORWARDED_HEADER in headers)
        elif isinstance(fact, Poison):
            letter = Letter(fact.stage, record.key, record.value)
            self._expected.letters[str(place)] = letter
        elif isinstance(fact, Statement):
            self._statements[fact.customer] = fact.signup_ts_ms
        elif isinstance(fact, Erasure):
            self._expected.erased.add(fact.customer)

    def _take_deed(self, deed: Deed, serial: int, place: Place, *, is_copy: bool) -> None:
        expected = self._expected
        self._deeds[deed.event_id] = deed
        is_home = place.partition == home_of(deed.customer, self._partitions)
        if is_home and deed.event_id not in self._at_home:
            self._at_home.add(deed.event_id)
            expected.triggers[place] = deed
        if is_copy:
            expected.forwards.setdefault(serial, [0, 0])[1] += 1
            expected.strangers += not is_home
        elif not is_home:
            expected.forwards.setdefault(serial, [0, 0])[0] += 1

    def finish(self, acknowledged: Collection[int]) -> Expected:
        """Return what must have come of everything that was taken.

        Parameters
        ----------
        acknowledged
            Serial numbers that the broker has promised to keep.

        Raises
        ------
        BenchmarkError
            Where it has not kept them: then nothing can be said of the engine.
        """
        missing = set(acknowledged) - self._serials
        if missing:
            raise BenchmarkError(f"the broker has lost {len(missing)} acknowledged records")
        expected = self._expected
        for deed in self._deeds.values():
            expected.customers.add(deed.customer)
            if deed.topic == "chats":
                expected.chats[deed.event_id] = deed
            if deed.life or deed.customer not in expected.erased:
                expected.tallies.setdefault(deed.customer, Tally()).add(deed)
        for customer, signup_ts_ms in self._statements.items():
            expected.tallies.setdefault(customer, Tally()).signup_ts = signup_ts_ms
        return expected
