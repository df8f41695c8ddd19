"""The simulator: blocks of sessions, put in event-time order and written as records."""

from collections.abc import Iterable, Iterator
from itertools import chain, count, islice

import numpy as np
import orjson
from numpy.typing import NDArray

from streams.errors import SettingsError
from streams.simulator.records import (
    Record,
    catalog_records,
    chat_records,
    click_records,
    customer_records,
    purchase_records,
)
from streams.simulator.sessions import BlockPlan, SessionSampler
from streams.simulator.world import build_world

Event = tuple[str, str, Record]
Batch = tuple[str, list[tuple[bytes, bytes]]]

EVENTS_PER_BLOCK = 4_096
FEWEST_BLOCKS = 64
SHORTEST_SPAN_MS = 60_000
LONGEST_SESSION_MS = 600_000


class TimeOrder:
    """Holds events back until nothing earlier can come.

    Examples
    --------
    >>> held = TimeOrder()
    >>> held.add(np.array([5, 3]), [("clicks", "a", {}), ("clicks", "b", {})])
    >>> [event[1] for event in held.take_before(5)]
    ['b']
    """

    def __init__(self) -> None:
        self._order = np.empty(0, np.int64)
        self._events: list[Event] = []

    def add(self, order: NDArray[np.int64], events: list[Event]) -> None:
        """Take in events with their places in the order; on ties, first come, first out."""
        self._order = np.concatenate([self._order, order])
        self._events.extend(events)

    def take_before(self, end: int | None) -> list[Event]:
        """Hand out, in order, the events placed before `end`; all of them for None."""
        due = np.ones(len(self._order), bool) if end is None else self._order < end
        places = np.flatnonzero(due)
        places = places[np.argsort(self._order[places], kind="stable")]
        taken = [self._events[place] for place in places.tolist()]
        self._events = [self._events[place] for place in np.flatnonzero(~due).tolist()]
        self._order = self._order[~due]
        return taken


