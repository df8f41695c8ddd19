"""Disks that fill up, turn read-only or lie: mounted for the test, and broken on purpose."""

import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from state.errors import CorruptStateError, StateError, StateUnavailableError
from state.partition import Partition, Progress, SharedOptions, describe_partition, set_aside
from state.rows import RowsSnapshot
from tests.state.partitions import (
    ROW,
    make_state,
    new_rows,
    open_at,
    quick_directory,
    read_count,
    write_count,
)
from tests.state.test_following import follow, pages_in

Mount = Callable[..., Path]

CUSTOMERS = 300
MOST_CHECKPOINTS = 1_000


def run(*command: str | Path) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(command, capture_output=True, check=False, text=True)
    except FileNotFoundError as error:
        return subprocess.CompletedProcess(command, 127, "", str(error))


@pytest.fixture
def mount(tmp_path: Path) -> Iterator[Mount]:
    """Mounts a disk with ``mount``'s own arguments; at the end nothing may hold it open."""
    mounted: list[Path] = []

    def mount_it(*arguments: str | Path) -> Path:
        disk = tmp_path / f"disk-{len(mounted)}"
        disk.mkdir()
        done = run("mount", *arguments, disk)
        if done.returncode:
            pytest.skip(f"no disk can be mounted here: {done.stderr.strip()}")
        mounted.append(disk)
        return disk

    yield mount_it
    left = [done for disk in mounted if (done := run("umount", disk)).returncode]
    for done in left:
        run("umount", "--lazy", done.args[1])
    assert not left, left


def grow(disk: Path) -> None:
    assert run("mount", "-o", "remount,size=64m", disk).returncode == 0


def write_more(partition: Partition, count: int) -> None:
    """Checkpoint `count`: customers who were never there before."""
    rows = np.zeros(CUSTOMERS, ROW)
    rows["count"] = count
    rows["noise"] = np.random.default_rng(count).integers(0, 256, (CUSTOMERS, 200))
    keys = [b"%d-%d" % (count, number) for number in range(CUSTOMERS)]
    snapshot = RowsSnapshot(keys, rows.tobytes(), ROW.itemsize, [])
    partition.write(snapshot, Progress({"clicks": count}))


def checkpoints_in(path: Path) -> int:
    """Check that whole checkpoints are there, none missing in between; return how many."""
    partition = open_at(path)
    try:
        _, rows = partition.read_page(None, MOST_CHECKPOINTS * CUSTOMERS)
        counts = np.frombuffer(b"".join(rows), ROW)["count"]
        last = partition.progress.offsets.get("clicks", 0)
        assert sorted(counts.tolist()) == np.arange(1, last + 1).repeat(CUSTOMERS).tolist()
        return last
    finally:
        partition.close()


def fill(path: Path, options: SharedOptions) -> int:
    """Write checkpoints until the disk is full; return how many were written."""
    partition = open_at(path, options=options)
    try:
        for count in range(1, MOST_CHECKPOINTS):
            try:
                write_more(partition, count)
            except StateUnavailableError as error:
                failure = str(error)
                break
        assert "No space left on device" in failure
        assert failure.endswith("check its permissions and the disk")
        with pytest.raises(StateUnavailableError, match="an earlier write to"):
            write_more(partition, count)
    finally:
        partition.close()
    return count - 1


@pytest.mark.parametrize("size", ["300k", "3m", "12m"])
@pytest.mark.parametrize("sync", [False, True])
def test_a_full_disk_loses_nothing_that_was_written(
    mount: Mount, tmp_path: Path, size: str, sync: bool
) -> None:
    disk = mount("-t", "tmpfs", "-o", f"size={size}", "tmpfs")
    written = fill(disk / "p", SharedOptions(sync=sync))
    assert written >= 3
    shutil.copytree(disk / "p", tmp_path / "larger")
    assert checkpoints_in(tmp_path / "larger") == written
    with pytest.raises(StateUnavailableError, match="No space left"):
        open_at(disk / "p")
    grow(disk)
    assert checkpoints_in(disk / "p") == written


def test_a_disk_too_small_for_a_state_is_left_free(mount: Mount) -> None:
    disk = mount("-t", "tmpfs", "-o", "size=12k", "tmpfs")
    for _ in range(2):
        with pytest.raises(StateUnavailableError, match=r"No space left|os error 28"):
            open_at(disk / "p")
    grow(disk)
    assert read_count(disk / "p") == 0


@pytest.mark.parametrize("write_buffer_bytes", [64 << 10, 64 << 20])
def test_a_rebuild_that_fills_the_disk_keeps_rows_and_position_together(
    mount: Mount, write_buffer_bytes: int
) -> None:
    disk = mount("-t", "tmpfs", "-o", "size=96k", "tmpfs")
    partition = open_at(disk / "p", options=SharedOptions(write_buffer_bytes=write_buffer_bytes))
    try:
        with pytest.raises(StateUnavailableError, match="No space left on device"):
            follow(partition, 1, 100, whole=True)
    finally:
        partition.close()
    grow(disk)
    assert pages_in(disk / "p") < 100


