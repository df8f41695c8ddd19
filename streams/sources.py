"""What differs between the source topics: how a chunk is decoded, and who is told."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from streams.batches import Batch, OutputRecord
from streams.decode import (
    decode_chats,
    decode_clicks,
    decode_customers,
    decode_feedback,
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
        Whether records are events: with an id to recognise repeats by, and an event time.
    moves_time
        Whether their event time moves the partition's watermark, and a backlog of them holds it
        back; only events do.
    """

    topic: str
    decode: Callable[[Sequence[Record], int], Decoded[Any]]
    tell: Callable[[Outcome, Batch[Any]], list[OutputRecord]]
    has_events: bool = True
    moves_time: bool = True


CLICKS = Source("clicks", decode_clicks, lambda outcome, batch: outcome.on_clicks(batch))
PURCHASES = Source(
    "purchases", decode_purchases, lambda outcome, batch: outcome.on_purchases(batch)
)
CHATS = Source("chats", decode_chats, lambda outcome, batch: outcome.on_chats(batch))
# Whatever closes on the watermark (churn, segments) is made of what customers do. Feedback is told
# by the CRM, much of it of what the CRM itself did: were it to move event time, a shop whose clicks
# do not come through for a day would look deserted for as long as its impressions do; were it to
# hold event time back, churn would wait for it in vain. So it does neither, and is never late.
FEEDBACK = Source(
    "feedback",
    decode_feedback,
    lambda outcome, batch: outcome.on_feedback(batch),
    moves_time=False,
)
CUSTOMERS = Source(
    "customers",
    lambda records, _: decode_customers(records),
    lambda outcome, batch: outcome.on_customers(batch),
    has_events=False,
    moves_time=False,
)
SOURCES = {source.topic: source for source in (CLICKS, PURCHASES, CHATS, CUSTOMERS, FEEDBACK)}
TIMED_TOPICS = tuple(topic for topic, source in SOURCES.items() if source.moves_time)
"""The topics by whose event times a partition's watermark goes."""
