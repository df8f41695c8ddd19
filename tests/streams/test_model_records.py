"""Arrays as records: whatever was written comes back, and what is damaged is named."""

import zlib
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from streams import model_records
from streams.model_records import (
    CRC_BYTES,
    MAX_INCOMPLETE,
    PART_BYTES,
    ArraySet,
    Assembler,
    Origin,
    Part,
    UnreadableRecordError,
    decode,
    encode,
)

BROKER_MAX_BYTES = 1_048_588 - 1_024
ORIGIN = Origin("an-incarnation", sequence=3, position=17)
DTYPES = st.one_of(
    hnp.floating_dtypes(),
    hnp.complex_number_dtypes(),
    hnp.integer_dtypes(),
    hnp.unsigned_integer_dtypes(),
    hnp.boolean_dtypes(),
    hnp.datetime64_dtypes(),
    hnp.byte_string_dtypes(),
    hnp.unicode_string_dtypes(),
    hnp.array_dtypes(),
)
ARRAYS = st.dictionaries(
    st.text(max_size=4),
    DTYPES.flatmap(lambda d: hnp.arrays(d, hnp.array_shapes(min_dims=0, min_side=0))),
    max_size=4,
)


def put_together(values: list[bytes]) -> ArraySet:
    assembler = Assembler()
    wholes = [assembler.add(decode(value), i, 0.0) for i, value in enumerate(values)]
    assert wholes[:-1] == [None] * (len(values) - 1)
    assert wholes[-1] is not None
    assert assembler.first_offset is None
    return wholes[-1]


def assert_equal(loaded: dict[str, NDArray[Any]], arrays: dict[str, NDArray[Any]]) -> None:
    assert list(loaded) == list(arrays)
    for name, array in arrays.items():
        assert loaded[name].dtype == array.dtype
        assert loaded[name].shape == array.shape
        assert loaded[name].tobytes() == array.tobytes()
        assert loaded[name].flags.writeable


@settings(deadline=None)
@given(ARRAYS, st.text(max_size=64), st.integers(1, 2**62), st.integers(0, 2**62))
def test_arrays_come_back_byte_equal(
    arrays: dict[str, NDArray[Any]], incarnation: str, sequence: int, position: int
) -> None:
    origin = Origin(incarnation, sequence, position)
    whole = put_together(list(encode(arrays, origin)))
    assert whole.origin == origin
    assert_equal(whole.arrays(), arrays)


@pytest.mark.parametrize("fill", ["zeros", "noise"])
def test_large_arrays_come_in_parts_that_a_broker_takes(fill: str) -> None:
    size = 3 * PART_BYTES // 8 + 1
    noise = np.random.default_rng(1).normal(size=size)
    arrays = {"a": noise if fill == "noise" else np.zeros(size), "b": np.arange(5)}
    values = list(encode(arrays, ORIGIN))
    assert len(values) == 4
    assert max(map(len, values)) < BROKER_MAX_BYTES
    assert_equal(put_together(values).arrays(), arrays)
    if fill == "zeros":
        assert sum(map(len, values)) < arrays["a"].nbytes / 50


@given(st.integers(-3, 3))
def test_contents_of_just_one_part_or_just_more_come_back(more_bytes: int) -> None:
    [value] = encode({"a": np.zeros(0, np.uint8)}, ORIGIN)
    header_bytes = len(decode(value).piece)
    for fill in (np.zeros, np.random.default_rng(2).bytes):
        size = PART_BYTES - header_bytes + more_bytes
        array = np.frombuffer(bytes(fill(size)), np.uint8)[:size]
        values = list(encode({"a": array}, ORIGIN))
        assert len(values) == (2 if more_bytes > 0 else 1)
        assert_equal(put_together(values).arrays(), {"a": array})


def test_python_objects_are_refused() -> None:
    with pytest.raises(ValueError, match="Object arrays cannot be saved"):
        list(encode({"bad": np.array([{}], object)}, ORIGIN))


@settings(deadline=None)
@given(st.data())
def test_any_damage_is_named(data: st.DataObject) -> None:
    [value] = encode({"a": np.arange(9), "b": np.zeros((2, 3), np.float32)}, ORIGIN)
    damaged = bytearray(value)
    if data.draw(st.booleans()):
        position = data.draw(st.integers(0, len(value) - 1))
        damaged[position] ^= data.draw(st.integers(1, 255))
    else:
        del damaged[data.draw(st.integers(0, len(value) - 1)) :]
    with pytest.raises(UnreadableRecordError, match="damaged"):
        decode(bytes(damaged))


