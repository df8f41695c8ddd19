"""Arrays as records of the models' topic: cut into parts, checked, and put together again.

A record's value is a line of JSON (`_Header`), a piece of bytes, deflated where that makes it
smaller, and a CRC-32 of both, little endian. The pieces of one set, end to end, are a line of JSON
with the arrays' names and then the arrays in numpy's ``.npy`` format (dtype and shape stand there)
in the order of the names. Nothing is pickled.

Whatever a later format changes: the line of JSON has `format` and `incarnation`, and the last four
bytes are the checksum.
"""

import io
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from streams.errors import StreamsError

FORMAT = 1
PART_BYTES = 512 << 10
"""Bytes of a piece before deflating; a broker takes records of 1 MiB if not told otherwise."""
CRC_BYTES = 4
MAX_INCOMPLETE = 64
"""Sets that an assembler holds at a time; each is of another incarnation."""

_LEVEL = 1
_SAMPLE_BYTES = 16 << 10
_WORTHWHILE = 0.5
"""A piece is deflated where a sample of it shrinks to this share. Untouched rows shrink to a
hundredth, at 1 GB/s; what was learned only to eight tenths, at 40 MB/s."""

_NPY_VERSION = (3, 0)


class UnreadableRecordError(StreamsError):
    """A record that is damaged or in another format.

    Attributes
    ----------
    incarnation
        Who wrote it; empty where that cannot be told.
    """

    def __init__(self, text: str, incarnation: str = "") -> None:
        super().__init__(text)
        self.incarnation = incarnation


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a set of arrays comes from; equal for the same set only.

    Attributes
    ----------
    incarnation
        Names one run of one worker's process.
    sequence
        Counts the incarnation's sets of this kind, from 1.
    position
        Next offset of the deltas that the writer had yet to take in.
    """

    incarnation: str
    sequence: int
    position: int


@dataclass(frozen=True, slots=True)
class Part:
    """One record: piece `number`, from 0, of the set from `origin`."""

    origin: Origin
    number: int
    is_last: bool
    piece: bytes


@dataclass(frozen=True, slots=True)
class ArraySet:
    """The pieces of one set, whole and in order."""

    origin: Origin
    pieces: Sequence[bytes]

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Read the arrays, as new and writable ones.

        Raises
        ------
        UnreadableRecordError
            Where the pieces are whole but not what `encode` writes.
        """
        stream = io.BytesIO(b"".join(self.pieces))
        try:
            names = msgspec.json.decode(stream.readline(), type=list[str])
            return {name: _read(stream) for name in names}
        except (ValueError, EOFError) as error:  # also what msgspec raises
            raise UnreadableRecordError(
                f"what {self.origin.incarnation} wrote as number {self.origin.sequence} cannot "
                f"be read: {error}",
                self.origin.incarnation,
            ) from error


_Count = Annotated[int, msgspec.Meta(ge=0)]


class _Named(msgspec.Struct, frozen=True):
    """What the header has in every format."""

    format: int
    incarnation: Annotated[str, msgspec.Meta(max_length=64)]


class _Header(_Named, frozen=True):
    sequence: Annotated[int, msgspec.Meta(ge=1)]
    position: _Count
    part: _Count
    is_last: bool
    is_deflated: bool


def encode(arrays: Mapping[str, NDArray[Any]], origin: Origin) -> Iterator[bytes]:
    """Yield the values of the records that carry `arrays`, in the order in which to write them.

    Parameters
    ----------
    arrays
        Any shapes and any dtypes without Python objects. They are read while this runs.
    origin
        Tells the set from every other.

    Raises
    ------
    ValueError
        Where an array holds Python objects.

    Examples
    --------
    >>> origin = Origin("a", sequence=1, position=0)
    >>> [value] = encode({"kmeans/counts": np.arange(3)}, origin)
    >>> whole = Assembler().add(decode(value), offset=0, now_seconds=0.0)
    >>> whole.origin == origin, whole.arrays()["kmeans/counts"].tolist()
    (True, [0, 1, 2])
    """
    held: bytes | None = None
    number = 0
    # One piece behind, since only at the end is it known which one is the last.
    for piece in _cut(_contents(arrays)):
        if held is not None:
            yield _record(held, origin, number, is_last=False)
            number += 1
        held = piece
    assert held is not None, "the names are always there"
    yield _record(held, origin, number, is_last=True)


def decode(value: bytes | None) -> Part:
    """Read one record.

    Raises
    ------
    UnreadableRecordError
        Where it is damaged or in another format.
    """
    body, checksum = (value or b"")[:-CRC_BYTES], (value or b"")[-CRC_BYTES:]
    if zlib.crc32(body).to_bytes(CRC_BYTES, "little") != checksum:
        raise UnreadableRecordError("it is damaged")
    line, _, piece = body.partition(b"\n")
    try:
        named = msgspec.json.decode(line, type=_Named)
        if named.format != FORMAT:
            raise UnreadableRecordError(
                f"it has format {named.format}, this program reads {FORMAT}", named.incarnation
            )
        header = msgspec.json.decode(line, type=_Header)
        if header.is_deflated:
            piece = _inflate(piece)
    except (msgspec.DecodeError, zlib.error) as error:
        raise UnreadableRecordError(f"it is damaged: {error}") from error
    origin = Origin(header.incarnation, header.sequence, header.position)
    return Part(origin, header.part, header.is_last, piece)


