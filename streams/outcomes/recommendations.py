"""What to show a customer next: learns from every event, answers with a list and its reasons."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from operators.arrays import load_into
from operators.deltas import Sums, require_delta, require_within
from operators.hashing import FNV_OFFSET, FNV_PRIME, avalanche
from operators.hybrid import Hybrid, Part
from operators.kernel import kernel
from operators.policy_columns import ENTRY_RULES
from streams import lists
from streams.batches import Batch, OutputRecord, select
from streams.catalog import Catalog
from streams.columns import (
    Action,
    ChatColumns,
    ClickColumns,
    CustomerColumns,
    FeedbackColumns,
    PurchaseColumns,
    Reaction,
)
from streams.outcomes.base import NOTHING, Outcome
from streams.outcomes.feedback import Feedback
from streams.outcomes.item_json import GrowingTexts, pack_reasons, write_items
from streams.outcomes.list_maker import PINNED, ListMaker, MadeLists
from streams.topics import SOURCES

ACTION_WEIGHTS = np.zeros(max(Action) + 1, np.float32)
for _action, _weight in {
    Action.VIEW: 1.0,
    Action.DWELL: 1.0,
    Action.PICKUP: 2.0,
    Action.WISHLIST: 2.0,
    Action.CART: 3.0,
}.items():
    ACTION_WEIGHTS[_action] = _weight
"""How strongly each action speaks for an item. A search names none; a removal does not speak
for it."""
PURCHASE_WEIGHT = 5.0
REACTION_WEIGHTS = np.zeros(max(Reaction) + 1, np.float32)
REACTION_WEIGHTS[Reaction.CLICK] = ACTION_WEIGHTS[Action.VIEW]
REACTION_WEIGHTS[Reaction.CONVERSION] = 3.0
"""How strongly each reaction to a list speaks for an item. A conversion weighs less than an order:
the order itself comes too."""
TOPICS = SOURCES
REASONS: dict[int, str] = {
    Part.ALSO_VIEWED: "often chosen with {title}",
    Part.TOGETHER: "bought together with {title}",
    Part.TASTE: "close in taste to {title}",
    Part.CONTENT: "similar to {title}",
}
"""What each part says for an item, given the customer's item that it goes by."""


