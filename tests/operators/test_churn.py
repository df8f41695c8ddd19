from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score

from operators.checks import ALL_CHECKS, OperatorCase
from operators.churn import DAY_MS, ChurnModel, ChurnSweep
from operators.errors import NotFiniteError, ParameterError

CUSTOMERS = 8
SWEEP_EVERY_DAYS = 10
NAMES = ["recency", "orders"]


class Days(NamedTuple):
    """One sweep per element: features of all customers and who was active since the last."""

    features: NDArray[np.float32]
    active: NDArray[np.bool_]


class Shop:
    """The model together with its customers' columns and a calendar."""

    def __init__(self, seed: int = 0) -> None:
        self.model = ChurnModel(2, NAMES, min_labels=20, seed=seed)
        self.columns = np.zeros(CUSTOMERS, self.model.row_dtype)
        self.last_active_ts_ms = np.zeros(CUSTOMERS, np.int64)
        self.day = np.full(1, 1000, np.int64)

    def learn_many(self, days: Days) -> list[ChurnSweep]:
        if not np.isfinite(days.features).all():
            bad = days.features[~np.isfinite(days.features).all(axis=(1, 2))][0]
            self.sweep(bad, np.zeros(0, np.int64))
        return [
            self.sweep(features, np.flatnonzero(active))
            for features, active in zip(days.features, days.active, strict=True)
        ]

    def sweep(self, features: NDArray[np.float32], active: NDArray[np.int64]) -> ChurnSweep:
        as_of_ms = int(self.day[0] + SWEEP_EVERY_DAYS) * DAY_MS
        ts_ms = np.full(len(active), as_of_ms - DAY_MS)
        self.model.mark_active(self.columns, active, ts_ms)
        self.last_active_ts_ms[active] = ts_ms
        everyone = np.arange(CUSTOMERS)
        last_active = np.where(self.last_active_ts_ms == 0, as_of_ms, self.last_active_ts_ms)
        swept = self.model.sweep_many(self.columns, everyone, features, last_active, as_of_ms)
        self.day += SWEEP_EVERY_DAYS
        return swept

    def predict_many(self, days: Days) -> NDArray[np.float32]:
        return self.model.predict_proba_many(days.features.reshape(-1, 2))

    def state(self) -> dict[str, NDArray[Any]]:
        own = {"columns": self.columns, "last": self.last_active_ts_ms, "day": self.day}
        return {**self.model.arrays(), **own}

    def load(self, saved: Mapping[str, NDArray[Any]]) -> None:
        self.model.load_arrays(saved)
        self.columns[:] = saved["columns"]
        self.last_active_ts_ms[:] = saved["last"]
        self.day[:] = saved["day"]


def draw(generator: np.random.Generator, n: int) -> Days:
    features = generator.normal(size=(n, CUSTOMERS, 2)).astype(np.float32)
    # Half of the customers come often, half hardly ever.
    chance = np.where(np.arange(CUSTOMERS) % 2 == 0, 0.3, 0.04)
    features[:, :, 0] += np.arange(CUSTOMERS) % 2
    return Days(features, generator.random((n, CUSTOMERS)) < chance)


def poison(days: Days) -> Days:
    features = days.features.copy()
    features[3, 2, 1] = np.nan
    return days._replace(features=features)


CASE = OperatorCase[Shop, Days](
    name="churn",
    make=Shop,
    batch=draw,
    split=lambda days, parts: [
        Days(days.features[rows], days.active[rows])
        for rows in np.array_split(np.arange(len(days.active)), parts)
    ],
    learn=Shop.learn_many,
    predict=Shop.predict_many,
    state=Shop.state,
    load=Shop.load,
    take=lambda shop: shop.model.take_delta(),
    apply=lambda shop, delta: shop.model.apply_delta(delta),
    poison=poison,
    max_bytes=2_000_000,
)


@pytest.mark.parametrize("check", ALL_CHECKS)
def test_churn_keeps_the_contract(check: Callable[[OperatorCase[Shop, Days]], None]) -> None:
    check(CASE)


def test_a_restart_continues_identically() -> None:
    generator = np.random.default_rng(1)
    first = Shop()
    first.learn_many(draw(generator, 100))
    second = Shop()
    second.load({name: array.copy() for name, array in first.state().items()})
    days = draw(generator, 60)
    for one, two in zip(first.learn_many(days), second.learn_many(days), strict=True):
        assert (one.settled, one.sampled, one.drift_detected) == (
            two.settled,
            two.sampled,
            two.drift_detected,
        )
        np.testing.assert_array_equal(one.probabilities, two.probabilities)
        np.testing.assert_array_equal(one.alerts, two.alerts)
    assert first.model.quality() == second.model.quality()


