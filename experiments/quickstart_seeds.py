"""The quickstart with several seeds, each of which makes a world and a training run of its own.

    python -m experiments.quickstart_seeds --runs DIRECTORY [--seeds 0,1,2]

Each seed is one `ralm quickstart`; one that is done already is not run again. Writes
experiments/results/quickstart: result.json (every seed, means, spreads) and learning_curves.png of one.
"""

import argparse
import json
import shutil
import statistics
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from experiments.record import RESULTS, commit, hardware

MOMENTS = ("untrained", "ict", "realm")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--runs", type=Path, required=True)
    parser.add_argument("--seeds", default="0,1,2")
    arguments = parser.parse_args()
    reports = []
    for seed in map(int, arguments.seeds.split(",")):
        run = arguments.runs / f"seed{seed}"
        report = arguments.runs / f"seed{seed}.json"
        if not report.exists():
            verb = ["quickstart", "--run", run, "--seed", seed, "--json", report]
            subprocess.run([sys.executable, "-m", "ralm_jax.cli", *map(str, verb)], check=True)
        reports.append(json.loads(report.read_text("utf-8")))
    out = RESULTS / "quickstart"
    out.mkdir(parents=True, exist_ok=True)
    first = arguments.runs / f"seed{reports[0]['seed']}"
    result = {
        "command": "python -m experiments.quickstart_seeds --runs RUNS --seeds " + arguments.seeds,
        "commit": commit(),
        "hardware": hardware(),
        "config": (first / "config.gin").read_text("utf-8"),
        "mean and spread": {moment: spread([r[moment] for r in reports]) for moment in MOMENTS},
        "gain of realm over ict": gains(reports),
        "seeds": reports,
    }
    (out / "result.json").write_text(json.dumps(result, indent=1) + "\n", "utf-8")
    shutil.copy(first / "learning_curves.png", out / "learning_curves.png")


def spread(reports: Sequence[Any]) -> Any:
    """The same shape, each number replaced by mean, least and greatest over the seeds."""
    if isinstance(reports[0], dict):
        return {key: spread([r[key] for r in reports]) for key in reports[0]}
    if isinstance(reports[0], list):
        return [spread(each) for each in zip(*reports, strict=True)]
    return {"mean": statistics.mean(reports), "min": min(reports), "max": max(reports)}


def gains(reports: list[dict[str, Any]]) -> dict[str, Any]:
    """What joint training added to recall@5, seed by seed, and how often reading with passages wins."""
    return {
        "question_recall@5": [_gain(r, "question_recall") for r in reports],
        "cloze_recall@5": [_gain(r, "cloze_recall") for r in reports],
        "span_accuracy / span_accuracy_null": [
            r["realm"]["span_accuracy"] / max(r["realm"]["span_accuracy_null"], 1e-9)
            for r in reports
        ],
    }


def _gain(report: dict[str, Any], name: str) -> float:
    return report["realm"][name]["5"] - report["ict"][name]["5"]


if __name__ == "__main__":
    main()
