"""Samples that wait for their label: delayed progressive validation."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from operators.errors import ParameterError, require_finite
from operators.kernel import kernel

EMPTY, WAITING, RETURNED = 0, 1, 2


@dataclass(frozen=True)
class SettledSamples:
    """Samples whose label is known, ordered by time of sampling, then slot.

    Attributes
    ----------
    features : float32 of shape (n, n_features)
        As they were when the sample was taken.
    probabilities : float32 of shape (n,)
        What the model said then.
    labels : int8 of shape (n,)
        1 where the customer did not return within the horizon, else 0.
    sampled_ts_ms : int64 of shape (n,)
    slots : int64 of shape (n,)
    """

    features: NDArray[np.float32]
    probabilities: NDArray[np.float32]
    labels: NDArray[np.int8]
    sampled_ts_ms: NDArray[np.int64]
    slots: NDArray[np.int64]


class DelayedLabels:
    """A bounded ring of samples per customer, each waiting for "did they come back?".

    A sample taken at time t gets its label at ``t + horizon_ms`` of event time, whatever the
    customer did::

        label = 0 if an event has t < ts ≤ t + horizon_ms, else 1

    A return is noted when it happens but the label settles at the horizon all the same. Were
    returns learned as soon as they are seen, while absences have to wait, a model would at
    any moment have learned more returns than there are, and promise too little churn.

    The probability given at sampling is kept beside the features, so that the model is tested
    on what it said then, and only afterwards learns (Grzenda, Gomes & Bifet 2020).

    State lives in `columns`, a structured array with the dtype `row_dtype`, one element per
    customer; a zero-filled element is a new customer. `slots` are positions in it.

    Parameters
    ----------
    n_features
        Width of a sample, at least 1.
    pending
        Samples that may wait per customer, at least 1. While so many wait, no new sample of
        that customer is taken.
    horizon_ms
        Milliseconds of event time until a label settles, at least 1.

    Attributes
    ----------
    row_dtype : numpy.dtype
        The columns of one customer.

    Examples
    --------
    >>> labels = DelayedLabels(n_features=1, pending=2, horizon_ms=100)
    >>> columns = np.zeros(2, labels.row_dtype)
    >>> both = np.array([0, 1])
    >>> labels.add(columns, both, np.ones((2, 1)), np.array([0.2, 0.7]), np.array([10, 10]))
    2
    >>> labels.mark_active(columns, np.array([1]), np.array([110]))
    >>> labels.settle(columns, both, as_of_ms=109).labels.tolist()
    []
    >>> labels.settle(columns, both, as_of_ms=110).labels.tolist()
    [1, 0]

    References
    ----------
    - M. Grzenda, H. M. Gomes, A. Bifet, Delayed labelling evaluation for data streams, Data
      Mining and Knowledge Discovery 34, 2020.
    """

    def __init__(self, n_features: int, pending: int, horizon_ms: int) -> None:
        if n_features < 1:
            raise ParameterError(f"n_features must be at least 1, not {n_features}")
        if pending < 1:
            raise ParameterError(f"pending must be at least 1, not {pending}")
        if horizon_ms < 1:
            raise ParameterError(f"horizon_ms must be at least 1, not {horizon_ms}")
        self.n_features = n_features
        self.pending = pending
        self.horizon_ms = horizon_ms
        self.row_dtype = np.dtype(
            [
                ("sampled_ts_ms", np.int64, (pending,)),
                ("features", np.float32, (pending, n_features)),
                ("probability", np.float32, (pending,)),
                ("status", np.uint8, (pending,)),
            ],
            align=True,
        )

    def mark_active(
        self, columns: NDArray[np.void], slots: NDArray[np.int64], ts_ms: NDArray[np.int64]
    ) -> None:
        """Note events: customer ``slots[i]`` was active at ``ts_ms[i]``.

        Order does not matter and repeats are harmless. An event that arrives late still counts
        for every sample that waits and whose horizon it falls into.
        """
        mark_returned(columns["status"], columns["sampled_ts_ms"], slots, ts_ms, self.horizon_ms)

    def settle(
        self, columns: NDArray[np.void], slots: NDArray[np.int64], as_of_ms: int
    ) -> SettledSamples:
        """Take out the samples of these customers whose horizon has passed.

        Parameters
        ----------
        slots
            Distinct positions, int64 of shape (n,).
        as_of_ms
            The watermark: no event with an earlier `ts` is expected any more. A sample settles
            once ``sampled_ts_ms + horizon_ms <= as_of_ms``.
        """
        status, sampled = columns["status"], columns["sampled_ts_ms"]
        owners, places = due_samples(status, sampled, slots, as_of_ms - self.horizon_ms)
        taken = sampled[owners, places]
        order = np.lexsort((places, owners, taken))
        owners, places = owners[order], places[order]
        settled = SettledSamples(
            features=columns["features"][owners, places],
            probabilities=columns["probability"][owners, places],
            labels=(status[owners, places] == WAITING).astype(np.int8),
            sampled_ts_ms=taken[order],
            slots=owners,
        )
        status[owners, places] = EMPTY
        return settled

    def newest_ts_ms(
        self, columns: NDArray[np.void], slots: NDArray[np.int64]
    ) -> NDArray[np.int64]:
        """Return when the newest waiting sample was taken; the least int64 where none waits."""
        return newest_waiting(columns["status"], columns["sampled_ts_ms"], slots)

    def add(
        self,
        columns: NDArray[np.void],
        slots: NDArray[np.int64],
        features: NDArray[np.floating],
        probabilities: NDArray[np.floating],
        sampled_ts_ms: NDArray[np.int64],
    ) -> int:
        """Take one new sample of each of these customers.

        Parameters
        ----------
        slots
            Distinct positions, int64 of shape (n,).
        features
            Shape (n, n_features), kept as float32.
        probabilities
            What the model says now, shape (n,).
        sampled_ts_ms
            Event time of each sample, int64 of shape (n,): at or after the newest event that
            its features know of.

        Returns
        -------
        How many were taken; a customer whose ring is full is passed over.

        Raises
        ------
        NotFiniteError
            Where features or probabilities hold NaN or infinity; nothing is taken then.
        """
        require_finite("features", features)
        require_finite("probabilities", probabilities)
        places = free_places(columns["status"], slots)
        fits = places >= 0
        owners, places = slots[fits], places[fits]
        columns["sampled_ts_ms"][owners, places] = sampled_ts_ms[fits]
        columns["features"][owners, places] = features[fits]
        columns["probability"][owners, places] = probabilities[fits]
        columns["status"][owners, places] = WAITING
        return len(owners)


@kernel
def mark_returned(
    status: NDArray[np.uint8],
    sampled_ts_ms: NDArray[np.int64],
    slots: NDArray[np.int64],
    ts_ms: NDArray[np.int64],
    horizon_ms: int,
) -> None:
    """Turn WAITING to RETURNED where an event falls after the sample, within the horizon."""
    for i in range(len(slots)):
        slot = slots[i]
        for place in range(status.shape[1]):
            if status[slot, place] == WAITING:
                age = ts_ms[i] - sampled_ts_ms[slot, place]
                if 0 < age <= horizon_ms:
                    status[slot, place] = RETURNED


@kernel
def due_samples(
    status: NDArray[np.uint8],
    sampled_ts_ms: NDArray[np.int64],
    slots: NDArray[np.int64],
    sampled_until_ms: int,
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return slot and place of each sample taken at `sampled_until_ms` or before."""
    width = status.shape[1]
    owners = np.empty(len(slots) * width, np.int64)
    places = np.empty(len(slots) * width, np.int64)
    count = 0
    for slot in slots:
        for place in range(width):
            if status[slot, place] != EMPTY and sampled_ts_ms[slot, place] <= sampled_until_ms:
                owners[count] = slot
                places[count] = place
                count += 1
    return owners[:count], places[:count]


@kernel
def newest_waiting(
    status: NDArray[np.uint8], sampled_ts_ms: NDArray[np.int64], slots: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Return by slot the time of the newest sample that waits."""
    newest = np.full(len(slots), np.iinfo(np.int64).min, np.int64)
    for i in range(len(slots)):
        for place in range(status.shape[1]):
            if status[slots[i], place] != EMPTY:
                newest[i] = max(newest[i], sampled_ts_ms[slots[i], place])
    return newest


@kernel
def free_places(status: NDArray[np.uint8], slots: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return by slot the first empty place, -1 where none is."""
    places = np.full(len(slots), -1, np.int64)
    for i in range(len(slots)):
        for place in range(status.shape[1]):
            if status[slots[i], place] == EMPTY:
                places[i] = place
                break
    return places
