import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import cast

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rocksdict import Rdict

from state.errors import CorruptStateError
from state.partition import SharedOptions, describe_partition
from state.rocks import wait_for_flushes
from tests.state.partitions import (
    make_state,
    new_rows,
    open_at,
    quick_directory,
    read_count,
    write_count,
)


def garble(file: Path) -> None:
    file.write_bytes(b"garbage!" * 10)


def cut(file: Path) -> None:
    os.truncate(file, file.stat().st_size // 2)


def flip(file: Path) -> None:
    stored = bytearray(file.read_bytes())
    stored[len(stored) // 2] ^= 0xFF
    file.write_bytes(stored)


@pytest.mark.parametrize("files", ["CURRENT", "MANIFEST-*", "*.sst"])
@pytest.mark.parametrize("damage", [garble, cut, flip, Path.unlink])
def test_damage_is_named_every_time(
    tmp_path: Path, files: str, damage: Callable[[Path], None]
) -> None:
    path = tmp_path / "p"
    make_state(path)
    options = SharedOptions()
    db = options.open(path)
    db.flush()
    db.close()
    damage(max(path.glob(files), key=lambda file: file.stat().st_size))
    for look in (read_count, describe_partition, read_count):
        with pytest.raises(CorruptStateError, match="remove that directory") as caught:
            look(path)
        assert "\n" not in str(caught.value)


def test_damage_found_while_loading_leaves_the_directory_free(tmp_path: Path) -> None:
    path = tmp_path / "p"
    make_state(path)
    db = SharedOptions().open(path)
    db.flush()
    db.close()
    flip(next(path.glob("*.sst")))
    partition = open_at(path)
    with pytest.raises(CorruptStateError) as caught:
        partition.load_rows(new_rows())
    partition.close()
    open_at(path).close()
    assert "checksum mismatch" in str(caught.value)


# RocksDB's log is in blocks of 32 KiB, with headers of 7 bytes; that is where tearing is delicate.
LOG_PLACES = st.one_of(
    st.floats(0, 1), st.tuples(st.integers(0, 6), st.integers(-9, 9)), st.sampled_from([0.0, 1.0])
)


def count_or_complaint(path: Path) -> int | str:
    try:
        return read_count(path)
    except CorruptStateError as error:
        return str(error)


@settings(max_examples=80, deadline=None)
@given(LOG_PLACES, st.sampled_from(["cut", "flip", "zeros", "noise"]), st.integers(1, 255))
def test_a_log_that_lost_its_tail_keeps_rows_and_offsets_together(
    where: float | tuple[int, int], damage: str, flips: int
) -> None:
    with quick_directory() as directory:
        path, crashed = Path(directory, "p"), Path(directory, "crashed")
        partition = open_at(path)
        (log,) = path.glob("*.log")
        synced_bytes = log.stat().st_size
        rows = new_rows()
        for count in (1, 2, 3):
            write_count(partition, rows, count)
        # A copy of the open state is what a power cut leaves.
        shutil.copytree(path, crashed)
        partition.close()
        (log,) = crashed.glob("*.log")
        stored = bytearray(log.read_bytes())
        if isinstance(where, float):
            position = synced_bytes + int(where * (len(stored) - synced_bytes - 1))
        else:
            position = where[0] * 32_768 + where[1]
        position = min(max(position, synced_bytes), len(stored) - 1)
        lost = len(stored) - position
        if damage == "flip":
            stored[position] ^= flips
        else:
            del stored[position:]
        if damage == "zeros":
            stored += bytes(lost)
        elif damage == "noise":
            stored += np.random.default_rng(flips).bytes(lost)
        log.write_bytes(stored)
        found = count_or_complaint(crashed)
        if isinstance(found, str):
            assert damage in {"flip", "noise"}
            assert f"({log.name} holds a record of another log): remove that directory" in found
            return
        assert found in (0, 1, 2)
        # It goes on from there, and what the damaged part held never comes back.
        partition = open_at(crashed)
        write_count(partition, new_rows(), found + 10)
        partition.close()
        assert read_count(crashed) == found + 10


def test_a_write_that_fails_is_invisible_after_reopening(tmp_path: Path) -> None:
    program = """
import resource, sys
from pathlib import Path
from state.errors import StateUnavailableError
from tests.state.partitions import new_rows, open_at, write_count
partition, rows = open_at(Path(sys.argv[1])), new_rows()
write_count(partition, rows, 1)
soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
for count in (2, 3):
    try:
        write_count(partition, new_rows(), count)
    except StateUnavailableError as error:
        print(error)
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
partition.close()
"""
    path = tmp_path / "p"
    run = subprocess.run(
        [sys.executable, "-c", program, str(path)], capture_output=True, check=True, text=True
    )
    first, second = run.stdout.splitlines()
    assert "check its permissions and the disk" in first
    assert second == f"an earlier write to {path} failed: close it and open it again"
    assert read_count(path) == 1


def test_a_killed_process_loses_nothing_that_was_written(tmp_path: Path) -> None:
    program = """
import sys
from pathlib import Path
from tests.state.partitions import new_rows, open_at, write_count
partition, rows = open_at(Path(sys.argv[1])), new_rows()
partition.load_rows(rows)
for count in range(partition.progress.offsets.get("clicks", 0) + 1, 100_000):
    write_count(partition, rows, count)
    print(count, flush=True)
"""
    path = tmp_path / "p"
    reached = 0
    for lines in (1, 40, 137):
        with subprocess.Popen(
            [sys.executable, "-c", program, str(path)], stdout=subprocess.PIPE, text=True
        ) as process:
            assert process.stdout is not None
            for _ in range(lines):
                written = int(process.stdout.readline())
            process.kill()
        offset = read_count(path)
        assert offset >= written > reached
        reached = offset


def test_a_process_killed_while_it_makes_the_state_leaves_a_new_one(tmp_path: Path) -> None:
    options = SharedOptions()
    options.open(tmp_path / "p").close()
    assert read_count(tmp_path / "p") == 0
    (tmp_path / "p" / "HEADER_WRITTEN").unlink()
    assert read_count(tmp_path / "p") == 0


@pytest.mark.parametrize(
    ("behind", "waits"),
    [([], 0), ([("num-immutable-mem-table", 4)], 1), ([("is-write-stopped", 1)] * 3, 3)],
)
def test_a_write_waits_while_the_disk_is_behind(
    behind: list[tuple[str, int]], waits: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    slept: list[float] = []
    monkeypatch.setattr(time, "sleep", slept.append)

    class Lagging:
        def property_int_value(self, name: str) -> int:
            if len(slept) == len(behind):
                return 0
            part, value = behind[len(slept)]
            return value if part in name else 0

    wait_for_flushes(cast(Rdict, Lagging()))
    assert len(slept) == waits


def test_a_disk_that_never_catches_up_is_not_waited_for_without_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    slept: list[float] = []
    monkeypatch.setattr(time, "sleep", slept.append)

    class Stuck:
        def property_int_value(self, name: str) -> int:
            return 9

    wait_for_flushes(cast(Rdict, Stuck()))
    assert sum(slept) == pytest.approx(2.0)


def test_more_than_the_write_buffers_hold_is_written_whole(tmp_path: Path) -> None:
    path = tmp_path / "p"
    partition = open_at(path, options=SharedOptions(write_buffer_bytes=64 << 10))
    rows = new_rows()
    for count in range(1, 30):
        write_count(partition, rows, count)
    partition.close()
    assert read_count(path) == 29
