"""What river has beside the churn model: a tree to compare it with, and a test for drift."""

from collections.abc import Sequence
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from river.drift import ADWIN
from river.tree import HoeffdingAdaptiveTreeClassifier

TREE_MEGABYTES = 4.0


class RiverRival:
    """A Hoeffding adaptive tree and ADWIN; neither can be saved, so both start over with a process.

    Parameters
    ----------
    feature_names
        One name for each feature.
    most_at_once
        Examples the tree is taught at a time, at least 0, about 50 µs each.
    seed
        Of the tree.

    References
    ----------
    - A. Bifet, R. Gavaldà, Learning from time-changing data with adaptive windowing, SDM 2007.
    - A. Bifet, R. Gavaldà, Adaptive learning from evolving data streams, IDA 2009 (the tree).
    """

    def __init__(self, feature_names: Sequence[str], most_at_once: int, seed: int) -> None:
        self.feature_names = feature_names
        self.most_at_once = most_at_once
        self.seed = seed
        self.start()

    def start(self) -> None:
        """Forget everything."""
        # river types neither their methods nor ADWIN's constructor.
        self.tree: Any = HoeffdingAdaptiveTreeClassifier(seed=self.seed, max_size=TREE_MEGABYTES)
        self.adwin: Any = cast(Any, ADWIN)()

    def choose(self, positions: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return at most `most_at_once` of these, evenly spread, so that no group is left out."""
        step = max(1, -(-len(positions) // max(1, self.most_at_once)))
        return positions[::step][: self.most_at_once]

    def teach(self, features: NDArray[np.float32], labels: NDArray[np.int8]) -> NDArray[np.float32]:
        """Ask the tree about each example, then show it the label."""
        said = np.empty(len(labels), np.float32)
        rows, truths = features.tolist(), labels.tolist()
        for i, (row, truth) in enumerate(zip(rows, truths, strict=True)):
            example = dict(zip(self.feature_names, row, strict=True))
            odds = self.tree.predict_proba_one(example)
            said[i] = odds.get(1, 0.0) if odds else 0.5
            self.tree.learn_one(example, truth)
        return said

    def watch(self, errors: NDArray[np.floating]) -> bool:
        """Feed ADWIN; a change counts as drift where the error rose."""
        drifted = False
        for error in errors.tolist():
            before = self.adwin.estimation
            self.adwin.update(error)
            drifted |= self.adwin.drift_detected and self.adwin.estimation > before
        return drifted
