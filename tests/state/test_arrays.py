from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from state import arrays as arrays_module
from state.arrays import ArrayStore
from state.errors import CorruptStateError, LayoutMismatchError, StateUnavailableError

TWO: dict[str, NDArray[Any]] = {
    "mf/items": np.arange(6, dtype=np.float32).reshape(2, 3),
    "ids": np.arange(3, dtype=np.uint8),
}
DTYPES = st.one_of(
    hnp.floating_dtypes(), hnp.integer_dtypes(), hnp.boolean_dtypes(), hnp.array_dtypes()
)
reusing_directory = settings(
    deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@reusing_directory
@given(
    st.dictionaries(
        st.text(max_size=4), DTYPES.flatmap(lambda d: hnp.arrays(d, hnp.array_shapes(min_dims=0)))
    ),
    st.integers(0, 2**63 - 1),
)
def test_arrays_come_back_byte_equal(
    tmp_path: Path, arrays: dict[str, NDArray[Any]], version: int
) -> None:
    ArrayStore(tmp_path / "arrays").save(arrays, version)
    store = ArrayStore(tmp_path / "arrays")
    loaded = store.load()
    assert store.version == version
    assert list(loaded) == list(arrays)
    for name, array in arrays.items():
        assert loaded[name].dtype == array.dtype
        assert loaded[name].shape == array.shape
        assert loaded[name].tobytes() == array.tobytes()
        assert loaded[name].flags.writeable


def test_nothing_stored_is_no_arrays(tmp_path: Path) -> None:
    store = ArrayStore(tmp_path / "none" / "arrays")
    assert store.load() == {}
    assert store.version == 0


def test_saving_replaces_everything(tmp_path: Path) -> None:
    store = ArrayStore(tmp_path / "new" / "directory" / "arrays")
    store.save(TWO, 1)
    store.save({"ids": np.zeros(1)}, 2)
    assert list(store.load()) == ["ids"]
    assert store.version == 2


def test_a_structured_dtype_of_many_fields_comes_back(tmp_path: Path) -> None:
    wide = np.dtype([(f"a_field_with_a_long_name_{i}", "<f4") for i in range(500)])
    store = ArrayStore(tmp_path / "arrays")
    store.save({"wide": np.ones(2, wide)}, 1)
    assert store.load()["wide"].dtype == wide


@reusing_directory
@given(st.data())
def test_any_flipped_byte_is_noticed(tmp_path: Path, data: st.DataObject) -> None:
    path = tmp_path / "arrays"
    ArrayStore(path).save(TWO, 1)
    stored = bytearray(path.read_bytes())
    position = data.draw(st.integers(0, len(stored) - 1))
    stored[position] ^= data.draw(st.integers(1, 255))
    path.write_bytes(stored)
    with pytest.raises(CorruptStateError, match="are damaged: remove that file"):
        ArrayStore(path).load()


@reusing_directory
@given(st.data())
def test_any_truncation_is_noticed(tmp_path: Path, data: st.DataObject) -> None:
    path = tmp_path / "arrays"
    ArrayStore(path).save(TWO, 1)
    stored = path.read_bytes()
    path.write_bytes(stored[: data.draw(st.integers(0, len(stored) - 1))])
    with pytest.raises(CorruptStateError):
        ArrayStore(path).load()


def test_another_format_is_named_as_such(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "arrays"
    with monkeypatch.context() as patch:
        patch.setattr(arrays_module, "MAGIC", b"crm-arrays-2\n")
        ArrayStore(path).save(TWO, 1)
    with pytest.raises(LayoutMismatchError, match="another format"):
        ArrayStore(path).load()


def test_a_save_that_fails_leaves_the_old_arrays(tmp_path: Path) -> None:
    path = tmp_path / "arrays"
    store = ArrayStore(path)
    store.save(TWO, 1)
    (tmp_path / "arrays.tmp").mkdir()
    with pytest.raises(StateUnavailableError, match="cannot write"):
        store.save({"ids": np.zeros(1)}, 2)
    assert store.version == 1
    assert list(ArrayStore(path).load()) == list(TWO)


def test_half_a_draft_is_never_read(tmp_path: Path) -> None:
    path = tmp_path / "arrays"
    ArrayStore(path).save(TWO, 1)
    (tmp_path / "arrays.tmp").write_bytes(path.read_bytes()[:20])
    assert list(ArrayStore(path).load()) == list(TWO)


def test_python_objects_are_refused_and_the_old_arrays_stay(tmp_path: Path) -> None:
    store = ArrayStore(tmp_path / "arrays")
    store.save(TWO, 1)
    with pytest.raises(ValueError, match="holds Python objects"):
        store.save({"bad": np.array([{}], object)}, 2)
    assert list(store.load()) == list(TWO)


def test_a_directory_in_the_place_of_the_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(StateUnavailableError, match="cannot read"):
        ArrayStore(tmp_path).load()
