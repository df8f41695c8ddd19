"""Makes customers' lists: ranked by the recommender, as far as they consent, then by policy."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from operators.hashing import hash_strings
from operators.hybrid import Hybrid, Lists, Part
from operators.policy import FinalLists, Policy
from operators.policy_columns import ENTRY_RULES, OUTSIDE
from streams.columns import Refusal

PINNED = len(Part)
"""Stands where a `Part` does, for entries that a rule put there and no part spoke for."""


class MadeLists(NamedTuple):
    """Lists, and the business rules that acted on them.

    Attributes
    ----------
    ranked
        (m, n); the part is `PINNED` where a rule alone brought an entry in.
    rules
        int16[m, n, 4], up to four rules that acted on each entry, by index, -1 padded.
    acted
        bool[m, rules], all that acted on a list.
    """

    ranked: Lists
    rules: NDArray[np.int16]
    acted: NDArray[np.bool_]

    def of(self, customers: NDArray[np.int64]) -> "MadeLists":
        """Return the lists of some customers."""
        return MadeLists(self.ranked.of(customers), self.rules[customers], self.acted[customers])


class ListMaker:
    """Makes lists of any length; writes nothing.

    A customer who refuses recommendations gets an empty list. For one who refuses profiling, the
    list is that of somebody unknown: what is popular, without a look at history or segment.

    Parameters
    ----------
    hybrid, policy
        The worker-wide recommender, and what makes its lists final.
    segment_names
        Returns the name of each segment.
    candidates
        Items that the policy chooses from, where it has a say; else only as many as are shown.
    exclude_bought
        Whether what a customer has just bought stays out, where the policy does not see to that.
    """

    def __init__(
        self,
        hybrid: Hybrid,
        policy: Policy,
        segment_names: Callable[[], Sequence[str]],
        *,
        candidates: int,
        exclude_bought: bool,
    ) -> None:
        self._hybrid = hybrid
        self._policy = policy
        self._segment_names = segment_names
        self._candidates = candidates
        self._exclude_bought = exclude_bought and not policy.handles_repeats

    @property
    def rule_ids(self) -> list[str]:
        """Ids of the rules, by index."""
        return self._policy.rules.ids

    @property
    def rule_keys(self) -> NDArray[np.uint64]:
        """Hashes of `rule_ids`."""
        return self._policy.rules.keys

    def reset_items(self) -> None:
        """Find items anew, after the recommender's were replaced."""
        self._policy.reset_items()

    def make_many(
        self,
        rows: NDArray[np.void],
        slots: NDArray[np.int64],
        customers: Sequence[str],
        *,
        n: int,
        ts_ms: int,
        excluded: NDArray[np.int32] | None = None,
    ) -> MadeLists:
        """Make the lists of these customers from the state as it is now.

        Parameters
        ----------
        rows, slots, customers
            The partition's rows, which of them (int64[m]), and their ids.
        n
            Length of the lists, at least 1.
        ts_ms
            The time, ms; rules that are valid then act.
        excluded
            int32[m, k], -1 padded: items to leave out, customer by customer, pinned or not.
        """
        refusals = rows["profile"]["refusals"][slots]
        strangers = np.flatnonzero(refusals & Refusal.PROFILING)
        if self._policy.is_active(ts_ms):
            width = max(n, self._candidates)
            wide = self._rank(rows, slots, strangers, width, excluded)
            final = self._apply(wide, rows, slots, strangers, customers, n, ts_ms, excluded)
            made = MadeLists(_lists(wide, final), final.rules, final.acted)
        else:
            made = _without_policy(self._rank(rows, slots, strangers, n, excluded))
        silent = np.flatnonzero(refusals & Refusal.RECOMMENDATIONS)
        made.ranked.items[silent] = made.rules[silent] = -1
        made.acted[silent] = False
        return made

    def _rank(
        self,
        rows: NDArray[np.void],
        slots: NDArray[np.int64],
        strangers: NDArray[np.int64],
        width: int,
        excluded: NDArray[np.int32] | None,
    ) -> Lists:
        wide = self._hybrid.rank_many(
            rows["recommendations"]["hybrid"],
            slots,
            width,
            exclude_bought=self._exclude_bought,
            excluded=excluded,
        )
        if len(strangers):
            # Not one row for all: a lone row is contiguous, and a kernel is compiled for that.
            nobody = np.zeros(len(strangers) + 1, rows.dtype)["recommendations"]["hybrid"]
            barred = None if excluded is None else excluded[strangers]
            popular = self._hybrid.rank_many(
                nobody, np.arange(len(strangers)), width, exclude_bought=False, excluded=barred
            )
            for whole, part in zip(wide._asdict().values(), popular, strict=True):
                whole[strangers] = part
        return wide

    def _apply(
        self,
        wide: Lists,
        rows: NDArray[np.void],
        slots: NDArray[np.int64],
        strangers: NDArray[np.int64],
        customers: Sequence[str],
        n: int,
        ts_ms: int,
        excluded: NDArray[np.int32] | None,
    ) -> FinalLists:
        hybrid, policy = self._hybrid, self._policy
        segments = bought = seen = events = None
        if policy.rules.segment_codes:
            codes = np.append(policy.segment_codes(self._segment_names()), np.int32(-1))
            # A label is the segment plus one; 0, none yet, finds the -1 at the end.
            segments = codes[rows["segments"]["label"][slots] - 1]
            segments[strangers] = -1
        if policy.handles_repeats:
            history = rows["recommendations"]["hybrid"]["history"]
            bought = hybrid.history.bought_many(history, slots, hybrid.vocabulary)
            seen = hybrid.history.recent_many(history, slots, hybrid.vocabulary)
            bought[strangers] = seen[strangers] = -1
        if policy.options.min_new_items:
            events = hybrid.popularity.score_many(wide.items)
        return policy.apply_many(
            wide.items,
            wide.scores,
            n=n,
            ts_ms=ts_ms,
            barred=hybrid.popularity.state.barred,
            events=events,
            segments=segments,
            customers=hash_strings(customers) if len(policy.rules) else None,
            bought=bought,
            seen=seen,
            excluded=excluded,
        )


def _without_policy(ranked: Lists) -> MadeLists:
    """Return lists as they were ranked."""
    shape = (*ranked.items.shape, ENTRY_RULES)
    acted = np.zeros((len(ranked.items), 0), np.bool_)
    return MadeLists(ranked, np.full(shape, -1, np.int16), acted)


def _lists(wide: Lists, final: FinalLists) -> Lists:
    """Return the final lists with what the ranker said of their entries."""
    places = np.maximum(final.places, 0)
    is_inside = final.places >= 0
    parts = np.take_along_axis(wide.parts, places, 1)
    return Lists(
        final.items,
        final.scores,
        np.where(is_inside, np.take_along_axis(wide.causes, places, 1), np.int32(-1)),
        np.where(
            final.places == OUTSIDE, np.uint8(PINNED), np.where(is_inside, parts, np.uint8(0))
        ),
    )
