from collections.abc import Callable
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.cluster import KMeans
from sklearn.metrics import adjusted_rand_score

from operators.checks import ALL_CHECKS, OperatorCase
from operators.errors import NotFiniteError, ParameterError, StateMismatchError
from operators.kmeans import StreamingKMeans
from operators.kmeans_kernels import assign, lloyd, plus_plus, uniform_draw

Rows = NDArray[np.float64]
CENTERS = np.array([[0.0, 0.0], [10.0, 0.0], [0.0, 300.0], [10.0, 300.0]])


class Sweeps(NamedTuple):
    rows: Rows
    groups: NDArray[np.int64]


def blobs(generator: np.random.Generator, n: int, centers: Rows = CENTERS) -> Rows:
    noise = generator.normal(0, [0.5, 15.0], (n, 2))
    moved: Rows = centers[generator.integers(0, len(centers), n)] + noise
    return moved


def poison(rows: Rows) -> Rows:
    poisoned = rows.copy()
    poisoned[len(rows) // 2, 1] = np.nan
    return poisoned


def answer(model: StreamingKMeans, rows: Rows) -> Rows:
    labels, distances = model.predict_many(rows)
    return np.column_stack([labels, distances]).astype(np.float64)


def sweep_all(model: StreamingKMeans, sweeps: Sweeps) -> None:
    if not np.isfinite(sweeps.rows).all():
        model.sweep_many(sweeps.rows, 0)
    for start in range(0, len(sweeps.rows), 16):
        model.sweep_many(sweeps.rows[start : start + 16], int(sweeps.groups[start]))


def split_sweeps(sweeps: Sweeps, parts: int) -> list[Sweeps]:
    cuts = 16 * np.linspace(0, len(sweeps.rows) // 16, parts + 1).astype(int)
    return [
        Sweeps(sweeps.rows[start:end], sweeps.groups[start:end])
        for start, end in pairwise(cuts.tolist())
    ]


ARRIVALS = OperatorCase[StreamingKMeans, Rows](
    name="k-means of arrivals",
    make=lambda seed: StreamingKMeans(4, 2, half_life_events=500, reservoir=100, seed=seed),
    batch=blobs,
    split=np.array_split,
    learn=StreamingKMeans.learn_many,
    predict=answer,
    state=StreamingKMeans.arrays,
    load=StreamingKMeans.load_arrays,
    take=StreamingKMeans.take_delta,
    apply=StreamingKMeans.apply_delta,
    poison=poison,
    max_bytes=120_000,
)
SWEPT = OperatorCase[StreamingKMeans, Sweeps](
    name="k-means of sweeps",
    make=lambda seed: StreamingKMeans(4, 2, sample=100, max_groups=5, seed=seed),
    batch=lambda generator, n: Sweeps(blobs(generator, n), generator.integers(0, 1000, n)),
    split=split_sweeps,
    learn=sweep_all,
    predict=lambda model, sweeps: answer(model, sweeps.rows),
    state=StreamingKMeans.arrays,
    load=StreamingKMeans.load_arrays,
    take=StreamingKMeans.take_delta,
    apply=StreamingKMeans.apply_delta,
    poison=lambda sweeps: sweeps._replace(rows=poison(sweeps.rows)),
    max_bytes=60_000,
)


@pytest.mark.parametrize("check", ALL_CHECKS)
def test_arrivals_keep_the_contract(
    check: Callable[[OperatorCase[StreamingKMeans, Rows]], None],
) -> None:
    check(ARRIVALS)


@pytest.mark.parametrize("check", ALL_CHECKS)
def test_sweeps_keep_the_contract(
    check: Callable[[OperatorCase[StreamingKMeans, Sweeps]], None],
) -> None:
    check(SWEPT)


@pytest.mark.parametrize("seed", range(5))
def test_sweeps_of_groups_find_what_batch_k_means_finds(seed: int) -> None:
    rows = blobs(np.random.default_rng(seed), 900)
    model = StreamingKMeans(4, 2, seed=seed)
    for _ in range(3):
        for group in range(8):
            model.sweep_many(rows[group::8], group)
    batch = KMeans(4, n_init=5, random_state=0).fit((rows - rows.mean(0)) / rows.std(0))
    labels, _ = model.predict_many(rows)
    assert adjusted_rand_score(labels, batch.labels_) == 1
    assert sorted(model.sizes()) == sorted(np.bincount(batch.labels_))
    means = np.array([rows[labels == label].mean(axis=0) for label in range(4)])
    np.testing.assert_allclose(model.centroids(), means, rtol=1e-9, atol=1e-9)


def test_one_group_swept_whole_equals_many_groups() -> None:
    rows = blobs(np.random.default_rng(2), 400)
    whole, parts = StreamingKMeans(4, 2), StreamingKMeans(4, 2)
    for _ in range(4):
        whole.sweep_many(rows, 0)
        for group in range(3):
            parts.sweep_many(rows[group::3], group)
    by_first = [np.argsort(model.centroids() @ [1.0, 1.0]) for model in (whole, parts)]
    np.testing.assert_allclose(
        whole.centroids()[by_first[0]], parts.centroids()[by_first[1]], rtol=1e-9, atol=1e-9
    )


def test_arrivals_alone_find_separated_clusters() -> None:
    rows = blobs(np.random.default_rng(3), 3000)
    model = StreamingKMeans(4, 2, half_life_events=np.inf, seed=1)
    model.learn_many(rows[:20])
    assert not model.seeded
    model.learn_many(rows)
    batch = KMeans(4, n_init=5, random_state=0).fit((rows - rows.mean(0)) / rows.std(0))
    assert adjusted_rand_score(model.predict_many(rows)[0], batch.labels_) > 0.99
    assert model.sizes().sum() == 3020


def test_arrivals_change_nothing_after_a_sweep() -> None:
    model = StreamingKMeans(4, 2)
    model.sweep_many(blobs(np.random.default_rng(1), 200), 0)
    before = {name: array.copy() for name, array in model.arrays().items()}
    model.learn_many(blobs(np.random.default_rng(2), 50))
    for name, array in model.arrays().items():
        np.testing.assert_array_equal(array, before[name])


def test_centroids_follow_customers_who_stay_away() -> None:
    generator = np.random.default_rng(4)
    model = StreamingKMeans(2, 1)
    recency = np.concatenate([generator.normal(5, 1, 100), generator.normal(30, 1, 100)])[:, None]
    for day in range(60):
        model.sweep_many(recency + day, 0)
    expected = [recency[:100].mean() + 59, recency[100:].mean() + 59]
    np.testing.assert_allclose(np.sort(model.centroids().ravel()), expected)


def test_a_challenger_frees_the_model_from_a_poor_start() -> None:
    generator = np.random.default_rng(6)
    early = blobs(generator, 200, CENTERS[:1])
    rows = blobs(generator, 800)
    model = StreamingKMeans(4, 2)
    model.sweep_many(early, 0)
    model.sweep_many(early, 1)
    for _ in range(3):
        model.sweep_many(rows[::2], 0)
        model.sweep_many(rows[1::2], 1)
    labels, _ = model.predict_many(rows)
    truth = (rows[:, 0] > 5) * 2 + (rows[:, 1] > 150)
    assert adjusted_rand_score(labels, truth) == 1
    assert model.sizes().sum() == 800


def test_steady_customers_keep_their_cluster_numbers() -> None:
    generator = np.random.default_rng(8)
    rows = blobs(generator, 600)
    model = StreamingKMeans(4, 2)
    model.sweep_many(rows, 0)
    first, _ = model.predict_many(rows)
    for _ in range(20):
        model.sweep_many(rows + generator.normal(0, [0.1, 3.0], rows.shape), 0)
    assert (model.predict_many(rows)[0] == first).all()


def test_an_empty_cluster_takes_half_of_the_widest() -> None:
    rows = blobs(np.random.default_rng(1), 200, CENTERS[:2])
    centroids = np.array([[5.0, 0.0], [900.0, 900.0]])
    counts, _, inertia = lloyd(rows, np.zeros(2), np.zeros((2, 2)), centroids)
    assert counts.min() > 50
    assert inertia < 200 * 250


def test_a_group_no_longer_swept_fades() -> None:
    model = StreamingKMeans(1, 1, half_life_rounds=2.0)
    model.sweep_many(np.zeros((100, 1)), 7)
    gaps = []
    for _ in range(40):
        model.sweep_many(np.full((100, 1), 8.0), 3)
        gaps.append(8.0 - float(model.centroids()[0, 0]))
    assert gaps[0] == pytest.approx(4.0)
    assert gaps[-1] < 0.1
    assert (np.diff(gaps) <= 1e-12).all()


def test_one_group_too_many_replaces_the_one_swept_longest_ago() -> None:
    model = StreamingKMeans(1, 1, max_groups=2)
    for group in (4, 5, 4, 6):
        model.sweep_many(np.full((10, 1), float(group)), group)
    assert sorted(model.swept.groups.tolist()) == [4, 6]
    assert model.sizes().tolist() == [20]


def test_fewer_distinct_rows_than_clusters_seed_nothing() -> None:
    model = StreamingKMeans(3, 2)
    model.learn_many(np.ones((100, 2)))
    model.sweep_many(np.ones((100, 2)), 0)
    model.sweep_many(np.empty((0, 2)), 1)
    labels, distances = model.predict_many(np.ones((2, 2)))
    assert labels.tolist() == [-1, -1]
    assert distances.tolist() == [0, 0]


def test_labels_and_distances_have_the_promised_types() -> None:
    model = StreamingKMeans(2, 1)
    model.sweep_many(np.array([[0.0], [1.0], [9.0], [10.0]], np.float32), 0)
    labels, distances = model.predict_many(np.array([[0.5], [9.5]], np.float32))
    assert labels.dtype == np.int16
    assert distances.dtype == np.float32
    assert sorted(labels.tolist()) == [0, 1]
    np.testing.assert_allclose(distances, 0, atol=1e-6)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_predicting_refuses_what_is_not_finite(bad: float) -> None:
    model = StreamingKMeans(2, 1)
    model.sweep_many(np.array([[0.0], [1.0], [9.0], [10.0]]), 0)
    with pytest.raises(NotFiniteError):
        model.predict_many(np.array([[bad]]))


def test_seeds_of_k_means_plus_plus_spread_over_clusters() -> None:
    rows = np.repeat(np.array([[0.0], [100.0], [200.0]]), [98, 1, 1], axis=0)
    for seed in range(20):
        seeds = np.empty((3, 1))
        assert plus_plus(rows, seed, 0, seeds)
        assert sorted(seeds.ravel().tolist()) == [0, 100, 200]


def test_draws_are_uniform_and_repeatable() -> None:
    draws = np.array([uniform_draw(3, number) for number in range(-2000, 2000)])
    assert ((draws >= 0) & (draws < 1)).all()
    assert abs(draws.mean() - 0.5) < 0.02
    assert abs(np.corrcoef(draws[:-1], draws[1:])[0, 1]) < 0.05
    assert uniform_draw(3, 5) == draws[2005]
    assert uniform_draw(4, 5) != draws[2005]


def test_inertia_is_that_of_scikit_learn() -> None:
    rows = blobs(np.random.default_rng(1), 300)
    batch = KMeans(4, n_init=1, random_state=0).fit(rows)
    counts, sums, squares = np.zeros(4), np.zeros((4, 2)), np.zeros((4, 2))
    inertia = assign(rows, batch.cluster_centers_, counts, sums, squares)
    assert inertia == pytest.approx(batch.inertia_)


def test_arrays_of_another_shape_are_refused() -> None:
    with pytest.raises(StateMismatchError):
        StreamingKMeans(3, 2).load_arrays(StreamingKMeans(4, 2).arrays())


@pytest.mark.parametrize(
    "wrong",
    [
        {"k": 0},
        {"k": 40_000},
        {"reservoir": 1},
        {"max_groups": 0},
        {"sample": 10},
        {"half_life_events": 0.0},
        {"half_life_rounds": 0.0},
        {"seed": -1},
    ],
)
def test_parameters_outside_their_range_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(ParameterError):
        StreamingKMeans(**{"k": 3, "n_features": 2, **wrong})
