from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from operators.churn import DAY_MS, ChurnModel
from operators.errors import StateMismatchError
from operators.prequential import NOT_ASKED, log_loss, roc_auc
from tests.operators.replicas import (
    CHANGES,
    PARTITIONS,
    REPLICAS,
    assert_same,
    exchange,
    partition_of,
    snapshot,
    spoilt,
    travelled,
)

NAMES = ["recency", "visits", "age"]


class Market:
    """Customers who visit at rates of their own, some of which run dry; the same for all models."""

    def __init__(self, customers: int, seed: int) -> None:
        self.generator = np.random.default_rng(seed)
        self.rates = self.generator.lognormal(-1.5, 1.2, customers)
        self.ends = self.generator.exponential(150, customers)
        self.first = np.full(customers, -1.0)
        self.last = np.full(customers, -1.0)
        self.visits = np.zeros(customers)
        self.partitions = np.array([partition_of(str(i)) for i in range(customers)])

    def week(self, day: float) -> NDArray[np.int64]:
        """Let a week pass until `day`; return who came."""
        chance = 1 - np.exp(-self.rates * np.clip(self.ends - day, 0, 7) / 7)
        came = np.flatnonzero(self.generator.random(len(chance)) < chance)
        self.last[came] = day - 1
        self.visits[came] += 1
        self.first[came] = np.where(self.first[came] < 0, day - 1, self.first[came])
        return came

    def features(self, slots: NDArray[np.int64], day: float) -> NDArray[np.float32]:
        columns = [day - self.last[slots], self.visits[slots], day - self.first[slots]]
        return np.log1p(np.column_stack(columns)).astype(np.float32)


class Shops:
    """A model, or replicas of one that share the partitions, and what was said of whom."""

    def __init__(self, models: list[ChurnModel], sweeps_between: int = 1) -> None:
        self.models = models
        self.sweeps_between = sweeps_between
        self.labels: list[NDArray[np.int8]] = []
        self.said: list[NDArray[np.float32]] = []

    def live(self, market: Market, weeks: int) -> None:
        columns = np.zeros(len(market.rates), self.models[0].row_dtype)
        sweeps = 0
        for week in range(1, weeks + 1):
            day = 7.0 * week
            came = market.week(day)
            ts_ms = np.full(len(came), int(day - 1) * DAY_MS)
            self.models[0].mark_active(columns, came, ts_ms)
            for partition in range(PARTITIONS):
                model = self.models[partition % len(self.models)]
                slots = np.flatnonzero((market.visits > 0) & (market.partitions == partition))
                active = (market.last[slots] * DAY_MS).astype(np.int64)
                features = market.features(slots, day)
                swept = model.sweep_many(columns, slots, features, active, int(day) * DAY_MS)
                self._note(model, swept.settled)
                sweeps += 1
                if len(self.models) > 1 and sweeps % self.sweeps_between == 0:
                    exchange(self.models)

    def _note(self, model: ChurnModel, settled: int) -> None:
        order = model.window.in_order()
        last = order[len(order) - settled :]
        self.labels.append(model.window.labels[last].copy())
        self.said.append(model.window.probabilities[last, 0].copy())

    def prequential(self) -> tuple[float, float]:
        labels, said = np.concatenate(self.labels), np.concatenate(self.said)
        return roc_auc(labels, said), log_loss(labels, said)


def made(**parameters: Any) -> ChurnModel:
    return ChurnModel(3, NAMES, horizon_days=21, min_labels=20, rival_per_sweep=4, **parameters)


def lived(replicas: int = 1, sweeps_between: int = 1, **parameters: Any) -> Shops:
    shops = Shops([made(**parameters) for _ in range(replicas)], sweeps_between)
    shops.live(Market(1200, 1), 30)
    return shops


def examples(model: ChurnModel) -> list[bytes]:
    """What the window holds, whatever the order."""
    window = model.window
    order = window.in_order()
    rows = np.column_stack([window.features[order], window.labels[order]])
    return sorted(row.tobytes() for row in np.column_stack([rows, window.probabilities[order, 0]]))


@pytest.mark.parametrize("sweeps_between", [1, 8, 24])
def test_four_replicas_predict_as_well_as_one_that_sees_everybody(sweeps_between: int) -> None:
    alone, together = lived(), lived(REPLICAS, sweeps_between)
    auc, loss = alone.prequential()
    their_auc, their_loss = together.prequential()
    assert auc > 0.62
    assert their_auc > 0.97 * auc
    assert their_loss < 1.03 * loss
    for model in together.models:
        assert model.label_counts.tolist() == alone.models[0].label_counts.tolist()
        np.testing.assert_allclose(model.logistic.weights, together.models[0].logistic.weights)


