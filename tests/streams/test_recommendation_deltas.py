"""What one worker learned of items reaches the lists of another's customers."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from operators.errors import StateMismatchError
from streams.decode import CatalogChange
from tests.operators.replicas import exchange, travelled
from tests.streams.shop_in_memory import ShopInMemory
from tests.streams.workers import START_TS_MS, click

NOW_MS = START_TS_MS + 86_400_000


@pytest.fixture
def shops(tmp_path: Path) -> Iterator[tuple[ShopInMemory, ShopInMemory]]:
    shops = ShopInMemory(tmp_path / "one"), ShopInMemory(tmp_path / "two")
    yield shops
    for shop in shops:
        shop.store.close()


def teach_pairs(shop: ShopInMemory, customers: int) -> int:
    """Customers click a tea, then its cup; returns how many events that were."""
    events = []
    for n in range(customers):
        events += [
            click(f"buyer-{n}", n, f"t{n % 8}", event_id=f"a{n}"),
            click(f"buyer-{n}", n, f"c{n % 8}", event_id=f"b{n}"),
        ]
    shop.feed(events, NOW_MS)
    return len(events)


def test_a_customer_of_one_worker_gets_what_the_other_has_learned(
    shops: tuple[ShopInMemory, ShopInMemory],
) -> None:
    teacher, student = shops
    student.feed([click("ada", 1, "c3")], NOW_MS)
    student.pay(NOW_MS)
    teach_pairs(teacher, 400)
    exchange([shop.models.recommendations for shop in shops])
    student.outputs.clear()
    student.feed([click("newcomer", 9_000, "t3")], NOW_MS)
    student.pay(NOW_MS)
    (record,) = student.outputs["recommendations"]
    first = next(item for item in record["items"] if item["item_id"] != "t3")
    assert first["item_id"] == "c3"
    assert any("t3" in reason for reason in first["reasons"])


def test_the_version_of_the_model_counts_what_all_workers_learned(
    shops: tuple[ShopInMemory, ShopInMemory],
) -> None:
    one, two = (shop.models.recommendations for shop in shops)
    learned = teach_pairs(shops[0], 10) + teach_pairs(shops[1], 25)
    exchange([one, two])
    assert one.learned == two.learned == learned
    assert (one.take_delta(), two.take_delta()) == ({}, {})


def test_a_saved_worker_does_not_tell_again_what_it_told(
    shops: tuple[ShopInMemory, ShopInMemory],
) -> None:
    teach_pairs(shops[0], 10)
    saved = shops[0].models.recommendations.arrays()
    shops[1].models.recommendations.load_arrays(saved)
    assert shops[1].models.recommendations.take_delta() == {}


def test_what_the_catalogue_took_away_stays_away(
    shops: tuple[ShopInMemory, ShopInMemory],
) -> None:
    teacher, student = shops
    student.models.catalog.apply(CatalogChange("c3", None))
    teach_pairs(teacher, 400)
    exchange([shop.models.recommendations for shop in shops])
    student.feed([click("newcomer", 9_000, "t3")], NOW_MS)
    student.pay(NOW_MS)
    (record,) = student.outputs["recommendations"]
    assert record["items"]
    assert "c3" not in {item["item_id"] for item in record["items"]}


def test_a_delta_that_does_not_fit_changes_nothing(
    shops: tuple[ShopInMemory, ShopInMemory],
) -> None:
    teacher, student = (shop.models.recommendations for shop in shops)
    teach_pairs(shops[0], 10)
    delta = travelled(teacher.take_delta())
    rest = {name: array for name, array in delta.items() if name != "learned"}
    for wrong in (
        rest,
        delta | {"learned": np.full(1, -1)},
        delta | {"mf.outputs": delta["mf.outputs"][1:]},
    ):
        with pytest.raises(StateMismatchError):
            student.apply_delta(wrong)
    assert student.learned == 0
    assert not len(shops[1].models.hybrid.vocabulary)