def test_it_learns_who_stays_away() -> None:
    shop = Shop()
    shop.learn_many(draw(np.random.default_rng(1), 200))
    quality = shop.model.quality()
    assert quality["logistic"]["roc_auc"] > 0.6
    window = shop.model.window
    order = window.in_order()
    said = window.probabilities[order, 0]
    expected = roc_auc_score(window.labels[order], said)
    assert quality["logistic"]["roc_auc"] == pytest.approx(expected)
    assert quality["logistic"]["examples"] == shop.model.label_counts.sum()
    tree, beside = quality["hoeffding_adaptive_tree"], quality["logistic_at_settlement"]
    assert tree["examples"] == beside["examples"] > 0


def test_the_label_is_compared_with_what_was_said_at_sampling() -> None:
    shop = Shop()
    generator = np.random.default_rng(2)
    for day in range(40):
        before = shop.columns["labels"].copy()
        swept = shop.learn_many(draw(generator, 1))[0]
        if swept.settled:
            window = shop.model.window
            last = window.in_order()[-swept.settled :]
            settled = (before["status"] != 0) & (shop.columns["labels"]["status"] == 0)
            replaced = before["sampled_ts_ms"] != shop.columns["labels"]["sampled_ts_ms"]
            said = before["probability"][settled | replaced]
            assert set(window.probabilities[last, 0].tolist()) <= set(said.tolist()), day


def test_customers_no_longer_alive_are_not_sampled() -> None:
    model = ChurnModel(1, ["recency"])
    columns = np.zeros(2, model.row_dtype)
    last_active = np.array([100, 9]) * DAY_MS
    swept = model.sweep_many(
        columns, np.arange(2), np.zeros((2, 1), np.float32), last_active, 100 * DAY_MS
    )
    assert swept.sampled == 1
    assert columns["labels"]["status"].sum(axis=1).tolist() == [1, 0]


def test_samples_are_spaced_so_that_the_ring_never_fills() -> None:
    model = ChurnModel(1, ["recency"], horizon_days=90, sample_every_days=7, pending=3)
    columns = np.zeros(1, model.row_dtype)
    sampled = []
    for day in range(100, 400):
        swept = model.sweep_many(
            columns, np.array([0]), np.zeros((1, 1)), np.array([day * DAY_MS]), day * DAY_MS
        )
        sampled += [day] * swept.sampled
    assert set(np.diff(sampled)) == {30}


def test_a_sample_starts_after_the_newest_event_its_features_know() -> None:
    model = ChurnModel(1, ["recency"])
    columns = np.zeros(1, model.row_dtype)
    ahead = np.array([103 * DAY_MS])
    model.sweep_many(columns, np.array([0]), np.zeros((1, 1)), ahead, 100 * DAY_MS)
    assert columns["labels"]["sampled_ts_ms"].max() == 103 * DAY_MS


def test_the_row_remembers_the_last_score() -> None:
    shop = Shop()
    swept = shop.learn_many(draw(np.random.default_rng(1), 30))[-1]
    np.testing.assert_array_equal(shop.columns["probability"], swept.probabilities)
    assert (shop.columns["scored_ts_ms"] == shop.day * DAY_MS).all()


class Alarm:
    """One customer and a model that says what the test wants."""

    def __init__(self, **parameters: float) -> None:
        self.model = ChurnModel(1, ["log_odds"], horizon_days=1000, **parameters)  # type: ignore[arg-type]  # floats suffice
        self.model.logistic.weights[:] = [1, 0]
        self.model.logistic.covariance[:] = 0
        self.model.label_counts[:] = 1000
        self.columns = np.zeros(1, self.model.row_dtype)

    def warns(self, day: int, probability: float, last_active_day: int = 99) -> bool:
        # The scaler lets the log-odds pass while it has learned nothing.
        self.model.scaler.replace_moments(np.zeros((3, 1)))
        features = np.array([[np.log(probability / (1 - probability))]])
        last_active = np.array([last_active_day * DAY_MS])
        swept = self.model.sweep_many(
            self.columns, np.array([0]), features, last_active, day * DAY_MS
        )
        assert swept.probabilities[0] == pytest.approx(probability, abs=1e-6)
        return bool(swept.alerts.tolist() == [0])


def test_staying_above_the_threshold_warns_once() -> None:
    alarm = Alarm()
    assert [alarm.warns(day, 0.8) for day in range(100, 300, 10)] == [True] + [False] * 19


def test_below_the_threshold_nobody_is_warned_about() -> None:
    alarm = Alarm()
    assert not any(alarm.warns(day, 0.69) for day in range(100, 200))


def test_a_second_warning_needs_a_fall_below_the_release_threshold() -> None:
    alarm = Alarm(cooldown_days=0)
    said = [0.8, 0.6, 0.8, 0.49, 0.6, 0.8, 0.9]
    warned = [alarm.warns(100 + day, chance) for day, chance in enumerate(said)]
    assert warned == [True, False, False, False, False, True, False]