def test_a_rebuild_that_finds_the_disk_full_when_it_is_closed_says_so(mount: Mount) -> None:
    disk = mount("-t", "tmpfs", "-o", "size=96k", "tmpfs")
    partition = open_at(disk / "p")
    follow(partition, 1, 60)
    with pytest.raises(StateUnavailableError, match="No space left on device"):
        partition.close()
    grow(disk)
    assert pages_in(disk / "p") == 0


def test_a_disk_that_turns_read_only_keeps_the_last_checkpoint(
    mount: Mount, tmp_path: Path
) -> None:
    image = tmp_path / "image"
    image.write_bytes(bytes(16 << 20))
    if run("mkfs.ext4", "-q", image).returncode:
        pytest.skip("mkfs.ext4 is not here")
    disk = mount("-o", "loop,errors=remount-ro", image)
    device = Path(run("findmnt", "-no", "SOURCE", disk).stdout.strip()).name
    trigger = Path("/sys/fs/ext4", device, "trigger_fs_error")
    if not trigger.exists():
        pytest.skip("this kernel has no way to make a disk fail")
    partition, rows = open_at(disk / "p", options=SharedOptions(sync=True)), new_rows()
    for count in (1, 2, 3):
        write_count(partition, rows, count)
    try:
        trigger.write_text("1")
        with pytest.raises(StateUnavailableError, match="Read-only file system") as caught:
            write_count(partition, rows, 4)
        assert str(caught.value).endswith("check its permissions and the disk")
        assert partition.read_many([b"nobody"]) == [None]
    finally:
        partition.close()
    with pytest.raises(StateUnavailableError, match="Read-only file system"):
        open_at(disk / "p")
    assert run("umount", disk).returncode == 0
    assert run("mount", "-o", "loop", image, disk).returncode == 0
    assert read_count(disk / "p") == 3


@pytest.fixture(scope="module")
def stored() -> Iterator[Path]:
    """A state whose rows are all in files."""
    with quick_directory() as directory:
        path = Path(directory, "p")
        make_state(path)
        db = SharedOptions().open(path)
        db.flush()
        db.close()
        yield path


def flipped(stored: Path, path: Path, where: float, flips: int) -> None:
    """Copy a state and damage one byte of its largest file of rows."""
    shutil.copytree(stored, path)
    file = max(path.glob("*.sst"), key=lambda file: file.stat().st_size)
    data = bytearray(file.read_bytes())
    data[int(where * (len(data) - 1))] ^= flips
    file.write_bytes(data)


# The end of a file is its small blocks: filter, index, properties, footer.
PLACES = st.one_of(st.floats(0, 1), st.floats(0.97, 1))


def rows_of(path: Path, keys: list[bytes]) -> list[bytes | None]:
    partition = open_at(path)
    try:
        return partition.read_many(keys)
    finally:
        partition.close()


def outcome(look: Callable[[], object]) -> object:
    try:
        return look()
    except CorruptStateError as error:
        return "damaged" if "remove that directory" in str(error) else error


@settings(max_examples=80, deadline=None)
@given(where=PLACES, flips=st.integers(1, 255))
def test_a_flipped_byte_is_named_or_does_no_harm(stored: Path, where: float, flips: int) -> None:
    keys = [b"customer-%d" % number for number in range(300)] + [b"nobody"]
    rows = rows_of(stored, keys)
    with quick_directory() as directory:
        path = Path(directory, "p")
        flipped(stored, path, where, flips)
        loaded = outcome(lambda: read_count(path))
        verified = outcome(lambda: describe_partition(path).rows)
        found = outcome(lambda: rows_of(path, keys))
        assert (loaded, verified) in ((3, 300), ("damaged", "damaged"))
        assert found == rows or (found, verified) == ("damaged", "damaged")


def test_damage_is_set_aside_and_a_new_state_made_in_its_place(
    stored: Path, tmp_path: Path
) -> None:
    path = tmp_path / "3"
    flipped(stored, path, where=0.4, flips=0xFF)
    partition = open_at(path)
    with pytest.raises(CorruptStateError, match="checksum mismatch"):
        partition.load_rows(new_rows())
    partition.close()
    aside = set_aside(path, 1_700_000_000_000)
    assert read_count(path) == 0
    make_state(path, writes=1)
    assert read_count(path) == 1
    with pytest.raises(CorruptStateError):
        describe_partition(aside)


@pytest.mark.parametrize("call", ["load_rows", "read_many", "read_page", "describe"])
def test_a_store_is_free_again_after_whatever_failed_in_it(
    stored: Path, tmp_path: Path, call: str
) -> None:
    flipped(stored, tmp_path / "p", where=0.4, flips=0xFF)
    partition = open_at(tmp_path / "p")
    keys = [b"customer-%d" % number for number in range(300)]
    calls: dict[str, Callable[[], object]] = {
        "load_rows": lambda: partition.load_rows(new_rows()),
        "read_many": lambda: partition.read_many(keys),
        "read_page": lambda: partition.read_page(None, 1_000),
        "describe": partition.describe,
    }
    kept: StateError | None = None
    try:
        calls[call]()
    except StateError as error:
        kept = error
    partition.close()
    # The traceback lives, with every local variable in it.
    assert isinstance(kept, CorruptStateError)
    assert kept.__traceback__ is not None
    open_at(tmp_path / "p").close()
