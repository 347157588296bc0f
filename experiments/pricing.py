"""What rows of an experiment cost, before they are started: steps, operations, hours on this machine."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ralm_jax import cli, estimate, runs
from ralm_jax.data.answering_batches import Known
from ralm_jax.data.corpus import open_corpus
from ralm_jax.finetuning import question_answerer
from ralm_jax.runs import Loaded
from ralm_jax.tasks import OpenQuestions

if TYPE_CHECKING:
    from experiments.table2 import Place

SHARE = 0.25  # of the rate of bare matrix products that training reaches, where nothing was measured yet


def stages(place: "Place", run: str, config: str) -> list[estimate.Cost]:
    """Of each stage of a pretraining run."""
    given = cli.bindings("training.pretrain", config, place.changes(run))
    corpus = open_corpus(place.data.corpus)
    return [
        estimate.stage(_model(place), s.task, passages=corpus.size, batch=s.batch, steps=s.steps)
        for s in given["stages"]
    ]


def _model(place: "Place") -> Any:
    """Sizes that every run of a place shares."""
    if place.init is not None:
        return runs.load_model(place.init)
    config = f"experiments/{place.scale}/ict.gin"
    model = cli.bindings("training.pretrain", config)["model"]
    return runs.sized(model, open_corpus(place.data.corpus).vocabulary.size)


def answering(place: "Place") -> estimate.Cost:
    """Of fine-tuning a row."""
    given = cli.bindings("finetuning.finetune", f"experiments/{place.scale}/finetune.gin")
    size = open_corpus(place.data.corpus).size
    sizes = {"beam": min(given["beam"], size), "candidates": given["candidates"]}
    task = OpenQuestions(given["lengths"], Known([], [], []), {}, **sizes)
    empty: dict = {"retriever": {"passage_tower": {}}, "reader": {"encoder": {}}}
    model, _ = question_answerer(Loaded(_model(place), empty, "", 0), given["span_width"], 0)
    return estimate.stage(model, task, passages=size, batch=given["batch"], steps=given["steps"])


def row(place: "Place", name: str) -> float:
    """Operations of everything a row rests on, shared runs included."""
    from experiments.table2 import ROWS

    halves = {ROWS[name].retriever, ROWS[name].reader}
    needed = {run: config for half in halves for run, config, _ in place.chain(half)}
    pretraining = sum(
        cost.total for run, config in needed.items() for cost in stages(place, run, config)
    )
    return pretraining + answering(place).total


def table(left: Sequence[tuple["Place", str]], finished: Sequence[Path]) -> str:
    """The rows left, their steps and hours, each shared run counted where it is first needed."""
    from experiments.table2 import ROWS

    rate, source = _rate(finished)
    lines = [f"{'row':<40}{'seed':>5}{'steps':>10}{'operations':>13}{'hours':>9}"]
    known: set[Path] = set()
    whole = 0.0
    for place, name in left:
        costs = [answering(place)]
        for half in (ROWS[name].retriever, ROWS[name].reader):
            for run, config, _ in place.chain(half):
                if place.run(run) not in known:
                    known.add(place.run(run))
                    costs += stages(place, run, config)
        steps, total = sum(c.steps for c in costs), sum(c.total for c in costs)
        whole += total
        label = ROWS[name].label
        lines.append(
            f"{label:<40}{place.seed:>5}{steps:>10,}{total:>13.2e}{total / rate / 3600:>9.2f}"
        )
    lines.append(f"{'all that is left':<68}{whole / rate / 3600:>9.2f}")
    return "\n".join([*lines, f"at {rate:.2e} operations a second ({source})"])


def _rate(finished: Sequence[Path]) -> tuple[float, str]:
    """Operations a second: of the fine-tuning of finished rows, else guessed from matrix products."""
    rows = [json.loads(file.read_text("utf-8")) for file in finished]
    # Of a row that made every run it rests on: the seconds of others are in the rows before them.
    whole = [r for r in rows if r["row"] == "realm"]
    if whole:
        spent = sum(sum(r["seconds"].values()) for r in whole)
        return sum(r["flops"] for r in whole) / spent, "as finished rows took"
    return SHARE * estimate.peak(), f"{SHARE:.0%} of the rate of bare matrix products here"
