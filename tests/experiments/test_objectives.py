"""The comparison of objectives: one thing differs between rows, and shared runs are trained once."""

import json

import jax
import jax.numpy as jnp
import pytest

from experiments import objectives
from ralm_jax import gin_config
from ralm_jax.errors import UserError


def stage(training):
    return gin_config.bindings("pretrain.pretrain", training.config, training.changes)["stages"][-1]


def test_rows_differ_in_the_objective_and_the_start(setting):
    asked = set()
    for start in objectives.STARTS:
        for name, objective in objectives.ROWS.items():
            *before, joint = objectives.chain(setting, name, start)
            runs, has_scorer = [t.run.name for t in before], objective.scorer is not None
            assert ("ict_weak" in runs) == (start == "weak")
            assert any(r.startswith(f"scorer_{start}") for r in runs) == has_scorer
            begun = before[-1].run if has_scorer or start == "strong" else setting.run("weak")
            assert joint.start == begun
            task = stage(joint).task
            assert task.needs_reranker == has_scorer
            asked.add((str(task.objective), task.candidates, stage(joint).schedule.steps))
    # Perplexity and listwise distillation have several temperatures: see below.
    assert len(asked) == 7
    strong, weak = (objectives.chain(setting, "marginal_per_token", s) for s in ("strong", "weak"))
    # A row of Table 2.
    assert strong[-1] == setting.chain("realm")[-1]
    short = next(t for t in weak if t.run.name == "ict_weak")
    assert stage(short).schedule.steps == objectives.WEAK_STEPS <= stage(weak[0]).schedule.steps / 5


def test_at_another_scale_the_objective_alone_differs(setting):
    imported = setting._replace(scale="wiki9k_cpu", init=setting.out / "minilm")
    plain, lists = (objectives.chain(imported, n, "strong") for n in ("marginal_per_token", "list"))
    assert plain == imported.chain("realm") and plain[:-1] == lists[:-1]
    assert stage(plain[-1]).task.candidates == stage(lists[-1]).task.candidates == 4
    with pytest.raises(UserError, match="the scale wiki9k_cpu has no inverse cloze"):
        objectives.chain(imported, "list", "weak")


@pytest.mark.parametrize("name", ("pdist", "dynamic"))
def test_a_sharper_list_is_further_from_a_flat_retriever(setting, name):
    flat, further = jnp.log(jnp.full((1, 2), 0.5)), {}
    given = (flat, jnp.array([[[-1.0], [-1.5]]]), jnp.ones((1, 1)))
    for kind in (name, f"{name}_sharp"):
        *_, scorer, joint = objectives.chain(setting, kind, "weak")
        # The scorer's own stage too.
        taught = [joint, scorer] if name == "dynamic" else [joint]
        more = (flat,) if name == "dynamic" else ()
        further[kind] = [float(stage(t).task.objective(*given, *more)[0]) for t in taught]
    for usual, sharp in zip(further[name], further[f"{name}_sharp"], strict=True):
        assert sharp > usual + 0.1


def test_the_static_scorer_is_not_taught(setting):
    moved = {}
    for name in ("dynamic", "static"):
        objective = stage(objectives.chain(setting, name, "weak")[-1]).task.objective
        flat, sharp = jnp.log(jnp.full((1, 2), 0.5)), jnp.log(jnp.array([[0.2, 0.8]]))
        given = (flat, jnp.array([[[-1.0], [-5.0]]]), jnp.ones((1, 1)))
        moved[name] = jax.grad(lambda s: objective(*given, s)[0])(sharp)  # noqa: B023
    assert abs(moved["dynamic"]).max() > 0.1 and abs(moved["static"]).max() == 0


def test_the_static_scorer_does_not_decay_either(setting):
    ends = {}
    for name in ("dynamic", "static"):
        optimizer = stage(objectives.chain(setting, name, "weak")[-1]).schedule.optimizer
        params = {part: {"kernel": jnp.ones((2, 2))} for part in ("retriever", "reader", "scorer")}
        now = optimizer.init(params)
        # The first step of a warm-up has no rate.
        for _ in range(2):
            still = jax.tree.map(jnp.zeros_like, params)
            updates, now = optimizer.update(still, now, params)
        ends[name] = float(abs(updates["scorer"]["kernel"]).max())
    assert ends["static"] == 0 < ends["dynamic"]


def made(name, start, seed, recall, **more):
    joint = {"steps": 10, "flops": 1e12, "seconds": 5.0}
    row = {"objective": name, "start": start, "seed": seed, "recall@5": recall, "joint": joint}
    return {**row, "recall@5 before": 0.5, "telemetry": {"prior_entropy": 1.25}, **more}


def test_the_table_and_what_is_asked_of_it():
    rows = [made("emdr2", "weak", 0, 0.75), made("emdr2", "weak", 1, 0.65)]
    rows.append(made("pdist", "weak", 1, 0.5))
    read = {"exact_match": [0.6, 0.5, 0.7]}
    rows.append({"objective": "emdr2", "start": "weak", "seed": 0, "answers": {"retriever": read}})
    shown = objectives.table(rows)
    assert (
        "| EMDR2 | weak | 50.0 (50.0 to 50.0) | 70.0 (65.0 to 75.0) | 60.0 |  | 1.25 | 1.0e+12 |"
    ) in shown
    assert "| EMDR2 | strong | not run | not run | not run |" in shown
    assert "| EMDR2 above perplexity distillation, weak start | +15.0 |" in shown
    assert "dynamic above listwise distillation, static, weak start | not run |" in shown


def test_mistakes_are_one_line(tmp_path, capsys):
    for words, said in (
        (["--objectives", "best"], "--objectives: there is no best; there are marginal_per_token"),
        (["--starts", "cold"], "--starts: there is no cold; there are strong, weak"),
        (["--measures", "speed"], "--measures: there is no speed; there are retrieval, answers"),
    ):
        assert objectives.main(["--scale", "almanac", "--out", str(tmp_path), *words]) == 2
        error = capsys.readouterr().err
        assert error.startswith(f"objectives: {said}") and error.count("\n") == 1


@pytest.mark.slow
def test_rows_are_made_and_saved(tmp_path, traced_runs, monkeypatch):
    monkeypatch.setattr(objectives, "WEAK_STEPS", 2)
    words = f"--scale almanac --out {tmp_path} --objectives static --starts weak --seeds 0"
    assert objectives.main(words.split()) == 0
    first, second = json.loads((tmp_path / "objectives.json").read_text("utf-8"))["rows"]
    assert "reranked" in first["answers"] and "scorer_weak" in second["seconds"]
    assert second["joint"]["flops"] > 0 and second["telemetry"]["prior_entropy"] >= 0
