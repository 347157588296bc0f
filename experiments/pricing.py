"""The cost of rows before they are started: steps, operations, and hours on this machine."""

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from experiments.rows import Finetuning, Row, Training
from ralm_jax import gin_config
from ralm_jax.cost import operations
from ralm_jax.data.corpus import open_corpus
from ralm_jax.examples.question_batches import annotate
from ralm_jax.inference.open_run import OpenRun
from ralm_jax.models.ralm import Ralm
from ralm_jax.training.finetune import question_answerer
from ralm_jax.training.tasks import OpenQuestions

# Share of the rate of bare matrix products that training is taken to reach where nothing was measured yet.
SHARE = 0.25


def pretraining(training: Training, model: Ralm) -> list[operations.Cost]:
    """The cost of each stage of a run."""
    target = f"{training.verb}.{training.verb}"
    stages = gin_config.bindings(target, training.config, training.changes)["stages"]
    size = open_corpus(training.corpus).size
    return [
        operations.stage(
            model, s.task, passages=size, batch=s.schedule.batch, steps=s.schedule.steps
        )
        for s in stages
    ]


def finetuning(given: Finetuning, model: Ralm, corpus: Path) -> operations.Cost:
    """The cost of fine-tuning without a scorer."""
    settings = gin_config.bindings("finetune.finetune", given.config, given.changes)
    text, schedule = open_corpus(corpus), settings["schedule"]
    size = text.size
    sizes = {"beam": min(settings["beam"], size), "candidates": settings["candidates"]}
    task = OpenQuestions(settings["lengths"], annotate(text, []), {}, **sizes)
    # Costs come from the sizes of the model alone, so it needs no parameters here.
    empty: dict = {"retriever": {"passage_tower": {}}, "reader": {"encoder": {}}}
    opened = OpenRun(model, empty, settings["lengths"])
    answerer, _ = question_answerer(opened, settings["span_width"], 0)
    return operations.stage(
        answerer, task, passages=size, batch=schedule.batch, steps=schedule.steps
    )


def costs(row: Row, without: Collection[Path] = ()) -> list[operations.Cost]:
    """Of everything a row needs, except the runs `without`, and of its fine-tuning."""
    found = [
        cost
        for training in row.trainings
        if training.run not in without
        for cost in pretraining(training, row.model)
    ]
    if row.finetuning:
        found.append(finetuning(row.finetuning, row.model, row.trainings[-1].corpus))
    return found


def total(row: Row) -> float:
    """Of everything a row needs, the runs it shares included."""
    return sum(cost.total for cost in costs(row))


def table(rows: Sequence[Row], finished: Sequence[dict[str, Any]]) -> str:
    """Steps, operations and hours of each row; a shared run is counted with the first row that needs it."""
    rate, source = _rate(finished)
    lines = [f"{'row':<56}{'steps':>10}{'operations':>13}{'hours':>9}"]
    counted: list[Path] = []
    whole = 0.0
    for row in rows:
        found = costs(row, counted)
        counted += [training.run for training in row.trainings]
        steps, total = sum(c.steps for c in found), sum(c.total for c in found)
        whole += total
        lines.append(f"{row.label:<56}{steps:>10,}{total:>13.2e}{total / rate / 3600:>9.2f}")
    lines.append(f"{'all remaining rows':<79}{whole / rate / 3600:>9.2f}")
    return "\n".join([*lines, f"at {rate:.2e} operations a second ({source})"])


def _rate(finished: Sequence[dict[str, Any]]) -> tuple[float, str]:
    """Operations a second, measured on the finished rows, else estimated from matrix products."""
    if finished:
        spent = sum(sum(report["seconds"].values()) for report in finished)
        return sum(report["flops"] for report in finished) / spent, "measured on finished rows"
    return SHARE * operations.peak(), f"{SHARE:.0%} of the rate of bare matrix products here"
