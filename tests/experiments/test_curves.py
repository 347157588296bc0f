"""The curves: each point differs from the next in one thing, and what is shared is made once."""

import json
from pathlib import Path

import pytest

from experiments import ablation, curves, pricing
from experiments.place import Place, model_of
from ralm_jax import gin_config
from ralm_jax.data.almanac import World

SMALL = World(people=30, names=10)


@pytest.fixture
def place(tmp_path):
    return Place("almanac", tmp_path, 1, ablation.almanac_data(tmp_path, 1, SMALL), None)


def joint(point):
    last = point.rests_on[-1]
    return gin_config.bindings("pretrain.pretrain", last.config, last.changes)["stages"][-1]


def test_the_figures_here_are_those_of_the_configuration():
    chain = gin_config.bindings("quickstart.quickstart", "runs/quickstart.gin")["stages"]
    assert {stage.name: stage.steps for stage in chain} == curves.STEPS
    task = chain[-1].task
    assert (task.refresh.every, task.refresh.lag, task.candidates) == (
        curves.EVERY,
        curves.LAG,
        curves.K,
    )


def test_one_thing_changes_along_a_curve(place):
    stale = {point.value: joint(point).task.refresh for point in curves.staleness(place)}
    assert {times: policy.every for times, policy in stale.items()} == {
        1: 50,
        3: 150,
        5: 250,
        30: 1500,
    }
    assert all(policy.lag * 5 == policy.every * 2 for policy in stale.values())
    read = {point.value: joint(point).task.candidates for point in curves.candidates(place)}
    assert read == {k: k for k in curves.CANDIDATES}
    for point in curves.staleness(place) + curves.candidates(place):
        assert [t.run.name for t in point.rests_on[:2]] == ["ict", "warmup"]
        assert point.rests_on[2].start == place.run("warmup")


def test_lines_of_the_compute_curve_spend_the_same(place):
    model = model_of(place)
    spent: dict = {}
    for point in curves.compute(place):
        total = sum(c.total for t in point.rests_on for c in pricing.pretraining(t, model))
        spent.setdefault(point.value, {})[point.line] = total
        if point.line == "REALM":
            assert [t.start for t in point.rests_on] == [None] + [
                t.run for t in point.rests_on[:-1]
            ]
    for value, lines in spent.items():
        assert lines["inverse cloze alone"] == pytest.approx(lines["REALM"], rel=0.01)
        assert lines["REALM"] == pytest.approx(value * spent[1]["REALM"], rel=0.05)


def test_a_world_of_its_own_for_each_size(place, monkeypatch):
    monkeypatch.setattr(curves, "PEOPLE", (20, 40))
    found = curves.corpus(place)
    assert [p.rests_on[0].corpus.parent.parent.name for p in found] == ["people20", "people40"]
    assert len({t.run for p in found for t in p.rests_on}) == 6


def test_an_unknown_curve_is_one_line(capsys, monkeypatch, tmp_path):
    monkeypatch.setattr("sys.argv", ["curves", "--out", str(tmp_path), "--curves", "size"])
    assert curves.main() == 2
    said = capsys.readouterr().err
    assert said.startswith("curves: there is no curve size; there are ") and said.count("\n") == 1


@pytest.mark.slow
def test_points_are_made_and_kept(tmp_path, tiny_settings, monkeypatch):
    sizes = tiny_settings[1::2]
    usual = Place.changes
    monkeypatch.setattr(Place, "changes", lambda self, name: [*usual(self, name), *sizes])
    generate = ablation.almanac_data
    monkeypatch.setattr(ablation, "almanac_data", lambda out, seed: generate(out, seed, SMALL))
    monkeypatch.setattr(curves, "STALENESS", (1, 3))
    told = ["--out", str(tmp_path), "--curves", "staleness", "--seeds", "0"]
    monkeypatch.setattr("sys.argv", ["curves", *told])
    assert curves.main() == 0
    first, second = json.loads((tmp_path / "curves.json").read_text("utf-8"))["points"]
    assert (first["value"], second["value"]) == (1, 3)
    assert first["seconds"]["ict"] == second["seconds"]["ict"] and "refresh3" in second["seconds"]
    assert 0 <= first["recall@5"] <= 1 and first["flops"] > 0
    assert len(list(Path(tmp_path).glob("seed0/*/metrics.jsonl"))) == 4
