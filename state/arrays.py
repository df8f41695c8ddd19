"""The arrays that a worker's models share, in one file that is replaced as a whole."""

import io
import os
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import msgspec
import numpy as np
from numpy.typing import NDArray

from state.directories import sync_directory
from state.errors import CorruptStateError, LayoutMismatchError, StateUnavailableError

MAGIC = b"crm-arrays-1\n"
CRC_BYTES = 4
REBUILD = "remove that file to start from untrained models"


@dataclass(frozen=True)
class _Contents:
    version: int
    names: list[str]


class _SummedFile:
    """A file that keeps a CRC-32 of what is written to it."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.crc = 0

    def write(self, part: bytes) -> int:
        self.crc = zlib.crc32(part, self.crc)
        return self._file.write(part)


class ArrayStore:
    """Named arrays in one file: replaced atomically, checked on reading, never pickled.

    The file is ``MAGIC``, a line of JSON (version, names), the arrays in numpy's ``.npy`` format
    (dtype and shape stand there) in the order of the names, and a CRC-32 of all that, little
    endian. It is written beside the old one, synced to disk and renamed over it, so that after a
    crash or a power cut the old arrays or the new ones are there, whole.

    Both methods block, for some 0.1 s per 100 MB and the time of the disk; only one may run at
    a time. `load` holds the file and the arrays in memory side by side.

    Parameters
    ----------
    path
        The file. Its directory is made by `save` where it is missing; a file of that name with
        ``.tmp`` at its end is overwritten.

    Examples
    --------
    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as directory:
    ...     store = ArrayStore(Path(directory, "models.arrays"))
    ...     print(store.load())
    ...     store.save({"kmeans/centroids": np.eye(2)}, version=7)
    ...     again = ArrayStore(Path(directory, "models.arrays"))
    ...     again.load()["kmeans/centroids"].tolist(), again.version
    {}
    ([[1.0, 0.0], [0.0, 1.0]], 7)
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._version = 0

    @property
    def version(self) -> int:
        """The version last saved or loaded; 0 before that, and where nothing is stored."""
        return self._version

    def save(self, arrays: Mapping[str, NDArray[Any]], version: int) -> None:
        """Replace what is stored by `arrays`, all or nothing.

        Parameters
        ----------
        arrays
            Any shapes and any dtypes without Python objects. They are read while this runs: hand
            over copies where they may change meanwhile.
        version
            Whatever tells these arrays from others; `version` after loading them.

        Raises
        ------
        ValueError
            When an array holds Python objects; what was stored stays.
        StateUnavailableError
            When the file cannot be written; what was stored stays.
        """
        for name, array in arrays.items():
            if array.dtype.hasobject:
                raise ValueError(f"array {name!r} holds Python objects: they cannot be stored")
        draft = self._path.with_name(self._path.name + ".tmp")
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with draft.open("wb") as file:
                _write(file, arrays, version)
                file.flush()
                os.fsync(file.fileno())
            draft.replace(self._path)
            sync_directory(self._path.parent)
        except OSError as error:
            raise StateUnavailableError(
                f"cannot write {self._path} ({error.strerror}): "
                "check its directory's permissions and the disk"
            ) from error
        self._version = version

    def load(self) -> dict[str, NDArray[Any]]:
        """Read the stored arrays, as new and writable ones; an empty dict where there are none.

        Raises
        ------
        CorruptStateError
            When the file is not, byte for byte, what was written.
        LayoutMismatchError
            When another version of this program wrote it in another format.
        StateUnavailableError
            When the file cannot be read.
        """
        try:
            stored = self._path.read_bytes()
        except FileNotFoundError:
            self._version = 0
            return {}
        except OSError as error:
            raise StateUnavailableError(
                f"cannot read {self._path} ({error.strerror}): check its permissions and the disk"
            ) from error
        body = memoryview(stored)[:-CRC_BYTES]
        if stored[-CRC_BYTES:] != _crc_bytes(zlib.crc32(body)) or len(body) < len(MAGIC):
            raise CorruptStateError(f"the arrays in {self._path} are damaged: {REBUILD}")
        if not stored.startswith(MAGIC):
            raise LayoutMismatchError(
                f"the arrays in {self._path} were written in another format: "
                f"run the program that wrote them, or {REBUILD}"
            )
        stream = io.BytesIO(stored)
        stream.seek(len(MAGIC))
        contents = msgspec.json.decode(stream.readline(), type=_Contents)
        arrays = {name: _read(stream, len(stored)) for name in contents.names}
        self._version = contents.version
        return arrays


def _write(file: BinaryIO, arrays: Mapping[str, NDArray[Any]], version: int) -> None:
    summed = _SummedFile(file)
    summed.write(MAGIC)
    summed.write(msgspec.json.encode(_Contents(version, list(arrays))) + b"\n")
    for array in arrays.values():
        np.lib.format.write_array(summed, array, version=(3, 0), allow_pickle=False)
    file.write(_crc_bytes(summed.crc))


def _read(stream: io.BytesIO, most_bytes: int) -> NDArray[Any]:
    # numpy mistrusts long headers, which wide structured dtypes have; the checksum was right.
    array: NDArray[Any] = np.lib.format.read_array(
        stream, allow_pickle=False, max_header_size=most_bytes
    )
    return array


def _crc_bytes(crc: int) -> bytes:
    return crc.to_bytes(CRC_BYTES, "little")
