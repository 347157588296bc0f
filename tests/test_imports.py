"""Imports run one way, over files, and in no circle; lazy and type-checking imports count."""

import ast
import inspect
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "ralm_jax"
FILES = sorted([*PACKAGE.rglob("*.py"), *(ROOT / "experiments").rglob("*.py")])

# Libraries that few need may be missing.
IMPORTING = """
import importlib, sys
for name in sys.argv[1:]:
    try:
        importlib.import_module(name)
    except ModuleNotFoundError as missing:
        if missing.name.split(".")[0] in ("ralm_jax", "experiments"):
            raise
"""

# A file imports from its own line of this list and from the lines above it.
ORDER = [
    {
        "arrays",
        "cache",
        "checksums",
        "ending",
        "errors",
        "batches",
        "bm25s_without_jax",
        "former_names",
        "json_text",
        "names",
        "partition",
        "publishing",
        "release",
        "settings",
        "signals",
        "terminal",
        "versions",
        "memory",
        "messages",
        "metrics",
    },
    {"formats", "models", "losses", "sources"},
    {"data", "questions", "retrieval", "lexical", "hosts"},
    {"examples", "living", "runs"},
    {"inference"},
    {"evaluation", "engines"},
    {"selection", "loaders"},
    {"training", "cost"},
    {"weights", "sharing", "quickstart"},
    {"adapt", "check", "doctor"},
    {"serving"},
    {"arguments", "gin_config", "verbs", "cli", "__init__"},
    {"experiments"},
]


def name(file: Path) -> str:
    return str(file.relative_to(ROOT))


def module_file(module: str) -> Path | None:
    """The file of a module of ours, given its dotted name; None for what is not one."""
    path = ROOT.joinpath(*module.split("."))
    found = (path.with_suffix(".py"), path / "__init__.py")
    return next((file for file in found if file.is_file()), None)


def imported(source: str, where: str) -> Iterator[Path]:
    """Our files that a source imports, wherever in it the import stands."""
    for node in ast.walk(ast.parse(source, where)):
        if isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{where}:{node.lineno} imports relatively"
            inside = [f"{node.module}.{alias.name}" for alias in node.names]
            modules = [m if module_file(m) else str(node.module) for m in inside]
        else:
            continue
        for module in modules:
            if module.split(".")[0] in ("ralm_jax", "experiments") and (f := module_file(module)):
                yield f


def graph() -> dict[Path, set[Path]]:
    return {file: set(imported(file.read_text("utf-8"), name(file))) for file in FILES}


def rank(file: Path) -> int:
    parts = file.relative_to(ROOT).with_suffix("").parts
    room = "experiments" if parts[0] == "experiments" else parts[1]
    places = [number for number, rooms in enumerate(ORDER) if room in rooms]
    assert places, (
        f"{name(file)}: {room} has no rank; say in {name(Path(__file__))} what it may import"
    )
    return places[0]


def against_order(arrows: dict[Path, set[Path]]) -> list[str]:
    return [
        f"{name(file)} imports {name(other)}"
        for file, others in arrows.items()
        for other in sorted(others)
        if rank(other) > rank(file)
    ]


def circle(arrows: dict[Path, set[Path]]) -> list[str]:
    """The files of one circle, the first of them again at its end; empty where there is none."""
    finished: set[Path] = set()

    def walk(file: Path, trail: list[Path]) -> list[Path]:
        if file in trail:
            return [*trail[trail.index(file) :], file]
        if file in finished:
            return []
        for other in sorted(arrows.get(file, ())):
            if found := walk(other, [*trail, file]):
                return found
        finished.add(file)
        return []

    found = next((found for file in sorted(arrows) if (found := walk(file, []))), [])
    return [name(file) for file in found]


def test_imports_follow_the_order_of_rooms():
    assert against_order(graph()) == []


def test_no_imports_form_a_circle():
    assert circle(graph()) == []


def test_imports_take_hold_of_no_device():
    """A process that does has three quarters of a GPU's memory, and a TPU serves no second one."""
    modules = [
        ".".join(file.relative_to(ROOT).with_suffix("").parts)
        for folder in (PACKAGE, ROOT / "experiments")
        for file in sorted(folder.rglob("*.py"))
        if file.name not in ("__init__.py", "__main__.py")
    ]
    assert "ralm_jax.lexical.index" in modules and "experiments.bench.step" in modules
    # Without such a platform, JAX raises as soon as it is asked for its devices.
    there = {**os.environ, "JAX_PLATFORMS": "none_such", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", IMPORTING, *modules]
    done = subprocess.run(command, env=there, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr


def test_an_arrow_against_the_order_and_a_circle_are_found():
    loss, loop = PACKAGE / "losses" / "marginal.py", PACKAGE / "training" / "loop.py"
    arrows = {loss: {loop}, loop: {loss}}
    assert against_order(arrows) == [
        "ralm_jax/losses/marginal.py imports ralm_jax/training/loop.py"
    ]
    assert circle(arrows) == [
        "ralm_jax/losses/marginal.py",
        "ralm_jax/training/loop.py",
        "ralm_jax/losses/marginal.py",
    ]


@pytest.mark.parametrize(
    "source",
    [
        "def f():\n    from ralm_jax.losses import marginal\n",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import ralm_jax.losses.marginal\n",
        "from ralm_jax.losses.marginal import log_prior\n",
    ],
    ids=["lazy", "type-checking", "name"],
)
def test_every_kind_of_import_counts(source):
    assert list(imported(source, "a test")) == [PACKAGE / "losses" / "marginal.py"]


@pytest.mark.parametrize("notebook", sorted(ROOT.glob("notebooks/*.ipynb")), ids=name)
def test_a_notebook_imports_what_there_is(notebook):
    """Notebooks run for minutes; what has moved, a module or a name in it, is known at once."""
    ours = {}
    for cell in json.loads(notebook.read_text("utf-8"))["cells"]:
        lines = "".join(cell["source"]).splitlines() if cell["cell_type"] == "code" else []
        code = ast.parse("\n".join(x for x in lines if not x.startswith(("%", "!"))))
        for node in ast.walk(code):
            if isinstance(node, ast.ImportFrom) and str(node.module).startswith(("ralm", "exper")):
                exec(compile(ast.Module([node], []), name(notebook), "exec"), ours)
        for node in ast.walk(code):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                module = ours.get(node.value.id)
                assert not inspect.ismodule(module) or hasattr(module, node.attr), ast.unparse(node)
    assert ours


@pytest.mark.parametrize("room", sorted(p.parent for p in PACKAGE.rglob("*/__init__.py")), ids=name)
def test_a_room_says_what_is_in_it(room):
    """Contents, what comes in, what goes out, and what it may import; a dozen files at most."""
    said = ast.get_docstring(ast.parse((room / "__init__.py").read_text("utf-8"))) or ""
    for heading in ("In:", "Out:", "Imports:"):
        assert heading in said, f"{name(room)}/__init__.py does not say {heading}"
    assert len(list(room.glob("*.py"))) - 1 <= 12, f"{name(room)} has become two rooms"
