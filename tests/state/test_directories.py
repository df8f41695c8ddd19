from pathlib import Path

import pytest

from state.directories import find_partitions
from state.errors import StateUnavailableError
from state.partition import set_aside
from tests.state.partitions import make_state, read_count


def test_a_state_that_was_set_aside_can_still_be_read_and_a_new_one_made(tmp_path: Path) -> None:
    path = tmp_path / "3"
    make_state(path, writes=2)
    aside = set_aside(path, 1_700_000_000_000)
    assert aside == tmp_path / "3.aside-1700000000000"
    assert not path.exists()
    make_state(path, writes=1)
    assert (read_count(aside), read_count(path)) == (2, 1)


def test_nothing_that_was_set_aside_before_is_overwritten(tmp_path: Path) -> None:
    path, asides = tmp_path / "3", []
    for number in range(3):
        path.mkdir()
        (path / "which").write_text(str(number))
        asides.append(set_aside(path, 5))
    assert [aside.name for aside in asides] == ["3.aside-5", "3.aside-5-2", "3.aside-5-3"]
    assert [(aside / "which").read_text() for aside in asides] == ["0", "1", "2"]


def test_an_empty_directory_in_the_way_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "3").mkdir()
    (tmp_path / "3.aside-5").mkdir()
    assert set_aside(tmp_path / "3", 5).name == "3.aside-5-2"


def test_what_is_not_there_cannot_be_set_aside(tmp_path: Path) -> None:
    with pytest.raises(StateUnavailableError, match="No such file"):
        set_aside(tmp_path / "3", 5)


def test_only_numbers_are_partitions(tmp_path: Path) -> None:
    for name in ("10", "9", "9.aside-7", "10.aside-7-2", "x.aside-7", "lost+found", "9.aside"):
        (tmp_path / name).mkdir()
    partitions, aside = find_partitions(tmp_path)
    assert [path.name for path in partitions] == ["9", "10"]
    assert [path.name for path in aside] == ["10.aside-7-2", "9.aside-7"]


def test_a_directory_that_cannot_be_listed_is_named(tmp_path: Path) -> None:
    with pytest.raises(StateUnavailableError, match="cannot use"):
        find_partitions(tmp_path / "none")
