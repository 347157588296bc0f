"""The quickstart with several seeds, each of which generates a world and trains a run of its own.

    python -m experiments.quickstart_seeds --out DIR [--seeds 0,1,2] [--dry-run]

Each row is one `ralm quickstart`, in DIR/seedN/quickstart, with its learning curves. Writes
DIR/quickstart_seeds.md and DIR/quickstart_seeds.json.
"""

import argparse
import functools
import sys
from collections.abc import Callable, Sequence

from experiments import pipeline
from experiments.rows import Row, Training
from experiments.runner import run
from experiments.saved import Saved, markdown, percent
from experiments.setting import ALMANAC, Setting

STAGES = {"untrained": "untrained", "ict": "after inverse cloze", "realm": "after REALM"}
MEASURES: dict[str, Callable[[dict], float]] = {
    "question recall@5": lambda r: r["question_recall"]["5"],
    "cloze recall@5, own passage excluded": lambda r: r["cloze_recall"]["5"],
    "masked spans read, with passages": lambda r: r["span_accuracy"],
    "masked spans read, null passage alone": lambda r: r["span_accuracy_null"],
}


def rows(settings: Sequence[Setting], options: argparse.Namespace) -> list[Row]:
    return [row(setting) for setting in settings]


def row(setting: Setting) -> Row:
    training = quickstart(setting)

    def make() -> dict:
        report = pipeline.quickstart(training, setting.seed)
        return {**report, "seconds": {"quickstart": report["wall_seconds"]}}

    label = f"quickstart, seed {setting.seed}"
    return Row(str(setting.seed), label, setting.model(), [training], None, make)


def quickstart(setting: Setting) -> Training:
    """The whole chain in one run."""
    run, changes = setting.run("quickstart"), setting.changes("quickstart")
    config = "runs/quickstart.gin"
    return Training(run, config, setting.data.corpus, changes=changes, verb="quickstart")


def table(saved: Saved) -> str:
    """Mean and range over seeds."""
    lines = [
        [label, *(percent([value(row[stage]) for row in saved]) for stage in STAGES)]
        for label, value in MEASURES.items()
    ]
    return markdown(["", *STAGES.values()], lines)


main = functools.partial(run, "quickstart_seeds", rows, table, usage=__doc__, scales=(ALMANAC,))

if __name__ == "__main__":
    sys.exit(main())
