"""From a chunk's raw records to columns, and what had to be refused: one function per topic."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import nan
from typing import TypeVar, cast

import numpy as np
from msgspec.json import Decoder
from numpy.typing import NDArray

from streams.columns import (
    ACTION_CODES,
    OUTCOME_CODES,
    SENDER_CODES,
    ChatColumns,
    ClickColumns,
    CustomerColumns,
    FeedbackColumns,
    PurchaseColumns,
    Refusal,
)
from streams.fields import (
    Faults,
    codes_of,
    floats_of,
    ids_of,
    optional_ids_of,
    times_of,
    too_long,
)
from streams.parsing import (
    Decoded,
    ParsedBatch,
    build_columns,
    common_columns,
    event_columns,
    id_of_key,
    parse,
    refuse_nothing,
)
from streams.records import (
    ID_MAX_CHARACTERS,
    CatalogItem,
    Chat,
    Click,
    Consent,
    Customer,
    Feedback,
    Line,
    Purchase,
    Record,
    text_of,
)
from streams.rejects import Reason, RefusedError, Reject, reason_of, reject

T = TypeVar("T")

_CLICKS = Decoder(Click)
_PURCHASES = Decoder(Purchase)
_CHATS = Decoder(Chat)
_FEEDBACK = Decoder(Feedback)
_CUSTOMERS = Decoder(Customer)
_CATALOG = Decoder(CatalogItem)


@dataclass(frozen=True, slots=True)
class CatalogChange:
    """One change of the catalogue: the item as it is now, or None where it was removed."""

    item_id: str
    item: CatalogItem | None


def decode_clicks(records: Sequence[Record], now_ms: int) -> Decoded[ClickColumns]:
    """Decode a chunk of the topic `clicks`.

    Parameters
    ----------
    records
        Raw records of one partition, in the order of offsets.
    now_ms
        The clock, in milliseconds since the Unix epoch.

    Returns
    -------
    Columns and rejects; nothing that a record holds raises.

    Examples
    --------
    >>> from types import SimpleNamespace
    >>> value = b'{"event_id":1,"customer_id":"ada","ts":1700000000000,"action":"search"}'
    >>> common = {"timestamp": 1700000000005, "key": b"ada", "headers": ()}
    >>> chunk = [
    ...     SimpleNamespace(offset=7, value=value, **common),
    ...     SimpleNamespace(offset=8, value=b"{", **common),
    ... ]
    >>> decoded = decode_clicks(chunk, now_ms=1700000000010)
    >>> decoded.columns.customers, decoded.columns.event_ids
    (['ada'], ['1'])
    >>> [(refused.offset, str(refused.reason)) for refused in decoded.rejects]
    [(8, 'invalid_json')]
    """

    def build(batch: ParsedBatch[Click], faults: Faults) -> ClickColumns:
        events = batch.events
        actions = [event.action for event in events]
        item_ids = optional_ids_of([event.item_id for event in events], "item_id", faults)
        if None in item_ids:
            for row, item_id in enumerate(item_ids):
                if item_id is None and actions[row] != "search":
                    error = f"item_id is required with the action {actions[row]}"
                    faults[row] = (Reason.MISSING_ITEM, error)
        return ClickColumns(
            **event_columns(batch, faults, now_ms),
            actions=codes_of(actions, ACTION_CODES),
            item_ids=item_ids,
            dwell_ms=floats_of([event.dwell_ms for event in events], absent=nan).astype(np.float32),
        )

    return build_columns(parse(records, _CLICKS, refuse_nothing), build)


def decode_purchases(records: Sequence[Record], now_ms: int) -> Decoded[PurchaseColumns]:
    """Decode a chunk of the topic `purchases`; see `decode_clicks`."""

    def build(batch: ParsedBatch[Purchase], faults: Faults) -> PurchaseColumns:
        events = batch.events
        n = len(events)
        common = event_columns(batch, faults, now_ms)
        lines: list[Line] = [line for event in events for line in event.items]
        lengths = np.fromiter([len(event.items) for event in events], np.int32, n)
        line_event = np.repeat(np.arange(n, dtype=np.int32), lengths)
        line_faults: Faults = {}
        line_items = ids_of([line.item_id for line in lines], "item_id of a line", line_faults)
        faults.update({int(line_event[line]): fault for line, fault in line_faults.items()})
        line_quantity = floats_of([line.quantity for line in lines], absent=1.0)
        line_price = floats_of([line.unit_price for line in lines], absent=0.0)
        return PurchaseColumns(
            **common,
            line_event=line_event,
            line_items=line_items,
            line_quantity=line_quantity,
            line_price=line_price,
            line_categories=[line.category for line in lines],
            lines=lengths,
            quantity=_sums(line_event, line_quantity, n),
            amount=_sums(line_event, line_quantity * line_price, n),
            promotion=np.fromiter([event.promotion is True for event in events], np.bool_, n),
        )

    return build_columns(parse(records, _PURCHASES, refuse_nothing), build)


def decode_chats(records: Sequence[Record], now_ms: int) -> Decoded[ChatColumns]:
    """Decode a chunk of the topic `chats`; see `decode_clicks`."""

    def build(batch: ParsedBatch[Chat], faults: Faults) -> ChatColumns:
        events = batch.events
        conversations = [event.conversation_id for event in events]
        return ChatColumns(
            **event_columns(batch, faults, now_ms),
            texts=[event.text for event in events],
            conversation_ids=optional_ids_of(conversations, "conversation_id", faults),
            senders=codes_of([event.sender for event in events], SENDER_CODES),
            labels=floats_of([event.sentiment for event in events], absent=nan).astype(np.float32),
            intents=[event.intent for event in events],
            languages=[event.language for event in events],
        )

    return build_columns(parse(records, _CHATS, refuse_nothing), build)


def decode_feedback(records: Sequence[Record], now_ms: int) -> Decoded[FeedbackColumns]:
    """Decode a chunk of the topic `feedback`; see `decode_clicks`."""

    def build(batch: ParsedBatch[Feedback], faults: Faults) -> FeedbackColumns:
        events = batch.events
        named = [event.recommendation_id for event in events]
        decided = [event.decision_id for event in events]
        return FeedbackColumns(
            **event_columns(batch, faults, now_ms),
            outcomes=codes_of([event.outcome for event in events], OUTCOME_CODES),
            item_ids=optional_ids_of([event.item_id for event in events], "item_id", faults),
            recommendation_ids=optional_ids_of(named, "recommendation_id", faults),
            decision_ids=optional_ids_of(decided, "decision_id", faults),
        )

    return build_columns(parse(records, _FEEDBACK, refuse_nothing), build)


def decode_customers(records: Sequence[Record]) -> Decoded[CustomerColumns]:
    """Decode a chunk of the topic `customers`, where a record without a value means erase.

    Parameters
    ----------
    records
        Raw records of one partition, in the order of offsets.
    """

    def build(batch: ParsedBatch[Customer], faults: Faults) -> CustomerColumns:
        events = batch.events
        n = len(events)
        common = common_columns(batch, faults)
        signups = [event.signup_ts or 0 for event in events]
        limits = [event.max_messages_per_week for event in events]
        return CustomerColumns(
            **common,
            ts_ms=common["timestamps_ms"].copy(),
            tombstone=np.fromiter([not record.value for record in batch.records], np.bool_, n),
            age_groups=[event.age_group for event in events],
            regions=[event.region for event in events],
            membership_levels=[event.membership_level for event in events],
            signup_ts_ms=times_of(signups),
            refusals=np.fromiter([_refusals(event.consent) for event in events], np.uint8, n),
            max_messages_per_week=np.array([-1 if x is None else x for x in limits], np.int32),
            groups=[event.group for event in events],
        )

    def erase(record: Record) -> Customer:
        return Customer(customer_id=id_of_key(record.key))

    return build_columns(parse(records, _CUSTOMERS, erase), build)


def decode_catalog_item(record: Record) -> CatalogChange | Reject:
    """Decode one record of the topic `catalog`, where a record without a value means remove."""
    try:
        return CatalogChange(*decode_keyed(record, _CATALOG, "item_id"))
    except (ValueError, RecursionError) as error:
        return reject(record, 0, reason_of(error), str(error))


def decode_keyed(record: Record, decoder: Decoder[T], key_field: str) -> tuple[str, T | None]:
    """Decode a record of a compacted topic to its key and value; None means removed.

    Raises
    ------
    ValueError, RecursionError
        Where it cannot be used; `streams.rejects.reason_of` names why.
    """
    if not record.value:
        return id_of_key(record.key), None
    record.value.decode()
    value = decoder.decode(record.value)
    identifier = text_of(getattr(value, key_field))
    if len(identifier) > ID_MAX_CHARACTERS:
        raise RefusedError(*too_long(key_field))
    if record.key is not None and record.key != identifier.encode():
        raise RefusedError(Reason.KEY_MISMATCH, f"the key is not the {key_field} of the value")
    return identifier, value


def _refusals(consent: Consent | None) -> int:
    """Return the bits of `Refusal` for what is explicitly refused."""
    if consent is None:
        return 0
    return (
        Refusal.RECOMMENDATIONS * (consent.recommendations is False)
        | Refusal.MESSAGES * (consent.messages is False)
        | Refusal.PROFILING * (consent.profiling is False)
    )


def _sums(rows: NDArray[np.int32], values: NDArray[np.float64], n: int) -> NDArray[np.float64]:
    """Return the sum of the values of each of n rows."""
    return cast(NDArray[np.float64], np.bincount(rows, values, n))
