"""What differs between the source topics: how a chunk is decoded, and who is told."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from streams.batches import Batch, OutputRecord
from streams.decode import (
    decode_chats,
    decode_clicks,
    decode_customers,
    decode_purchases,
)
from streams.outcomes.base import Outcome
from streams.parsing import Decoded
from streams.records import Record


@dataclass(frozen=True, slots=True)
class Source:
    """One source topic.

    Attributes
    ----------
    topic
        Its name.
    decode
        Turns raw records and the clock (ms) into columns and rejects.
    tell
        Hands a batch of these events to one outcome; returns what that wants published.
    has_events
        Whether records are events: with an id to recognise repeats by, with an event time that
        moves the watermark, and owing the customer a list.
    """

    topic: str
    decode: Callable[[Sequence[Record], int], Decoded[Any]]
    tell: Callable[[Outcome, Batch[Any]], list[OutputRecord]]
    has_events: bool = True


CLICKS = Source("clicks", decode_clicks, lambda outcome, batch: outcome.on_clicks(batch))
PURCHASES = Source(
    "purchases", decode_purchases, lambda outcome, batch: outcome.on_purchases(batch)
)
CHATS = Source("chats", decode_chats, lambda outcome, batch: outcome.on_chats(batch))
CUSTOMERS = Source(
    "customers",
    lambda records, _: decode_customers(records),
    lambda outcome, batch: outcome.on_customers(batch),
    has_events=False,
)
SOURCES = {source.topic: source for source in (CLICKS, PURCHASES, CHATS, CUSTOMERS)}
EVENT_TOPICS = tuple(topic for topic, source in SOURCES.items() if source.has_events)
