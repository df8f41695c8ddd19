"""What became of recommendations: which items to leave out, and how often customers react."""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from operators.hashing import hash_strings
from operators.kernel import kernel
from streams.batches import Batch, OutputRecord
from streams.columns import FeedbackColumns, Reaction
from streams.outcomes.base import NOTHING, Outcome
from streams.outcomes.reaction_rates import ReactionRates

DISMISSED_LENGTH = 16
SHOWN_LENGTH = 32
DAY_S = 86_400

# Seconds, in 32 bits until the year 2106: a third less than milliseconds would take of the row.
ROW_DTYPE = np.dtype(
    [
        ("dismissed", "u8", DISMISSED_LENGTH),
        ("shown", "u8", SHOWN_LENGTH),
        ("dismissed_at_s", "u4", DISMISSED_LENGTH),
        ("shown_since_s", "u4", SHOWN_LENGTH),
        ("impressions", "u1", SHOWN_LENGTH),
    ],
    align=True,
)

STRATEGIES = ("hybrid", "decision", "other")
HYBRID, DECISION, OTHER = range(len(STRATEGIES))
OWN_PREFIX = "recommendation-"
"""What the id of a list begins with where the engine made it."""

# Kernels know a number where they would not know a member of an enumeration.
_IMPRESSION, _DISMISS = Reaction.IMPRESSION.value, Reaction.DISMISS.value
_MOST_COUNTED = 255


class FeedbackRows(NamedTuple):
    """The fields of `ROW_DTYPE`, for kernels; one row per customer."""

    dismissed: NDArray[np.uint64]
    shown: NDArray[np.uint64]
    dismissed_at_s: NDArray[np.uint32]
    shown_since_s: NDArray[np.uint32]
    impressions: NDArray[np.uint8]


class Limits(NamedTuple):
    """For how long items are left out, in seconds, and after how many impressions (0: never)."""

    dismissed_s: int
    window_s: int
    most_impressions: int


def _fields(rows: NDArray[np.void]) -> FeedbackRows:
    columns = rows[Feedback.name]
    return FeedbackRows(*(columns[name] for name in FeedbackRows._fields))


@kernel
def _place_of(
    keys: NDArray[np.uint64], slot: int, key: np.uint64
) -> int:  # pragma: no cover - compiled
    """Place of `key`, else the first free one, else the last, whose key has waited longest."""
    last = keys.shape[1] - 1
    place = 0
    while place < last and keys[slot, place] != key and keys[slot, place] != 0:
        place += 1
    return place


@kernel
def _open_front(values: NDArray[Any], slot: int, place: int) -> None:  # pragma: no cover - compiled
    """Move what stands before `place` back by one, over it."""
    for i in range(place, 0, -1):
        values[slot, i] = values[slot, i - 1]


@kernel
def _close_gap(values: NDArray[Any], slot: int, place: int) -> None:  # pragma: no cover - compiled
    """Move what stands behind `place` forward by one, over it."""
    last = values.shape[1] - 1
    for i in range(place, last):
        values[slot, i] = values[slot, i + 1]
    values[slot, last] = 0


@kernel
def _dismiss(
    rows: FeedbackRows, slot: int, key: np.uint64, ts_s: int
) -> None:  # pragma: no cover - compiled
    """Put an item in front of the dismissed ones; the latest dismissal of it counts."""
    place = _place_of(rows.dismissed, slot, key)
    at_s = np.int64(ts_s)
    if rows.dismissed[slot, place] == key and rows.dismissed_at_s[slot, place] > ts_s:
        at_s = np.int64(rows.dismissed_at_s[slot, place])
    _open_front(rows.dismissed, slot, place)
    _open_front(rows.dismissed_at_s, slot, place)
    rows.dismissed[slot, 0] = key
    rows.dismissed_at_s[slot, 0] = at_s


@kernel
def _show(
    rows: FeedbackRows, slot: int, key: np.uint64, ts_s: int, window_s: int
) -> None:  # pragma: no cover - compiled
    """Count an impression in its window; one after the window opens another."""
    place = _place_of(rows.shown, slot, key)
    since_s, count = np.int64(ts_s), np.int64(0)
    if rows.shown[slot, place] == key:
        started_s = np.int64(rows.shown_since_s[slot, place])
        if ts_s <= started_s - window_s:
            return  # of a window that was over before this one began
        if ts_s < started_s + window_s:
            since_s, count = started_s, np.int64(rows.impressions[slot, place])
    _open_front(rows.shown, slot, place)
    _open_front(rows.shown_since_s, slot, place)
    _open_front(rows.impressions, slot, place)
    rows.shown[slot, 0] = key
    rows.shown_since_s[slot, 0] = since_s
    rows.impressions[slot, 0] = min(int(count) + 1, _MOST_COUNTED)


@kernel
def _clear(
    rows: FeedbackRows, slot: int, key: np.uint64, ts_s: int
) -> None:  # pragma: no cover - compiled
    """Forget dismissal and impressions of an item, unless they began after this reaction."""
    place = _place_of(rows.dismissed, slot, key)
    if rows.dismissed[slot, place] == key and rows.dismissed_at_s[slot, place] <= ts_s:
        _close_gap(rows.dismissed, slot, place)
        _close_gap(rows.dismissed_at_s, slot, place)
    place = _place_of(rows.shown, slot, key)
    if rows.shown[slot, place] == key and rows.shown_since_s[slot, place] <= ts_s:
        _close_gap(rows.shown, slot, place)
        _close_gap(rows.shown_since_s, slot, place)
        _close_gap(rows.impressions, slot, place)


