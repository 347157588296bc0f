"""Distillation from labels: what the rows differ in, and what the table says."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import ablation, labels, objectives
from experiments.place import Place
from ralm_jax import gin_config
from ralm_jax.data.almanac import World
from ralm_jax.inference.open_run import OpenRun
from ralm_jax.training import finetune

SMALL = World(people=30, names=10)


def given(kind):
    return gin_config.bindings(
        "finetune.finetune", "runs/finetune_small.gin", labels.KINDS[kind][1]
    )


def test_rows_differ_in_the_scorer_alone():
    plain, dynamic, static = map(given, ("plain", "dynamic", "static"))
    assert plain["distil"] is None and dynamic["distil"] is static["distil"] is not None
    same = [
        {k: v for k, v in x.items() if k not in ("distil", "optimizer")} for x in (plain, static)
    ]
    assert same[0] == same[1]
    params = {part: {"kernel": jnp.ones((2, 2))} for part in ("reader", "scorer")}
    params["retriever"] = {
        t: {"kernel": jnp.ones((2, 2))} for t in ("query_tower", "passage_tower")
    }
    still, moved = jax.tree.map(jnp.zeros_like, params), {}
    for kind, given_to in (("dynamic", dynamic), ("static", static)):
        now = given_to["optimizer"].init(params)
        for _ in range(2):  # the first step of a warm-up has no rate; the second decays weights
            updates, now = given_to["optimizer"].update(still, now, params)
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


def test_mistakes_are_one_line(tmp_path, capsys, monkeypatch):
    for words, said in (
        (["--scale", "almanac", "--starts", "cold"], "there is no cold; there are strong, weak"),
        (["--scale", "paper"], "--scale paper needs --corpus, and questions"),
    ):
        monkeypatch.setattr("sys.argv", ["labels", "--out", str(tmp_path), *words])
        assert labels.main() == 2
        error = capsys.readouterr().err
        assert said in error and error.count("\n") == 1


@pytest.mark.slow
def test_rows_are_made_and_the_static_scorer_stays(tmp_path, tiny_settings, monkeypatch):
    sizes = tiny_settings[1::2]
    tuned = ["STEPS = 3", "BATCH = 8", "DEV_EVERY = 3", "DEV_QUESTIONS = 4", "CANDIDATES = 4"]
    tuned += [size for size in sizes if size.split()[0] in ("QUERY_LENGTH", "JOINT_LENGTH")]
    usual, generate = Place.changes, ablation.almanac_data
    monkeypatch.setattr(
        Place, "changes", lambda self, name: [*usual(self, name), *(sizes if name else tuned)]
    )
    monkeypatch.setattr(ablation, "almanac_data", lambda out, seed: generate(out, seed, SMALL))
    monkeypatch.setattr(objectives, "WEAK_STEPS", 2)
    words = ["--scale", "almanac", "--out", str(tmp_path), "--starts", "weak", "--seeds", "0"]
    monkeypatch.setattr("sys.argv", ["labels", *words])
    assert labels.main() == 0
    rows = json.loads((tmp_path / "labels.json").read_text("utf-8"))["rows"]
    assert {r["kind"]: "reranked" in r["answers"] for r in rows} == {
        "plain": False, "dynamic": True, "static": True,
    }  # fmt: skip
    place = Place("almanac", tmp_path, 0, None, None)
    taught = OpenRun.open(place.run("labelled_scorer_weak"), finetune.STAGE).params
    start = OpenRun.open(place.run("weak")).params
    names = ("dynamic_labels_weak-0_answers", "static_labels_weak-0_answers")
    dynamic, static = (OpenRun.open(place.run(n), finetune.STAGE).params for n in names)

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
