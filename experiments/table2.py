"""REALM's Table 2: what the retriever, the reader, the masks and a fresh index each contribute.

    python -m experiments.table2 --scale almanac|wiki9k_cpu|wiki9k|paper --out DIR [--rows realm,stale,...]
        [--seeds 0,1,2] [--corpus CORPUS --train FILE --dev FILE] [--init RUN] [--asked CORPUS] [--dry-run]

The scale almanac generates its own worlds; the other scales take a corpus and questions. wiki9k, and
wiki9k_cpu, a part of it for two cores, start from an imported encoder (--init). --asked is the corpus X of
the row X != Z. Rows are made one by one and saved in DIR/rows; the same command resumes after the last one.
--dry-run prints what is missing, in steps and hours, and starts nothing. Writes DIR/table2.md and
DIR/table2.json.
"""

import argparse
import functools
import sys
from collections.abc import Sequence
from typing import Any, NamedTuple

from experiments import pipeline
from experiments.rows import Finetuning, Row, Training
from experiments.runner import run
from experiments.saved import Saved, markdown, percent
from experiments.setting import Setting


class Layout(NamedTuple):
    """A row of the table.

    Attributes:
      retriever, reader: the pretraining runs that its halves come from.
      paper: exact match and recall@5 in REALM's Table 2; of X != Z in Table 1, with CC-News as X.
    """

    label: str
    retriever: str
    reader: str
    paper: tuple[float, float]


ROWS = {
    "realm": Layout("REALM", "realm", "realm", (38.2, 38.5)),
    "realm_retriever": Layout(
        "REALM retriever + baseline encoder", "realm", "warmup", (37.4, 38.5)
    ),
    "realm_encoder": Layout("baseline retriever + REALM encoder", "warmup", "realm", (35.3, 13.9)),
    "baseline": Layout("baseline (ORQA)", "warmup", "warmup", (31.3, 13.9)),
    "uniform": Layout("random uniform masks", "uniform", "uniform", (32.3, 24.2)),
    "span": Layout("random span masks", "span", "span", (35.3, 26.1)),
    "stale": Layout("index never refreshed (paper: 30x stale)", "stale", "stale", (28.7, 15.1)),
    "elsewhere": Layout("X != Z", "elsewhere", "elsewhere", (38.5, 52.0)),
}
NOTE = """\
The paper refreshes the index of its stale row 30 times less often. In the runs here 30 times the interval is
more steps than there are, so that row keeps the first index from beginning to end.
"""
# What the paper found, as pairs of rows: the first above the second, in exact match or in recall@5.
ORDER = {
    "exact match": [
        ("realm", "baseline"),
        ("realm", "realm_retriever"),
        ("realm", "realm_encoder"),
        ("realm_retriever", "baseline"),
        ("realm_encoder", "baseline"),
        ("realm", "stale"),
    ],
    "recall@5": [
        ("realm", "baseline"),
        ("realm", "span"),
        ("span", "uniform"),
        ("realm", "stale"),
    ],
}


def rows(settings: Sequence[Setting], options: argparse.Namespace) -> list[Row]:
    """The rows chosen, for each setting; X != Z where there is another corpus X."""
    return [
        row(setting, name)
        for setting in settings
        for name in options.rows
        if name != "elsewhere" or setting.data.asked is not None
    ]


def row(setting: Setting, name: str) -> Row:
    """A row in one setting."""
    halves = (ROWS[name].retriever, ROWS[name].reader)
    trainings = {t.run: t for half in halves for t in setting.chain(half)}
    finetuning = Finetuning(setting.config("finetune"), setting.changes(""))
    label = (ROWS[name].label, setting.questions, f"seed {setting.seed}")
    return Row(
        name=setting.row_name(name),
        label=", ".join(filter(None, label)),
        model=setting.model(),
        trainings=list(trainings.values()),
        finetuning=finetuning,
        make=lambda: make(setting, name, list(trainings.values()), finetuning),
    )


def make(
    setting: Setting, name: str, trainings: list[Training], finetuning: Finetuning
) -> dict[str, Any]:
    """Pretrains what is missing, puts the halves together, fine-tunes and measures."""
    layout = ROWS[name]
    seconds = pipeline.pretrained_all(trainings)
    model = setting.run(layout.retriever)
    if layout.retriever != layout.reader:
        model = pipeline.combined(setting.run(name), model, setting.run(layout.reader))
    recall = pipeline.zero_shot(model, setting.data.dev)
    answers = setting.run(f"{setting.row_name(name)}_answers")
    report, spent = pipeline.answered(model, answers, finetuning, setting.data)
    return {
        "row": name,
        "seed": setting.seed,
        "asks": setting.questions,
        "exact_match": report["retriever"]["exact_match"],
        "f1": report["retriever"]["f1"],
        "recall@5": recall["holds_answer"]["recall"]["5"],
        "zero_shot": recall,
        "answers": report,
        "seconds": {**seconds, "finetune": round(spent, 1)},
    }


def table(saved: Saved) -> str:
    """Mean and range over seeds beside the paper's figures, then the paper's orderings."""
    lines = []
    for name, layout in ROWS.items():
        own = [r for r in saved if r["row"] == name]
        cells = ["not run", "not run"]
        if own:
            cells = [percent([r["exact_match"][0] for r in own])]
            cells.append(percent([r["recall@5"] for r in own]))
        lines.append([layout.label, f"{len(own)}", *cells, *map(str, layout.paper)])
    head = ["", "seeds", "EM", "recall@5, zero-shot", "EM, paper", "recall@5, paper"]
    compared = [
        [
            f"{ROWS[above].label} above {ROWS[below].label}, {column}",
            agreement(saved, above, below, column),
        ]
        for column, pairs in ORDER.items()
        for above, below in pairs
    ]
    orderings = markdown(["the paper found", "here, seed by seed"], compared)
    return "\n".join([markdown(head, lines), orderings, NOTE])


def agreement(saved: Saved, above: str, below: str, column: str) -> str:
    """In how many seeds one row is above another, and by how much."""

    def value(row: dict[str, Any]) -> float:
        return row["exact_match"][0] if column == "exact match" else row["recall@5"]

    first, second = ({r["seed"]: value(r) for r in saved if r["row"] == n} for n in (above, below))
    gaps = [100 * (first[seed] - second[seed]) for seed in sorted(first.keys() & second.keys())]
    if not gaps:
        return "not run"
    if min(gaps) > 0:
        seeds = "in every seed"
    else:
        seeds = "in no seed" if max(gaps) <= 0 else "in some seeds"
    return f"{seeds} ({', '.join(f'{gap:+.1f}' for gap in gaps)})"


main = functools.partial(
    run, "table2", rows, table, usage=__doc__, choices={"rows": ROWS}, folder="rows"
)

if __name__ == "__main__":
    sys.exit(main())
