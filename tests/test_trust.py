"""What comes from elsewhere is data: it is not run, and it does not reach beyond its own folder."""

import ast
import json
import os
import shutil
import sys
import zipfile
from pathlib import Path

import gin
import pytest
from bad_input import snapshot

from ralm_jax import cli, gin_config
from ralm_jax.data.texts import Texts
from ralm_jax.errors import UserError
from ralm_jax.formats import lines, pages
from ralm_jax.names import beneath
from ralm_jax.sources.read import read_documents

ROOT = Path(__file__).parents[1]
SOURCES = sorted([*(ROOT / "ralm_jax").rglob("*.py"), *(ROOT / "experiments").rglob("*.py")])
# Modules that run what a file says, and a shell.
RUNS = {"pickle", "_pickle", "cloudpickle", "dill", "marshal", "shelve", "joblib", "jsonpickle"}
CALLS = {"eval", "exec", "compile", "__import__", "os.system", "os.popen", "yaml.load"}
# Modules of a fixed list, those of the standard library whose docstrings are read.
IMPORTS_BY_NAME = {"ralm_jax/sources/docstrings.py", "ralm_jax/__init__.py"}


def called(node: ast.Call) -> str:
    return ast.unparse(node.func)


def faults(source: str, where: str) -> list[str]:
    """What of a source runs data."""
    found = []
    for node in ast.walk(ast.parse(source, where)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            named = [alias.name for alias in node.names]
            modules = named if isinstance(node, ast.Import) else [str(node.module)]
            found += [f"imports {m}" for m in modules if m.partition(".")[0] in RUNS]
        if not isinstance(node, ast.Call):
            continue
        given = {word.arg: ast.unparse(word.value) for word in node.keywords}
        name = called(node)
        if name in CALLS or given.get("shell", "False") != "False":
            found.append(f"calls {name}")
        if given.get("allow_pickle", "False") != "False":
            found.append(f"{name} unpickles")
        if name == "torch.load" and given.get("weights_only") != "True":
            found.append(f"{name} runs what a file says")
        if name.endswith("import_module") and where not in IMPORTS_BY_NAME:
            found.append(f"{name} of a name")
    return found


@pytest.mark.parametrize("file", SOURCES, ids=lambda file: str(file.relative_to(ROOT)))
def test_nothing_runs_data(file):
    assert faults(file.read_text("utf-8"), str(file.relative_to(ROOT))) == []


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "from pickle import loads",
        "eval(text)",
        "exec(text)",
        "np.load(file, allow_pickle=True)",
        "np.load(file, allow_pickle=asked)",
        "torch.load(file)",
        "torch.load(file, weights_only=False)",
        "yaml.load(file)",
        "subprocess.run(line, shell=True)",
        "importlib.import_module(name)",
    ],
)
def test_what_runs_data_is_found(source):
    assert faults(source, "a test")


HEAD = "from __gin__ import dynamic_registration\n"