def test_replicas_that_exchange_after_each_sweep_equal_one() -> None:
    alone, together = lived(), lived(REPLICAS, 1)
    for model in together.models:
        one = alone.models[0]
        np.testing.assert_allclose(model.scaler.moments, one.scaler.moments, rtol=1e-6)
        np.testing.assert_allclose(model.logistic.weights, one.logistic.weights, atol=1e-6)
        for name, quality in one.quality().items():
            assert model.quality()[name] == pytest.approx(quality, abs=1e-6)
        # Each tree has learned the same examples in the same order.
        assert model.rival.tree.n_leaves == one.rival.tree.n_leaves


def test_examples_of_all_replicas_reach_every_window() -> None:
    together = lived(REPLICAS, 8, window=50_000).models
    assert together[0].window.seen == together[0].label_counts.sum() > 2000
    for model in together[1:]:
        assert examples(model) == examples(together[0])


def pair() -> tuple[ChurnModel, ChurnModel, dict[str, NDArray[Any]]]:
    """Two replicas that know the same, and what the first of them then learned."""
    first, second = lived(2, 8).models
    Shops([first]).live(Market(400, 9), 6)
    return first, second, first.take_delta()


def test_the_order_of_deltas_makes_no_difference_to_predictions() -> None:
    _, other, delta = pair()
    Shops([other]).live(Market(300, 11), 6)
    second = other.take_delta()
    ends = []
    for order in ((delta, second), (second, delta)):
        receiver = lived(2, 8).models[0]
        for given in order:
            receiver.apply_delta(given)
        ends.append(receiver)
    assert ends[0].label_counts.tolist() == ends[1].label_counts.tolist()
    probe = Market(200, 3)
    probe.week(7)
    rows = probe.features(np.flatnonzero(probe.visits > 0), 30.0)
    np.testing.assert_allclose(
        ends[0].predict_proba_many(rows), ends[1].predict_proba_many(rows), atol=1e-6
    )


def test_what_was_heard_is_never_sent_on() -> None:
    first, second, delta = pair()
    assert len(delta["window.labels"]) > 0
    second.take_delta()
    second.apply_delta(travelled(delta))
    assert second.take_delta() == first.take_delta() == {}


def test_nothing_is_sent_of_what_was_loaded() -> None:
    first, _, _ = pair()
    Shops([first]).live(Market(400, 5), 6)
    first.load_arrays(snapshot(first.arrays()))
    assert first.take_delta() == {}


def test_a_delta_holds_at_most_a_window_of_examples_but_counts_all_labels() -> None:
    model = made(window=100)
    Shops([model]).live(Market(1200, 1), 20)
    delta = model.take_delta()
    assert len(delta["window.labels"]) == 100
    assert delta["label_counts"].sum() == delta["logistic.rows"][0] > 1000


def test_the_tree_learns_no_more_of_a_delta_than_of_a_sweep() -> None:
    _, second, delta = pair()
    second.rival.most_at_once = 3
    asked = delta["window.probabilities"][:, 2] != NOT_ASKED
    assert asked.sum() > 3
    before = delta["window.probabilities"].copy()
    second.apply_delta(delta)
    last = second.window.in_order()[-len(asked) :]
    learned = second.window.probabilities[last, 2] != NOT_ASKED
    assert learned.sum() == 3
    assert asked[learned].all()
    np.testing.assert_array_equal(delta["window.probabilities"], before)


ARRAYS = (
    "label_counts",
    "scaler.moments",
    "logistic.information",
    "window.features",
    "window.labels",
    "window.probabilities",
)


@pytest.mark.parametrize("name", ARRAYS)
@pytest.mark.parametrize("change", CHANGES)
def test_a_delta_that_does_not_fit_changes_nothing(
    name: str, change: str, a_delta: tuple[ChurnModel, dict[str, NDArray[Any]]]
) -> None:
    model, delta = a_delta
    before = snapshot(model.arrays())
    with pytest.raises(StateMismatchError):
        model.apply_delta(spoilt(delta, name, change))
    assert_same(before, model.arrays())


@pytest.mark.parametrize(
    ("name", "value"),
    [("window.labels", 2), ("window.probabilities", 1.5), ("label_counts", -1)],
)
def test_impossible_numbers_are_refused(
    name: str, value: float, a_delta: tuple[ChurnModel, dict[str, NDArray[Any]]]
) -> None:
    model, delta = a_delta
    before = snapshot(model.arrays())
    wrong = delta[name].copy()
    wrong[0] = value
    with pytest.raises(StateMismatchError):
        model.apply_delta({**delta, name: wrong})
    assert_same(before, model.arrays())


@pytest.fixture(scope="module")
def a_delta() -> tuple[ChurnModel, dict[str, NDArray[Any]]]:
    _, second, delta = pair()
    return second, delta
