from itertools import permutations

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.cluster import KMeans
from sklearn.metrics import adjusted_rand_score, silhouette_score

from operators.errors import StateMismatchError
from operators.kmeans import StreamingKMeans
from tests.operators.replicas import (
    CHANGES,
    PARTITIONS,
    REPLICAS,
    assert_same,
    exchange,
    snapshot,
    spoilt,
    travelled,
)

Rows = NDArray[np.float64]
CENTERS = np.array([[0.0, 0.0], [10.0, 0.0], [0.0, 300.0], [10.0, 300.0]])
K = 4


def blobs(seed: int, n: int, centers: Rows = CENTERS) -> Rows:
    generator = np.random.default_rng(seed)
    noise = generator.normal(0, [0.5, 15.0], (n, 2))
    moved: Rows = centers[generator.integers(0, len(centers), n)] + noise
    return moved


def cloud(seed: int, n: int) -> Rows:
    """Customers without clear clusters: many optima, so that challengers take over at times."""
    generator = np.random.default_rng(seed)
    return np.column_stack(
        [
            generator.exponential(30, n),
            generator.lognormal(1, 1, n),
            generator.normal(0, 1, n),
            generator.beta(0.3, 0.3, n),
        ]
    )


def replicas_of(n: int, k: int = K, n_features: int = 2, seed: int = 0) -> list[StreamingKMeans]:
    return [StreamingKMeans(k, n_features, seed=seed) for _ in range(n)]


def labels_of(model: StreamingKMeans, rows: Rows) -> NDArray[np.int16]:
    return model.predict_many(rows)[0]


def sweep_round(
    models: list[StreamingKMeans], rows: Rows, sweeps_between: int, sweeps_done: int = 0
) -> int:
    """Sweep each partition where it is at home, and exchange after so many sweeps of any."""
    for partition in range(PARTITIONS):
        models[partition % len(models)].sweep_many(rows[partition::PARTITIONS], partition)
        sweeps_done += 1
        if len(models) > 1 and sweeps_done % sweeps_between == 0:
            exchange(models)
    return sweeps_done


def scaled(rows: Rows) -> Rows:
    result: Rows = np.clip((rows - rows.mean(axis=0)) / rows.std(axis=0), -3, 3)
    return result


def inertia_of(labels: NDArray[np.integer], points: Rows) -> float:
    return sum(
        float(((points[labels == c] - points[labels == c].mean(axis=0)) ** 2).sum())
        for c in np.unique(labels)
    )


@pytest.mark.parametrize("sweeps_between", [1, 8, 24])
def test_four_replicas_group_customers_as_well_as_one(sweeps_between: int) -> None:
    rows = cloud(3, 2000)
    alone, together = replicas_of(1, 6, 4), replicas_of(REPLICAS, 6, 4)
    sweeps = 0
    for day in range(24):
        rows += [1.0, 0.0, 0.0, 0.0]
        back = np.random.default_rng(day).random(2000) < 0.05
        rows[back, 0] = 0.0
        sweep_round(alone, rows, 1)
        sweeps = sweep_round(together, rows, sweeps_between, sweeps)
    points = scaled(rows)
    one = labels_of(alone[0], rows)
    many = np.empty(2000, np.int16)
    for partition in range(PARTITIONS):
        own = slice(partition, None, PARTITIONS)
        many[own] = labels_of(together[partition % REPLICAS], rows[own])
    assert inertia_of(many, points) < 1.03 * inertia_of(one, points)
    silhouettes = [silhouette_score(points, labels) for labels in (one, many)]
    assert silhouettes[1] > 0.97 * silhouettes[0]
    for model in together:
        assert (labels_of(model, rows) == labels_of(together[0], rows)).mean() > 0.95
        assert model.sizes().sum() == 2000


@pytest.mark.parametrize("seed", range(5))
def test_replicas_find_what_batch_k_means_finds(seed: int) -> None:
    rows = blobs(seed, 900)
    models = replicas_of(REPLICAS, seed=seed)
    for _ in range(3):
        sweep_round(models, rows, 8)
    batch = KMeans(4, n_init=5, random_state=0).fit((rows - rows.mean(0)) / rows.std(0))
    for model in models:
        assert adjusted_rand_score(labels_of(model, rows), batch.labels_) == 1
        np.testing.assert_allclose(model.centroids(), models[0].centroids(), rtol=1e-9, atol=1e-9)
        assert sorted(model.sizes()) == sorted(np.bincount(batch.labels_))


def test_replicas_that_seeded_apart_agree_on_numbers_after_an_exchange() -> None:
    models = replicas_of(REPLICAS)
    for number, model in enumerate(models):
        model.sweep_many(blobs(number, 200), number)
    probe = blobs(9, 300)
    before = [labels_of(model, probe) for model in models]
    assert any((labels != before[0]).any() for labels in before)
    exchange(models)
    for model in models:
        np.testing.assert_array_equal(labels_of(model, probe), labels_of(models[0], probe))
        np.testing.assert_array_equal(model.lineage, models[0].lineage)
        assert model.sizes().sum() == 800