@pytest.fixture
def ran(tmp_path, monkeypatch):
    """A module that says when it is imported, and where it says so."""
    (tmp_path / "foreign.py").write_text(
        "from pathlib import Path\nPath('ran').touch()\ndef call(x=1): Path('called').touch()\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    sys.modules.pop("foreign", None)
    gin.clear_config()


@pytest.mark.parametrize(
    "lines",
    [
        "import foreign\n",
        "from foreign import call\n",
        "import foreign as ralm_jax\n",
        # Reached through modules of ours, which import them.
        "from ralm_jax import quickstart\nquickstart.gzip.open.filename = 'x'\n",
        "from ralm_jax.training import pretrain\npretrain.np.save.file = 'x'\n",
        "from ralm_jax.selection import interpolation\ninterpolation.vector_cache.shutil.rmtree.path = 'x'\n",
        # Ours, and not for configurations: they write, and remove.
        "from ralm_jax.runs import files\n",
        "from ralm_jax import publishing\n",
        "from ralm_jax.training import loop\nloop.directory.save_model.run = 'x'\n",
        "from ralm_jax import quickstart\nquickstart.prepare.source = 'x'\n",
    ],
)
def test_a_configuration_runs_what_is_offered_alone(ran, lines):
    (ran / "c.gin").write_text(HEAD + lines)
    with pytest.raises(UserError, match=r"configuration c\.gin: .* with --any-import"):
        gin_config.configure("pretrain.pretrain", "c.gin")
    # Nor by the changes to one.
    change = f"SEED = 1\n{lines}"
    with pytest.raises(UserError, match=r"--set .*SEED.* with --any-import"):
        gin_config.configure("pretrain.pretrain", "runs/small.gin", [change])
    assert not (ran / "ran").exists()


def test_more_may_be_asked_for(ran):
    (ran / "c.gin").write_text(
        f"{HEAD}import foreign\ninclude 'runs/small.gin'\nforeign.call.x = 2\n"
    )
    gin_config.configure("pretrain.pretrain", "c.gin", any_import=True)
    assert (ran / "ran").exists() and not (ran / "called").exists()
    # And is asked for each time.
    with pytest.raises(UserError, match="--any-import"):
        gin_config.configure("pretrain.pretrain", "c.gin")


@pytest.mark.parametrize(
    "name", ["../x", "a/../../x", "/etc/passwd", "..", "a\0b", 3, None, "./../x", "a/b/../../.."]
)
def test_a_name_stays_in_its_folder(name):
    with pytest.raises(UserError, match="which is not in here"):
        beneath(Path("here"), name, Path("index.json"))
    assert beneath(Path("here"), "a/../..b", Path("index.json")) == Path("here/a/../..b")


def test_ids_name_no_files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    records = [{"id": id, "text": "A mill."} for id in ("../../up", "/etc/x", "a\\..\\b", "~/c")]
    (tmp_path / "s.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records))
    above = set(os.listdir(tmp_path.parent))
    assert cli.main(["prepare", "s.jsonl", "--out", "out", "--vocab-size", "50"]) == 0
    outside = {name for name in snapshot(tmp_path) if not name.startswith("out")}
    assert outside == {"s.jsonl"} and set(os.listdir(tmp_path.parent)) == above


@pytest.mark.parametrize("form", ["pythonClassName", "python_class_name", "type"])
def test_the_features_of_a_corpus_import_nothing(ran, tiny, form):
    texts = shutil.copytree(tiny.corpus.path / "texts", ran / "texts")
    (texts / "features.json").write_text(json.dumps({form: "foreign.Features"}))
    with pytest.raises(UserError, match="features are of foreign"):
        Texts(ran)
    assert not (ran / "ran").exists()


def test_a_mistake_is_one_line_whatever_it_quotes():
    said = str(UserError("q.json: a" + "\n" * 9 + "b" * 100_000 + "; save it again"))
    assert said.startswith(r"q.json: a\n\n") and said.endswith("bb; save it again")
    assert len(said) < 1000 and said.isprintable()


@pytest.mark.parametrize("name", ["corpus.jsonl", "part.jsonl"])
def test_a_set_of_records_links_to_nothing_outside(tmp_path, name):
    (tmp_path / "secret.jsonl").write_text('{"id": "a", "text": "A secret."}\n')
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / name).symlink_to("../secret.jsonl")
    with pytest.raises(UserError, match=rf"set/{name} is a link that leads out of .*set; copy"):
        list(read_documents(str(tmp_path / "set")))
    # A snapshot of the hub links to what is kept beside it.
    snapshot_of = tmp_path / "hub" / "snapshots" / "abc"
    snapshot_of.mkdir(parents=True)
    (tmp_path / "hub" / "blobs").mkdir()
    (tmp_path / "secret.jsonl").rename(tmp_path / "hub" / "blobs" / "0123")
    (snapshot_of / name).symlink_to("../../blobs/0123")
    assert [d.text for d in read_documents(str(snapshot_of))] == ["A secret."]


def test_entities_that_grow_are_damage(tmp_path):
    entities = "".join(f'<!ENTITY e{i + 1} "{f"&e{i};" * 10}">' for i in range(9))
    body = f'<!DOCTYPE x [<!ENTITY e0 "{"mill" * 100}">{entities}]><x>&e9;</x>'
    with zipfile.ZipFile(tmp_path / "a.docx", "w") as archive:
        archive.writestr("word/document.xml", body)
    with pytest.raises(pages.UnreadPage, match="damaged"):
        pages.read_page(tmp_path / "a.docx")


def test_a_line_has_a_longest(tmp_path, monkeypatch):
    monkeypatch.setattr(lines, "LONGEST", 10)
    (tmp_path / "a").write_bytes(b"0123456789"[:9] + b"\n0123456789a\n")
    with pytest.raises(UserError, match="line 2: longer than 10 bytes"):
        list(lines.lines(tmp_path / "a"))


def test_what_is_said_has_no_text_in_it(tmp_path, monkeypatch, capsys, caplog):
    """Neither what is printed nor what is logged, of a corpus that is sound."""
    monkeypatch.chdir(tmp_path)
    caplog.set_level(0)
    word = "quetzalcoatlus"
    for number, name in enumerate(("s.jsonl", "t.jsonl")):
        record = {"id": f"d{number}", "title": word, "text": f"The {word} flew in 19{number}2."}
        (tmp_path / name).write_text(json.dumps(record) + "\n")
    for command in (
        ["prepare", "s.jsonl", "--out", "c", "--vocab-size", "60"],
        ["update", "c", "t.jsonl"],
        ["check", "c"],
    ):
        assert cli.main(command) == 0
    said = capsys.readouterr()
    assert said.out and word not in said.out + said.err + caplog.text
