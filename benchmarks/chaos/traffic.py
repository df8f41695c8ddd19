"""Seeded traffic for the chaos harness: events, repeats, strays, poison, tombstones.

Four kinds of customers, so that what must hold can be said exactly:

Regulars
    Some hundred, all the time. A share of their events is sent twice, the second time so soon
    after that the engine must know the event still.
Quiet ones
    Come, do a few things and are never heard of again. Some of their records lie in a partition
    that is not theirs, or there and at home. However often such a record is forwarded, it is
    still within what is remembered of the customer.
Doomed ones
    Come, do a few things and are erased when those are durable; some come back when the tombstone
    is durable too. Only where there is a changelog: without one, a lost partition is read from
    its beginning, and the order of topics is not kept.
Nobody
    Poison: records that must become dead letters, under regulars' names.
"""

import json
import random
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from benchmarks.chaos.facts import (
    EVENT_TOPICS,
    MONEY_UNIT,
    Deed,
    Erasure,
    Fact,
    Parcel,
    Statement,
    home_of,
)
from benchmarks.chaos.poison import poison

START_TS_MS = 1_700_000_000_000
STEP_MS = 5_000
"""Event time moves on by this much with every event."""
LATENESS_SECONDS = 600
SHUFFLE_MS = LATENESS_SECONDS * 900
"""Events are out of order by less than the allowed lateness."""
REGULARS = 240
QUIET_AT_ONCE = 12
QUIET_DEEDS = 8
DOOMED_AT_ONCE = 6
DOOMED_DEEDS = 10
RETURNING_DEEDS = 4
REPEAT_SHARE = 0.05
REPEAT_AFTER = 24
"""A repeat is sent at most so many events later: fewer than the engine remembers of a customer."""
ITEMS = 60
ACTIONS = ("view", "view", "view", "cart", "wishlist", "search", "dwell", "pickup", "remove")
TEXTS = (
    "Where is my parcel?",
    "Thank you, that was quick and friendly!",
    "This is terrible. Awful service, broken and horrible, I hate it, the worst ever!",
    "Können Sie die Lieferung ändern?",
    "ok",
)


@dataclass(slots=True)
class _Guest:
    """A customer with so many deeds left."""

    name: str
    left: int


