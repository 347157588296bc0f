"""The quickstart with several seeds, and answers after fine-tuning from its stages."""

import json

import pytest

from experiments import almanac_answers, pipeline, quickstart_seeds
from ralm_jax import quickstart
from ralm_jax.errors import UserError


def report(seed, recall):
    stage = {"question_recall": {"5": recall}, "cloze_recall": {"5": 0.5}}
    stage |= {"span_accuracy": 0.25, "span_accuracy_null": 0.0}
    return {"seed": seed, "untrained": stage, "ict": stage, "realm": stage}


def test_the_tables():
    shown = quickstart_seeds.table([report(0, 0.25), report(1, 0.75)])
    assert "| question recall@5 | 50.0 (25.0 to 75.0) | 50.0" in shown
    own = {"exact_match": [0.5, 0, 1], "f1": [0.6, 0, 1], "reader_oracle": 0.75}
    own["recall"] = {"5": 0.875}
    answers = {"retriever": own, "frozen": own, "bm25": own}
    shown = almanac_answers.table([{"stage": "ict", "seed": 0, "answers": answers}])
    assert "| ICT alone | BM25, its reader | 50.0 | 60.0 | 75.0 | 87.5 |" in shown
    assert "| REALM | both fine-tuned | not run |" in shown


def test_rows_share_the_quickstart_of_their_seed(setting):
    rows = almanac_answers.rows([setting], None) + quickstart_seeds.rows([setting], None)
    assert len({row.name for row in rows}) == 4
    assert {row.trainings[0].run for row in rows} == {setting.run("quickstart")}


def test_a_quickstart_is_run_once_and_an_interrupted_one_is_one_line(setting, monkeypatch):
    ran = []
    monkeypatch.setattr(pipeline, "ralm", lambda *words: ran.append(words))
    training = quickstart_seeds.quickstart(setting)
    with pytest.raises(UserError, match="was interrupted; the same command resumes it"):
        pipeline.quickstart(training, 1)
    training.run.with_suffix(".json").write_text(json.dumps({"seed": 1}))
    assert pipeline.quickstart(training, 1) == {"seed": 1} and len(ran) == 1


@pytest.mark.slow
def test_answers_from_a_quickstart_are_made_and_saved(tmp_path, traced_runs, monkeypatch):
    """The quickstart itself is small too."""
    usual = pipeline.ralm

    def smaller(verb, *words):
        sizes = ["ICT_STEPS = 2", "WARMUP_STEPS = 2", "REALM_STEPS = 2"]
        sizes.append("quickstart.quickstart.clozes = 30")
        usual(verb, *words, *(pipeline.as_options(sizes) if verb == "quickstart" else ()))

    monkeypatch.setattr(pipeline, "ralm", smaller)
    monkeypatch.setattr(quickstart, "EVAL_CLOZES", 8)
    monkeypatch.setattr(almanac_answers, "ROWS", {"ict": "ICT alone"})
    assert almanac_answers.main(["--runs", str(tmp_path), "--seeds", "0"]) == 0
    (row,) = json.loads((tmp_path / "almanac_answers.json").read_text("utf-8"))["rows"]
    assert row["stage"] == "ict" and row["answers"]["questions"] > 0
    assert set(row["config"]) == {"quickstart", "finetune"} and row["flops"] > 0
