"""Open-domain question answering in the layout of REALM's Table 1, with every baseline there is here.

    python -m experiments.table1 --scale almanac|wiki9k_cpu|wiki9k|paper --out DIR
        [--questions NAME=TRAIN,DEV ...] [--corpus CORPUS] [--init RUN] [--asked CORPUS]
        [--seeds 0,1,2] [--dry-run]

A column for each --questions; almanac has its own. Runs, rows and resuming are those of experiments.table2,
and so with its DIR what both need is made once. BM25 and the frozen retriever, each read by the reader that
was fine-tuned beside ORQA, are the pipelines of today. Writes DIR/table1.md and DIR/table1.json.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from experiments import table2
from experiments.place import arguments_of, place_of
from experiments.rows import Kept, keep, percent, result
from ralm_jax.errors import UserError


class System(NamedTuple):
    """A line: a row of Table 2, and which of the ways to find passages that it was measured with."""

    label: str
    row: str
    found_by: str  # as `ralm evaluate` names them
    paper: str  # Natural Questions, WebQuestions, CuratedTREC


SYSTEMS = (
    System("BM25 + reader", "baseline", "bm25", "26.5 / 17.7 / 21.3"),
    System("dense retriever, frozen, + reader", "baseline", "frozen", "–"),
    System("ORQA", "baseline", "retriever", "33.3 / 36.4 / 30.1"),
    System("REALM, frozen retriever", "realm", "frozen", "–"),
    System("REALM (X = Z)", "realm", "retriever", "39.2 / 40.2 / 46.8"),
    System("REALM (X != Z)", "elsewhere", "retriever", "40.4 / 40.7 / 42.9"),
)
ALMANAC = "almanac"


def table(rows: dict[str, list[dict[str, Any]]]) -> str:
    """Markdown of {question set: rows}: exact match, mean and range over seeds, then the paper's figures."""
    head = [f"{name}, EM" for name in rows]
    lines = [
        "| system | " + " | ".join(head) + " | NQ / WQ / CT, paper |",
        "|---" * (len(head) + 2) + "|",
    ]
    for system in SYSTEMS:
        cells = []
        for reports in rows.values():
            own = [r["answers"][system.found_by] for r in reports if r["row"] == system.row]
            cells.append(percent([x["exact_match"][0] for x in own]) if own else "not run")
        lines.append(f"| {system.label} | " + " | ".join([*cells, system.paper]) + " |")
    return "\n".join(lines) + "\n"


def question_sets(given: Sequence[str]) -> dict[str, tuple[Path, Path]]:
    """NAME=TRAIN,DEV. Raises UserError where one is not of that form."""
    found = {}
    for text in given:
        name, _, files = text.partition("=")
        train, _, dev = files.partition(",")
        if not (name and train and dev):
            raise UserError(f"--questions {text!r}: not of the form NAME=TRAIN,DEV")
        found[name] = (Path(train), Path(dev))
    return found


def tabulate(arguments: argparse.Namespace) -> int:
    """Every line for every set of questions, or with --dry-run their price."""
    sets: dict[str, tuple[Path | None, Path | None]] = {**question_sets(arguments.questions)}
    if arguments.scale == ALMANAC:
        if sets:
            raise UserError("--questions: almanac asks its own")
        sets = {"": (None, None)}
    if not sets:
        raise UserError(f"--scale {arguments.scale} needs --questions NAME=TRAIN,DEV")
    names = list(dict.fromkeys(system.row for system in SYSTEMS))
    if arguments.scale != ALMANAC and arguments.asked is None:
        names.remove("elsewhere")  # no other corpus to ask from
    places = [
        place_of(arguments, int(seed), *files, name)
        for name, files in sets.items()
        for seed in arguments.seeds.split(",")
    ]
    wanted = [table2.row(place, name) for place in places for name in names]
    told = f"python -m experiments.table1 --scale {arguments.scale} --seeds {arguments.seeds} --out DIR"

    def write(made: Kept) -> None:
        rows = {name or ALMANAC: [r for r in made if r["asks"] == name] for name in sets}
        (arguments.out / "table1.json").write_text(result(told, rows=rows), "utf-8")
        (arguments.out / "table1.md").write_text(table(rows), "utf-8")

    keep(wanted, arguments.out / "rows", arguments.dry_run, write)
    if not arguments.dry_run:
        print((arguments.out / "table1.md").read_text("utf-8"))
    return 0


def main() -> int:
    parser = arguments_of(__doc__)
    parser.add_argument("--questions", action="append", default=[], metavar="NAME=TRAIN,DEV")
    try:
        return tabulate(parser.parse_args())
    except UserError as error:
        print(f"table1: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
