"""How often customers react to what they are shown."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from operators.arrays import load_into
from operators.deltas import Sums, require_delta, require_within
from streams.columns import Reaction

RATES = {
    "click_through_rate": Reaction.CLICK,
    "conversion_rate": Reaction.CONVERSION,
    "dismiss_rate": Reaction.DISMISS,
}


class ReactionRates:
    """Reactions per impression, over about the last impressions.

    With ``k = 1 - 1 / looks_back``, an impression first fades all that was counted, then each
    feedback of outcome o counts one:

        ``S ← k · S`` at an impression,  ``S[o] ← S[o] + 1``,  ``rate(o) = S[o] / S[impression]``.

    How feedback is cut into batches makes no difference, but for rounding. Replicas tell each
    other plain counts, which add up whatever the order; those of another are spread evenly over
    its impressions.

    Parameters
    ----------
    looks_back
        Impressions that a rate looks back on, about; at least 1.

    Examples
    --------
    >>> rates = ReactionRates()
    >>> rates.learn_many(np.array([Reaction.IMPRESSION] * 4 + [Reaction.CLICK], np.uint8))
    >>> round(rates.quality()["click_through_rate"], 3)
    0.25
    """

    def __init__(self, looks_back: int = 10_000) -> None:
        self._keep = 1.0 - 1.0 / looks_back
        self._counts = np.zeros(len(Reaction), np.int64)
        self._recent = np.zeros(len(Reaction))
        self._told = Sums({"counts": self._counts})

    def learn_many(self, outcomes: NDArray[np.uint8]) -> None:
        """Count feedback in turn.

        Parameters
        ----------
        outcomes
            uint8 (n,), of `Reaction`.
        """
        shown = outcomes == Reaction.IMPRESSION
        later = np.cumsum(shown[::-1])[::-1] - shown
        counts = np.bincount(outcomes, minlength=len(Reaction))
        self._recent *= self._keep ** int(counts[Reaction.IMPRESSION])
        self._recent += np.bincount(outcomes, self._keep**later, len(Reaction))
        self._counts += counts

    def quality(self) -> dict[str, float]:
        """Return the rates by name; all 0 before the first impression.

        A rate above 1 says that impressions are not reported.
        """
        shown = float(self._recent[Reaction.IMPRESSION])
        return {
            name: float(self._recent[reaction]) / shown if shown else 0.0
            for name, reaction in RATES.items()
        }

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Return the live arrays by name."""
        return {"counts": self._counts, "recent": self._recent}

    def load_arrays(self, saved: Mapping[str, NDArray[Any]]) -> None:
        """Copy in what `arrays` returned.

        Raises
        ------
        StateMismatchError
            Where it does not fit; nothing is changed then.
        """
        load_into(self.arrays(), saved)
        self._told.reset()

    def take_delta(self) -> dict[str, NDArray[Any]]:
        """Return how many of each outcome were counted here since the last time, or nothing.

        Returns
        -------
        ``counts`` int64 (4,), in the order of `Reaction`.
        """
        return self._told.take()

    def apply_delta(self, delta: Mapping[str, NDArray[Any]]) -> None:
        """Add what another worker counted.

        Raises
        ------
        StateMismatchError
            Where it does not fit; nothing is changed then.
        """
        if not delta:
            return
        checked = require_delta("feedback", delta, self._told.expected())
        require_within("feedback", checked, "counts", 0)
        self._told.apply(checked)
        shown = int(checked["counts"][Reaction.IMPRESSION])
        kept = self._keep**shown
        weight = (1.0 - kept) / (shown * (1.0 - self._keep)) if shown else 1.0
        self._recent *= kept
        self._recent += weight * checked["counts"]
