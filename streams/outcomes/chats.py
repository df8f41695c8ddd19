"""What a chat message says: mood, intent, and whether a person should step in."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from operators.intents import Intents
from operators.sentiment import Sentiment
from operators.text_features import TextFeatures
from streams.batches import Batch, OutputRecord, trigger_of
from streams.columns import ChatColumns, Sender
from streams.outcomes.base import Outcome

LABELS = ("negative", "neutral", "positive")
ROW_DTYPE = np.dtype([("messages", "i8"), ("mood", "f4"), ("last", "f4")], align=True)

ESCALATE_BELOW = -0.5
CRITICAL_BELOW = -0.8
MEMORY = 0.7
"""Weight of the past in a customer's mood: the last three messages make up most of it."""


class Chats(Outcome):
    """Reads every message, learns from human labels, escalates what is clearly negative.

    An insight is published for every message; the mood follows only what the customer wrote.
    """

    name = "chats"

    def __init__(self, features: TextFeatures, sentiment: Sentiment, intents: Intents) -> None:
        self.row_dtype = ROW_DTYPE
        self._features = features
        self._sentiment = sentiment
        self._intents = intents

    def on_chats(self, batch: Batch[ChatColumns]) -> list[OutputRecord]:
        """Predict every message, then learn from those that carry a label."""
        columns = batch.columns
        features = self._features.transform_many(columns.texts)
        scores, labels, _ = self._sentiment.predict_many(features)
        intents = self._intents.predict_many(features)
        own = columns.senders == Sender.CUSTOMER
        escalate = own & (scores <= ESCALATE_BELOW)
        outputs: list[OutputRecord] = []
        for i in range(len(columns.texts)):
            outputs.append(
                self._insight(
                    batch, i, float(scores[i]), int(labels[i]), intents[i][0], bool(escalate[i])
                )
            )
            if escalate[i]:
                outputs.append(self._alert(batch, i, float(scores[i])))
        self._remember(batch, own, scores)
        self._learn(columns, features)
        return outputs

    def _learn(self, columns: ChatColumns, features: Any) -> None:
        labelled = np.flatnonzero(~np.isnan(columns.labels))
        if len(labelled):
            self._sentiment.learn_many(features.take(labelled), columns.labels[labelled])
        named = [i for i, intent in enumerate(columns.intents) if intent]
        if named:
            self._intents.learn_many(
                features.take(np.array(named)), [str(columns.intents[i]) for i in named]
            )

    @staticmethod
    def _remember(
        batch: Batch[ChatColumns], own: NDArray[np.bool_], scores: NDArray[np.float32]
    ) -> None:
        columns = batch.rows["chats"]
        for slot, score in zip(batch.slots[own].tolist(), scores[own].tolist(), strict=True):
            first = columns["messages"][slot] == 0
            mood = score if first else MEMORY * columns["mood"][slot] + (1 - MEMORY) * score
            columns["mood"][slot] = mood
            columns["last"][slot] = score
            columns["messages"][slot] += 1

    @staticmethod
    def _insight(
        batch: Batch[ChatColumns],
        i: int,
        score: float,
        label: int,
        intent: str | None,
        urgent: bool,
    ) -> OutputRecord:
        columns = batch.columns
        record = {
            "event_id": columns.event_ids[i],
            "customer_id": columns.customers[i],
            "conversation_id": columns.conversation_ids[i],
            "ts": int(columns.ts_ms[i]),
            "sentiment": round(score, 4),
            "label": LABELS[label],
            "intent": intent,
            "escalate": urgent,
            "reply": None,
        }
        caused_ms = int(columns.timestamps_ms[i])
        return OutputRecord("chat-insights", columns.customers[i], record, caused_ms)

    @staticmethod
    def _alert(batch: Batch[ChatColumns], i: int, score: float) -> OutputRecord:
        columns = batch.columns
        trigger = trigger_of(batch, i)
        record = {
            "alert_id": f"sentiment_escalation-{batch.topic}-{batch.partition}-{trigger['offset']}",
            "customer_id": columns.customers[i],
            "ts": int(columns.ts_ms[i]),
            "kind": "sentiment_escalation",
            "severity": "critical" if score <= CRITICAL_BELOW else "warning",
            "score": round(min(1.0, -score), 4),
            "drivers": [
                {"feature": "sentiment", "value": round(score, 4), "contribution": round(-score, 4)}
            ],
            "suggested_action": "let a person take over this conversation",
            "trigger": trigger,
        }
        caused_ms = int(columns.timestamps_ms[i])
        return OutputRecord("alerts", columns.customers[i], record, caused_ms)

    def describe(self, row: NDArray[np.void], features: NDArray[np.float32]) -> dict[str, Any]:
        """Return the customer's mood, or null where they never wrote."""
        del features
        chats = row["chats"]
        if chats["messages"] == 0:
            return {"sentiment": None}
        return {
            "sentiment": {
                "mood": round(float(chats["mood"]), 4),
                "last": round(float(chats["last"]), 4),
                "messages": int(chats["messages"]),
            }
        }
