"""What rows of an experiment cost, before they are started: steps, operations, hours on this machine."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from experiments.ablation import Training
from ralm_jax import estimate
from ralm_jax import gin_config
from ralm_jax.data.corpus import open_corpus
from ralm_jax.examples.question_batches import AnnotatedQuestions
from ralm_jax.models.ralm import Ralm
from ralm_jax.runs.directory import Loaded
from ralm_jax.training.finetune import question_answerer
from ralm_jax.training.tasks import OpenQuestions

if TYPE_CHECKING:
    from experiments.rows import Row

SHARE = 0.25  # of the rate of bare matrix products that training reaches, where nothing was measured yet


def pretraining(training: Training, model: Ralm) -> list[estimate.Cost]:
    """Of each stage of a run."""
    given = gin_config.bindings("pretrain.pretrain", training.config, training.changes)
    size = open_corpus(training.corpus).size
    return [
        estimate.stage(model, s.task, passages=size, batch=s.batch, steps=s.steps)
        for s in given["stages"]
    ]


def answering(config: str, model: Ralm, corpus: Path) -> estimate.Cost:
    """Of fine-tuning."""
    given = gin_config.bindings("finetune.finetune", config)
    size = open_corpus(corpus).size
    sizes = {"beam": min(given["beam"], size), "candidates": given["candidates"]}
    task = OpenQuestions(given["lengths"], AnnotatedQuestions([], [], []), {}, **sizes)
    empty: dict = {"retriever": {"passage_tower": {}}, "reader": {"encoder": {}}}
    answerer, _ = question_answerer(Loaded(model, empty, "", 0), given["span_width"], 0)
    return estimate.stage(answerer, task, passages=size, batch=given["batch"], steps=given["steps"])


def costs(row: "Row", without: Sequence[Path] = ()) -> list[estimate.Cost]:
    """Of everything a row rests on, but for the runs named, and of its fine-tuning."""
    found = [
        cost
        for training in row.rests_on
        if training.run not in without
        for cost in pretraining(training, row.model)
    ]
    if row.finetune:
        found.append(answering(row.finetune, row.model, row.rests_on[-1].corpus))
    return found


def row(row: "Row") -> float:
    """Operations of everything a row rests on, shared runs included."""
    return sum(cost.total for cost in costs(row))


def table(left: Sequence["Row"], finished: Sequence[dict[str, Any]]) -> str:
    """The rows left, their steps and hours, each shared run counted where it is first needed."""
    rate, source = _rate(finished)
    lines = [f"{'row':<56}{'steps':>10}{'operations':>13}{'hours':>9}"]
    known: list[Path] = []
    whole = 0.0
    for each in left:
        found = costs(each, known)
        known += [training.run for training in each.rests_on]
        steps, total = sum(c.steps for c in found), sum(c.total for c in found)
        whole += total
        lines.append(f"{each.label:<56}{steps:>10,}{total:>13.2e}{total / rate / 3600:>9.2f}")
    lines.append(f"{'all that is left':<79}{whole / rate / 3600:>9.2f}")
    return "\n".join([*lines, f"at {rate:.2e} operations a second ({source})"])


def _rate(finished: Sequence[dict[str, Any]]) -> tuple[float, str]:
    """Operations a second: of the finished rows, else guessed from matrix products."""
    if finished:
        spent = sum(sum(report["seconds"].values()) for report in finished)
        return sum(report["flops"] for report in finished) / spent, "as finished rows took"
    return SHARE * estimate.peak(), f"{SHARE:.0%} of the rate of bare matrix products here"
