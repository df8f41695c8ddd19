"""The recommender: popularity, co-occurrence and embeddings behind one door."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from operators.arrays import load_into, with_prefix
from operators.batches import plain, require_lengths, require_rows
from operators.content import ItemContent
from operators.cooccurrence import Channel, ItemCooccurrence
from operators.errors import ParameterError, require_finite
from operators.fusion import ListwiseFusion
from operators.history import History, history_columns
from operators.hybrid_deltas import Learner, check_named, renamed, take_named
from operators.hybrid_kernels import (
    HIT,
    METRICS,
    RECIPROCAL,
    TESTS,
    WEIGHT,
    Events,
    Testing,
    learn_events,
)
from operators.hybrid_options import Options, limits_of, narrowed, require_options
from operators.matrix_factorization import MatrixFactorization, factor_columns
from operators.question import (
    FRESH,
    PRIOR_WEIGHTS,
    Everything,
    Feature,
    Part,
    Parts,
    Rows,
)
from operators.ranking import Lists, Questions, rank_lists
from operators.trends import Trends
from operators.vocabulary import Vocabulary

__all__ = ["Hybrid", "Lists", "Options", "Part"]


# Newest items of a customer that an event's item is paired with.
PAIRED = 12
INTRODUCED_SHARE = 0.8


class Hybrid:
    """Ranks items for customers by a learned blend of everything that can be said of them.

    Candidates come from co-occurrence, from vectors, from what is popular and from the
    customer's own history; each is described by `operators.question.Feature`; `ListwiseFusion`
    joins the features.

    An order (or an event that stands alone) is tested, then learned: for a fixed share of them,
    chosen by their keys, the customer's candidates are ranked as if it had not happened, which
    gives the running `quality`, and the fusion's weights take a step towards the items that came.
    Then the parts learn. All lines of one order are tested before any is learned. Every step is
    taken record by record, so how events are cut into batches makes no difference.

    Replicas may learn from the events of different customers and tell each other what they
    learned (`take_delta`, `apply_delta`); the vocabulary, the parts and the fusion then come to
    be the same, but for rounding and for what is lost where lists of neighbours or the vocabulary
    are full. Customers' rows and `quality` are each replica's own. For what the others know of
    it, a replica keeps a second copy of its arrays.

    Parameters
    ----------
    capacity
        Most items, at least 1; items beyond it are refused (index -1) and teach nothing.
    seed
        Of all draws.
    options
        See `Options`.

    Attributes
    ----------
    row_dtype
        ``history`` (`History`) and ``mf`` (`MatrixFactorization`). A row of zeros is a new
        customer.
    vocabulary, history, trends, cooccurrence, factorization, content, fusion
        The parts.
    barred
        uint8[capacity], 1 where an item is not available.
    fresh
        int32[FRESH], items that `introduce` brought, newest first.

    Examples
    --------
    >>> hybrid = Hybrid(capacity=100, seed=1)
    >>> rows = np.zeros(2, hybrid.row_dtype)
    >>> hybrid.learn_many(
    ...     rows, np.array([0, 0, 1]), ["tea", "cup", "tea"], np.ones(3, np.float32),
    ...     np.array([0, 1000, 2000]), np.array([1, 2, 3], np.uint64), None, False,
    ... ).tolist()
    [0, 1, 0]
    >>> lists = hybrid.rank_many(rows, np.array([1]), 2, now_ms=3000, exclude_bought=True)
    >>> sorted(hybrid.vocabulary.ids[item] for item in lists.items[0])
    ['cup', 'tea']
    >>> [name for name, score in hybrid.similar("tea", 5)]
    ['cup']
    """

    def __init__(self, capacity: int, seed: int = 0, options: Options | None = None) -> None:
        chosen = options if options is not None else Options()
        require_options(chosen)
        self.options = chosen
        self.vocabulary = Vocabulary(capacity)
        self.history = History(chosen.history_length, 0 if chosen.repeats else chosen.filter_bits)
        self.trends = Trends(capacity)
        self.cooccurrence = ItemCooccurrence(capacity, chosen.neighbours, PAIRED)
        self.factorization = MatrixFactorization(
            capacity, chosen.factors, seed, negatives=chosen.negatives
        )
        self.content = ItemContent(capacity)
        self.fusion = ListwiseFusion(PRIOR_WEIGHTS, seed=seed)
        self._learners: dict[str, Learner] = {
            "trends": self.trends,
            "cooccurrence": self.cooccurrence,
            "mf": self.factorization,
            "content": self.content,
            "fusion": self.fusion,
        }
        self.barred = np.zeros(capacity, np.uint8)
        self.fresh = np.full(FRESH, -1, np.int32)
        self._metrics = np.zeros(METRICS)
        fields: list[Any] = [
            ("history", self.history.row_dtype),
            ("mf", self.factorization.row_dtype),
        ]
        self.row_dtype: np.dtype[np.void] = np.dtype(fields, align=True)
        self._parts = Parts(
            self.barred,
            self.fresh,
            self.trends.state,
            self.cooccurrence.state,
            self.factorization.state,
            self.content.state,
        )
        self._limits = limits_of(chosen)
        self._narrow = narrowed(self._limits)
        self._testing = Testing(
            self.fusion.state,
            self._metrics,
            np.uint64(min(int(chosen.test_share * 2.0**64), 2**64 - 1)),
            1.0 - 1.0 / chosen.quality_tests,
            chosen.repeats,
            self._limits,
        )

    def learn_many(
        self,
        columns: NDArray[np.void],
        slots: NDArray[np.int64],
        item_ids: Sequence[str],
        weights: NDArray[np.float32],
        ts_ms: NDArray[np.int64],
        event_keys: NDArray[np.uint64],
        groups: NDArray[np.int32] | None,
        bought: bool,
    ) -> NDArray[np.int32]:
        """Test and learn events in turn.

        Parameters
        ----------
        columns
            Customers' rows (dtype `row_dtype`); written.
        slots
            int64[n], each event's row.
        item_ids
            n non-empty ids; new ones join the vocabulary while it has room.
        weights
            float32[n], finite; what an event's action is worth. At 0 or below the item enters the
            customer's history and nothing else is learned.
        ts_ms
            int64[n], event times.
        event_keys
            uint64[n], different for each event or order, the same at a replay.
        groups
            int32[n]; consecutive events of one customer with one number are the lines of one
            order. None where every event stands alone.
        bought
            Whether the events are purchases.

        Returns
        -------
        int32[n], the items' indices, -1 where refused.

        Raises
        ------
        NotFiniteError, ParameterError, StateMismatchError
            Where a weight is NaN or infinite; lengths differ, a slot is out of range or an id is
            no non-empty string; or `columns` are not of `row_dtype`. Nothing was learned then.
        """
        require_finite("weights", weights)
        require_rows("Hybrid", columns, self.row_dtype, slots)
        lines = groups if groups is not None and len(groups) else np.empty(0, np.int32)
        require_lengths("Hybrid", len(slots), weights=weights, ts_ms=ts_ms, event_keys=event_keys)
        if len(item_ids) != len(slots) or len(lines) not in (0, len(slots)):
            raise ParameterError(
                f"Hybrid: {len(item_ids)} items, {len(lines)} groups, {len(slots)} events"
            )
        items = self.vocabulary.learn_many(item_ids)
        events = Events(
            plain(slots, np.int64),
            items,
            plain(weights, np.float32),
            plain(ts_ms, np.int64),
            plain(event_keys, np.uint64),
            plain(lines, np.int32),
        )
        learn_events(self._everything(columns), self._testing, self.vocabulary.keys, events, bought)
        return items

    def rank_many(
        self,
        columns: NDArray[np.void],
        slots: NDArray[np.int64],
        n: int,
        *,
        now_ms: int,
        exclude_bought: bool,
        excluded: NDArray[np.int32] | None = None,
        explained: int | None = None,
        wide: bool = True,
    ) -> Lists:
        """Recommend `n` items to each customer. Nothing is written.

        Items that are not available never appear. A customer without a history gets what is
        popular.

        Parameters
        ----------
        columns, slots
            Customers' rows, and which of them: int64[m].
        n
            Length of the lists, at least 1.
        now_ms
            Event time of the question, ms.
        exclude_bought
            Whether to leave out what the customer bought, as far as the history reaches.
        excluded
            int32[m, k], -1 padded: further items to leave out, customer by customer.
        explained
            So many items of each list, from the first on, get `causes` and `parts`; all where
            None.
        wide
            Whether to look at all the candidates that `Options` allows, or at few of them and
            none by their vectors, in a fraction of the time.

        Returns
        -------
        `Lists` of shape (m, n), padded with -1 where candidates run out.

        Raises
        ------
        ParameterError, StateMismatchError
            Where `n` or a slot is out of range, or `columns` are not of `row_dtype`.
        """
        if n < 1:
            raise ParameterError(f"n must be at least 1, is {n}")
        require_rows("Hybrid", columns, self.row_dtype, slots)
        out = np.empty((len(slots), 0), np.int32) if excluded is None else excluded
        require_lengths("Hybrid", len(slots), excluded=out)
        lists = Lists.empty(len(slots), n)
        questions = Questions(
            plain(slots, np.int64),
            np.full(len(slots), now_ms),
            plain(out, np.int32),
            np.empty((len(slots), 0), np.int32),
            exclude_bought,
            not self.options.repeats,
            n if explained is None else explained,
        )
        limits = self._limits if wide else self._narrow
        rank_lists(self._everything(columns), self.fusion.state, questions, limits, lists)
        return lists

    def rank_unknown(self, n: int, *, now_ms: int) -> Lists:
        """Recommend `n` items to someone of whom nothing is known: `Lists` of shape (1, n)."""
        # Two rows: a lone row is contiguous, and the kernel would be compiled once more for it.
        nobody = np.zeros(2, self.row_dtype)
        return self.rank_many(nobody, np.zeros(1, np.int64), n, now_ms=now_ms, exclude_bought=False)

    def set_words(self, item_id: str, words: Sequence[str]) -> int:
        """Say what an item is about (`operators.content.words_of` its catalogue entry).

        An item that is new joins the vocabulary while there is room.

        Returns
        -------
        The item's index, -1 where it was refused.
        """
        index = int(self.vocabulary.learn_many([item_id])[0])
        if index >= 0:
            self.content.set_words(index, list(words))
        return index

    def introduce(self, item_id: str, words: Sequence[str]) -> None:
        """Do as `set_words`, and let a new item be recommended before anybody has touched it.

        New items of a catalogue fill at most four fifths of the vocabulary; the rest is kept for
        those that are touched.
        """
        is_known = self.vocabulary.index_many([item_id])[0] >= 0
        if not is_known and len(self.vocabulary) >= INTRODUCED_SHARE * self.vocabulary.capacity:
            return
        index = self.set_words(item_id, words)
        known = len(self.factorization)
        self.factorization.admit_many(self.vocabulary.keys[known : index + 1])
        if not is_known and index >= 0:
            self.fresh[1:] = self.fresh[:-1]
            self.fresh[0] = index

    def similar(self, item_id: str, n: int) -> list[tuple[str, float]]:
        """Find available items like this one, best first, with scores in 0..1.

        First the items that go with it, in one order or one after another, by
        ``1/2 + 1/2 · W[i, j] / sqrt(total[i] · total[j])``;
        then, where these run out, those whose vectors are nearest, by half their cosine.
        An unknown item has none.
        """
        index = self.vocabulary.index_many([item_id])
        if index[0] < 0 or n < 1:
            return []
        scores: dict[int, float] = {}
        for channel in (Channel.HISTORY, Channel.ORDER):
            neighbours, shares = self.cooccurrence.neighbours_many(index, channel)
            totals = self.cooccurrence.state.totals[:, channel]
            for item, share in zip(neighbours[0].tolist(), shares[0].tolist(), strict=True):
                if item >= 0 and share > 0.0:
                    ratio = float(totals[index[0]] / max(totals[item], 1e-300)) ** 0.5
                    score = 0.5 + 0.5 * min(share * ratio, 1.0)
                    scores[item] = max(score, scores.get(item, 0.0))
        near, cosines = self.factorization.similar_many(index, n + len(scores))
        for item, cosine in zip(near[0].tolist(), cosines[0].tolist(), strict=True):
            if item >= 0 and cosine > 0.0:
                scores.setdefault(item, 0.5 * min(cosine, 1.0))
        barred = self.barred
        best = sorted(scores.items(), key=lambda pair: (-pair[1], pair[0]))
        return [(self.vocabulary.ids[i], score) for i, score in best if not barred[i]][:n]

    def set_available(self, item_id: str, available: bool) -> None:
        """Let an item be recommended, or not; an unknown one is remembered while there is room."""
        index = self.vocabulary.index_many([item_id])
        if index[0] < 0 and not available:
            index = self.vocabulary.learn_many([item_id])
        if index[0] >= 0:
            self.barred[index[0]] = not available

    def quality(self) -> dict[str, float]:
        """Prequential quality over about the last `Options.quality_tests` tests.

        Returns
        -------
        ``tests`` (all ever made), ``hit_rate_at_10`` and ``mean_reciprocal_rank`` of the lists,
        and the hit rate of each part's own order of the same candidates
        (``popular_hit_rate_at_10`` …). An item never seen before is a miss, and so is one that
        was no candidate; ties count against the item. All 0 before the first test.
        """
        weight = max(float(self._metrics[WEIGHT]), 1e-300)
        result = {
            "tests": float(self._metrics[TESTS]),
            "hit_rate_at_10": float(self._metrics[HIT]) / weight,
            "mean_reciprocal_rank": float(self._metrics[RECIPROCAL]) / weight,
        }
        for part in Part:
            result[f"{part.name.lower()}_hit_rate_at_10"] = float(self._metrics[part]) / weight
        return result

    def weights(self) -> dict[str, float]:
        """Return the linear weight of each feature that all customers share, by its name."""
        names = (feature.name.lower() for feature in Feature)
        return dict(zip(names, self.fusion.weights.tolist(), strict=True))

    def take_delta(self) -> dict[str, NDArray[Any]]:
        """Return what this replica learned since the last time; empty where nothing.

        Where it has heard others, it holds back what all of them together would overdo
        (`operators.deltas.Precisions`): its own answers may then change, too.

        Returns
        -------
        The ids of the items concerned as ``ids`` and ``ends`` (`operators.vocabulary.pack_ids`),
        and the parts' deltas as ``part.name``, in which an item is its place among those ids.
        """
        return take_named(self._learners, self.vocabulary)

    def apply_delta(self, delta: Mapping[str, NDArray[Any]]) -> None:
        """Add what another replica learned.

        Items that are new here join the vocabulary; where it is full, what concerns them is left
        out, and they are counted as refused. An item that is not available stays so.

        Raises
        ------
        StateMismatchError
            Where names, shapes, dtypes or ids are not those of `take_delta`, or a number is
            impossible; nothing is changed then.
        """
        if not delta:
            return
        ids, checked = check_named(self._learners, delta)
        items = self.vocabulary.admit_many(ids)
        known = len(self.factorization)
        self.factorization.admit_many(self.vocabulary.keys[known : len(self.vocabulary)])
        for part, inner in checked.items():
            self._learners[part].add_delta(renamed(part, inner, items))

    def arrays(self) -> dict[str, NDArray[Any]]:
        """All shared state by name; the vocabulary's is a copy, the rest are the live arrays."""
        return with_prefix("vocabulary", self.vocabulary.arrays()) | self._own_arrays()

    def load_arrays(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Copy in what `arrays` of an equally configured recommender returned, or change nothing.

        Raises
        ------
        StateMismatchError
            Where names, shapes or dtypes differ, or the ids do not fit.
        """
        prefix = "vocabulary."
        ids = {k.removeprefix(prefix): v for k, v in arrays.items() if k.startswith(prefix)}
        Vocabulary(self.vocabulary.capacity).load_arrays(ids)
        load_into(self._own_arrays(), arrays)
        self.vocabulary.load_arrays(ids)
        for learner in self._learners.values():
            learner.mark_known()

    def _own_arrays(self) -> dict[str, NDArray[Any]]:
        own: dict[str, NDArray[Any]] = {
            "metrics": self._metrics,
            "barred": self.barred,
            "fresh": self.fresh,
        }
        for part, learner in self._learners.items():
            own |= with_prefix(part, learner.arrays())
        return own

    def _everything(self, columns: NDArray[np.void]) -> Everything:
        rows = Rows(history_columns(columns["history"]), factor_columns(columns["mf"]))
        return Everything(self._parts, rows, self.vocabulary.table, self.vocabulary.keys)
