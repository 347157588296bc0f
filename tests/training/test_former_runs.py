"""Runs made by an earlier release (commit 8d3297e, before modules were moved and settings renamed).

fixtures/former_run.tar.gz has a corpus; a pretraining stopped at step 5 of 8 of its last stage,
with a refresh under way; the parameters at the end of the same pretraining uninterrupted; a
fine-tuning stopped at step 2 of 4; and the settings of both.
"""

import json
import tarfile
from pathlib import Path

import jax
import numpy as np
import pytest

from ralm_jax import cli
from ralm_jax.inference.open_run import OpenRun
from ralm_jax.runs.writers import metrics_file, read_metrics

ARCHIVE = Path(__file__).parents[1] / "fixtures" / "former_run.tar.gz"


@pytest.fixture
def former(tmp_path):
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(tmp_path, filter="data")
    settings = json.loads((tmp_path / "settings.json").read_text())
    changes = {
        part: [w for name, value in given.items() for w in ("--set", f"{name} = {value}")]
        for part, given in settings.items()
    }
    return tmp_path, changes


def pretrain(folder, run, changes):
    words = ["--config", "runs/pretrain.gin", "--corpus", folder / "corpus", "--run", run]
    return cli.main(["pretrain", *map(str, words), *changes])


@pytest.mark.slow
def test_a_pretraining_resumes_and_ends_as_it_would_have(former):
    folder, changes = former
    run = folder / "run"
    assert OpenRun.open(run, folder / "corpus").step == 5
    assert pretrain(folder, run, changes["settings"]) == 0
    opened = OpenRun.open(run, folder / "corpus")
    assert (opened.stage, opened.step) == ("realm", 8)
    wanted = np.load(folder / "whole.npz")
    found = jax.tree_util.tree_leaves_with_path(opened.params)
    assert {jax.tree_util.keystr(path) for path, _ in found} == set(wanted.files)
    for path, leaf in found:
        # Other processors round otherwise.
        name = jax.tree_util.keystr(path)
        np.testing.assert_allclose(leaf, wanted[name], rtol=1e-3, atol=2e-5, err_msg=name)
    lines = [x for x in read_metrics(metrics_file(run)) if x["stage"] == "realm" and "loss" in x]
    assert [x["step"] for x in lines] == list(range(1, 9))


def test_another_configuration_is_still_told_apart(former, capsys):
    folder, changes = former
    other = [*changes["settings"], "--set", "CANDIDATES = 4"]
    assert pretrain(folder, folder / "run", other) == 2
    assert "CANDIDATES is 3 there and 4 here" in capsys.readouterr().err


@pytest.mark.slow
def test_a_fine_tuning_resumes_and_answers(former, capsys):
    folder, changes = former
    asked = ["--train", folder / "questions.jsonl", "--dev", folder / "questions.jsonl"]
    begin = ["--run", folder / "run", "--out", folder / "answers", "--corpus", folder / "corpus"]
    # It began with the run of the whole pretraining, whose last step it remembers.
    record = json.loads((folder / "answers" / "run.json").read_text())
    assert record["init"]["step"] == 8
    assert pretrain(folder, folder / "run", changes["settings"]) == 0
    words = ["finetune", *map(str, (*begin, *asked)), *changes["finetune"]]
    assert cli.main(words) == 0
    assert "20 questions" in capsys.readouterr().out
    assert OpenRun.open(folder / "answers", folder / "corpus", stage="finetune").step == 4