def test_a_rise_within_the_cool_down_is_warned_about_when_it_ends_if_it_lasts() -> None:
    alarm = Alarm(cooldown_days=30)
    assert alarm.warns(100, 0.8)
    assert not alarm.warns(110, 0.3)
    assert not alarm.warns(120, 0.9)
    assert not alarm.warns(129, 0.9)
    assert alarm.warns(130, 0.9)


def test_a_rise_within_the_cool_down_that_passes_is_never_warned_about() -> None:
    alarm = Alarm(cooldown_days=30)
    assert alarm.warns(100, 0.8)
    assert not alarm.warns(110, 0.3)
    assert not alarm.warns(120, 0.9)
    assert not alarm.warns(130, 0.6)


def test_nobody_is_warned_about_before_both_labels_were_learned() -> None:
    alarm = Alarm(min_labels=50)
    alarm.model.label_counts[:] = [1000, 49]
    assert not alarm.model.ready
    assert not alarm.warns(100, 0.95)
    alarm.model.label_counts[:] = [50, 50]
    assert alarm.model.ready
    assert alarm.warns(101, 0.95)


def test_customers_who_are_gone_already_are_not_warned_about() -> None:
    alarm = Alarm()
    assert not alarm.warns(1100, 0.95, last_active_day=99)
    assert alarm.warns(1100, 0.95, last_active_day=100)


def test_drivers_are_the_largest_contributions_of_the_model() -> None:
    generator = np.random.default_rng(3)
    names = [f"feature {j}" for j in range(5)]
    model = ChurnModel(5, names)
    x = generator.normal(size=(400, 5)).astype(np.float32)
    model.scaler.learn_many(x)
    truth = np.array([2.0, -1.0, 0.5, 0.0, 1.0])
    model.logistic.learn_many(x, generator.random(400) < 1 / (1 + np.exp(-x @ truth)))
    shares = model.logistic.contributions_many(model.scaler.transform_many(x))
    chance = model.predict_proba_many(x).astype(np.float64)
    np.testing.assert_allclose(shares.sum(axis=1), np.log(chance / (1 - chance)), atol=1e-3)
    for row, drivers in enumerate(model.drivers_many(x, top=3)):
        assert len(drivers) == min(3, (shares[row, :-1] > 0).sum())
        found = [share for _, _, share in drivers]
        assert found == sorted(shares[row, :-1][shares[row, :-1] > 0], reverse=True)[:3]
        for name, value, share in drivers:
            column = names.index(name)
            assert (value, share) == (x[row, column], shares[row, column])


def test_a_rising_error_is_drift_and_a_falling_one_is_not() -> None:
    for early, late, expected in ((0.1, 0.9, True), (0.9, 0.1, False)):
        shop = Shop()
        first = shop.model.rival.watch(np.full(500, early))
        second = shop.model.rival.watch(np.full(500, late))
        assert (first, second) == (False, expected)


def test_the_tree_learns_no_more_per_sweep_than_allowed() -> None:
    model = ChurnModel(1, ["recency"], rival_per_sweep=3)
    columns = np.zeros(10, model.row_dtype)
    slots, features = np.arange(10), np.arange(10.0)[:, None]
    for day in (100, 190):
        model.sweep_many(columns, slots, features, np.full(10, day * DAY_MS), day * DAY_MS)
    assert model.quality()["logistic"]["examples"] == 10
    assert model.quality()["hoeffding_adaptive_tree"]["examples"] == 3
    assert model.window.features[model.window.probabilities[:, 2] >= 0, 0].tolist() == [0, 4, 8]


def test_a_sweep_of_numbers_that_are_not_finite_changes_nothing() -> None:
    shop = Shop()
    shop.learn_many(draw(np.random.default_rng(1), 20))
    before = {name: array.copy() for name, array in shop.state().items()}
    with pytest.raises(NotFiniteError):
        shop.sweep(np.full((CUSTOMERS, 2), np.inf, np.float32), np.zeros(0, np.int64))
    for name, array in shop.state().items():
        assert array.tobytes() == before[name].tobytes(), name


@pytest.mark.parametrize(
    "wrong",
    [
        {"feature_names": ["one"]},
        {"horizon_days": 0.0},
        {"cooldown_days": -1.0},
        {"alert_threshold": 0.4},
        {"alert_threshold": 1.0},
        {"min_labels": 0},
        {"pending": 0},
        {"rival_per_sweep": -1},
    ],
)
def test_parameters_outside_their_range_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ParameterError):
        ChurnModel(**{"n_features": 2, "feature_names": NAMES, **wrong})
