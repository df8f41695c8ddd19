import subprocess
import sys

import numpy as np
import pytest

from state.layout import fingerprint

PROFILE = [("clicks", "<i4"), ("spend", "<f8")]
VECTOR = ("v", "<f4", (4,))


def row(*fields: object, align: bool = True) -> np.dtype[np.void]:
    return np.dtype(list(fields), align=align)


ROW = row(("profile", PROFILE), VECTOR)


@pytest.mark.parametrize(
    "other",
    [
        row(("profile", [("views", "<i4"), ("spend", "<f8")]), VECTOR),
        row(("profile", [("clicks", "<u4"), ("spend", "<f8")]), VECTOR),
        row(("profile", [("clicks", ">i4"), ("spend", "<f8")]), VECTOR),
        row(("profile", PROFILE), ("v", "<f4", (2, 2))),
        row(("profile", PROFILE), VECTOR, align=False),
        row(VECTOR, ("profile", PROFILE)),
        row(("profile", PROFILE)),
        np.dtype({"names": ["v"], "formats": [("<f4", (4,))], "itemsize": ROW.itemsize}),
    ],
    ids=["name", "sign", "byte order", "shape", "padding", "order", "fewer", "room at the end"],
)
def test_any_difference_of_layout_changes_the_fingerprint(other: np.dtype[np.void]) -> None:
    assert fingerprint(other) != fingerprint(ROW)


def test_the_fingerprint_is_the_same_in_another_process() -> None:
    program = (
        "import numpy as np; from state.layout import fingerprint;"
        "print(fingerprint(np.dtype([('clicks', '<i4'), ('v', '<f4', (4,))])))"
    )
    run = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, check=True, text=True
    )
    assert run.stdout.strip() == fingerprint(np.dtype([("clicks", "<i4"), ("v", "<f4", (4,))]))


def test_the_fingerprint_of_a_known_layout_never_changes() -> None:
    known = row(("clicks", "<i4"), VECTOR, align=False)
    assert fingerprint(known) == "c5712c10afa955d3c9fb556597dd3ab7"


@pytest.mark.parametrize("dtype", [np.dtype("f4"), np.dtype([]), np.dtype([("name", "O")])])
def test_what_cannot_be_a_row_is_refused(dtype: np.dtype[np.void]) -> None:
    with pytest.raises(ValueError, match="a row"):
        fingerprint(dtype)
