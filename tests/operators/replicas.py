"""Replicas of one model that learn from disjoint parts of a stream, as tests set them up."""

import zlib
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

Delta = Mapping[str, NDArray[Any]]
PARTITIONS = 8
REPLICAS = 4


class Replica(Protocol):
    def take_delta(self) -> dict[str, NDArray[Any]]: ...

    def apply_delta(self, delta: Delta, /) -> None: ...


def travelled(delta: Delta) -> dict[str, NDArray[Any]]:
    """The delta as it arrives in another process: read-only views of bytes."""
    return {
        name: np.frombuffer(array.tobytes(), array.dtype).reshape(array.shape)
        for name, array in delta.items()
    }


def exchange(replicas: Sequence[Replica]) -> None:
    """Let each replica hear what all others have learned since the last time."""
    deltas = [travelled(replica.take_delta()) for replica in replicas]
    for replica in replicas:
        for other, delta in zip(replicas, deltas, strict=True):
            if other is not replica:
                replica.apply_delta(delta)


def partition_of(key: str) -> int:
    """The partition of a key; replica r has the partitions r and r + 4."""
    return zlib.crc32(key.encode()) % PARTITIONS


def snapshot(arrays: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    return {name: array.copy() for name, array in arrays.items()}


def assert_same(one: Mapping[str, NDArray[Any]], two: Mapping[str, NDArray[Any]]) -> None:
    """Byte for byte."""
    assert one.keys() == two.keys()
    for name, array in one.items():
        assert array.tobytes() == two[name].tobytes(), name


def spoilt(delta: Delta, name: str, change: str) -> dict[str, NDArray[Any]]:
    """The delta with one array as another configuration, or a bug, would have sent it."""
    array = delta[name]
    changed = {
        "missing": {},
        "dtype": {name: array.astype(np.complex128)},
        "shape": {name: array[..., np.newaxis]},
        "more": {name: array, "surprise": array},
    }
    return {**{k: v for k, v in delta.items() if k != name}, **changed[change]}


CHANGES = ("missing", "dtype", "shape", "more")