@dataclass(slots=True)
class _Incomplete:
    origin: Origin
    first_offset: int
    pieces: list[bytes] = field(default_factory=list)
    heard_seconds: float = 0.0


class Assembler:
    """Puts sets together from parts that come in order, whosoever's parts come in between.

    A part that was written twice counts once. A set whose first parts are missing never becomes
    whole; one whose last parts are missing is held until its incarnation begins a later one, or
    it is given up by `give_up`. One set per incarnation is held, and `MAX_INCOMPLETE` in all.

    Examples
    --------
    >>> first, second = map(decode, encode({"a": np.zeros(100_000)}, Origin("x", 1, 0)))
    >>> assembler = Assembler()
    >>> [assembler.add(part, offset, 0.0) for offset, part in [(4, second), (5, first)]]
    [None, None]
    >>> assembler.first_offset
    5
    >>> assembler.add(second, 6, 0.0).arrays()["a"].shape, assembler.first_offset
    ((100000,), None)
    """

    def __init__(self) -> None:
        self._incomplete: dict[str, _Incomplete] = {}

    @property
    def first_offset(self) -> int | None:
        """The lowest offset of a part that is held, None where none is."""
        return min((each.first_offset for each in self._incomplete.values()), default=None)

    def add(self, part: Part, offset: int, now_seconds: float) -> ArraySet | None:
        """Take one part; return its set where that is whole now."""
        name = part.origin.incarnation
        held = self._incomplete.get(name)
        if part.number == 0 and (held is None or held.origin.sequence < part.origin.sequence):
            held = self._incomplete[name] = _Incomplete(part.origin, offset)
        if held is None or held.origin != part.origin or len(held.pieces) != part.number:
            return None
        held.pieces.append(part.piece)
        held.heard_seconds = now_seconds
        if not part.is_last:
            return None
        del self._incomplete[name]
        return ArraySet(held.origin, held.pieces)

    def give_up(self, heard_before_seconds: float) -> list[Origin]:
        """Drop sets of which no part came since then, and the most silent ones beyond the bound."""
        silent = sorted(self._incomplete.values(), key=lambda each: each.heard_seconds)
        surplus = len(silent) - MAX_INCOMPLETE
        dropped = [
            each.origin
            for rank, each in enumerate(silent)
            if rank < surplus or each.heard_seconds < heard_before_seconds
        ]
        for origin in dropped:
            del self._incomplete[origin.incarnation]
        return dropped


def _contents(arrays: Mapping[str, NDArray[Any]]) -> Iterator[bytes]:
    yield msgspec.json.encode(list(arrays)) + b"\n"
    for array in arrays.values():
        stream = io.BytesIO()
        np.lib.format.write_array(stream, array, version=_NPY_VERSION, allow_pickle=False)
        yield stream.getvalue()


def _cut(contents: Iterable[bytes]) -> Iterator[bytes]:
    rest = bytearray()
    for each in contents:
        rest += each
        while len(rest) > PART_BYTES:
            yield bytes(rest[:PART_BYTES])
            del rest[:PART_BYTES]
    yield bytes(rest)


def _record(piece: bytes, origin: Origin, number: int, *, is_last: bool) -> bytes:
    sample = piece[:_SAMPLE_BYTES]
    is_deflated = len(zlib.compress(sample, _LEVEL)) <= _WORTHWHILE * len(sample)
    header = _Header(
        format=FORMAT,
        incarnation=origin.incarnation,
        sequence=origin.sequence,
        position=origin.position,
        part=number,
        is_last=is_last,
        is_deflated=is_deflated,
    )
    body = msgspec.json.encode(header) + b"\n"
    body += zlib.compress(piece, _LEVEL) if is_deflated else piece
    return body + zlib.crc32(body).to_bytes(CRC_BYTES, "little")


def _inflate(piece: bytes) -> bytes:
    inflater = zlib.decompressobj()
    # One byte more than there may be, since the end is only seen where there is room left.
    inflated = inflater.decompress(piece, PART_BYTES + 1)
    if not inflater.eof or inflater.unused_data or len(inflated) > PART_BYTES:
        raise zlib.error("the piece does not end where it should")
    return inflated


def _read(stream: io.BytesIO) -> NDArray[Any]:
    # numpy mistrusts long headers, which wide structured dtypes have; the checksum was right.
    array: NDArray[Any] = np.lib.format.read_array(
        stream, allow_pickle=False, max_header_size=len(stream.getbuffer())
    )
    return array
