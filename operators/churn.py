"""Who is about to leave: an online churn model with delayed labels and calm alerts."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from river.drift import ADWIN
from river.tree import HoeffdingAdaptiveTreeClassifier

from operators.arrays import load_into, with_prefix
from operators.delayed_labels import DelayedLabels, SettledSamples
from operators.errors import ParameterError, require_finite
from operators.logistic import BayesianLogistic
from operators.prequential import NOT_ASKED, PrequentialWindow
from operators.scaler import OnlineScaler

DAY_MS = 86_400_000
# Standard deviations; beyond, a feature says no more.
CLIP = 4.0
TREE_MEGABYTES = 4.0

LOGISTIC = "logistic"
LOGISTIC_AT_SETTLEMENT = "logistic_at_settlement"
TREE = "hoeffding_adaptive_tree"


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


class ChurnModel:
    """Predict who will not return within a horizon, learn from who did not, and warn.

    A sweep passes over customers at some moment of event time and, in this order,

    1. settles the samples whose horizon has passed (see `DelayedLabels`), compares each label
       with the probability given at sampling, and only then learns it;
    2. predicts everyone: `BayesianLogistic` on features standardised online;
    3. samples customers who are still alive (active within the horizon) and were not sampled
       lately;
    4. decides alerts. A customer is warned about on reaching `alert_threshold`, and again only
       after having fallen below `release_threshold` and `cooldown_days` after the last alert;
       a rise within the cool-down is warned about when it ends, if it lasts. Nobody is warned
       about who is no longer alive, or before `min_labels` of each label were learned.

    All of it depends on event time and state alone.

    A river Hoeffding adaptive tree learns up to `rival_per_sweep` of each sweep's settled
    examples as a rival; `quality` reports both, the tree decides nothing. ADWIN watches the
    error. River's objects are not saved: after `load_arrays` they learn the window of recent
    examples again, so they equal what they were only while nothing had left the window.

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
        if not (horizon_days > 0 and sample_every_days > 0 and cooldown_days >= 0):
            raise ParameterError("horizon and sampling must be above 0 days, cool-down at least 0")
        if not 0 < release_threshold <= alert_threshold < 1:
            raise ParameterError("thresholds must have 0 < release <= alert < 1")
        if pending < 1:
            raise ParameterError(f"pending must be at least 1, not {pending}")
        if min_labels < 1 or rival_per_sweep < 0:
            raise ParameterError("min_labels must be at least 1, rival_per_sweep at least 0")
        self.feature_names = tuple(feature_names)
        self.horizon_ms = round(horizon_days * DAY_MS)
        # Were samples taken faster than the ring drains, they would come in bursts.
        spacing_days = max(sample_every_days, horizon_days / pending)
        self.sample_every_ms = round(spacing_days * DAY_MS)
        self.cooldown_ms = round(cooldown_days * DAY_MS)
        self.alert_threshold = alert_threshold
        self.release_threshold = release_threshold
        self.min_labels = min_labels
        self.rival_per_sweep = rival_per_sweep
        self.seed = seed
        self.labels = DelayedLabels(n_features, pending, self.horizon_ms)
        self.scaler = OnlineScaler(n_features, clip=CLIP)
        self.logistic = BayesianLogistic(n_features, prior_precision, forgetting=forgetting)
        models = (LOGISTIC, LOGISTIC_AT_SETTLEMENT, TREE)
        self.window = PrequentialWindow(window, n_features, models)
        self.label_counts = np.zeros(2, np.int64)
        self.drift_counts = np.zeros(1, np.int64)
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
        self._start_river()

    @property
    def ready(self) -> bool:
        """Whether `min_labels` of each label were learned."""
        return bool(self.label_counts.min() >= self.min_labels)

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
        drift_detected = self._test_then_learn(settled)
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
        alerts = self._decide_alerts(columns, slots, probabilities, alive, as_of_ms)
        return ChurnSweep(len(settled.labels), sampled, probabilities, alerts, drift_detected)

    def predict_proba_many(self, features: NDArray[np.floating]) -> NDArray[np.float32]:
        """Return the probability of not returning within the horizon.

        Parameters
        ----------
        features
            Shape (n, n_features).

        Returns
        -------
        float32 of shape (n,); 0.5 before anything is learned.
        """
        scaled = self.scaler.transform_many(features)
        return self.logistic.predict_proba_many(scaled).astype(np.float32)

    def drivers_many(
        self, features: NDArray[np.floating], top: int = 3
    ) -> list[list[tuple[str, float, float]]]:
        """Return what raises each customer's risk most.

        Returns
        -------
        For each row up to `top` triples of feature name, value as given, and contribution to
        the log-odds of churn (above 0, against a customer with average features), largest
        first.
        """
        scaled = self.scaler.transform_many(features)
        shares = self.logistic.contributions_many(scaled)[:, :-1]
        order = np.argsort(-shares, axis=1, kind="stable")[:, :top]
        return [
            [
                (self.feature_names[j], float(features[row, j]), float(shares[row, j]))
                for j in order[row]
                if shares[row, j] > 0
            ]
            for row in range(len(features))
        ]

    def quality(self) -> dict[str, dict[str, float]]:
        """Return prequential quality over the window, by model.

        Returns
        -------
        ``logistic`` is judged by what it said when samples were taken, a horizon before their
        label. The tree is asked just before it learns an example; beside it stands what the
        logistic says at that moment of the same examples (``logistic_at_settlement``).
        """
        return {
            LOGISTIC: self.window.quality(LOGISTIC),
            LOGISTIC_AT_SETTLEMENT: self.window.quality(LOGISTIC_AT_SETTLEMENT, alongside=TREE),
            TREE: self.window.quality(TREE),
        }

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Return the live arrays by name; the columns of customers are not among them."""
        return {
            "label_counts": self.label_counts,
            "drift_counts": self.drift_counts,
            **with_prefix("scaler", self.scaler.arrays()),
            **with_prefix("logistic", self.logistic.arrays()),
            **with_prefix("window", self.window.arrays()),
        }

    def load_arrays(self, saved: Mapping[str, NDArray[Any]]) -> None:
        """Copy saved arrays in; the tree and ADWIN learn the window of examples again.

        Raises
        ------
        StateMismatchError
            Where they do not fit; nothing is loaded then.
        """
        load_into(self.arrays(), saved)
        self._start_river()
        order = self.window.in_order()
        labels = self.window.labels[order]
        said = self.window.probabilities[order]
        learned = said[:, self.window.models.index(TREE)] != NOT_ASKED
        self._teach_tree(self.window.features[order][learned], labels[learned])
        self._watch_errors(np.abs(labels - said[:, 0]))

    def _start_river(self) -> None:
        # river types neither their methods nor ADWIN's constructor.
        self.tree: Any = HoeffdingAdaptiveTreeClassifier(seed=self.seed, max_size=TREE_MEGABYTES)
        self.adwin: Any = cast(Any, ADWIN)()

    def _test_then_learn(self, settled: SettledSamples) -> bool:
        count = len(settled.labels)
        if not count:
            return False
        scaled = self.scaler.transform_many(settled.features)
        said = np.full((count, 3), NOT_ASKED, np.float32)
        said[:, 0] = settled.probabilities
        said[:, 1] = self.logistic.predict_proba_many(scaled)
        # Evenly spread over the sweep, so that no group of customers is left out.
        chosen = np.arange(0, count, max(1, -(-count // max(1, self.rival_per_sweep))))
        chosen = chosen[: self.rival_per_sweep]
        said[chosen, 2] = self._teach_tree(settled.features[chosen], settled.labels[chosen])
        self.window.add_many(settled.features, settled.labels, said)
        self.logistic.learn_many(scaled, settled.labels)
        self.label_counts += np.bincount(settled.labels, minlength=2)
        drift_detected = self._watch_errors(np.abs(settled.labels - settled.probabilities))
        self.drift_counts += drift_detected
        return drift_detected

    def _teach_tree(
        self, features: NDArray[np.float32], labels: NDArray[np.int8]
    ) -> NDArray[np.float32]:
        """Ask the tree about each example, then show it the label."""
        said = np.empty(len(labels), np.float32)
        rows, truths = features.tolist(), labels.tolist()
        for i, (row, truth) in enumerate(zip(rows, truths, strict=True)):
            example = dict(zip(self.feature_names, row, strict=True))
            odds = self.tree.predict_proba_one(example)
            said[i] = odds.get(1, 0.0) if odds else 0.5
            self.tree.learn_one(example, truth)
        return said

    def _watch_errors(self, errors: NDArray[np.floating]) -> bool:
        """Feed ADWIN; a change counts as drift where the error rose."""
        drifted = False
        for error in errors.tolist():
            before = self.adwin.estimation
            self.adwin.update(error)
            drifted |= self.adwin.drift_detected and self.adwin.estimation > before
        return drifted

    def _decide_alerts(
        self,
        columns: NDArray[np.void],
        slots: NDArray[np.int64],
        probabilities: NDArray[np.float32],
        alive: NDArray[np.bool_],
        as_of_ms: int,
    ) -> NDArray[np.int64]:
        above = columns["above"][slots]
        last_alert = columns["last_alert_ts_ms"][slots]
        above &= probabilities >= self.release_threshold
        rested = (last_alert == 0) | (as_of_ms - last_alert >= self.cooldown_ms)
        warn = ~above & alive & rested & (probabilities >= self.alert_threshold)
        warn &= self.ready
        columns["above"][slots] = above | warn
        columns["last_alert_ts_ms"][slots[warn]] = as_of_ms
        return np.flatnonzero(warn)
