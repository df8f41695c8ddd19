"""What replicas of a churn model share: everything learned from customers, but no customer."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from operators.arrays import load_into, with_prefix
from operators.churn_rival import RiverRival
from operators.delayed_labels import SettledSamples
from operators.deltas import Sums, part_of, require_delta, require_within
from operators.errors import ParameterError, StateMismatchError
from operators.logistic import BayesianLogistic
from operators.prequential import NOT_ASKED, PrequentialWindow
from operators.scaler import OnlineScaler

# Standard deviations; beyond, a feature says no more.
CLIP = 4.0

LOGISTIC = "logistic"
LOGISTIC_AT_SETTLEMENT = "logistic_at_settlement"
TREE = "hoeffding_adaptive_tree"


class ChurnLearner:
    """Learn from settled samples who does not return; tell other replicas, and hear from them.

    A river Hoeffding adaptive tree learns up to `rival_per_sweep` of each sweep's settled
    examples as a rival; `quality` reports both, the tree decides nothing. ADWIN watches the
    error. River's objects are not saved: after `load_arrays` they learn the window of recent
    examples again, so they equal what they were only while nothing had left the window.

    Replicas with different customers add up scalers, logistics (see there) and counts of labels.
    They also send each other their settled examples with what was said of them, the last `window`
    of a delta. These join the windows, so that `quality`, tree and ADWIN look at everybody; the
    tree learns as many of a delta as of a sweep. Each replica finds, and counts, drift for itself.

    Parameters
    ----------
    feature_names, min_labels, prior_precision, forgetting, window, rival_per_sweep, seed
        See `operators.churn.ChurnModel`.

    Attributes
    ----------
    ready : bool
        Whether `min_labels` of each label were learned.
    """

    def __init__(
        self,
        feature_names: Sequence[str],
        min_labels: int,
        prior_precision: float,
        forgetting: float,
        window: int,
        rival_per_sweep: int,
        seed: int,
    ) -> None:
        if min_labels < 1 or rival_per_sweep < 0:
            raise ParameterError("min_labels must be at least 1, rival_per_sweep at least 0")
        n_features = len(feature_names)
        self.feature_names = tuple(feature_names)
        self.min_labels = min_labels
        self.rival = RiverRival(self.feature_names, rival_per_sweep, seed)
        self.scaler = OnlineScaler(n_features, clip=CLIP)
        self.logistic = BayesianLogistic(n_features, prior_precision, forgetting=forgetting)
        models = (LOGISTIC, LOGISTIC_AT_SETTLEMENT, TREE)
        self.window = PrequentialWindow(window, n_features, models)
        self.label_counts = np.zeros(2, np.int64)
        self.drift_counts = np.zeros(1, np.int64)
        self._counts = Sums({"label_counts": self.label_counts})
        self._parts: dict[str, OnlineScaler | BayesianLogistic | PrequentialWindow] = {
            "scaler": self.scaler,
            "logistic": self.logistic,
            "window": self.window,
        }

    @property
    def ready(self) -> bool:
        """Whether `min_labels` of each label were learned."""
        return bool(self.label_counts.min() >= self.min_labels)

    def test_then_learn(self, settled: SettledSamples) -> bool:
        """Compare labels with what was said, then learn them; return whether drift was found."""
        count = len(settled.labels)
        if not count:
            return False
        scaled = self.scaler.transform_many(settled.features)
        said = np.full((count, 3), NOT_ASKED, np.float32)
        said[:, 0] = settled.probabilities
        said[:, 1] = self.logistic.predict_proba_many(scaled)
        chosen = self.rival.choose(np.arange(count))
        said[chosen, 2] = self.rival.teach(settled.features[chosen], settled.labels[chosen])
        self.window.add_many(settled.features, settled.labels, said)
        self.logistic.learn_many(scaled, settled.labels)
        self.label_counts += np.bincount(settled.labels, minlength=2)
        drift_detected = self.rival.watch(np.abs(settled.labels - settled.probabilities))
        self.drift_counts += drift_detected
        return drift_detected

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
        # Each part forgets what it has not sent yet.
        for name, part in self._parts.items():
            part.load_arrays(part_of(name, saved))
        self._counts.reset()
        self.rival.start()
        order = self.window.in_order()
        labels = self.window.labels[order]
        said = self.window.probabilities[order]
        learned = said[:, 2] != NOT_ASKED
        self.rival.teach(self.window.features[order][learned], labels[learned])
        self.rival.watch(np.abs(labels - said[:, 0]))

    def take_delta(self) -> dict[str, NDArray[Any]]:
        """Return what this replica learned since the last time; empty where nothing.

        Returns
        -------
        ``label_counts`` int64[2]; the deltas of the parts as ``scaler.*``, ``logistic.*`` and
        ``window.*``; and in ``held``, bool[3], which of these have something to say.
        """
        parts = {name: part.take_delta() for name, part in self._parts.items()}
        counts = self._counts.take()
        if not (counts or any(parts.values())):
            return {}
        delta = counts or {"label_counts": np.zeros_like(self.label_counts)}
        delta["held"] = np.array([bool(part) for part in parts.values()])
        for name, part in parts.items():
            delta |= with_prefix(name, part)
        return delta

    def apply_delta(self, delta: Mapping[str, NDArray[Any]]) -> None:
        """Add what another replica learned.

        Raises
        ------
        StateMismatchError
            Where names, shapes or dtypes are not those of `take_delta`, or a number is impossible;
            nothing is changed then.
        """
        if not delta:
            return
        given = {name: part_of(name, delta) for name in self._parts}
        of_parts = {f"{name}.{inner}" for name, part in given.items() for inner in part}
        own = require_delta(
            "ChurnModel",
            {name: array for name, array in delta.items() if name not in of_parts},
            {**self._counts.expected(), "held": (np.bool_, (len(self._parts),))},
        )
        require_within("ChurnModel", own, "label_counts", 0)
        if own["held"].tolist() != [bool(part) for part in given.values()]:
            raise StateMismatchError("ChurnModel: a delta lacks a part, or has one too many")
        parts = {n: self._parts[n].check_delta(part) for n, part in given.items() if part}
        self._counts.apply(own)
        if "window" in parts:
            parts["window"] = self._show_rival(parts["window"])
        for name, part in parts.items():
            self._parts[name].add_delta(part)

    def _show_rival(self, examples: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Show tree and ADWIN another replica's examples; return them as this tree learned them."""
        labels, said = examples["labels"], examples["probabilities"].copy()
        asked = said[:, 2] != NOT_ASKED
        taught = self.rival.choose(np.flatnonzero(asked))
        asked[taught] = False
        said[asked, 2] = NOT_ASKED
        self.rival.teach(examples["features"][taught], labels[taught])
        self.drift_counts += self.rival.watch(np.abs(labels - said[:, 0]))
        return {**examples, "probabilities": said}
