"""Which segment a customer is in, and the record when that changes."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from operators.kmeans import StreamingKMeans
from streams.batches import Batch, OutputRecord, Sweep
from streams.outcomes.base import NOTHING, Outcome
from streams.outcomes.profile import FEATURES, features_many

ROW_DTYPE = np.dtype([("label", "i2"), ("distance", "f4")], align=True)
"""``label`` is the segment plus one; 0 means none yet."""

STAY = 0.9
"""A customer moves only where the new centroid is nearer by a tenth: no flapping at borders."""

BARELY = 0.1
"""Below this mean of log(1 + orders) hardly anybody in a segment buys."""

MOSTLY = 0.6
"""Above this share of orders with a promotion a segment lives on promotions."""

RECENCY, ORDERS, SPEND, PROMOTIONS = (
    FEATURES.index(name) for name in ("recency_days", "orders", "spend", "promotion_share")
)


class Segments(Outcome):
    """Assigns customers to the centroids of one worker-wide streaming k-means.

    A customer is assigned when first seen, at every order, and at every sweep, which also moves
    the centroids. A click alone says too little to move anybody.
    """

    name = "segments"

    def __init__(self, kmeans: StreamingKMeans) -> None:
        self.row_dtype = ROW_DTYPE
        self._kmeans = kmeans

    def on_clicks(self, batch: Batch[Any]) -> list[OutputRecord]:
        """Assign those of these customers who are in no segment yet."""
        new = np.flatnonzero(batch.rows["segments"]["label"][batch.slots] == 0)
        return self._touch(batch, new) if len(new) else NOTHING

    def on_purchases(self, batch: Batch[Any]) -> list[OutputRecord]:
        """Re-assign the customers of these orders."""
        return self._touch(batch, np.arange(len(batch.slots)))

    def _touch(self, batch: Batch[Any], positions: NDArray[np.int64]) -> list[OutputRecord]:
        # The last event of each customer stands for all of theirs in this batch.
        slots, last = np.unique(batch.slots[positions][::-1], return_index=True)
        positions = positions[len(positions) - 1 - last]
        as_of_ms = int(batch.columns.ts_ms.max())
        features = features_many(batch.rows, slots, as_of_ms)
        changed, previous, distances = self._assign(batch.rows, slots, features)
        self._kmeans.learn_many(features)
        columns = batch.columns
        return self._records(
            [columns.customers[positions[i]] for i in changed.tolist()],
            columns.ts_ms[positions[changed]].tolist(),
            batch.rows["segments"]["label"][slots[changed]],
            previous,
            distances[changed],
            features[changed],
            columns.timestamps_ms[positions[changed]].tolist(),
        )

    def on_sweep(self, sweep: Sweep) -> list[OutputRecord]:
        """Move the centroids by the partition's current profiles, then re-assign everybody.

        The centroids follow the rows in memory; customers whose rows were on disk are assigned.
        """
        if not sweep.is_late:
            self._kmeans.sweep_many(sweep.features, sweep.partition)
        changed, previous, distances = self._assign(sweep.rows, sweep.slots, sweep.features)
        count = len(changed)
        return self._records(
            [sweep.customers[i] for i in changed.tolist()],
            [sweep.as_of_ms] * count,
            sweep.rows["segments"]["label"][sweep.slots[changed]],
            previous,
            distances[changed],
            sweep.features[changed],
            [0] * count,
        )

    def _assign(
        self,
        rows: NDArray[np.void],
        slots: NDArray[np.int64],
        features: NDArray[np.float32],
    ) -> tuple[NDArray[np.int64], NDArray[np.int16], NDArray[np.float32]]:
        """Write labels and distances; return who changed, from what, and all distances."""
        columns = rows["segments"]
        before = columns["label"][slots]
        labels, distances = self._kmeans.predict_many(features, before - 1, STAY)
        columns["label"][slots] = labels + 1
        columns["distance"][slots] = distances
        changed = np.flatnonzero(labels + 1 != before)
        return changed, before[changed], distances

    def _records(
        self,
        customers: list[str],
        ts_ms: list[int],
        labels: NDArray[np.int16],
        previous: NDArray[np.int16],
        distances: NDArray[np.float32],
        features: NDArray[np.float32],
        caused_ms: list[int],
    ) -> list[OutputRecord]:
        """Write who moved: one entry of each argument per customer."""
        if not customers:
            return NOTHING
        names = [None, *self.names()]
        rows = zip(
            customers,
            ts_ms,
            labels.tolist(),
            previous.tolist(),
            np.round(distances.astype(np.float64), 4).tolist(),
            np.round(features.astype(np.float64), 4).tolist(),
            caused_ms,
            strict=True,
        )
        return [
            OutputRecord(
                "segments",
                customer_id,
                {
                    "customer_id": customer_id,
                    "ts": ts,
                    "segment": names[label],
                    "previous": names[was],
                    "distance": distance,
                    "features": dict(zip(FEATURES, values, strict=True)),
                },
                caused,
            )
            for customer_id, ts, label, was, distance, values, caused in rows
        ]

    def names(self) -> list[str]:
        """Name each segment after what sets its centroid apart from the others.

        Of several that deserve one name, the one that spends most has it; the others are numbered.
        """
        centroids = self._kmeans.centroids()
        names = [""] * len(centroids)
        times: dict[str, int] = {}
        value = _value_tiers(centroids)
        recent = np.sort(centroids[:, RECENCY])[len(centroids) // 2]
        for i in np.argsort(-centroids[:, SPEND], kind="stable").tolist():
            name = _name(centroids[i], value[i], is_recent=bool(centroids[i, RECENCY] <= recent))
            times[name] = times.get(name, 0) + 1
            names[i] = name if times[name] == 1 else f"{name}-{times[name]}"
        return names

    def describe(self, row: NDArray[np.void], features: NDArray[np.float32]) -> dict[str, Any]:
        """Return the customer's segment, or null before there are segments."""
        del features
        label = int(row["segments"]["label"]) - 1
        if label < 0:
            return {"segment": None}
        distance = round(float(row["segments"]["distance"]), 4)
        return {"segment": {"name": self.names()[label], "distance": distance}}


def _value_tiers(centroids: NDArray[np.float64]) -> list[int]:
    """Sort centroids into thirds by what their customers spend: 2 is the top third."""
    order = np.argsort(np.argsort(centroids[:, SPEND], kind="stable"), kind="stable")
    tiers: list[int] = (3 * order // len(centroids)).tolist()
    return tiers


NAMES = {
    (2, True): "champions",
    (2, False): "at-risk",
    (1, True): "loyal",
    (1, False): "slipping",
    (0, True): "newcomers",
    (0, False): "lapsed-buyers",
}
"""Names of buyers by third of spending and whether they were active lately."""


def _name(centroid: NDArray[np.float64], value: int, *, is_recent: bool) -> str:
    if centroid[ORDERS] <= BARELY:
        return "window-shoppers" if is_recent else "lapsed-visitors"
    if centroid[PROMOTIONS] > MOSTLY:
        return "bargain-hunters"
    return NAMES[value, is_recent]
