"""Distillation from labels: what the rows differ in, and what the table says."""

import contextlib
import dataclasses
import json

import compiling
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import labels, objectives, pipeline
from experiments.setting import ALMANAC, Setting
from ralm_jax import gin_config
from ralm_jax.inference.open_run import OpenRun
from ralm_jax.training import finetune


def given(kind):
    return gin_config.bindings(
        "finetune.finetune", "runs/finetune_small.gin", labels.ROWS[kind].changes
    )


def test_rows_differ_in_the_scorer_alone():
    plain, dynamic, static = map(given, ("plain", "dynamic", "static"))
    assert plain["distil"] is None and dynamic["distil"] is static["distil"] is not None
    same = [
        {k: v for k, v in x.items() if k not in ("distil", "schedule")} for x in (plain, static)
    ]
    assert same[0] == same[1]
    courses = [dataclasses.replace(x["schedule"], optimizer=None) for x in (plain, static)]
    assert courses[0] == courses[1]
    params = {part: {"kernel": jnp.ones((2, 2))} for part in ("reader", "scorer")}
    params["retriever"] = {
        t: {"kernel": jnp.ones((2, 2))} for t in ("query_tower", "passage_tower")
    }
    still, moved = jax.tree.map(jnp.zeros_like, params), {}
    for kind, given_to in (("dynamic", dynamic), ("static", static)):
        now = given_to["schedule"].optimizer.init(params)
        # The first step of a warm-up has no rate; the second decays weights.
        for _ in range(2):
            updates, now = given_to["schedule"].optimizer.update(still, now, params)
        moved[kind] = float(abs(updates["scorer"]["kernel"]).max())
    assert moved["static"] == 0 < moved["dynamic"]


def made(kind, seed, exact_match, first, reranked=None):
    own = {"exact_match": [exact_match], "recall": {"1": first, "5": 0.9}}
    answers = {"retriever": own}
    if reranked is not None:
        answers["reranked"] = {"exact_match": [reranked], "recall": {"1": 0.2, "5": 0.8}}
    return {"kind": kind, "start": "weak", "seed": seed, "answers": answers}


def test_the_table_and_what_is_asked_of_it():
    rows = [made("plain", 0, 0.5, 0.4), made("plain", 1, 0.6, 0.4)]
    rows.append(made("dynamic", 1, 0.75, 0.3, reranked=0.7))
    shown = labels.table(rows)
    assert (
        "| ORQA | weak | 40.0 (40.0 to 40.0) | 90.0 (90.0 to 90.0) |  | 55.0 (50.0 to 60.0) |  |"
    ) in shown
    assert "| 20.0 | 75.0 | 70.0 |" in shown
    assert "| dynamic above plain, weak start | +15.0 | -10.0 |" in shown
    assert "| dynamic above static, weak start | not run | not run |" in shown
    assert "| ORQA | strong | not run |" in shown


@pytest.mark.slow
def test_rows_are_made_and_the_static_scorer_stays(tmp_path, small_runs, monkeypatch):
    usual = pipeline.ralm

    def ralm(verb, *words):
        with contextlib.nullcontext() if verb == "finetune" else compiling.traced():
            usual(verb, *words)

    # What is fine-tuned learns; where it begins is random.
    monkeypatch.setattr(pipeline, "ralm", ralm)
    monkeypatch.setattr(objectives, "WEAK_STEPS", 2)
    words = ["--scale", "almanac", "--out", str(tmp_path), "--starts", "weak", "--seeds", "0"]
    assert labels.main(words) == 0
    rows = json.loads((tmp_path / "labels.json").read_text("utf-8"))["rows"]
    assert {r["kind"]: "reranked" in r["answers"] for r in rows} == {
        "plain": False, "dynamic": True, "static": True,
    }  # fmt: skip
    setting = Setting(ALMANAC, tmp_path, 0, None)
    taught = OpenRun.open(setting.run("labelled_scorer_weak"), stage=finetune.STAGE).params
    start = OpenRun.open(setting.run("weak")).params
    names = ("dynamic_labels_weak-0_answers", "static_labels_weak-0_answers")
    dynamic, static = (OpenRun.open(setting.run(n), stage=finetune.STAGE).params for n in names)

    def moved(a, b):
        gaps = jax.tree.map(lambda x, y: float(np.abs(x - y).max()), a, b)
        return max(jax.tree.leaves(gaps))

    assert (
        moved(static["scorer"], taught["scorer"]) == 0 < moved(dynamic["scorer"], taught["scorer"])
    )
    tower = "passage_tower"
    assert moved(taught["retriever"][tower], start["retriever"][tower]) == 0
    assert moved(taught["reader"]["encoder"], start["reader"]["encoder"]) == 0
    assert moved(taught["scorer"]["encoder"], start["reader"]["encoder"]) > 0