class Simulator:
    """Seeded traffic of a shop, with planted truth to hold models against.

    Customers belong to segments that act differently, prefer one to three categories (customers
    of one preference group share them), arrive and, some of them, stop for good. Items are viewed
    by Zipf popularity within their category, and together with the others of their bundle.
    Sessions go from views over a cart to an order. Chats carry a planted mood in varied words; a
    churner's chats turn negative before the stop. The same arguments give the same traffic, byte
    for byte.

    Parameters
    ----------
    seed
        At least 0; decides everything.
    start_ts_ms
        Event time of the beginning; all of a finite simulation lies in
        ``[start_ts_ms, start_ts_ms + span_ms)``.
    customers, items, categories
        Sizes of the world; at least one item per category.
    clicks, purchases, chats
        Exact numbers of events within the span.
    span_ms
        Event time that the traffic spans, at least a minute.
    duplicate_share
        Share of events, 0..1, that are sent a second time with the same id (on top of the
        counts).
    late_share
        Share of events, 0..1, that are sent out of order.
    late_by_ms
        A late or repeated event is sent at most this much event time after its own.
    run
        At least 0. Another run of a seed has the same customers and items, but other events.
        No two pairs of seed and run share an id of an event.

    Attributes
    ----------
    truth : Truth
        What is planted.
    counts : dict
        Events in the span for each topic, without duplicates.

    Raises
    ------
    SettingsError
        For an argument outside its range.

    Examples
    --------
    >>> simulator = Simulator(7, start_ts_ms=1_700_000_000_000, customers=50, items=100,
    ...                       categories=5, clicks=400, purchases=40, chats=8)
    >>> topics = [topic for topic, key, record in simulator.traffic()]
    >>> topics.count("clicks"), topics.count("purchases"), topics.count("chats")
    (400, 40, 8)
    """

    def __init__(
        self,
        seed: int,
        *,
        start_ts_ms: int,
        customers: int = 50_000,
        items: int = 10_000,
        categories: int = 40,
        clicks: int = 1_000_000,
        purchases: int = 100_000,
        chats: int = 20_000,
        span_ms: int = 3_600_000,
        duplicate_share: float = 0.0,
        late_share: float = 0.0,
        late_by_ms: int = 60_000,
        run: int = 0,
    ) -> None:
        _require(min(seed, run) >= 0, "seed and run must be at least 0")
        _require(customers >= 1, "customers must be at least 1")
        _require(1 <= categories <= items, "categories must be between 1 and items")
        _require(min(clicks, purchases, chats) >= 0, "numbers of events must not be negative")
        _require(span_ms >= SHORTEST_SPAN_MS, f"span_ms must be at least {SHORTEST_SPAN_MS}")
        _require(0 <= duplicate_share <= 1, "duplicate_share must be between 0 and 1")
        _require(0 <= late_share <= 1, "late_share must be between 0 and 1")
        _require(late_by_ms >= 1, "late_by_ms must be at least 1")
        self.counts = {"clicks": clicks, "purchases": purchases, "chats": chats}
        self.truth = build_world(seed, run, customers, items, categories, start_ts_ms, span_ms)
        self._start_ts_ms = start_ts_ms
        self._longest_ms = min(LONGEST_SESSION_MS, span_ms // 10)
        self._starts_ms = span_ms - self._longest_ms
        self._blocks = max(FEWEST_BLOCKS, sum(self.counts.values()) // EVENTS_PER_BLOCK)
        self._sampler = SessionSampler(self.truth, start_ts_ms, span_ms, self._longest_ms)
        self._duplicate_share = duplicate_share
        self._late_share = late_share
        self._late_by_ms = late_by_ms

    def reference(self) -> Iterator[Event]:
        """Yield (topic, key, record) of the whole `catalog`, then of all `customers`."""
        for item, record in catalog_records(self.truth):
            yield "catalog", item, record
        for customer, record in customer_records(self.truth, self._start_ts_ms):
            yield "customers", customer, record

    def traffic(self, *, endless: bool = False) -> Iterator[Event]:
        """Yield (topic, key, record) of clicks, purchases and chats in event-time order.

        Parameters
        ----------
        endless
            Go on at the same pace after the span, for ever.
        """
        return chain.from_iterable(self._in_order(endless))

    def events(self, *, endless: bool = False) -> Iterator[Event]:
        """Yield the reference records, then the traffic."""
        return chain(self.reference(), self.traffic(endless=endless))

    def batches(self, size: int = 5_000, *, endless: bool = False) -> Iterator[Batch]:
        """Yield the traffic encoded, for speed: (topic, [(key, value), ...]).

        Topics follow each other in turns of about 4,000 events in all; each topic is in time
        order. Records are those of `traffic`, as JSON.

        Parameters
        ----------
        size
            Most records in one batch, at least 1.
        endless
            Go on at the same pace after the span, for ever.
        """
        for block in self._in_order(endless):
            yield from encoded_batches(block, size)

    def reference_batches(self, size: int = 5_000) -> Iterator[Batch]:
        """Yield the reference records encoded, in batches of at most `size`."""
        remaining = self.reference()
        while part := list(islice(remaining, size)):
            yield from encoded_batches(part, size)

    def _plan(self, number: int) -> BlockPlan:
        def between(whole: int) -> int:
            return (number + 1) * whole // self._blocks - number * whole // self._blocks

        return BlockPlan(
            number=number,
            start_ms=self._start_ts_ms + number * self._starts_ms // self._blocks,
            end_ms=self._start_ts_ms + (number + 1) * self._starts_ms // self._blocks,
            clicks=between(self.counts["clicks"]),
            purchases=between(self.counts["purchases"]),
            chats=between(self.counts["chats"]),
        )

    def _in_order(self, endless: bool) -> Iterator[list[Event]]:
        held = TimeOrder()
        for number in count() if endless else range(self._blocks):
            plan = self._plan(number)
            rng = np.random.default_rng([self.truth.seed, 3, self.truth.run, number])
            self._draw_block(rng, plan, held)
            yield held.take_before(plan.end_ms)
        yield held.take_before(None)

    def _draw_block(self, rng: np.random.Generator, plan: BlockPlan, held: TimeOrder) -> None:
        if plan.clicks + plan.purchases + plan.chats == 0:
            return
        first = {topic: plan.number * whole // self._blocks for topic, whole in self.counts.items()}
        clicks, purchases, chats = self._sampler.draw(rng, plan)
        for topic, ts_ms, written in (
            (
                "clicks",
                clicks.ts_ms,
                click_records(self.truth, clicks, first["clicks"], plan.number, rng),
            ),
            (
                "purchases",
                purchases.ts_ms,
                purchase_records(self.truth, purchases, first["purchases"], rng),
            ),
            ("chats", chats.ts_ms, chat_records(self.truth, chats, first["chats"], rng)),
        ):
            events: list[Event] = [(topic, record["customer_id"], record) for record in written]
            self._hold(rng, ts_ms, events, held)

    def _hold(
        self,
        rng: np.random.Generator,
        ts_ms: NDArray[np.int64],
        events: list[Event],
        held: TimeOrder,
    ) -> None:
        order = ts_ms
        if self._late_share:
            late = rng.random(len(events)) < self._late_share
            order = order + late * rng.integers(1, self._late_by_ms + 1, len(events))
        held.add(order, events)
        if self._duplicate_share:
            again = np.flatnonzero(rng.random(len(events)) < self._duplicate_share)
            delay = rng.integers(1, self._late_by_ms + 1, len(again))
            held.add(order[again] + delay, [events[i] for i in again.tolist()])


def encoded_batches(events: Iterable[Event], size: int) -> Iterator[Batch]:
    """Encode events as (topic, [(key, value), ...]), each topic in at most `size` records.

    Examples
    --------
    >>> list(encoded_batches([("clicks", "ada", {"ts": 1})], 10))
    [('clicks', [(b'ada', b'{"ts":1}')])]
    """
    by_topic: dict[str, list[tuple[bytes, bytes]]] = {}
    for topic, key, record in events:
        by_topic.setdefault(topic, []).append((key.encode(), orjson.dumps(record)))
    for topic, pairs in by_topic.items():
        for start in range(0, len(pairs), size):
            yield topic, pairs[start : start + size]


def _require(holds: bool, complaint: str) -> None:
    if not holds:
        raise SettingsError(f"simulator: {complaint}")