@given(st.binary(max_size=64))
def test_what_nobody_here_wrote_is_named_even_with_a_right_checksum(body: bytes) -> None:
    with pytest.raises(UnreadableRecordError):
        decode(body + zlib.crc32(body).to_bytes(CRC_BYTES, "little"))
    with pytest.raises(UnreadableRecordError):
        ArraySet(ORIGIN, [body]).arrays()


def test_a_record_without_value_is_named() -> None:
    with pytest.raises(UnreadableRecordError, match="damaged"):
        decode(None)


def test_another_format_is_told_with_its_incarnation(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(model_records, "FORMAT", 2)
        [value] = encode({"a": np.arange(3)}, ORIGIN)
    with pytest.raises(UnreadableRecordError, match="has format 2, this program reads 1") as told:
        decode(value)
    assert told.value.incarnation == ORIGIN.incarnation


def test_a_piece_that_inflates_beyond_its_bound_is_refused() -> None:
    [value] = encode({"a": np.zeros(10_000)}, ORIGIN)
    line, _, _ = value.partition(b"\n")
    assert b'"is_deflated":true' in line
    body = line + b"\n" + zlib.compress(bytes(PART_BYTES + 1))
    with pytest.raises(UnreadableRecordError, match="damaged"):
        decode(body + zlib.crc32(body).to_bytes(CRC_BYTES, "little"))


def parts_of(incarnation: str, sequence: int, number: int = 3) -> list[Part]:
    origin = Origin(incarnation, sequence, 0)
    return [Part(origin, i, i == number - 1, b"%d" % i) for i in range(number)]


@given(st.data())
def test_sets_of_many_writers_come_together_however_their_parts_mix(data: st.DataObject) -> None:
    waiting = {name: parts_of(name, 1, data.draw(st.integers(1, 4))) for name in "abcd"}
    expected = {name: [part.piece for part in parts] for name, parts in waiting.items()}
    assembler, found = Assembler(), {}
    offset = 0
    while waiting:
        name = data.draw(st.sampled_from(sorted(waiting)))
        part = waiting[name].pop(0)
        if not waiting[name]:
            del waiting[name]
        # Written again after a lost receipt, as a part may be.
        for _ in range(data.draw(st.integers(1, 2)) if not part.is_last else 1):
            whole = assembler.add(part, offset, 0.0)
            offset += 1
        if whole is not None:
            found[name] = list(whole.pieces)
    assert found == expected
    assert assembler.first_offset is None


def test_a_set_that_is_written_again_after_half_of_it_comes_together_once() -> None:
    assembler = Assembler()
    first, second, third = parts_of("a", 1)
    # The second part was lost at first, and the third was not.
    written = [first, third, first, second, third]
    wholes = [assembler.add(part, i, 0.0) for i, part in enumerate(written)]
    assert [whole is not None for whole in wholes] == [False] * 4 + [True]


def test_a_set_that_its_writer_did_not_finish_makes_way_for_the_next() -> None:
    assembler = Assembler()
    old, new = parts_of("a", 1), parts_of("a", 2)
    assert assembler.add(old[0], 0, 0.0) is None
    assert assembler.add(new[0], 7, 0.0) is None
    assert assembler.first_offset == 7
    assert assembler.add(old[1], 8, 0.0) is None
    assert assembler.add(new[1], 9, 0.0) is None
    whole = assembler.add(new[2], 10, 0.0)
    assert whole is not None
    assert whole.origin.sequence == 2


def test_only_what_has_been_silent_is_given_up() -> None:
    assembler = Assembler()
    assembler.add(parts_of("silent", 1)[0], 0, 10.0)
    assembler.add(parts_of("busy", 1)[0], 1, 10.0)
    assembler.add(parts_of("busy", 1)[1], 2, 50.0)
    assert [origin.incarnation for origin in assembler.give_up(40.0)] == ["silent"]
    assert assembler.first_offset == 1
    assert assembler.give_up(40.0) == []


def test_the_number_of_unfinished_sets_is_bounded() -> None:
    assembler = Assembler()
    for number in range(MAX_INCOMPLETE + 3):
        assembler.add(parts_of(f"w{number}", 1)[0], number, float(number))
    given_up = {origin.incarnation for origin in assembler.give_up(-1.0)}
    assert given_up == {"w0", "w1", "w2"}
    assert assembler.first_offset == 3