class Recommendations(Outcome):
    """Owes every customer whose event was applied a list, and makes the lists that fall due.

    Parameters
    ----------
    hybrid
        The worker-wide recommender.
    catalog
        Titles for reasons.
    feedback
        Knows what to leave out of a customer's lists.
    maker
        Makes the lists.
    length
        Items in a list.
    """

    name = "recommendations"

    def __init__(
        self,
        hybrid: Hybrid,
        catalog: Catalog,
        feedback: Feedback,
        maker: ListMaker,
        *,
        length: int,
    ) -> None:
        self.row_dtype = np.dtype([("hybrid", hybrid.row_dtype), ("lists", lists.ROW_DTYPE)])
        self._hybrid = hybrid
        self._catalog = catalog
        self._feedback = feedback
        self._maker = maker
        self._length = length
        self._learned = np.zeros(1, np.int64)
        self._learned_sum = Sums({"learned": self._learned})
        self._ids = GrowingTexts()

    @property
    def learned(self) -> int:
        """How many events and lines were learned, restarts included: the model's version."""
        return int(self._learned[0])

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Return the live arrays by name, the recommender's included."""
        return {"learned": self._learned, **self._hybrid.arrays()}

    def load_arrays(self, saved: Mapping[str, NDArray[Any]]) -> None:
        """Copy in what `arrays` returned.

        Raises
        ------
        StateMismatchError
            Where it does not fit; nothing is changed then.
        """
        own = {"learned": self._learned}
        self._hybrid.load_arrays({k: array for k, array in saved.items() if k not in own})
        load_into(own, {k: array for k, array in saved.items() if k in own})
        self._learned_sum.reset()
        self._ids.clear()
        self._maker.reset_items()

    def take_delta(self) -> dict[str, NDArray[Any]]:
        """Return what this worker learned since the last time; empty where nothing.

        Returns
        -------
        The recommender's delta, and by how much ``learned`` has grown: int64[1].
        """
        delta = self._hybrid.take_delta()
        grown = self._learned_sum.take()
        return {"learned": np.zeros(1, np.int64)} | delta | grown if delta or grown else {}

    def apply_delta(self, delta: Mapping[str, NDArray[Any]]) -> None:
        """Add what another worker learned.

        Raises
        ------
        StateMismatchError
            Where it does not fit; nothing is changed then.
        """
        if not delta:
            return
        own = {k: array for k, array in delta.items() if k == "learned"}
        grown = require_delta(self.name, own, self._learned_sum.expected())
        require_within(self.name, grown, "learned", 0)
        self._hybrid.apply_delta({k: array for k, array in delta.items() if k not in own})
        self._learned_sum.apply(grown)

    def on_clicks(self, batch: Batch[ClickColumns]) -> list[OutputRecord]:
        """Learn from what was looked at."""
        self._learn(batch, ACTION_WEIGHTS[batch.columns.actions])
        self._owe(batch)
        return NOTHING

    def on_feedback(self, batch: Batch[FeedbackColumns]) -> list[OutputRecord]:
        """Learn from clicks and conversions; owe a list for every reaction to an item.

        An impression owes none: it is what a list leads to, and would lead to the next one.
        """
        about = batch.columns.about_items()
        reactions = about[batch.columns.outcomes[about] != Reaction.IMPRESSION]
        if not len(reactions):
            return NOTHING
        columns = select(batch.columns, reactions)
        batch = replace(batch, columns=columns, slots=batch.slots[reactions])
        self._learn(batch, REACTION_WEIGHTS[columns.outcomes])
        self._owe(batch)
        return NOTHING

    def _learn(
        self, batch: Batch[ClickColumns] | Batch[FeedbackColumns], weights: NDArray[np.float32]
    ) -> None:
        """Learn events whose weight is above 0; each of them names an item."""
        columns = batch.columns
        named = np.flatnonzero(weights > 0)
        item_ids: Sequence[str | None] = columns.item_ids
        if len(named) == len(weights):
            items = [str(item) for item in item_ids]
        else:
            items = [str(item_ids[i]) for i in named.tolist()]
        self._hybrid.learn_many(
            batch.rows[self.name]["hybrid"],
            batch.slots[named],
            items,
            weights[named],
            columns.ts_ms[named],
            columns.event_keys[named],
            groups=None,
            bought=False,
        )
        self._learned += len(named)

    def on_purchases(self, batch: Batch[PurchaseColumns]) -> list[OutputRecord]:
        """Learn from what was bought; a whole order is predicted before any line is learned."""
        columns = batch.columns
        self._hybrid.learn_many(
            batch.rows[self.name]["hybrid"],
            batch.slots[columns.line_event],
            columns.line_items,
            np.full(len(columns.line_items), PURCHASE_WEIGHT, np.float32),
            columns.ts_ms[columns.line_event],
            columns.event_keys[columns.line_event],
            groups=columns.line_event,
            bought=True,
        )
        self._learned += len(columns.line_items)
        self._owe(batch)
        return NOTHING

    def on_chats(self, batch: Batch[ChatColumns]) -> list[OutputRecord]:
        """Owe a list to whoever wrote."""
        self._owe(batch)
        return NOTHING

    def on_customers(self, batch: Batch[CustomerColumns]) -> list[OutputRecord]:
        """Owe a list to those whose consent is not that under which their last one was made."""
        marks = batch.rows[self.name]["lists"]
        changed = np.flatnonzero(marks["refusals"][batch.slots] != batch.columns.refusals)
        self._mark(batch, changed, b"")
        return NOTHING

    def _owe(self, batch: Batch[Any]) -> None:
        """Mark the rows; where a customer has several events, the last one triggers the list."""
        event_ids = [_short(event_id) for event_id in batch.columns.event_ids]
        marked = np.arange(len(batch.slots))
        self._mark(batch, marked, np.array(event_ids, lists.ROW_DTYPE["trigger_event"]))

    def _mark(self, batch: Batch[Any], positions: NDArray[np.int64], event_ids: Any) -> None:
        owed, slots = batch.rows[self.name]["lists"], batch.slots[positions]
        owed["owed"][slots] = 1
        owed["trigger_topic"][slots] = TOPICS.index(batch.topic)
        owed["trigger_offset"][slots] = batch.columns.offsets[positions]
        owed["trigger_ms"][slots] = batch.columns.timestamps_ms[positions]
        owed["trigger_event"][slots] = event_ids

    def lists_for(
        self,
        rows: NDArray[np.void],
        slots: NDArray[np.int64],
        customers: Sequence[str],
        *,
        partition: int,
        ts_ms: int,
        as_of_ms: int,
        wide: bool = True,
    ) -> list[OutputRecord]:
        """Make the lists of these customers from the state as it is now.

        A list equal to the last one sent to the customer, rules included, is not made again. A
        customer who refuses recommendations is sent one empty list, in the place of the last one.

        Parameters
        ----------
        rows, slots, customers
            The partition's rows, which of them (int64, each once), and their ids.
        partition
            The source partition's number.
        ts_ms
            Time of the lists, ms.
        as_of_ms
            Event time of the lists, ms.
        wide
            Whether the lists are looked for among all candidates, or among fewer.
        """
        marks = rows[self.name]["lists"]
        left_out = self._feedback.excluded_many(rows, slots, as_of_ms)
        made = self._maker.make_many(
            rows,
            slots,
            customers,
            n=self._length,
            ts_ms=ts_ms,
            as_of_ms=as_of_ms,
            excluded=self._hybrid.vocabulary.indices_of_keys(left_out),
            wide=wide,
        )
        hashes = _hash_lists(
            made.ranked.items,
            self._hybrid.vocabulary.keys,
            made.rules,
            made.acted,
            self._maker.rule_keys,
        )
        changed = np.flatnonzero(hashes != marks["list_hash"][slots])
        marks["list_hash"][slots] = hashes
        marks["refusals"][slots] = rows["profile"]["refusals"][slots]
        triggers = _triggers(marks[slots[changed]], partition)
        made = made.of(changed)
        version = self.learned
        return [
            OutputRecord(
                "recommendations",
                customers[i],
                {
                    "recommendation_id": (
                        f"recommendation-{trigger['topic']}-{partition}-{trigger['offset']}"
                    ),
                    "customer_id": customers[i],
                    "ts": ts_ms,
                    "trigger": trigger,
                    "items": array,
                    "strategy": "hybrid",
                    "model_version": version,
                    **rules,
                },
                trigger["timestamp"],
            )
            for i, trigger, array, rules in zip(
                changed.tolist(),
                triggers,
                self.items_of(made),
                self._rules_of(made.acted),
                strict=True,
            )
        ]

    def _rules_of(self, acted: NDArray[np.bool_]) -> list[dict[str, list[str]]]:
        """Return the member of each list's record that names the rules that acted on it."""
        ids = self._maker.rule_ids
        members: list[dict[str, list[str]]] = [{} for _ in acted]
        for i in np.flatnonzero(acted.any(axis=1)).tolist():
            members[i] = {"rules": [ids[rule] for rule in np.flatnonzero(acted[i]).tolist()]}
        return members

    def items_of(self, made: MadeLists) -> list[orjson.Fragment]:
        """Write items as the contract has them: id, rank, score, reasons, and rules if any."""
        ranked = made.ranked
        ids = self._hybrid.vocabulary.ids
        if len(self._ids) < len(ids):
            self._ids.extend(ids[len(self._ids) :])
        # The four indices of an entry's rules, read as one number.
        sets, acting = np.unique(made.rules.view(np.int64)[..., 0], return_inverse=True)
        shape = ranked.items.shape
        codes = ranked.causes.astype(np.int64) * (PINNED + 1) + ranked.parts
        codes = codes * len(sets) + acting.reshape(shape)
        distinct, why = np.unique(codes, return_inverse=True)
        rules = [self._names_of(each) for each in sets.view(np.int16).reshape(-1, ENTRY_RULES)]
        told = []
        for code in distinct.tolist():
            reason, which = divmod(code, len(sets))
            cause, part = divmod(reason, PINNED + 1)
            told.append((self._reason(part, cause), rules[which]))
        arrays = write_items(
            ranked.items, ranked.scores, self._ids.texts, why.reshape(shape), pack_reasons(told)
        )
        return [orjson.Fragment(array) for array in arrays]

    def _names_of(self, rules: NDArray[np.int16]) -> list[str]:
        ids = self._maker.rule_ids
        return [ids[rule] for rule in rules.tolist() if rule >= 0]

    def _reason(self, part: int, cause: int) -> str:
        if part == PINNED:
            return "picked for you"
        if part == Part.DUE:
            return f"due again: you take it about every {cause} days"
        if part == Part.OWN:
            return "you chose it before"
        if part == Part.POPULAR or cause < 0:
            return "popular now"
        title = self._catalog.title(self._hybrid.vocabulary.ids[cause])
        return REASONS[part].format(title=title)


