"""A chunk of decoded records as columns: one array or list per field, in the order of offsets."""

from dataclasses import dataclass
from enum import IntEnum, IntFlag
from typing import get_args

import numpy as np
from numpy.typing import NDArray

from streams.records import ActionName, OutcomeName, Scalar, SenderName


class Action(IntEnum):
    """The actions of a click, as in the column `actions`."""

    VIEW = 0
    CART = 1
    WISHLIST = 2
    SEARCH = 3
    DWELL = 4
    PICKUP = 5
    REMOVE = 6


class Sender(IntEnum):
    """Who wrote a message, as in the column `senders`."""

    CUSTOMER = 0
    AGENT = 1
    BOT = 2


class Reaction(IntEnum):
    """What became of what was shown, as in the column `outcomes`."""

    IMPRESSION = 0
    CLICK = 1
    CONVERSION = 2
    DISMISS = 3


class Refusal(IntFlag):
    """What a customer does not consent to, as in the column `refusals`; 0 allows everything."""

    RECOMMENDATIONS = 1
    MESSAGES = 2
    PROFILING = 4


ACTION_CODES: dict[str | None, int] = {
    name: Action[name.upper()].value for name in get_args(ActionName)
}
SENDER_CODES: dict[str | None, int] = {
    None: Sender.CUSTOMER.value,
    **{name: Sender[name.upper()].value for name in get_args(SenderName)},
}
OUTCOME_CODES: dict[str | None, int] = {
    name: Reaction[name.upper()].value for name in get_args(OutcomeName)
}


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordColumns:
    """What every record has; each column has n entries.

    Attributes
    ----------
    positions : int64
        Index of the record within its chunk.
    offsets : int64
        Position in the topic's partition.
    timestamps_ms : int64
        The broker's timestamp, milliseconds since the Unix epoch.
    ts_ms : int64
        Event time, milliseconds since the Unix epoch.
    customers
        Customer ids.
    already_forwarded : bool
        Whether the record was re-published under its key before.
    """

    positions: NDArray[np.int64]
    offsets: NDArray[np.int64]
    timestamps_ms: NDArray[np.int64]
    ts_ms: NDArray[np.int64]
    customers: list[str]
    already_forwarded: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.customers)


@dataclass(frozen=True, slots=True, kw_only=True)
class EventColumns(RecordColumns):
    """What every event has.

    Attributes
    ----------
    event_ids
        Event ids.
    event_keys : uint64
        Their hashes (`operators.hashing.hash_strings`), never 0.
    """

    event_ids: list[str]
    event_keys: NDArray[np.uint64]


@dataclass(frozen=True, slots=True, kw_only=True)
class ClickColumns(EventColumns):
    """Clicks.

    Attributes
    ----------
    actions : uint8
        `Action`.
    item_ids
        Item ids; None only where the action is a search.
    dwell_ms : float32
        Duration in milliseconds, 0 to 10^12; NaN where absent.
    """

    actions: NDArray[np.uint8]
    item_ids: list[str | None]
    dwell_ms: NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True)
class PurchaseColumns(EventColumns):
    """Orders (n entries) and their lines (m entries, in the order of the orders).

    Attributes
    ----------
    line_event : int32
        Row of the line's order, 0 to n - 1, ascending.
    line_items
        Item ids.
    line_quantity : float64
        Pieces, above 0 and at most 10^9.
    line_price : float64
        Price of one piece in the order's currency, 0 to 10^12; 0 where absent.
    line_categories
        Categories; None where absent.
    lines : int32
        Lines of the order, 1 to 1,000.
    quantity : float64
        Pieces of the order.
    amount : float64
        Sum of quantity times price, in the order's currency.
    promotion : bool
        Whether the order was part of a promotion.
    """

    line_event: NDArray[np.int32]
    line_items: list[str]
    line_quantity: NDArray[np.float64]
    line_price: NDArray[np.float64]
    line_categories: list[str | None]
    lines: NDArray[np.int32]
    quantity: NDArray[np.float64]
    amount: NDArray[np.float64]
    promotion: NDArray[np.bool_]


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatColumns(EventColumns):
    """Messages.

    Attributes
    ----------
    texts
        At most 8,192 characters each; may be empty.
    conversation_ids
        Conversation ids; None where absent.
    senders : uint8
        `Sender`.
    labels : float32
        The human label of the sentiment, -1 to 1; NaN where absent.
    intents, languages
        None where absent.
    """

    texts: list[str]
    conversation_ids: list[str | None]
    senders: NDArray[np.uint8]
    labels: NDArray[np.float32]
    intents: list[str | None]
    languages: list[str | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class FeedbackColumns(EventColumns):
    """What became of recommendations and decisions.

    Attributes
    ----------
    outcomes : uint8
        `Reaction`.
    item_ids
        Item ids; None where the feedback is about a whole list or a decision.
    recommendation_ids, decision_ids
        What it is about; None where absent.
    """

    outcomes: NDArray[np.uint8]
    item_ids: list[str | None]
    recommendation_ids: list[str | None]
    decision_ids: list[str | None]

    def about_items(self) -> NDArray[np.int64]:
        """Return the rows of feedback on a recommended item, ascending.

        The rest is about a whole list or a decision: it is counted, and says nothing of an item.
        """
        named = zip(self.item_ids, self.decision_ids, strict=True)
        rows = [i for i, (item, decision) in enumerate(named) if item and decision is None]
        return np.array(rows, np.int64)


@dataclass(frozen=True, slots=True, kw_only=True)
class CustomerColumns(RecordColumns):
    """What the CRM says of customers; `ts_ms` is the broker's timestamp.

    Attributes
    ----------
    tombstone : bool
        Whether the customer is to be erased; the other columns are then as if nothing was stated.
    age_groups, regions, membership_levels
        None where absent.
    signup_ts_ms : int64
        Milliseconds since the Unix epoch; 0 where absent.
    refusals : uint8
        Bits of `Refusal`; 0 where everything is allowed, which is the default.
    max_messages_per_week : int32
        -1 where absent.
    groups
        Attributes by which fairness is measured; None where absent.
    """

    tombstone: NDArray[np.bool_]
    age_groups: list[str | None]
    regions: list[str | None]
    membership_levels: list[str | None]
    signup_ts_ms: NDArray[np.int64]
    refusals: NDArray[np.uint8]
    max_messages_per_week: NDArray[np.int32]
    groups: list[dict[str, Scalar] | None]
