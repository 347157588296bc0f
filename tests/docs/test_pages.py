"""What the pages say holds: commands parse, links lead somewhere, Python compiles and, if quick, is run."""

import ast
import importlib.util
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from ralm_jax import cli
from ralm_jax.arguments.parser import parser
from ralm_jax.arguments.shared import configs

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "experiments/README.md", *sorted(ROOT.glob("docs/**/*.md"))]


class Block(NamedTuple):
    """A fenced block of a page: its language, its text, and whether a comment asks to run it."""

    page: Path
    language: str
    text: str
    run: bool


def name(value) -> str:
    return str(value.relative_to(ROOT)) if isinstance(value, Path) else str(value)


def blocks(*languages: str) -> Iterator[Block]:
    for page in PAGES:
        text = page.read_text("utf-8")
        for found in re.finditer(r"^(<!-- run -->\n)?```(\w+)\n(.*?)^```$", text, re.M | re.S):
            if found[2] in languages:
                yield Block(page, found[2], found[3], bool(found[1]))


def commands() -> list[tuple[str, str]]:
    """Every command of ours in the bash blocks, with its page; redirections and comments are the shell's."""
    found = []
    for block in blocks("bash"):
        for line in block.text.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            while words:
                end = next((i for i, w in enumerate(words) if w in ("&&", "|", ">", "||")), None)
                found.append((name(block.page), shlex.join(words[:end])))
                redirected = end is not None and words[end] == ">"
                words = [] if end is None or redirected else words[end + 1 :]
    return found


OURS = [(page, line) for page, line in commands() if line.startswith("ralm ")]
EXPERIMENTS = [line for _, line in commands() if line.startswith("python -m experiments.")]


@pytest.mark.parametrize(("page", "command"), OURS)
def test_a_command_is_one_that_there_is(page, command):
    arguments = parser(cli.VERBS).parse_args(shlex.split(command)[1:])
    config = getattr(arguments, "config", None)
    assert config is None or (configs() / config).is_file(), config


def test_pages_have_commands_and_name_every_verb():
    named = {command.split()[1] for _, command in OURS}
    assert set(cli.VERBS) <= named, f"no page has {set(cli.VERBS) - named}"


@pytest.mark.parametrize("command", sorted({line.split()[2] for line in EXPERIMENTS}))
def test_an_experiment_is_one_that_there_is(command):
    assert importlib.util.find_spec(command) is not None


def anchors(page: Path) -> set[str]:
    """Those of the headings, as GitHub and MyST make them; an included page's are those of the page."""
    text = page.read_text("utf-8")
    for included in re.findall(r"^```\{include\} (\S+)", text, re.M):
        text += (page.parent / included).resolve().read_text("utf-8")
    outside = re.sub(r"^```.*?^```$", "", text, flags=re.M | re.S)
    headings = re.findall(r"^#+ (.+)$", outside, re.M)
    return {re.sub(r"[^\w\- ]", "", h.strip().lower()).replace(" ", "-") for h in headings}


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_lead_somewhere(page):
    text = re.sub(r"^```.*?^```$", "", page.read_text("utf-8"), flags=re.M | re.S)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if target.startswith(("http://", "https://", "mailto:")):
            continue
        file, _, anchor = target.partition("#")
        where = (page.parent / file).resolve() if file else page
        assert where.exists(), f"{target} is not there"
        assert not anchor or anchor in anchors(where), f"{target} has no such heading"


def test_every_page_of_the_site_is_reached_from_its_first():
    """Pages are listed by name, or by a pattern where others may add to them."""
    index = (ROOT / "docs/index.md").read_text("utf-8")
    listed = re.findall(r"```\{toctree\}\n(.*?)```", index, re.S)
    entries = [e for part in listed for e in part.split("\n") if e and not e.startswith(":")]
    pages = {str(p.relative_to(ROOT / "docs").with_suffix("")) for p in PAGES[2:]} - {"index"}
    found = {page for page in pages if any(Path(page).match(e) for e in entries)}
    assert found == pages


PYTHON = [block for block in blocks("python")]


@pytest.mark.parametrize("block", PYTHON, ids=lambda b: f"{name(b.page)}: {b.text.split()[1]}")
def test_python_compiles_and_imports_what_is_there(block):
    for node in ast.walk(compiled := ast.parse(block.text)):
        # Other libraries are not all installed, and those that are need not be imported.
        ours = isinstance(node, ast.Import) and node.names[0].name.startswith("ralm_jax")
        ours |= isinstance(node, ast.ImportFrom) and str(node.module).startswith("ralm_jax")
        if ours:
            exec(compile(ast.Module([node], []), name(block.page), "exec"), {})
    compile(compiled, name(block.page), "exec")


QUICK = [block for block in PYTHON if block.run]


@pytest.mark.parametrize("block", QUICK, ids=lambda b: name(b.page))
def test_what_is_quick_is_run(block, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    exec(compile(block.text, name(block.page), "exec"), {})


def test_messages_that_are_explained_are_messages_of_ours():
    text = (ROOT / "docs/how_to/troubleshooting.md").read_text("utf-8")
    rows = [line.split("|")[1] for line in text.splitlines() if line.startswith("| `")]
    quoted = [part for row in rows for part in re.findall(r"`([^`]+)`", row)]
    sources = [file.read_text("utf-8") for file in (ROOT / "ralm_jax").rglob("*.py")]
    # A string goes on in the next line.
    said = re.sub(r'"\s*\n\s*f?"', "", "\n".join(sources))
    assert len(quoted) > 8
    assert [part for part in quoted if part not in said] == []