class Traffic:
    """Draws records; the same seed draws the same ones, whatever the times are.

    Parameters
    ----------
    seed
        Decides everything but which doomed customers return when.
    partitions
        Of the customer-keyed topics, 2 or more.
    erases
        Whether there are doomed customers.

    Attributes
    ----------
    ledger
        The fact behind each serial number.
    leaving
        Doomed customers who have done what they had to do, to be erased.

    Examples
    --------
    >>> traffic = Traffic(seed=7, partitions=4, erases=False)
    >>> parcels = [parcel for _ in range(100) for parcel in traffic.draw()]
    >>> [parcel.serial for parcel in parcels] == list(range(len(traffic.ledger)))
    True
    """

    def __init__(self, seed: int, partitions: int, *, erases: bool) -> None:
        self.ledger: list[Fact] = []
        self.leaving: deque[str] = deque()
        self._partitions = partitions
        self._random = random.Random(seed)
        self._returned = random.Random(seed + 1)
        self._erases = erases
        self._events = 0
        self._named = 0
        self._regulars = [_name_of(number) for number in range(REGULARS)]
        self._quiet = [self._guest("quiet", QUIET_DEEDS) for _ in range(QUIET_AT_ONCE)]
        self._doomed = [self._guest("doomed", DOOMED_DEEDS) for _ in range(DOOMED_AT_ONCE)]
        self._repeats: deque[tuple[int, Deed]] = deque()

    def draw(self) -> Iterator[Parcel]:
        """Yield the records of one more event: one, or some that tell of the same."""
        self._events += 1
        kind = self._random.random()
        if kind < 0.75:
            yield from self._regular()
        elif kind < 0.87:
            yield from self._of_quiet()
        elif kind < 0.92:
            yield self._state()
        elif kind < 0.96 and self._erases:
            yield from self._of_doomed()
        else:
            yield self._poison()
        while self._repeats and self._repeats[0][0] <= self._events:
            yield self._at_home(self._repeats.popleft()[1])

    def erase(self, customer: str) -> Parcel:
        """Return the tombstone of a customer."""
        home = home_of(customer, self._partitions)
        return self._parcel(Erasure(customer), "customers", home, customer.encode(), None)

    def come_back(self, customer: str) -> Iterator[Parcel]:
        """Yield what an erased customer does in the next life; nothing for those who stay away."""
        if self._returned.random() < 0.5:
            for number in range(RETURNING_DEEDS):
                deed = self._deed(customer, self._returned, f"{customer}-again-{number}")
                yield self._at_home(replace(deed, life=1))

    def customers(self) -> set[str]:
        """Return every customer of whom a fact tells."""
        return {fact.customer for fact in self.ledger if isinstance(fact, Deed | Statement)}

    # The kinds of customers.

    def _regular(self) -> Iterator[Parcel]:
        deed = self._new_deed(self._random.choice(self._regulars))
        yield self._at_home(deed)
        if self._random.random() < REPEAT_SHARE:
            self._repeats.append((self._events + self._random.randrange(REPEAT_AFTER), deed))

    def _of_quiet(self) -> Iterator[Parcel]:
        deed = self._new_deed(self._next_of(self._quiet, "quiet", QUIET_DEEDS))
        where = self._random.random()
        if where < 0.6:
            yield self._at_home(deed)
        if where > 0.4:
            yield self._astray(deed)

    def _of_doomed(self) -> Iterator[Parcel]:
        customer = self._next_of(self._doomed, "doomed", DOOMED_DEEDS)
        yield self._at_home(self._new_deed(customer))
        if all(guest.name != customer for guest in self._doomed):
            self.leaving.append(customer)

    def _guest(self, kind: str, deeds: int) -> _Guest:
        self._named += 1
        return _Guest(f"{kind}-{self._named}", deeds)

    def _next_of(self, guests: list[_Guest], kind: str, deeds: int) -> str:
        """Take one deed of somebody; who has none left makes room for the next."""
        place = self._random.randrange(len(guests))
        guest = guests[place]
        guest.left -= 1
        if not guest.left:
            guests[place] = self._guest(kind, deeds)
        return guest.name

    # Facts.

    def _new_deed(self, customer: str) -> Deed:
        return self._deed(customer, self._random, f"e{self._events}")

    def _deed(self, customer: str, draw: random.Random, event_id: str) -> Deed:
        topic = draw.choices(EVENT_TOPICS, (70, 15, 15))[0]
        ts_ms = START_TS_MS + self._events * STEP_MS + draw.randrange(SHUFFLE_MS)
        if topic == "clicks":
            return Deed(topic, customer, event_id, ts_ms, cart=draw.choice(ACTIONS) == "cart")
        if topic == "chats":
            return Deed(topic, customer, event_id, ts_ms, conversation=f"talk-{event_id}")
        lines = _lines(event_id)
        pieces = sum(pieces for _, pieces, _ in lines)
        amount = sum(pieces * price for _, pieces, price in lines)
        return Deed(topic, customer, event_id, ts_ms, pieces=pieces, amount=amount)

    def _state(self) -> Parcel:
        customer = self._random.choice(self._regulars)
        signup_ts_ms = START_TS_MS - self._random.randrange(10**9)
        record = {"customer_id": customer, "signup_ts": signup_ts_ms, "region": "north"}
        fact = Statement(customer, signup_ts_ms)
        home = home_of(customer, self._partitions)
        return self._parcel(fact, "customers", home, customer.encode(), _json(record))

    def _poison(self) -> Parcel:
        made = poison(self._random, self._random.choice(self._regulars), self._partitions)
        partition = self._random.randrange(self._partitions)
        return self._parcel(
            made.fact,
            made.topic,
            partition if made.partition is None else made.partition,
            made.key,
            made.value,
            made.headers,
        )

    # Records.

    def _at_home(self, deed: Deed) -> Parcel:
        home = home_of(deed.customer, self._partitions)
        return self._parcel(deed, deed.topic, home, deed.customer.encode(), record_of(deed))

    def _astray(self, deed: Deed) -> Parcel:
        """Put a record where it does not belong, with or without its key."""
        home = home_of(deed.customer, self._partitions)
        partition = (home + self._random.randrange(1, self._partitions)) % self._partitions
        key = deed.customer.encode() if self._random.random() < 0.5 else None
        return self._parcel(deed, deed.topic, partition, key, record_of(deed))

    def _parcel(
        self,
        fact: Fact,
        topic: str,
        partition: int,
        key: bytes | None,
        value: bytes | None,
        headers: tuple[tuple[str, bytes], ...] = (),
    ) -> Parcel:
        self.ledger.append(fact)
        return Parcel(len(self.ledger) - 1, topic, partition, key, value, headers)


def _name_of(number: int) -> str:
    """Name a regular: some with letters beyond ASCII, some with a number."""
    if number % 7 == 0:
        return str(90_000 + number)
    return f"kundin-ä{number}" if number % 5 == 0 else f"regular-{number}"


def _lines(event_id: str) -> list[tuple[str, int, int]]:
    """Return the lines (item, pieces, price in 64ths) of the order with an id, always the same."""
    draw = random.Random(event_id)
    return [
        (f"item-{draw.randrange(ITEMS)}", draw.randint(1, 4), draw.randint(1, 64_000))
        for _ in range(draw.randint(1, 3))
    ]


def record_of(deed: Deed) -> bytes:
    """Write a deed as its topic has it; the same deed is always the same bytes."""
    draw = random.Random(deed.event_id)
    record: dict[str, Any] = {
        "event_id": deed.event_id,
        "customer_id": int(deed.customer) if deed.customer.isdigit() else deed.customer,
        "ts": deed.ts_ms if draw.random() < 0.8 else _rfc3339(deed.ts_ms),
    }
    if deed.topic == "clicks":
        action = "cart" if deed.cart else draw.choice([a for a in ACTIONS if a != "cart"])
        record["action"] = action
        if action != "search":
            record["item_id"] = f"item-{draw.randrange(ITEMS)}"
    elif deed.topic == "chats":
        record |= {"text": draw.choice(TEXTS), "conversation_id": deed.conversation}
    else:
        record["items"] = [
            {"item_id": item, "quantity": pieces, "unit_price": price / MONEY_UNIT}
            for item, pieces, price in _lines(deed.event_id)
        ]
    return _json(record)


def _rfc3339(ts_ms: int) -> str:
    return (datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=ts_ms)).isoformat()


def _json(record: dict[str, Any]) -> bytes:
    return json.dumps(record, ensure_ascii=False).encode()
