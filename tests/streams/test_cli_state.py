"""``crm-streams state``, in a process of its own."""

from pathlib import Path

import numpy as np

from state.arrays import ArrayStore
from state.partition import ChangelogPosition, Identity, Partition, Progress, SharedOptions
from state.rows import KeyedRows
from tests.streams.test_cli import complaint, crm


def make_data(data: Path) -> None:
    """The data directory of a worker with two partitions, one of which is being rebuilt."""
    layout = np.dtype([("clicks", "<i8")])
    for number, count, whole in ((0, 3, True), (10, 1_500, False)):
        identity = Identity("cluster-7", ("clicks",), number, 16, "shop")
        path = data / "partitions" / str(number)
        store = Partition.open(path, identity=identity, layout=layout, options=SharedOptions())
        rows = KeyedRows(layout, max_rows=count)
        rows.claim([f"customer-{n}" for n in range(count)])
        position = ChangelogPosition(count, as_of_ms=1_700_000_000_000, whole=whole)
        store.write(rows.take_snapshot(), Progress({"clicks": 40 + number}), position)
        store.close()
    ArrayStore(data / "models").save({"a": np.zeros(3), "b": np.zeros(2)}, version=1)


def test_the_state_is_shown_a_partition_a_line(tmp_path: Path) -> None:
    make_data(tmp_path)
    aside = tmp_path / "partitions" / "3.aside-1700000000000"
    aside.mkdir()
    done = crm("state", "info", "--data-dir", tmp_path)
    assert done.returncode == 0, done.stderr
    first, second, third = done.stdout.splitlines()
    assert first.startswith("partition 0 of 16; customers 3 rows of 8 bytes (24 in all); ")
    for words in (
        "partition 10 of 16; customers 1,500 rows of 8 bytes (12,000 in all); ",
        " bytes on disk; offsets clicks=50; ",
        "; changelog at 1500, as of 2023-11-14T22:13:20+00:00, in the middle of a rebuild; ",
        "; layout ",
        "; cluster cluster-7",
    ):
        assert words in second
    assert "rebuild" not in first
    assert third == f"set aside, and no longer used: {aside}"


def test_the_state_is_shown_and_verified_while_somebody_has_it_open(tmp_path: Path) -> None:
    make_data(tmp_path)
    store = Partition.open(
        tmp_path / "partitions" / "0",
        identity=Identity("cluster-7", ("clicks",), 0, 16, "shop"),
        layout=np.dtype([("clicks", "<i8")]),
        options=SharedOptions(),
    )
    try:
        assert crm("state", "info", "--data-dir", tmp_path).returncode == 0
        done = crm("state", "verify", CRM_DATA_DIR=str(tmp_path))
    finally:
        store.close()
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "partition 0: 3 rows are sound",
        "partition 10: 1,500 rows are sound",
        "models: 2 arrays are sound",
        "1503 rows in all",
    ]


def test_everything_that_is_damaged_is_told_in_one_line(tmp_path: Path) -> None:
    make_data(tmp_path)
    assert crm("state", "verify", "--data-dir", tmp_path).returncode == 0
    for file in ((tmp_path / "partitions" / "0" / "CURRENT"), tmp_path / "models"):
        damaged = bytearray(file.read_bytes())
        damaged[len(damaged) // 2] ^= 0xFF
        file.write_bytes(damaged)
    done = crm("state", "verify", "--data-dir", tmp_path)
    assert done.returncode == 1
    assert done.stdout.splitlines() == ["partition 10: 1,500 rows are sound", "1500 rows in all"]
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"crm-streams: the state in {tmp_path}/partitions/0 is damaged")
    assert f"; the arrays in {tmp_path}/models are damaged: remove that file" in line
    told = complaint("state", "info", "--data-dir", tmp_path)
    assert told.startswith(f"the state in {tmp_path}/partitions/0 is damaged")


def test_a_directory_that_holds_no_state_is_named(tmp_path: Path) -> None:
    for what in ("info", "verify"):
        told = complaint("state", what, "--data-dir", tmp_path)
        assert told == f"{tmp_path} holds no state of a worker"
