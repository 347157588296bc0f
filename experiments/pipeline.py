"""The steps that make a row: pretraining, putting halves of two runs together, fine-tuning, measuring.

Everything lies in one folder and is made once: a run that is already there is resumed, or used as it is.
"""

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from experiments.datasets import Data
from experiments.record import summary
from experiments.rows import Finetuning, Training
from ralm_jax import gin_config
from ralm_jax.errors import UserError
from ralm_jax.evaluation.cloze import KS
from ralm_jax.evaluation.retrieval import Relevance
from ralm_jax.inference.open_run import OpenRun
from ralm_jax.models.ralm import Ralm
from ralm_jax.questions.read import read_questions
from ralm_jax.runs import directory, selection
from ralm_jax.runs.checkpoint import Checkpoints, newest
from ralm_jax.runs.writers import metrics_file, read_metrics
from ralm_jax.training import finetune


def ralm(*words: object) -> None:
    """Runs the command line; its output goes where this program's output goes."""
    subprocess.run([sys.executable, "-m", "ralm_jax.cli", *map(str, words)], check=True)


def trained(run: Path, stage: str, steps: int, *words: object) -> float:
    """Has the command line train a run, or resume it, unless it is complete; seconds of all its steps.

    Raises UserError where training was interrupted.
    """
    if _reached(run, stage) < steps:
        ralm(*words)
    if (reached := _reached(run, stage)) < steps:
        raise UserError(
            f"{run} stopped at step {reached} of {steps}; the same command resumes it from there"
        )
    stages = summary(read_metrics(metrics_file(run)))
    return sum(part["seconds"] for part in stages.values())


def _reached(run: Path, stage: str) -> int:
    """The step of the newest checkpoint of a stage; 0 where there is none."""
    found = newest(directory.checkpoint_folder(run, stage))
    return 0 if found is None else found[0]


def pretrained(training: Training) -> float:
    """Trains a run unless it is complete; the seconds it was trained for."""
    given = gin_config.bindings("pretrain.pretrain", training.config, training.changes)
    last = given["stages"][-1]
    words = ["--config", training.config, "--corpus", training.corpus, "--run", training.run]
    start = ["--init", training.start] if training.start else []
    start += ["--init-reader", training.reader] if training.reader else []
    start += ["--init-reranker", training.reranker] if training.reranker else []
    labels = ["--questions", training.questions] if training.questions else []
    words = ["pretrain", *words, *start, *labels, *as_options(training.changes)]
    seconds = trained(training.run, last.name, last.schedule.steps, *words)
    # It may have been stopped when all steps were made, and its weights not yet chosen.
    if given.get("select") and not (training.run / selection.SELECTION).exists():
        ralm(*words)
    return seconds


def pretrained_all(trainings: Sequence[Training]) -> dict[str, float]:
    """Trains, in order, the runs that are not complete; seconds of each by its name."""
    return {training.run.name: round(pretrained(training), 1) for training in trainings}


def as_options(changes: Sequence[str]) -> list[str]:
    """Changes to a configuration as the command line takes them."""
    return [word for change in changes for word in ("--set", change)]


def quickstart(training: Training, seed: int) -> dict[str, Any]:
    """The report of `ralm quickstart` with a seed, which is run unless the report is there.

    Raises UserError where it was interrupted.
    """
    report = training.run.with_suffix(".json")
    report.parent.mkdir(parents=True, exist_ok=True)
    if not report.exists():
        ralm("quickstart", "--run", training.run, "--seed", seed, "--json", report)
    if not report.exists():
        raise UserError(f"{training.run} was interrupted; the same command resumes it")
    return json.loads(report.read_text("utf-8"))


def combined(out: Path, retriever: Path, reader: Path) -> Path:
    """A run with the retriever of one run and the reader of another, unless it is there already."""
    if directory.checkpoint_folder(out, "combined").is_dir():
        return out
    first, second = OpenRun.open(retriever), OpenRun.open(reader)
    assert isinstance(first.model, Ralm)
    record = directory.read_record(retriever)
    parts = {name: record[name] for name in ("lengths", "held_out", "seed")}
    directory.describe(out, first.model, first.corpus, stages=["combined"], **parts)
    params = {"retriever": first.params["retriever"], "reader": second.params["reader"]}
    checkpoints = Checkpoints(directory.checkpoint_folder(out, "combined"))
    checkpoints.save(0, {"state": {"params": params}}, wait=True)
    checkpoints.close()
    return out


def zero_shot(run: Path, dev: Path) -> dict[str, Any]:
    """Recall and MRR on questions before any fine-tuning."""
    opened, questions = OpenRun.open(run), read_questions(dev).asked
    ranked = opened.search([q.question for q in questions], max(KS))
    return Relevance(opened.corpus, questions).score(ranked)


def answered(
    run: Path, out: Path, finetuning: Finetuning, data: Data, stage: str | None = None
) -> tuple[dict[str, Any], float]:
    """Fine-tunes a run, from its last stage or `stage`, and measures it on the questions reported.

    Returns the report of `ralm evaluate`, with the exact match of the questions that select at each step
    under "selecting", and the seconds of training.
    """
    config, changes = finetuning
    steps = gin_config.bindings("finetune.finetune", config, changes)["schedule"].steps
    words = ["--config", config, "--run", run, "--out", out]
    words += ["--train", data.train, "--dev", data.select, *as_options(changes)]
    words += ["--stage", stage] if stage else []
    seconds = trained(out, finetune.STAGE, steps, "finetune", *words)
    figures = out / "dev.json"
    ralm("evaluate", "--run", out, "--questions", data.dev, "--json", figures)
    log = [line for line in read_metrics(metrics_file(out)) if "eval/exact_match" in line]
    curve = [[line["step"], round(line["eval/exact_match"], 4)] for line in log]
    return {**json.loads(figures.read_text("utf-8")), "selecting": curve}, seconds
