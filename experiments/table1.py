"""Open-domain question answering in the layout of REALM's Table 1, with every baseline there is here.

    python -m experiments.table1 --scale almanac|wiki9k_cpu|wiki9k|paper --out DIR
        [--questions NAME=TRAIN,DEV ...] [--corpus CORPUS] [--init RUN] [--asked CORPUS]
        [--seeds 0,1,2] [--dry-run]

There is a column for each --questions; almanac has its own questions. The rows are those of
experiments.table2, and where DIR is the same, what both need is made once. BM25 and the frozen retriever
stand for today's pipelines: their passages are read by the reader that was fine-tuned beside ORQA. Writes
DIR/table1.md and DIR/table1.json.
"""

import argparse
import functools
import sys
from collections.abc import Sequence
from typing import NamedTuple

from experiments import table2
from experiments.rows import Row
from experiments.runner import run
from experiments.saved import Saved, markdown, percent
from experiments.setting import ALMANAC, Setting


class System(NamedTuple):
    """A line: a row of Table 2, and the retriever that it is measured with, as `ralm evaluate` names it.

    Attributes:
      paper: exact match on Natural Questions, WebQuestions and CuratedTREC.
    """

    label: str
    row: str
    retriever: str
    paper: str


SYSTEMS = (
    System("BM25 + reader", "baseline", "bm25", "26.5 / 17.7 / 21.3"),
    System("dense retriever, frozen, + reader", "baseline", "frozen", "–"),
    System("ORQA", "baseline", "retriever", "33.3 / 36.4 / 30.1"),
    System("REALM, frozen retriever", "realm", "frozen", "–"),
    System("REALM (X = Z)", "realm", "retriever", "39.2 / 40.2 / 46.8"),
    System("REALM (X != Z)", "elsewhere", "retriever", "40.4 / 40.7 / 42.9"),
)
ROWS = tuple(dict.fromkeys(system.row for system in SYSTEMS))


def rows(settings: Sequence[Setting], options: argparse.Namespace) -> list[Row]:
    """The rows of Table 2 that the systems rest on."""
    return table2.rows(settings, argparse.Namespace(rows=ROWS))


def table(saved: Saved) -> str:
    """Exact match on each question set, mean and range over seeds, then the paper's figures."""
    sets: dict[str, Saved] = {}
    for row in saved:
        sets.setdefault(row["asks"] or ALMANAC, []).append(row)
    lines = []
    for system in SYSTEMS:
        cells = []
        for own in sets.values():
            measured = [r["answers"][system.retriever] for r in own if r["row"] == system.row]
            exact = [report["exact_match"][0] for report in measured]
            cells.append(percent(exact) if exact else "not run")
        lines.append([system.label, *cells, system.paper])
    head = ["system", *(f"{name}, EM" for name in sets), "NQ / WQ / CT, paper"]
    return markdown(head, lines)


main = functools.partial(
    run, "table1", rows, table, usage=__doc__, question_sets=True, folder="rows"
)

if __name__ == "__main__":
    sys.exit(main())