def _triggers(marks: NDArray[np.void], partition: int) -> list[dict[str, Any]]:
    """Return what the rows' marks say of the events that lists are owed for."""
    columns = (marks[f"trigger_{field}"] for field in ("topic", "offset", "event", "ms"))
    return [
        {
            "topic": TOPICS[topic],
            "partition": partition,
            "offset": offset,
            "event_id": event_id.decode() or None,
            "timestamp": timestamp_ms,
        }
        for topic, offset, event_id, timestamp_ms in zip(
            *(column.tolist() for column in columns), strict=True
        )
    ]


def _short(event_id: str) -> bytes:
    """Return the id as stored in the row; empty where it is too long to be kept whole."""
    encoded = event_id.encode()
    return encoded if len(encoded) <= lists.EVENT_ID_BYTES else b""


@kernel
def _hash_lists(
    items: NDArray[np.int32],
    keys: NDArray[np.uint64],
    rules: NDArray[np.int16],
    acted: NDArray[np.bool_],
    rule_keys: NDArray[np.uint64],
) -> NDArray[np.uint64]:  # pragma: no cover - compiled
    """Hash each list to 64 bits: its items' keys in their order, -1 too, and its rules."""
    hashes = np.empty(len(items), np.uint64)
    for i in range(len(items)):
        value = FNV_OFFSET
        for k in range(items.shape[1]):
            item = items[i, k]
            key = keys[item] if item >= 0 else np.uint64(0)
            value = avalanche((value ^ key) * FNV_PRIME)
            for rule in rules[i, k]:
                if rule >= 0:
                    value = avalanche((value ^ rule_keys[rule]) * FNV_PRIME)
        for rule in range(acted.shape[1]):
            if acted[i, rule]:
                value = avalanche((value ^ rule_keys[rule]) * FNV_PRIME)
        hashes[i] = value
    return hashes
