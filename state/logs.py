"""Looks through RocksDB's logs before RocksDB does, for damage that it would read for ever.

A log (of writes, or of files: the manifest) is a sequence of blocks, and a block a sequence of
records: four bytes of checksum, two of length, one of kind, the content. RocksDB 10 does not get
past a record of a recycled log in one that is not recycled, as these never are; one wrong bit in
a record's kind makes such a one. It would hang while opening, with the interpreter lock held.
All other damage it finds by itself.
"""

from pathlib import Path
from typing import BinaryIO

from state.errors import CorruptStateError

BLOCK_BYTES = 32_768
HEADER_BYTES = 7
LENGTH = slice(4, 6)
KIND = 6
RECYCLED_KINDS = frozenset({5, 6, 7, 8, 11})


def require_readable_logs(directory: Path, advice: str) -> None:
    """Refuse a RocksDB that would hang at one of its logs; some 0.1 ms a megabyte.

    Parameters
    ----------
    directory
        Of the RocksDB; it may be empty, or not be there.
    advice
        What to do, for the end of the error's text.

    Raises
    ------
    CorruptStateError
        When a log is damaged in that way.
    OSError
        When a log cannot be read.
    """
    for path in directory.iterdir() if directory.is_dir() else ():
        if path.suffix != ".log" and not path.name.startswith("MANIFEST-"):
            continue
        with path.open("rb") as log:
            if _is_endless(log):
                raise CorruptStateError(
                    f"the state in {directory} is damaged ({path.name} holds a record of another "
                    f"log): {advice}"
                )


def _is_endless(log: BinaryIO) -> bool:
    is_first = True
    while block := log.read(BLOCK_BYTES):
        start = 0
        while start + HEADER_BYTES <= len(block):
            header = block[start : start + HEADER_BYTES]
            if header[KIND] in RECYCLED_KINDS and not is_first:
                return True
            if not any(header[LENGTH]) and not header[KIND]:
                break  # never written; RocksDB goes on with the next block
            is_first = False
            start += HEADER_BYTES + int.from_bytes(header[LENGTH], "little")
    return False
