import numpy as np
import pytest

from operators.cooccurrence import Channel, ItemCooccurrence
from operators.cooccurrence_rows import FREED, SMALLEST, home_of
from tests.operators.test_cooccurrence import DEPTH, assert_sound, learn, one, rows_of


def test_growing_keeps_every_neighbour_and_its_weight() -> None:
    model = ItemCooccurrence(1000, 512, DEPTH, horizon=1e6)
    sizes = set()
    for neighbour in range(1, 257):
        learn(model, one(neighbour, [0], float(neighbour), neighbour))
        sizes.add(1 << int(model.state.sizes[0]))
        weights = rows_of(model, 1)[0, :, Channel.NEXT]
        np.testing.assert_array_equal(weights[1 : neighbour + 1], np.arange(1, neighbour + 1))
    assert {16, 32, 64, 128, 256} <= sizes
    assert_sound(model)


def test_rows_that_were_outgrown_are_given_out_again_in_halves_at_last() -> None:
    """A row grows to 64 slots and gives back 16 and 32, which others need as three times 16."""
    model = ItemCooccurrence(64, 64, DEPTH, pool_slots=64 * SMALLEST)
    for neighbour in range(1, 64):
        learn(model, one(neighbour, [0], 1.0, neighbour))
        assert_sound(model)
    sizes = model.state.sizes
    assert sizes[0] == 6
    assert (sizes >= 4).sum() == 1 + (len(model.state.keys) - 64) // SMALLEST
    assert not model.state.pool[FREED:].any()


def test_an_item_that_gets_no_row_learns_its_totals_alone() -> None:
    model = ItemCooccurrence(40, 512, DEPTH, pool_slots=40 * SMALLEST)
    for item in range(20):
        for neighbour in range(20, 40):
            learn(model, one(neighbour, [item], 1.0, item * 40 + neighbour))
    rowless = np.flatnonzero(model.state.sizes < 0)
    assert len(rowless)
    assert (model.state.totals[rowless, Channel.HISTORY] == 20).all()
    neighbours, shares = model.neighbours_many(rowless.astype(np.int32), Channel.HISTORY)
    assert (neighbours == -1).all()
    assert not shares.any()
    assert_sound(model)


@pytest.mark.parametrize("seed", range(5))
def test_heavy_neighbours_survive_many_light_ones(seed: int) -> None:
    """Four neighbours make half of the weight; 2,000 others come once or so each."""
    generator = np.random.default_rng(seed)
    model = ItemCooccurrence(3000, 16, DEPTH)
    heavy = generator.choice(np.arange(1, 3000), 4, replace=False)
    for _ in range(4000):
        light = int(generator.integers(1, 3000))
        item = int(generator.choice(heavy)) if generator.random() < 0.5 else light
        learn(model, one(item, [0], 1.0, int(generator.integers(2**62))))
    best = model.neighbours_many(np.zeros(1, np.int32), Channel.FORWARD)[0][0, :4]
    assert set(best.tolist()) == set(heavy.tolist())


@pytest.mark.parametrize("weight", [1.0, 3.0])
def test_a_newcomer_takes_the_place_of_the_lightest_by_their_weights(weight: float) -> None:
    """16 of weight 1 fill the row; a newcomer of w gets in with w / (w + 1), by the event's key."""
    entered = 0
    for key in range(400):
        model = ItemCooccurrence(2000, 16, DEPTH, pool_slots=32_000)
        neighbour = 1
        while (model.state.keys[:16] == 0).any():
            learn(model, one(neighbour, [0], 1.0, neighbour))
            neighbour += 1
        before = set(model.state.keys[:16].tolist())
        learn(model, one(1999, [0], weight, key))
        row = model.state.keys[:16].tolist()
        entered += 2000 in row
        if 2000 in row:
            assert model.state.weights[row.index(2000)].tolist() == [weight, weight, 0, 0, weight]
            assert len(before - set(row)) == 1
    assert abs(entered / 400 - weight / (weight + 1)) < 0.1


def test_whether_a_newcomer_gets_in_is_drawn_for_each_row_alone() -> None:
    """Eight full rows of weight 1: an event's item gets into about half of them."""
    model = ItemCooccurrence(2000, 16, depth=8)
    contexts = np.arange(8, dtype=np.int32)[np.newaxis]
    recency, weights = np.ones(8, np.float32), np.ones(1, np.float32)
    entered = []
    for neighbour in range(8, 308):
        item, key = np.array([neighbour], np.int32), np.array([neighbour], np.uint64)
        model.learn_many(item, contexts, recency, weights, key)
        entered.append(np.count_nonzero(rows_of(model, 8)[:, neighbour, Channel.FORWARD]))
    assert 3 < np.mean(entered[100:]) < 5
    assert 1 < np.std(entered[100:]) < 2


@pytest.mark.parametrize(("weight", "stays"), [(1.0, False), (5.0, True)])
def test_where_a_grown_row_has_no_place_for_a_neighbour_the_lightest_goes(
    weight: float, stays: bool
) -> None:
    """Neighbours by their homes in 16 and in 32 slots: the last of 16 finds its eight taken."""

    def having(home: int, grown: int) -> list[int]:
        keys = range(1, 10_000)
        return [k - 1 for k in keys if (home_of(k, 4), home_of(k, 5)) == (home, grown)]

    crowd, late, wrapped = having(7, 15)[:8], having(8, 16)[0], having(11, 23)[0]
    newcomer = having(7, 14)[0]
    model = ItemCooccurrence(10_000, 32, DEPTH)
    item = 9_999
    for neighbour in crowd:
        learn(model, one(neighbour, [item], 2.0))
    learn(model, one(late, [item], weight))
    learn(model, one(wrapped, [item], 3.0))
    learn(model, one(newcomer, [item], 4.0))
    neighbours = set(model.neighbours_many(np.array([item], np.int32), Channel.NEXT)[0][0].tolist())
    assert {wrapped, newcomer} < neighbours
    assert (late in neighbours) == stays
    assert len(neighbours & set(crowd)) == (7 if stays else 8)
