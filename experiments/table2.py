"""REALM's Table 2: what the retriever, the reader, the masks and a fresh index each contribute.

    python -m experiments.table2 --scale almanac|wiki9k_cpu|wiki9k|paper --out DIR [--rows realm,stale,...]
        [--seeds 0,1,2] [--corpus CORPUS --train FILE --dev FILE] [--init RUN] [--asked CORPUS] [--dry-run]

almanac makes its own worlds; the other scales take a corpus and questions; wiki9k, and wiki9k_cpu for a
part of it on two cores, start from an imported encoder (--init); --asked is the corpus X of the row X != Z.
Rows are made one by one, kept in DIR/rows: the same command goes on where it stopped. --dry-run says what is
left, in steps and hours, and starts nothing.
Writes DIR/table2.md and DIR/table2.json.
"""

import argparse
import sys
from typing import Any, NamedTuple

from experiments import ablation
from experiments.ablation import Training
from experiments.place import Place, arguments_of, asking, model_of, places_of
from experiments.rows import Kept, Row, keep, percent, result
from ralm_jax.errors import UserError


class Layout(NamedTuple):
    label: str
    retriever: str  # the runs that its halves come from
    reader: str
    paper: tuple[
        float, float
    ]  # exact match and recall@5 of REALM, Table 2 (X != Z: Table 1, CC-News)


ROWS = {
    "realm": Layout("REALM", "realm", "realm", (38.2, 38.5)),
    "realm_retriever": Layout(
        "REALM retriever + baseline encoder", "realm", "warmup", (37.4, 38.5)
    ),
    "realm_encoder": Layout("baseline retriever + REALM encoder", "warmup", "realm", (35.3, 13.9)),
    "baseline": Layout("baseline (ORQA)", "warmup", "warmup", (31.3, 13.9)),
    "uniform": Layout("random uniform masks", "uniform", "uniform", (32.3, 24.2)),
    "span": Layout("random span masks", "span", "span", (35.3, 26.1)),
    "stale": Layout("30x stale index", "stale", "stale", (28.7, 15.1)),
    "elsewhere": Layout("X != Z", "elsewhere", "elsewhere", (38.5, 52.0)),
}
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


def row(place: Place, name: str) -> Row:
    """A row for one seed."""
    made = ROWS[name]
    rests_on = {t.run: t for half in (made.retriever, made.reader) for t in place.chain(half)}
    return Row(
        name=place.named(name),
        label=", ".join(filter(None, (made.label, place.asks, f"seed {place.seed}"))),
        model=model_of(place),
        rests_on=list(rests_on.values()),
        finetune=f"experiments/{place.scale}/finetune.gin",
        make=lambda: make(place, name, list(rests_on.values())),
    )


def make(place: Place, name: str, rests_on: list[Training]) -> dict[str, Any]:
    """One row for one seed: pretrain what is missing, put the halves together, fine-tune, measure."""
    row = ROWS[name]
    seconds = {training.run.name: ablation.pretrained(training) for training in rests_on}
    model = place.run(row.retriever)
    if row.retriever != row.reader:
        model = ablation.combined(place.run(name), model, place.run(row.reader))
    recall = ablation.zero_shot(model, place.data.dev)
    config = f"experiments/{place.scale}/finetune.gin"
    answers = place.run(f"{place.named(name)}_answers")
    told = place.changes("")
    report, seconds["finetune"] = ablation.answered(model, answers, config, place.data, told)
    return {
        "row": name,
        "seed": place.seed,
        "asks": place.asks,
        "exact_match": report["retriever"]["exact_match"],
        "f1": report["retriever"]["f1"],
        "recall@5": recall["holds_answer"]["recall"]["5"],
        "zero_shot": recall,
        "answers": report,
        "seconds": {run: round(s, 1) for run, s in seconds.items()},
    }


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown: mean and range over seeds beside the paper's figures, then the orderings."""
    lines = [
        "| | seeds | EM | recall@5, zero-shot | EM, paper | recall@5, paper |",
        "|---|---|---|---|---|---|",
    ]
    for name, row in ROWS.items():
        own = [r for r in rows if r["row"] == name]
        if own:
            cells = [
                percent([r["exact_match"][0] for r in own]),
                percent([r["recall@5"] for r in own]),
            ]
        else:
            cells = ["not run", "not run"]
        cells += [f"{x}" for x in row.paper]
        lines.append(f"| {row.label} | {len(own)} | " + " | ".join(cells) + " |")
    lines += ["", "| the paper found | here, seed by seed |", "|---|---|"]
    for column, pairs in ORDER.items():
        for above, below in pairs:
            what = f"{ROWS[above].label} above {ROWS[below].label}, {column}"
            lines.append(f"| {what} | {agreement(rows, above, below, column)} |")
    return "\n".join(lines) + "\n"


def agreement(rows: list[dict[str, Any]], above: str, below: str, column: str) -> str:
    """Whether one row is above another for every seed, and by how much."""

    def value(row: dict[str, Any]) -> float:
        return row["exact_match"][0] if column == "exact match" else row["recall@5"]

    first, second = ({r["seed"]: value(r) for r in rows if r["row"] == n} for n in (above, below))
    gaps = [100 * (first[seed] - second[seed]) for seed in sorted(first.keys() & second.keys())]
    if not gaps:
        return "not run"
    said = "holds" if min(gaps) > 0 else "does not hold" if max(gaps) <= 0 else "within the spread"
    return f"{said} ({', '.join(f'{gap:+.1f}' for gap in gaps)})"


def main() -> int:
    parser = asking(arguments_of(__doc__))
    parser.add_argument("--rows", default=",".join(ROWS))
    arguments = parser.parse_args()
    try:
        return tabulate(arguments)
    except UserError as error:
        print(f"table2: {error}", file=sys.stderr)
        return 2


def tabulate(arguments: argparse.Namespace) -> int:
    """All rows asked for, or with --dry-run their price."""
    names = arguments.rows.split(",")
    if unknown := set(names) - ROWS.keys():
        raise UserError(
            f"there is no row {', '.join(sorted(unknown))}; there are {', '.join(ROWS)}"
        )
    places = places_of(arguments)
    if "elsewhere" in names and places[0].data.asked is None:
        names.remove("elsewhere")  # no other corpus to ask from
    wanted = [row(place, name) for place in places for name in names]
    told = f"python -m experiments.table2 --scale {arguments.scale} --seeds {arguments.seeds} --out DIR"

    def write(rows: Kept) -> None:
        (arguments.out / "table2.json").write_text(result(told, rows=rows), "utf-8")
        (arguments.out / "table2.md").write_text(table(rows), "utf-8")

    keep(wanted, arguments.out / "rows", arguments.dry_run, write)
    if not arguments.dry_run:
        print((arguments.out / "table2.md").read_text("utf-8"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
