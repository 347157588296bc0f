"""Does joint pretraining give better answers? REALM, its warm-up and inverse cloze alone, each fine-tuned.

    python -m experiments.almanac_answers --out DIR [--seeds 0,1,2] [--dry-run]

On almanac. Each seed is a world and a quickstart of its own, shared with experiments.quickstart_seeds where
DIR is the same. The questions reported are about facts that pretraining never asks about; of the others
nine in ten train and the rest select. Writes DIR/almanac_answers.md and DIR/almanac_answers.json.
"""

import argparse
import functools
import sys
from collections.abc import Callable, Sequence
from typing import Any

from experiments import pipeline, quickstart_seeds
from experiments.rows import Finetuning, Row
from experiments.runner import run
from experiments.saved import Saved, markdown, percent
from experiments.setting import ALMANAC, Setting

# The stages of the quickstart that fine-tuning starts from.
ROWS = {"realm": "REALM", "ict": "ICT alone", "warmup": "ICT + reader warm-up"}
RETRIEVERS = {
    "retriever": "both fine-tuned",
    "frozen": "its retriever not fine-tuned",
    "bm25": "BM25, its reader",
}
MEASURES: dict[str, Callable[[dict], float]] = {
    "EM": lambda own: own["exact_match"][0],
    "F1": lambda own: own["f1"][0],
    "reader oracle": lambda own: own["reader_oracle"],
    "recall@5": lambda own: own["recall"]["5"],
}


def rows(settings: Sequence[Setting], options: argparse.Namespace) -> list[Row]:
    return [row(setting, stage) for stage in ROWS for setting in settings]


def row(setting: Setting, stage: str) -> Row:
    finetuning = Finetuning("runs/finetune_small.gin", setting.changes(""))
    return Row(
        name=setting.row_name(stage),
        label=f"{ROWS[stage]}, seed {setting.seed}",
        model=setting.model(),
        trainings=[quickstart_seeds.quickstart(setting)],
        finetuning=finetuning,
        make=lambda: make(setting, stage, finetuning),
    )


def make(setting: Setting, stage: str, finetuning: Finetuning) -> dict[str, Any]:
    """Fine-tunes from a stage of the quickstart and measures."""
    training = quickstart_seeds.quickstart(setting)
    spent = pipeline.quickstart(training, setting.seed)["wall_seconds"]
    out = setting.run(f"quickstart_{stage}_answers")
    report, seconds = pipeline.answered(training.run, out, finetuning, setting.data, stage)
    return {
        "stage": stage,
        "seed": setting.seed,
        "answers": report,
        "seconds": {"quickstart": spent, "finetune": round(seconds, 1)},
    }


def table(saved: Saved) -> str:
    """Mean and range over seeds of each pretraining, with each retriever."""
    lines = []
    for stage, pretraining in ROWS.items():
        reports = [row["answers"] for row in saved if row["stage"] == stage]
        for retriever, label in RETRIEVERS.items():
            own = [report[retriever] for report in reports]
            cells = [
                percent([of(r) for r in own]) if own else "not run" for of in MEASURES.values()
            ]
            lines.append([pretraining, label, *cells])
    return markdown(["pretraining", "retriever, reader", *MEASURES], lines)


main = functools.partial(run, "almanac_answers", rows, table, usage=__doc__, scales=(ALMANAC,))

if __name__ == "__main__":
    sys.exit(main())
