"""The rules of the house that a parser can check (see CONTRIBUTING.md)."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "ralm_jax"
MODULES = sorted(PACKAGE.rglob("*.py"))
SOURCES = [*MODULES, *sorted((ROOT / "experiments").rglob("*.py"))]


def parse(file: Path) -> ast.Module:
    return ast.parse(file.read_text("utf-8"), str(file))


def name(file: Path) -> str:
    return str(file.relative_to(ROOT))


def imports(file: Path) -> Iterator[str]:
    """Full names of the modules a file imports, also inside functions."""
    for node in ast.walk(parse(file)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name(file)}:{node.lineno} imports relatively"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def importers(package: str, files: list[Path]) -> list[str]:
    return [name(file) for file in files if package in {m.split(".")[0] for m in imports(file)}]


def test_gin_is_known_at_the_door_only():
    assert set(importers("gin", MODULES)) <= {"ralm_jax/cli.py", "ralm_jax/gin_config.py"}


def test_arguments_are_known_at_the_door_only():
    found = importers("argparse", MODULES)
    assert {str(Path(file).parent) for file in found} == {"ralm_jax/arguments"}


def test_nothing_imports_tensorflow_or_pickle():
    for package in ("tensorflow", "pickle", "cloudpickle", "dill"):
        assert importers(package, SOURCES) == []


def test_numpy_is_never_allowed_to_pickle():
    for file in SOURCES:
        for node in ast.walk(parse(file)):
            if isinstance(node, ast.keyword) and node.arg == "allow_pickle":
                allowed = not (isinstance(node.value, ast.Constant) and node.value.value is False)
                assert not allowed, f"{name(file)}:{node.value.lineno} allows pickle"


def test_pmap_is_in_one_file():
    for file in SOURCES:
        for node in ast.walk(parse(file)):
            named = {getattr(node, key, None) for key in ("attr", "id", "name")}
            if "pmap" in named:
                assert name(file) == "ralm_jax/partition.py", f"{name(file)} says pmap"


@pytest.mark.parametrize("file", SOURCES, ids=name)
def test_files_and_functions_are_short(file):
    assert len(file.read_text("utf-8").splitlines()) <= 300
    for node in ast.walk(parse(file)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = (node.end_lineno or node.lineno) - node.lineno + 1
            assert length <= 60, f"{node.name} has {length} lines"


def test_there_is_no_junk_drawer():
    drawers = {"utils.py", "util.py", "helpers.py", "common.py", "misc.py"}
    assert [name(file) for file in SOURCES if file.name in drawers] == []
