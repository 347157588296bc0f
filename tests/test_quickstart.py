"""The demonstration demonstrates: a retriever learns from its reader."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from ralm_jax import quickstart
from ralm_jax.questions.question import Question


def test_only_questions_about_unasked_facts_are_measured():
    questions = [Question(f"person{i}-trade", "?", ("baker",), ()) for i in range(2000)]
    kept = quickstart.unasked(questions, 0.2)
    assert 300 < len(kept) < 500
    assert quickstart.unasked(questions, 0.2) == kept
    assert quickstart.unasked(questions, 0.0) == []


def test_the_table_shows_the_figures_of_the_report():
    figures = {
        "question_recall": {"5": 0.25},
        "cloze_recall": {"5": 0.5},
        "span_accuracy": 0.75,
        "span_accuracy_null": 0.01,
    }
    shown = quickstart.table({"untrained": figures, "ict": figures, "realm": figures})
    for figure in ("25.0%", "50.0%", "75.0%", "1.0%"):
        assert shown.count(f" {figure}") == 3


@pytest.mark.slow
def test_joint_training_lifts_recall_above_inverse_cloze(tmp_path):
    """The quickstart with half of its steps; bars lie under what three whole seeds gave (see results).

    QUICKSTART_RUN names a folder where the notebooks have trained the same already.
    """
    run, report = Path(os.environ.get("QUICKSTART_RUN", tmp_path / "run")), tmp_path / "report.json"
    verb = ["quickstart", "--run", str(run), "--json", str(report)]
    for change in ("ICT_STEPS = 150", "WARMUP_STEPS = 600", "REALM_STEPS = 200"):
        verb += ["--set", change]
    verb += ["--set", "quickstart.quickstart.clozes = 400"]
    # As a person runs it: without the settings that let tests compile sooner and compute slower.
    tests_own = ("JAX_NUM_CPU_DEVICES", "JAX_DISABLE_MOST_OPTIMIZATIONS", "XLA_FLAGS")
    environment = {k: v for k, v in os.environ.items() if k not in tests_own}
    subprocess.run([sys.executable, "-m", "ralm_jax.cli", *verb], check=True, env=environment)
    found = json.loads(report.read_text("utf-8"))
    assert {"seed", "wall_seconds", "untrained", "ict", "realm"} <= found.keys()
    for recall in ("question_recall", "cloze_recall"):
        assert found["realm"][recall]["5"] > found["ict"][recall]["5"] + 0.10
    assert found["realm"]["span_accuracy"] >= 3 * found["realm"]["span_accuracy_null"]
    assert (run / "learning_curves.png").stat().st_size > 10_000
