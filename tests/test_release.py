"""One version, wherever it is said; and what a release has to have beside its code."""

import json
import re
import runpy
import sys
import types
from importlib.metadata import version
from pathlib import Path

import ralm_jax
from ralm_jax.batches import Lengths
from ralm_jax.models.config import EncoderConfig
from ralm_jax.models.ralm import Ralm
from ralm_jax.release import VERSION
from ralm_jax.runs import directory

ROOT = Path(__file__).parents[1]


def test_one_version_everywhere(monkeypatch):
    given = {}
    tools = {"setup": given.update, "find_packages": lambda include: ["ralm_jax"]}
    monkeypatch.setitem(sys.modules, "setuptools", types.SimpleNamespace(**tools))
    runpy.run_path(str(ROOT / "setup.py"))
    cited = re.search(r"^version: (\S+)$", (ROOT / "CITATION.cff").read_text(), re.M)
    assert given["version"] == ralm_jax.__version__ == cited[1] == version("ralm_jax") == VERSION
    assert given["package_data"]["ralm_jax"] == ["py.typed"]
    assert (ROOT / "ralm_jax" / "py.typed").exists()


def test_the_changelog_says_how_to_upgrade():
    newest = (ROOT / "CHANGELOG.md").read_text("utf-8").split("\n## ")[1]
    assert newest.startswith(("Unreleased", VERSION)) and "\n### Upgrading\n" in newest


def test_a_run_says_which_release_began_it_and_a_later_one_goes_on(tiny, tmp_path, monkeypatch):
    sizes = EncoderConfig(40, hidden=8, layers=1, heads=2, intermediate=8, positions=24)
    model = directory.sized(Ralm(sizes, sizes), tiny.corpus.vocabulary.size)
    lengths = vars(Lengths(query=20, passage=24, joint=24, masked=4))
    parts = {"stages": ["ict"], "lengths": lengths, "held_out": 0.1, "seed": 0}
    for release in (VERSION, "99.0"):
        monkeypatch.setattr(directory, "VERSION", release)
        directory.describe(tmp_path / "run", model, tiny.corpus, **parts)
        assert directory.read_record(tmp_path / "run")["ralm_jax"] == VERSION
    # Those of early releases do not say.
    file = tmp_path / "run" / directory.RUN
    record = directory.read_record(tmp_path / "run")
    del record["ralm_jax"]
    file.write_text(json.dumps(record))
    directory.describe(tmp_path / "run", model, tiny.corpus, **parts)
    assert "ralm_jax" not in directory.read_record(tmp_path / "run")
