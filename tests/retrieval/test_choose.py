"""Which searcher serves, and that the interface knows nothing of those who implement it."""

import ast
import importlib
import types
from pathlib import Path

import jax
import pytest

from ralm_jax.errors import UserError
from ralm_jax.retrieval import scann_process, searcher
from ralm_jax.retrieval.choose import EXACT_BELOW, choose, form
from ralm_jax.retrieval.exact import Exact, Rounded
from ralm_jax.retrieval.scann_index import ScannConfig


def test_few_passages_are_searched_exactly():
    assert isinstance(choose(EXACT_BELOW - 1, width=8), Exact)
    assert isinstance(choose(10 * EXACT_BELOW, "exact", width=8), Exact)


def test_where_there_is_no_scann_the_search_is_exact_unless_it_is_asked_for(monkeypatch):
    monkeypatch.setattr(scann_process.importlib.util, "find_spec", lambda name: None)
    assert not scann_process.has_scann()
    assert isinstance(choose(10 * EXACT_BELOW, width=8), Exact)
    with pytest.raises(UserError, match=r"ScaNN is not installed .*: set INDEX = 'exact'"):
        choose(10 * EXACT_BELOW, "scann", width=8)


@pytest.mark.parametrize("platform", ["gpu", "tpu"])
def test_accelerators_round_what_is_large(platform):
    """Below, float32 costs them nothing; a CPU is never quicker in bfloat16."""
    few, many = EXACT_BELOW - 1, EXACT_BELOW
    assert form(few, "exact", platform) == form(few, "auto", platform) == "exact"
    assert form(many, "exact", platform) == "rounded"
    assert form(many, "exact", "cpu") == "exact"
    for each in platform, "cpu":
        assert form(many, "auto", each) == form(few, "scann", each) == "scann"


def test_an_accelerator_has_room_or_says_so(monkeypatch):
    class Device:
        platform = "gpu"

        def memory_stats(self):
            return {"bytes_limit": 1 << 30}

    monkeypatch.setattr(jax, "local_devices", lambda: [Device()])
    assert isinstance(choose(10**6, "exact", width=128), Rounded)
    with pytest.raises(UserError, match="exact search: 3,000,000 passages"):
        choose(3_000_000, "exact", width=128)
    # An index that stays as it is needs half.
    assert isinstance(choose(3_000_000, "exact", width=128, tables=1), Rounded)


@pytest.mark.parametrize(
    ("platform", "cores", "threads"), [("gpu", 16, 15), ("tpu", 1, 1), ("cpu", 16, 1)]
)
def test_scann_has_the_cores_that_wait_for_it(monkeypatch, platform, cores, threads):
    module = importlib.import_module("ralm_jax.retrieval.choose")
    device = types.SimpleNamespace(platform=platform)
    monkeypatch.setattr(jax, "local_devices", lambda: [device])
    monkeypatch.setattr(module.os, "sched_getaffinity", lambda process: range(cores), raising=False)
    monkeypatch.setattr(module, "ScannProcess", lambda config: config)
    assert choose(EXACT_BELOW, "scann", width=8, k=5) == ScannConfig(k=5, threads=threads)
    assert choose(EXACT_BELOW, "scann", width=8, k=5, threads=3).threads == 3


def test_the_interface_imports_no_searcher():
    """Not inside a function and not for type checking either: that would be a circle."""
    tree = ast.parse(Path(searcher.__file__).read_text("utf-8"))
    modules = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert {name for name in modules if name.startswith("ralm_jax")} == {"ralm_jax.retrieval.index"}
