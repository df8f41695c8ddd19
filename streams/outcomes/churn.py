"""Who is about to leave, and why."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from operators.churn import ChurnModel
from streams.batches import Batch, OutputRecord, Sweep
from streams.outcomes.base import NOTHING, Outcome
from streams.outcomes.profile import DAY_MS, FEATURES

CRITICAL_PROBABILITY = 0.9
RECENCY = FEATURES.index("recency_days")

ACTIONS = {
    "recency_days": "win back with an offer on their favourite category",
    "promotion_share": "offer a personal discount",
    "chats": "have a person call them",
}
DEFAULT_ACTION = "send a personal message with new items they may like"


class Churn(Outcome):
    """Predicts at every sweep who will not come back within the horizon; alerts on crossings.

    The labels come from the stream itself: see ``operators/churn.py``.
    """

    name = "churn"

    def __init__(self, model: ChurnModel) -> None:
        self.row_dtype = model.row_dtype
        self._model = model

    def on_clicks(self, batch: Batch[Any]) -> list[OutputRecord]:
        """Note that these customers came back."""
        return self._mark_active(batch)

    def on_purchases(self, batch: Batch[Any]) -> list[OutputRecord]:
        """Note that these customers came back."""
        return self._mark_active(batch)

    def on_chats(self, batch: Batch[Any]) -> list[OutputRecord]:
        """Note that these customers came back."""
        return self._mark_active(batch)

    def _mark_active(self, batch: Batch[Any]) -> list[OutputRecord]:
        self._model.mark_active(batch.rows["churn"], batch.slots, batch.columns.ts_ms)
        return NOTHING

    def on_sweep(self, sweep: Sweep) -> list[OutputRecord]:
        """Settle labels, learn, predict and alert."""
        result = self._model.sweep_many(
            sweep.rows["churn"],
            sweep.slots,
            sweep.features,
            sweep.rows["profile"]["last_seen_ts"][sweep.slots],
            sweep.as_of_ms,
        )
        if not len(result.alerts):
            return NOTHING
        drivers = self._model.drivers_many(sweep.features[result.alerts])
        return [
            self._alert(sweep, position, float(result.probabilities[position]), why)
            for position, why in zip(result.alerts.tolist(), drivers, strict=True)
        ]

    @staticmethod
    def _alert(
        sweep: Sweep, position: int, probability: float, drivers: list[tuple[str, float, float]]
    ) -> OutputRecord:
        customer_id = sweep.customers[position]
        record = {
            "alert_id": f"churn_risk-{customer_id}-{sweep.boundary_ms // DAY_MS}",
            "customer_id": customer_id,
            "ts": sweep.as_of_ms,
            "kind": "churn_risk",
            "severity": "critical" if probability >= CRITICAL_PROBABILITY else "warning",
            "score": round(probability, 4),
            "drivers": _as_json(drivers),
            "suggested_action": ACTIONS.get(drivers[0][0], DEFAULT_ACTION)
            if drivers
            else DEFAULT_ACTION,
            "trigger": {"sweep_ts": sweep.boundary_ms, "partition": sweep.partition},
        }
        return OutputRecord("alerts", customer_id, record)

    def describe(self, row: NDArray[np.void], features: NDArray[np.float32]) -> dict[str, Any]:
        """Return the probability of churn with its drivers, or null before any label.

        Whoever stayed away for the whole horizon has churned; the model is not asked about them.
        """
        del row
        recency_days = float(features[RECENCY])
        if recency_days >= self._model.horizon_ms / DAY_MS:
            gone = [("recency_days", recency_days, 1.0)]
            return {"churn": {"probability": 1.0, "drivers": _as_json(gone)}}
        if not self._model.ready:
            return {"churn": None}
        one = features[np.newaxis, :]
        return {
            "churn": {
                "probability": round(float(self._model.predict_proba_many(one)[0]), 4),
                "drivers": _as_json(self._model.drivers_many(one)[0]),
            }
        }


def _as_json(drivers: list[tuple[str, float, float]]) -> list[dict[str, Any]]:
    return [
        {"feature": name, "value": round(float(value), 4), "contribution": round(float(part), 4)}
        for name, value, part in drivers
    ]
