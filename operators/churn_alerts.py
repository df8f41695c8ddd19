"""When to warn about a customer, and when to keep quiet."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from operators.errors import ParameterError


@dataclass(frozen=True)
class AlertRule:
    """Warn on reaching a threshold, and again only after a fall and a rest.

    Two thresholds keep a probability that hovers around one of them quiet (a Schmitt trigger). A
    rise within the cool-down is warned about when it ends, if it lasts.

    Attributes
    ----------
    alert_threshold, release_threshold
        Probabilities, ``0 < release <= alert < 1``.
    cooldown_ms
        Least time between two alerts about one customer, at least 0.
    """

    alert_threshold: float
    release_threshold: float
    cooldown_ms: int

    def __post_init__(self) -> None:
        if not 0 < self.release_threshold <= self.alert_threshold < 1:
            raise ParameterError("thresholds must have 0 < release <= alert < 1")
        if self.cooldown_ms < 0:
            raise ParameterError("the cool-down must be at least 0 days")

    def decide(
        self,
        columns: NDArray[np.void],
        slots: NDArray[np.int64],
        probabilities: NDArray[np.floating],
        allowed: NDArray[np.bool_],
        as_of_ms: int,
    ) -> NDArray[np.int64]:
        """Return the positions into `slots` to warn about, ascending, and remember them.

        Parameters
        ----------
        columns
            With the fields ``above`` and ``last_alert_ts_ms`` (0: never), which are written.
        slots
            Distinct positions in `columns`.
        probabilities, allowed
            Of each slot: how likely, and whether it may be warned about at all.
        as_of_ms
            The moment of event time.
        """
        above = columns["above"][slots]
        last_alert = columns["last_alert_ts_ms"][slots]
        above &= probabilities >= self.release_threshold
        rested = (last_alert == 0) | (as_of_ms - last_alert >= self.cooldown_ms)
        warn = ~above & allowed & rested & (probabilities >= self.alert_threshold)
        columns["above"][slots] = above | warn
        columns["last_alert_ts_ms"][slots[warn]] = as_of_ms
        return np.flatnonzero(warn)