def test_steady_customers_keep_their_number_when_replicas_go_on() -> None:
    rows = blobs(8, 640)
    models = replicas_of(REPLICAS)
    for _ in range(2):
        sweep_round(models, rows, 8)
    first = labels_of(models[0], rows)
    for day in range(20):
        noise = np.random.default_rng(day).normal(0, [0.1, 3.0], rows.shape)
        sweep_round(models, rows + noise, 8)
        for model in models:
            np.testing.assert_array_equal(labels_of(model, rows), first)


def test_a_challenger_that_takes_over_at_one_replica_takes_over_everywhere() -> None:
    models = replicas_of(2)
    early, rows = blobs(6, 400, CENTERS[:1]), blobs(7, 800)
    for _ in range(2):
        for number, model in enumerate(models):
            model.sweep_many(early[number::2], number)
        exchange(models)
    generation = int(models[0].lineage[0])
    # Only the first has customers in the other blobs.
    for _ in range(3):
        models[0].sweep_many(rows[::2], 0)
        exchange(models)
    assert models[0].lineage[0] > generation
    np.testing.assert_array_equal(models[1].lineage, models[0].lineage)
    models[1].sweep_many(rows[1::2], 1)
    exchange(models)
    truth = (rows[:, 0] > 5) * 2 + (rows[:, 1] > 150)
    for model in models:
        assert adjusted_rand_score(labels_of(model, rows), truth) == 1


def test_a_replica_without_customers_knows_what_the_others_know() -> None:
    models = replicas_of(3)
    rows = blobs(1, 400)
    for _ in range(2):
        for number in (0, 1):
            models[number].sweep_many(rows[number::2], number)
            exchange(models)
    np.testing.assert_array_equal(labels_of(models[2], rows), labels_of(models[0], rows))


def test_arrivals_follow_the_replica_whose_seeds_were_chosen() -> None:
    models = replicas_of(REPLICAS)
    probe = blobs(9, 300)
    for day in range(5):
        for number, model in enumerate(models):
            model.learn_many(blobs(100 * day + number, 150))
        exchange(models)
        for model in models:
            np.testing.assert_array_equal(labels_of(model, probe), labels_of(models[0], probe))
    batch = KMeans(4, n_init=5, random_state=0).fit((probe - probe.mean(0)) / probe.std(0))
    assert adjusted_rand_score(labels_of(models[3], probe), batch.labels_) > 0.98


def test_a_replica_without_arrivals_starts_from_what_it_hears() -> None:
    models = replicas_of(2)
    models[0].learn_many(blobs(1, 300))
    exchange(models)
    probe = blobs(9, 300)
    np.testing.assert_array_equal(labels_of(models[1], probe), labels_of(models[0], probe))
    models[1].learn_many(blobs(2, 5))
    assert (labels_of(models[1], probe) == labels_of(models[0], probe)).mean() > 0.95


def test_the_first_sweep_anywhere_ends_the_arrivals_everywhere() -> None:
    models = replicas_of(2)
    for number, model in enumerate(models):
        model.learn_many(blobs(number, 300))
    exchange(models)
    models[0].sweep_many(blobs(3, 300), 0)
    exchange(models)
    before = snapshot(models[1].arrays())
    models[1].learn_many(blobs(4, 50))
    assert_same(before, models[1].arrays())
    probe = blobs(9, 300)
    np.testing.assert_array_equal(labels_of(models[1], probe), labels_of(models[0], probe))


def synced(seed: int = 0) -> list[StreamingKMeans]:
    models = replicas_of(3, seed=seed)
    for number, model in enumerate(models):
        model.sweep_many(blobs(number, 200), number)
    exchange(models)
    return models


