"""Who is about to leave: an online churn model with delayed labels and calm alerts."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from operators.churn_alerts import AlertRule
from operators.churn_learner import ChurnLearner
from operators.delayed_labels import DelayedLabels
from operators.errors import ParameterError, require_finite

DAY_MS = 86_400_000


@dataclass(frozen=True)
class ChurnSweep:
    """What one sweep did.

    Attributes
    ----------
    settled, sampled : int
        Labels that became known and were learned; samples newly taken.
    probabilities : float32 of shape (n,)
        Of not returning within the horizon, in the order of `slots`.
    alerts : int64
        Positions into `slots`, ascending: customers to warn about.
    drift_detected : bool
        The model's error rose during this sweep, by ADWIN's test.
    """

    settled: int
    sampled: int
    probabilities: NDArray[np.float32]
    alerts: NDArray[np.int64]
    drift_detected: bool


class ChurnModel(ChurnLearner):
    """Predict who will not return within a horizon, learn from who did not, and warn.

    A sweep passes over customers at some moment of event time and, in this order,

    1. settles the samples whose horizon has passed (see `DelayedLabels`), compares each label
       with the probability given at sampling, and only then learns it;
    2. predicts everyone: `BayesianLogistic` on features standardised online;
    3. samples customers who are still alive (active within the horizon) and were not sampled
       lately;
    4. decides alerts (see `AlertRule`). Nobody is warned about who is no longer alive, or before
       `min_labels` of each label were learned.

    All of it depends on event time and state alone.

    All that is learned from customers, and how replicas share it, is `ChurnLearner`'s.

    State of a customer lives in `columns`, a structured array of dtype `row_dtype`; a
    zero-filled element is a new customer. `slots` are distinct positions in it.

    Parameters
    ----------
    n_features
        Width of a row of features, at least 1. Take logarithms of heavy tails first.
    feature_names
        One name for each feature, for drivers.
    horizon_days
        Whoever is not active for so long after a sample has churned, above 0.
    sample_every_days
        Least time between two samples of one customer, above 0; ``horizon_days / pending`` where
        that is longer, since samples taken faster than the ring drains come in bursts.
    pending
        Samples that may wait per customer, at least 1.
    alert_threshold, release_threshold
        Probabilities, ``0 < release <= alert < 1``.
    cooldown_days
        Least time between two alerts about one customer, at least 0.
    min_labels
        Settled examples of each label before the first alert, at least 1.
    prior_precision
        Of the logistic's weights.
    forgetting
        Of the logistic: λ in (0, 1]; 1 forgets nothing.
    window
        Settled examples kept for `quality` and for relearning after a restart, at least 1.
    rival_per_sweep
        Examples the tree learns per sweep at most, about 50 µs each.
    seed
        Of the tree.

    Attributes
    ----------
    row_dtype : numpy.dtype
        The columns of one customer: `labels`, `scored_ts_ms` (0: never) and `probability` of
        the last sweep, `last_alert_ts_ms` (0: never), `above`.
    ready : bool
        Whether `min_labels` of each label were learned.

    Examples
    --------
    >>> model = ChurnModel(n_features=1, feature_names=["recency"], min_labels=1)
    >>> columns = np.zeros(2, model.row_dtype)
    >>> both, day = np.array([0, 1]), 86_400_000
    >>> features = np.array([[0.0], [1.0]], np.float32)
    >>> active = np.array([100, 90]) * day
    >>> sweep = model.sweep_many(columns, both, features, active, as_of_ms=100 * day)
    >>> sweep.sampled, sweep.probabilities.tolist()
    (2, [0.5, 0.5])
    >>> model.mark_active(columns, np.array([0]), np.array([120]) * day)
    >>> model.sweep_many(columns, both, features, active, as_of_ms=190 * day).settled
    2
    >>> low, high = model.predict_proba_many(features)
    >>> bool(low < high)
    True
    """

    def __init__(
        self,
        n_features: int,
        feature_names: Sequence[str],
        horizon_days: float = 90.0,
        sample_every_days: float = 7.0,
        pending: int = 4,
        alert_threshold: float = 0.7,
        release_threshold: float = 0.5,
        cooldown_days: float = 30.0,
        min_labels: int = 50,
        prior_precision: float = 1.0,
        forgetting: float = 1.0,
        window: int = 2000,
        rival_per_sweep: int = 64,
        seed: int = 0,
    ) -> None:
        if len(feature_names) != n_features:
            raise ParameterError(f"{len(feature_names)} names for {n_features} features")
        if not (horizon_days > 0 and sample_every_days > 0):
            raise ParameterError("horizon and sampling must be above 0 days")
        if pending < 1:
            raise ParameterError(f"pending must be at least 1, not {pending}")
        super().__init__(
            feature_names, min_labels, prior_precision, forgetting, window, rival_per_sweep, seed
        )
        self.horizon_ms = round(horizon_days * DAY_MS)
        # Were samples taken faster than the ring drains, they would come in bursts.
        spacing_days = max(sample_every_days, horizon_days / pending)
        self.sample_every_ms = round(spacing_days * DAY_MS)
        cooldown_ms = round(cooldown_days * DAY_MS)
        self.alert_rule = AlertRule(alert_threshold, release_threshold, cooldown_ms)
        self.labels = DelayedLabels(n_features, pending, self.horizon_ms)
        self.row_dtype = np.dtype(
            [
                ("labels", self.labels.row_dtype),
                ("scored_ts_ms", np.int64),
                ("last_alert_ts_ms", np.int64),
                ("probability", np.float32),
                ("above", np.bool_),
            ],
            align=True,
        )

    def mark_active(
        self, columns: NDArray[np.void], slots: NDArray[np.int64], ts_ms: NDArray[np.int64]
    ) -> None:
        """Note events: customer ``slots[i]`` was active at ``ts_ms[i]``; repeats are harmless."""
        self.labels.mark_active(columns["labels"], slots, ts_ms)

    def sweep_many(
        self,
        columns: NDArray[np.void],
        slots: NDArray[np.int64],
        features: NDArray[np.floating],
        last_active_ts_ms: NDArray[np.int64],
        as_of_ms: int,
    ) -> ChurnSweep:
        """Settle, test, learn, predict, sample and warn, as of one moment of event time.

        Parameters
        ----------
        slots
            Distinct positions, int64 of shape (n,).
        features
            What is known of each customer now, shape (n, n_features).
        last_active_ts_ms
            Newest event that `features` know of, int64 of shape (n,). Where it lies after
            `as_of_ms` the sample's horizon starts from there.
        as_of_ms
            The watermark.

        Raises
        ------
        NotFiniteError
            Where `features` hold NaN or infinity; nothing is changed then.
        """
        require_finite("features", features)
        settled = self.labels.settle(columns["labels"], slots, as_of_ms)
        drift_detected = self.test_then_learn(settled)
        probabilities = self.predict_proba_many(features)
        columns["probability"][slots] = probabilities
        columns["scored_ts_ms"][slots] = as_of_ms
        alive = as_of_ms - last_active_ts_ms <= self.horizon_ms
        newest = self.labels.newest_ts_ms(columns["labels"], slots)
        due = alive & (newest <= as_of_ms - self.sample_every_ms)
        sampled = self.labels.add(
            columns["labels"],
            slots[due],
            features[due],
            probabilities[due],
            np.maximum(last_active_ts_ms[due], as_of_ms),
        )
        self.scaler.learn_many(features[due])
        allowed = alive & self.ready
        alerts = self.alert_rule.decide(columns, slots, probabilities, allowed, as_of_ms)
        return ChurnSweep(len(settled.labels), sampled, probabilities, alerts, drift_detected)
