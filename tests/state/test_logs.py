import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from state.errors import CorruptStateError
from state.logs import BLOCK_BYTES, HEADER_BYTES, KIND, LENGTH, RECYCLED_KINDS
from state.partition import describe_partition
from tests.state.partitions import new_rows, open_at, read_count, write_count


@pytest.fixture
def crashed(tmp_path: Path) -> Path:
    """A state whose rows are all in the log."""
    partition, rows = open_at(tmp_path / "p"), new_rows()
    for count in (1, 2, 3):
        write_count(partition, rows, count)
    shutil.copytree(tmp_path / "p", tmp_path / "crashed")
    partition.close()
    return tmp_path / "crashed"


def records_in(log: bytes) -> Iterator[int]:
    """Yield where the records of a sound log start."""
    at = 0
    while at + HEADER_BYTES <= len(log):
        left = BLOCK_BYTES - at % BLOCK_BYTES
        if left < HEADER_BYTES:
            at += left
            continue
        yield at
        at += HEADER_BYTES + int.from_bytes(log[at:][LENGTH], "little")


def test_a_sound_log_passes(crashed: Path) -> None:
    (log,) = crashed.glob("*.log")
    kinds = {log.read_bytes()[at + KIND] for at in records_in(log.read_bytes())}
    assert kinds == {1, 2, 3, 4}
    assert describe_partition(crashed).rows == 300
    assert read_count(crashed) == 3


@pytest.mark.parametrize("pattern", ["*.log", "MANIFEST-*"])
def test_a_record_at_which_rocksdb_would_hang_is_named(crashed: Path, pattern: str) -> None:
    (log,) = crashed.glob(pattern)
    sound = log.read_bytes()
    _, *later = records_in(sound)
    assert len(later) > 3
    for at in later:
        for kind in RECYCLED_KINDS:
            damaged = bytearray(sound)
            damaged[at + KIND] = kind
            log.write_bytes(damaged)
            for look in (open_at, describe_partition):
                with pytest.raises(CorruptStateError, match="holds a record of another log"):
                    look(crashed)
    log.write_bytes(sound)
    assert read_count(crashed) == 3


@pytest.mark.parametrize("kind", [0, 9, 10, 12, 127, 128, 129, 130, 131, 132, 255])
def test_rocksdb_gets_past_every_other_kind_of_record(crashed: Path, kind: int) -> None:
    (log,) = crashed.glob("*.log")
    sound = log.read_bytes()
    _, *later = records_in(sound)
    damaged = bytearray(sound)
    damaged[later[len(later) // 2] + KIND] = kind
    log.write_bytes(damaged)
    assert read_count(crashed) in (0, 1, 2)