def test_the_order_of_deltas_makes_no_difference() -> None:
    deltas = []
    for number in (0, 1):
        sender = synced()[number]
        sender.sweep_many(blobs(10 + number, 300), number)
        sender.sweep_many(blobs(20 + number, 100), 5 + number)
        deltas.append(sender.take_delta())
    one, other = synced()[2], synced()[2]
    for receiver, order in ((one, deltas), (other, deltas[::-1])):
        for delta in order:
            receiver.apply_delta(delta)
    np.testing.assert_allclose(one.centroids(), other.centroids(), rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(one.scaler.moments, other.scaler.moments, rtol=1e-9)
    np.testing.assert_array_equal(one.sizes(), other.sizes())


@pytest.mark.parametrize("order", list(permutations(range(3))))
def test_replicas_that_seeded_apart_choose_alike_in_any_order(order: tuple[int, ...]) -> None:
    senders = replicas_of(3)
    for number, sender in enumerate(senders):
        sender.sweep_many(blobs(number, 200), number)
    receiver = StreamingKMeans(K, 2)
    deltas = [sender.take_delta() for sender in senders]
    for number in order:
        receiver.apply_delta(deltas[number])
    expected = max(tuple(sender.lineage.tolist()) for sender in senders)
    assert tuple(receiver.lineage.tolist()) == expected
    truth = np.arange(4)
    centers = receiver.centroids()[:, [0]] > 5, receiver.centroids()[:, [1]] > 150
    assert sorted((centers[0] * 2 + centers[1]).ravel().tolist()) == truth.tolist()


def test_the_later_sweep_of_a_partition_that_moved_counts_whatever_comes_first() -> None:
    home, heir, witness = replicas_of(3)
    home.sweep_many(blobs(1, 100), 0)
    first = home.take_delta()
    heir.apply_delta(first)
    heir.sweep_many(blobs(2, 70), 0)
    second = heir.take_delta()
    for delta in (second, first):
        witness.apply_delta(delta)
    assert witness.sizes().sum() == 70
    home.apply_delta(second)
    assert home.sizes().sum() == 70
    assert home.take_delta() == {}


def test_two_sweeps_of_one_partition_at_once_are_settled_alike_everywhere() -> None:
    one, two = replicas_of(2)
    one.sweep_many(blobs(1, 100), 0)
    two.sweep_many(blobs(2, 70), 0)
    exchange([one, two])
    assert one.sizes().sum() == two.sizes().sum()
    np.testing.assert_allclose(one.centroids(), two.centroids(), rtol=1e-9)


def test_hearing_the_same_twice_changes_nothing() -> None:
    sender, receiver = replicas_of(2)
    sender.sweep_many(blobs(1, 100), 0)
    delta = sender.take_delta()
    receiver.apply_delta(delta)
    before = snapshot(receiver.arrays())
    receiver.apply_delta(travelled(delta))
    assert_same(before, receiver.arrays())


def test_what_was_heard_or_loaded_is_never_sent_on() -> None:
    sender, receiver = replicas_of(2)
    sender.sweep_many(blobs(1, 100), 0)
    saved = snapshot(sender.arrays())
    receiver.apply_delta(sender.take_delta())
    assert receiver.take_delta() == sender.take_delta() == {}
    receiver.sweep_many(blobs(2, 100), 1)
    receiver.load_arrays(saved)
    assert receiver.take_delta() == {}
    receiver.sweep_many(blobs(2, 100), 1)
    assert receiver.take_delta()["swept.groups"].tolist() == [1]


def test_a_group_that_others_sweep_does_not_fade() -> None:
    models = [StreamingKMeans(1, 1, half_life_rounds=1.0) for _ in range(2)]
    for _ in range(20):
        models[0].sweep_many(np.zeros((100, 1)), 0)
        models[1].sweep_many(np.full((100, 1), 8.0), 1)
        exchange(models)
    for model in models:
        assert model.centroids()[0, 0] == pytest.approx(4.0)


def test_more_groups_than_there_is_room_for_replace_those_heard_of_longest_ago() -> None:
    sender, receiver = (StreamingKMeans(1, 1, max_groups=n) for n in (6, 2))
    for group in range(6):
        sender.sweep_many(np.full((10, 1), float(group)), group)
        receiver.apply_delta(sender.take_delta())
    assert receiver.sizes().tolist() == [20]
    assert receiver.centroids()[0, 0] == pytest.approx(4.5)


@pytest.mark.parametrize("name", ["lineage", "centers", "moments", "swept.sums", "swept.ends"])
@pytest.mark.parametrize("change", CHANGES)
def test_a_delta_that_does_not_fit_changes_nothing(name: str, change: str) -> None:
    model, sender = synced()[:2]
    sender.sweep_many(blobs(5, 100), 1)
    before, delta = snapshot(model.arrays()), sender.take_delta()
    with pytest.raises(StateMismatchError):
        model.apply_delta(spoilt(delta, name, change))
    assert_same(before, model.arrays())


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("lineage", -1),
        ("centers", np.nan),
        ("swept.groups", -1),
        ("swept.counts", -1.0),
        ("swept.moments", -1.0),
        ("swept.ends", 7),
    ],
)
def test_impossible_numbers_are_refused(name: str, value: float) -> None:
    model, sender = synced()[:2]
    sender.sweep_many(blobs(5, 100), 1)
    before, delta = snapshot(model.arrays()), sender.take_delta()
    delta[name].reshape(-1)[0] = value
    with pytest.raises(StateMismatchError):
        model.apply_delta(delta)
    assert_same(before, model.arrays())


def test_a_group_named_twice_is_refused() -> None:
    model, sender = synced()[:2]
    sender.sweep_many(blobs(5, 100), 1)
    sender.sweep_many(blobs(6, 100), 4)
    delta = sender.take_delta()
    delta["swept.groups"][:] = 1
    with pytest.raises(StateMismatchError, match="twice"):
        model.apply_delta(delta)
