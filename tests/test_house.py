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


def asserts(source: str) -> list[str]:
    """Assertions that do more than tell the type checker what a value is."""
    found = [x.test for x in ast.walk(ast.parse(source)) if isinstance(x, ast.Assert)]
    said = [ast.unparse(test) for test in found]
    return [x for x in said if not x.startswith("isinstance(") and not x.endswith("is not None")]


def test_nothing_is_checked_by_an_assertion():
    """`python -O` leaves them out."""
    assert asserts("assert len(x) < 3") and not asserts("assert isinstance(x, int)")
    found = {name(file): asserts(file.read_text("utf-8")) for file in MODULES}
    # What its own callers keep to.
    assert found.pop("ralm_jax/serving/device.py") == ["len(items) <= BATCH"]
    assert not any(found.values())


# The clock of the wall, in modules and as methods of their classes.
CLOCKS = {"time", "time_ns", "ctime", "localtime", "gmtime", "now", "utcnow", "today"}


def clocks(source: str) -> list[str]:
    """Calls that ask what time it is."""
    calls = (x.func for x in ast.walk(ast.parse(source)) if isinstance(x, ast.Call))
    return [ast.unparse(x) for x in calls if isinstance(x, ast.Attribute) and x.attr in CLOCKS]


def test_nothing_depends_on_what_time_it_is():
    """A clock that is set back or forward in a run changes nothing: what is timed has a clock of its own."""
    assert clocks("time.time()") and clocks("datetime.datetime.now()")
    assert not clocks("time.perf_counter()")
    assert {
        name(file): found for file in MODULES if (found := clocks(file.read_text("utf-8")))
    } == {}


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
