"""Weights between a start and an end: the table, and a small run from one end to the other."""

import json

import pytest

from experiments import shares
from ralm_jax import cli
from ralm_jax.inference.open_run import OpenRun


def test_the_table_by_hand():
    asked = {"queries": 9, "mrr": 0.5, "dense@5": 0.6, "mixed@5": 0.7}
    rows = [
        {"run": "own", "share": 0.0, "questions": asked, "windows": {"queries": 9, "mrr": 0.3}},
        {"run": "own", "share": 0.25, "questions": asked, "titles": {"queries": 9, "mrr": 0.123}},
    ]
    shown = shares.table(rows)
    assert "| own | 0% | 60.0 | 70.0 | 50.0 |  | 30.0 |" in shown
    assert "| own | 25% | 60.0 | 70.0 | 50.0 | 12.3 |  |" in shown


def test_a_run_that_began_from_no_other_is_refused(tmp_path, capsys):
    (tmp_path / "q.jsonl").write_text("")
    words = ["--out", str(tmp_path), "--questions", str(tmp_path / "q.jsonl")]
    assert shares.main([*words, "--run", "owl"]) == 2
    assert "--run owl: write it as NAME=RUN" in capsys.readouterr().err


@pytest.mark.slow
def test_from_the_start_to_the_end(tiny, tiny_settings, traced_runs, tmp_path, capsys):
    corpus = ["--corpus", str(tiny.corpus.path)]
    first = ["pretrain", "--config", "runs/pretrain.gin", *corpus, "--run", str(tmp_path / "start")]
    assert cli.main([*first, *tiny_settings]) == 0
    kept = ("QUERY_LENGTH", "PASSAGE_LENGTH", "JOINT_LENGTH", "MASKED", "HELD_OUT")
    sizes = [size for size in tiny_settings[1::2] if size.split()[0] in kept]
    sizes += ["WINDOW_STEPS = 1", "WINDOW_BATCH = 8", "WINDOW_WARMUP = 0", "WINDOW_PART = 32"]
    sizes += ["WINDOW_SHORTEST = 4", "WINDOW_LONGEST = 9"]
    changes = [word for size in sizes for word in ("--set", size)]
    run = tmp_path / "run"
    words = ["pretrain", "--config", "runs/domain.gin", *corpus, "--run", str(run), *changes]
    assert cli.main([*words, "--init", str(tmp_path / "start")]) == 0
    words = ["--out", str(tmp_path / "out"), "--questions", str(tiny.questions), "--size", "50"]
    assert shares.main([*words, "--run", f"mix={run}", "--shares", "0,1"]) == 0
    found = json.loads((tmp_path / "out" / "shares.json").read_text("utf-8"))["rows"]
    assert [row["share"] for row in found] == [0.0, 1.0]
    for row in found:
        assert row["questions"]["queries"] == 20 and 0 < row["questions"]["mrr"] <= 1
        assert row["windows"]["queries"] == 50
    first = OpenRun.open(tmp_path / "start")
    assert first.step > 0
    begun = ["--run", f"none={tmp_path / 'start'}"]
    assert shares.main([*words, *begun]) == 2
    assert "began from no other run" in capsys.readouterr().err