@kernel
def _react(
    rows: FeedbackRows,
    slots: NDArray[np.int64],
    outcomes: NDArray[np.uint8],
    keys: NDArray[np.uint64],
    ts_ms: NDArray[np.int64],
    window_s: int,
) -> None:  # pragma: no cover - compiled
    for i in range(len(slots)):
        ts_s = ts_ms[i] // 1000
        if outcomes[i] == _IMPRESSION:
            _show(rows, slots[i], keys[i], ts_s, window_s)
        elif outcomes[i] == _DISMISS:
            _dismiss(rows, slots[i], keys[i], ts_s)
        else:
            _clear(rows, slots[i], keys[i], ts_s)


@kernel
def _excluded_of(
    rows: FeedbackRows, slot: int, as_of_s: int, limits: Limits, out: NDArray[np.uint64]
) -> int:  # pragma: no cover - compiled
    """Write the keys that are left out for one customer; return how many."""
    count = 0
    for i in range(DISMISSED_LENGTH):
        if rows.dismissed[slot, i] == 0:
            break
        if as_of_s < np.int64(rows.dismissed_at_s[slot, i]) + limits.dismissed_s:
            out[count] = rows.dismissed[slot, i]
            count += 1
    if limits.most_impressions == 0:
        return count
    for i in range(SHOWN_LENGTH):
        if rows.shown[slot, i] == 0:
            break
        is_open = as_of_s < np.int64(rows.shown_since_s[slot, i]) + limits.window_s
        if is_open and rows.impressions[slot, i] >= limits.most_impressions:
            out[count] = rows.shown[slot, i]
            count += 1
    return count


@kernel
def _excluded_many(
    rows: FeedbackRows, slots: NDArray[np.int64], as_of_s: int, limits: Limits
) -> NDArray[np.uint64]:  # pragma: no cover - compiled
    """Return what is left out as wide as the longest; no columns where that is nothing."""
    scratch = np.empty(DISMISSED_LENGTH + SHOWN_LENGTH, np.uint64)
    widest = 0
    for slot in slots:
        widest = max(widest, _excluded_of(rows, slot, as_of_s, limits, scratch))
    keys = np.zeros((len(slots), widest), np.uint64)
    if widest > 0:
        for i in range(len(slots)):
            count = _excluded_of(rows, slots[i], as_of_s, limits, scratch)
            keys[i, :count] = scratch[:count]
    return keys


class Feedback(Outcome):
    """Remembers what a customer dismissed or is tired of, and counts reactions.

    A row holds the keys of the items dismissed last and shown last, newest first in the order of
    arrival; at the bound the oldest is forgotten. Impressions of an item are counted from the
    first one since the last click or conversion, for the days of the window; then from the next
    one. A click or conversion forgets an item's impressions and its dismissal, unless these are
    later in event time.

    Parameters
    ----------
    dismissed_days
        Days of event time for which a dismissed item is left out, at least 1.
    max_impressions
        Impressions in a window from which an item is left out until the window is over, 1..255;
        0 leaves none out.
    impression_window_days
        Days of event time, at least 1.

    Attributes
    ----------
    rates
        Reactions to the engine's own lists, shared by all workers.
    """

    name = "feedback"

    def __init__(
        self, *, dismissed_days: int, max_impressions: int, impression_window_days: int
    ) -> None:
        self.row_dtype = ROW_DTYPE
        self._limits = Limits(
            dismissed_days * DAY_S, impression_window_days * DAY_S, max_impressions
        )
        self._counts = np.zeros((len(Reaction), len(STRATEGIES)), np.int64)
        self.rates = ReactionRates()

    def on_feedback(self, batch: Batch[FeedbackColumns]) -> list[OutputRecord]:
        """Count reactions; remember those to an item."""
        columns = batch.columns
        ids = zip(columns.recommendation_ids, columns.decision_ids, strict=True)
        strategies = np.array([_strategy_of(*pair) for pair in ids], np.uint8)
        np.add.at(self._counts, (columns.outcomes, strategies), 1)
        self.rates.learn_many(columns.outcomes[strategies == HYBRID])
        about = columns.about_items()
        if len(about):
            _react(
                _fields(batch.rows),
                batch.slots[about],
                columns.outcomes[about],
                hash_strings([str(columns.item_ids[i]) for i in about.tolist()]),
                columns.ts_ms[about],
                self._limits.window_s,
            )
        return NOTHING

    def excluded_many(
        self, rows: NDArray[np.void], slots: NDArray[np.int64], as_of_ms: int
    ) -> NDArray[np.uint64]:
        """Return the keys of the items to leave out of these customers' lists.

        Parameters
        ----------
        rows, slots
            The partition's rows, and which of them: int64 (m,).
        as_of_ms
            Event time, ms.

        Returns
        -------
        uint64 (m, k), 0 padded, k at most 48; k is 0 where nothing is left out.
        """
        return _excluded_many(_fields(rows), slots, as_of_ms // 1000, self._limits)

    def counts(self) -> dict[tuple[str, str], int]:
        """Return how much feedback came in this process, by outcome and strategy.

        The strategy is ``decision`` where the feedback is about one, ``hybrid`` where it is about
        a list with the engine's kind of id, else ``other``.
        """
        return {
            (reaction.name.lower(), strategy): int(self._counts[reaction, code])
            for reaction in Reaction
            for code, strategy in enumerate(STRATEGIES)
        }


def _strategy_of(recommendation_id: str | None, decision_id: str | None) -> int:
    if decision_id is not None:
        return DECISION
    is_own = recommendation_id is not None and recommendation_id.startswith(OWN_PREFIX)
    return HYBRID if is_own else OTHER
