"""The curves: each point differs from the next in one thing, and shared runs are trained once."""

import json

import pytest

from experiments import curves, pricing
from ralm_jax import gin_config


def joint(point):
    last = point.trainings[-1]
    return gin_config.bindings("pretrain.pretrain", last.config, last.changes)["stages"][-1]


def test_the_figures_here_are_those_of_the_configuration():
    chain = gin_config.bindings("quickstart.quickstart", "runs/quickstart.gin")["stages"]
    assert {stage.name: stage.schedule.steps for stage in chain} == curves.STEPS
    task = chain[-1].task
    assert (task.refresh.every, task.refresh.lag, task.candidates) == (
        curves.EVERY,
        curves.LAG,
        curves.K,
    )


def test_one_thing_changes_along_a_curve(setting):
    stale = {point.value: joint(point).task.refresh for point in curves.staleness(setting)}
    assert {times: policy.every for times, policy in stale.items()} == {
        1: 50,
        3: 150,
        5: 250,
        30: 1500,
    }
    assert all(policy.lag * 5 == policy.every * 2 for policy in stale.values())
    read = {point.value: joint(point).task.candidates for point in curves.candidates(setting)}
    assert read == {k: k for k in curves.CANDIDATES}
    for point in curves.staleness(setting) + curves.candidates(setting):
        assert [t.run.name for t in point.trainings[:2]] == ["ict", "warmup"]
        assert point.trainings[2].start == setting.run("warmup")


def test_lines_of_the_compute_curve_spend_the_same(setting):
    model = setting.model()
    spent: dict = {}
    for point in curves.compute(setting):
        total = sum(c.total for t in point.trainings for c in pricing.pretraining(t, model))
        spent.setdefault(point.value, {})[point.line] = total
        if point.line == "REALM":
            assert [t.start for t in point.trainings] == [None] + [
                t.run for t in point.trainings[:-1]
            ]
    for value, lines in spent.items():
        assert lines["inverse cloze alone"] == pytest.approx(lines["REALM"], rel=0.01)
        assert lines["REALM"] == pytest.approx(value * spent[1]["REALM"], rel=0.05)


def test_a_world_of_its_own_for_each_size(setting, monkeypatch):
    monkeypatch.setattr(curves, "PEOPLE", (20, 40))
    found = curves.corpus(setting)
    assert [p.trainings[0].corpus.parent.parent.name for p in found] == ["people20", "people40"]
    assert len({t.run for p in found for t in p.trainings}) == 6


def test_an_unknown_curve_is_one_line(capsys, tmp_path):
    assert curves.main(["--out", str(tmp_path), "--curves", "size"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("curves: --curves: there is no size; there are staleness, ")
    assert error.count("\n") == 1


def test_the_table_has_a_line_for_each_point():
    point = {"curve": "corpus", "line": "REALM", "value": 700, "spans_read": 0.5}
    points = [{**point, "recall@5": r, "spans_read_without": 0.0} for r in (0.25, 0.75)]
    assert "| corpus | REALM | 700 | 50.0 (25.0 to 75.0) | 50.0 (50.0 to 50.0) |" in curves.table(
        points
    )


@pytest.mark.slow
def test_points_are_made_and_saved(tmp_path, traced_runs, monkeypatch):
    monkeypatch.setattr(curves, "STALENESS", (1, 3))
    assert curves.main(["--out", str(tmp_path), "--curves", "staleness", "--seeds", "0"]) == 0
    first, second = json.loads((tmp_path / "curves.json").read_text("utf-8"))["rows"]
    assert (first["value"], second["value"]) == (1, 3)
    assert first["seconds"]["ict"] == second["seconds"]["ict"] and "refresh3" in second["seconds"]
    assert 0 <= first["recall@5"] <= 1 and first["flops"] > 0
    assert len(list(tmp_path.glob("seed0/*/metrics.jsonl"))) == 4
