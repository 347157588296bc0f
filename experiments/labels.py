"""RocketQAv2's distillation with labels: is a scorer that learns along a better teacher than a static one?

    python -m experiments.labels --scale almanac --out DIR [--starts strong,weak] [--seeds 0,1,2] [--dry-run]

Fine-tuning starts from a retriever that inverse cloze left strong or weak and a reader that has read
passages, without joint training. There are three kinds: as ORQA does it; with a scorer that learns along
and teaches the retriever (dynamic); with the same scorer frozen (static). The scorer first learns from
labels alone, which of the passages read have an answer, while retriever and reader are frozen; both kinds
begin with it. Runs that experiments.table2 or experiments.objectives made in DIR are used again. Rows are
saved in DIR/labels; the same command resumes after the last one. Writes DIR/labels.md and DIR/labels.json.
"""

import argparse
import functools
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from experiments import objectives, pipeline
from experiments.rows import Finetuning, Row
from experiments.runner import run
from experiments.saved import Saved, gaps, markdown, percent
from experiments.setting import Setting
from ralm_jax import gin_config
from ralm_jax.training import finetune


class Kind(NamedTuple):
    """A way to fine-tune, and the changes to the configuration that make it."""

    label: str
    changes: tuple[str, ...]


LISTWISE = "DISTIL = @distillation.supervised"
FROZEN = "optim.by_part.scorer = @optim.frozen()"
# Of the run in which the scorer alone learns.
SCORER_ALONE = (
    LISTWISE,
    "optim.by_part.retriever = @optim.frozen()",
    "optim.by_part.reader = @optim.frozen()",
    "optim.by_part.scorer = @reader/optim.adamw()",
)
ROWS = {
    "plain": Kind("ORQA", ()),
    "dynamic": Kind("listwise distillation from labels, dynamic", (LISTWISE,)),
    "static": Kind("listwise distillation from labels, static", (LISTWISE, FROZEN)),
}
STARTS = objectives.STARTS
# Pairs of rows: is the first above the second?
PAIRS = (("dynamic", "static"), ("dynamic", "plain"), ("static", "plain"))
# The columns of the table: whose order the passages are in, and the figure.
MEASURES: tuple[tuple[str, Callable[[dict], float]], ...] = (
    ("retriever", lambda a: a["retriever"]["recall"]["1"]),
    ("retriever", lambda a: a["retriever"]["recall"]["5"]),
    ("reranked", lambda a: a["reranked"]["recall"]["1"]),
    ("retriever", lambda a: a["retriever"]["exact_match"][0]),
    ("reranked", lambda a: a["reranked"]["exact_match"][0]),
)
RECALL, EXACT_MATCH = MEASURES[0][1], MEASURES[3][1]


def rows(settings: Sequence[Setting], options: argparse.Namespace) -> list[Row]:
    """All kinds, for the starts chosen."""
    return [
        row(setting, kind, start)
        for start in options.starts
        for setting in settings
        for kind in ROWS
    ]


def row(setting: Setting, kind: str, start: str) -> Row:
    return Row(
        name=f"{kind}-{start}-{setting.seed}",
        label=f"{kind}, {start} start, seed {setting.seed}",
        model=setting.model(),
        trainings=objectives.before(setting, start),
        finetuning=finetuning(setting, ROWS[kind].changes),
        make=lambda: make(setting, kind, start),
    )


def finetuning(setting: Setting, changes: Sequence[str]) -> Finetuning:
    return Finetuning(setting.config("finetune"), [*setting.changes(""), *changes])


def make(setting: Setting, kind: str, start: str) -> dict[str, Any]:
    """Trains what is missing, fine-tunes and measures."""
    seconds = objectives.started(setting, start)
    begin, stage, name = objectives.start_run(setting, start), None, f"{kind}_labels_{start}"
    if kind != "plain":
        begin, seconds["scorer"] = taught_scorer(setting, begin, start)
        # The last step, not the one selected: with a frozen reader no step answers better than another.
        stage = finetune.STAGE
    elif start == "strong":
        # A row of Table 2.
        name = "baseline"
    out = setting.run(f"{setting.row_name(name)}_answers")
    settings = finetuning(setting, ROWS[kind].changes)
    report, seconds["finetune"] = pipeline.answered(begin, out, settings, setting.data, stage)
    return {
        "kind": kind,
        "start": start,
        "seed": setting.seed,
        "answers": report,
        "seconds": {run: round(spent, 1) for run, spent in seconds.items()},
    }


def taught_scorer(setting: Setting, start_run: Path, start: str) -> tuple[Path, float]:
    """A run that gives `start_run` a scorer, which alone has learnt, from labels; and its seconds."""
    config, changes = finetuning(setting, SCORER_ALONE)
    out = setting.run(f"labelled_scorer_{start}")
    steps = gin_config.bindings("finetune.finetune", config, changes)["schedule"].steps
    words = ["--config", config, "--run", start_run, "--out", out]
    words += ["--train", setting.data.train, "--dev", setting.data.select]
    words += pipeline.as_options(changes)
    return out, pipeline.trained(out, finetune.STAGE, steps, "finetune", *words)


def table(saved: Saved) -> str:
    """Mean and range over seeds, then pairs of rows, seed by seed."""

    def of(kind: str, start: str) -> dict[int, dict[str, Any]]:
        return {r["seed"]: r["answers"] for r in saved if (r["kind"], r["start"]) == (kind, start)}

    lines, compared = [], []
    for start in STARTS:
        for kind, (label, _) in ROWS.items():
            lines.append([label, start, *_cells(list(of(kind, start).values()))])
        for above, below in PAIRS:
            first, second = of(above, start), of(below, start)
            seeds = sorted(first.keys() & second.keys())
            differences = [
                gaps([value(first[s]) for s in seeds], [value(second[s]) for s in seeds])
                for value in (EXACT_MATCH, RECALL)
            ]
            compared.append([f"{above} above {below}, {start} start", *differences])
    head = ["fine-tuning", "start", "recall@1", "recall@5", "recall@1, re-ranked", "EM"]
    pairs = markdown(["is it above?", "EM, seed by seed", "recall@1, seed by seed"], compared)
    return markdown([*head, "EM, re-ranked"], lines) + "\n" + pairs


def _cells(reports: Saved) -> list[str]:
    """The figures of one kind and start; none in the columns of a scorer where there is none."""
    if not reports:
        return ["not run"] * len(MEASURES)
    return [
        percent([value(report) for report in reports]) if order in reports[0] else ""
        for order, value in MEASURES
    ]


main = functools.partial(run, "labels", rows, table, usage=__doc__, choices={"starts": STARTS})

if __name__ == "__main__":
    sys.exit(main())
