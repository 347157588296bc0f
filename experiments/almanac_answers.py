"""Does joint pretraining make better answers? REALM, warm-up alone and ICT alone, fine-tuned on almanac.

    python -m experiments.almanac_answers --runs DIRECTORY [--seeds 0,1,2]

Each seed is a world and a quickstart of its own (made if it is not there). The facts that pretraining never
asks for are the test; of the others nine in ten questions train and the rest select. Rows that are done are
not run again. Writes experiments/results/almanac_answers/result.json and table.md.
"""

import argparse
import gzip
import json
from pathlib import Path
from typing import Any

from experiments.ablation import HELD_OUT, ralm
from experiments.quickstart_seeds import spread
from experiments.record import RESULTS, commit, hardware
from ralm_jax.examples.question_sources import read_questions
from ralm_jax.quickstart import unasked

STAGES = {"realm": "REALM", "ict": "ICT alone", "warmup": "ICT + reader warm-up"}
BESIDE = {"frozen": "its retriever not fine-tuned", "bm25": "BM25, its reader"}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--runs", type=Path, required=True)
    parser.add_argument("--seeds", default="0,1,2")
    arguments = parser.parse_args()
    seeds = [int(seed) for seed in arguments.seeds.split(",")]
    rows: dict[str, list[dict[str, Any]]] = {}
    for stage in STAGES:  # what is done so far is written after each
        rows[stage] = [answers(arguments.runs, seed, stage) for seed in seeds]
        write(rows, arguments.seeds)


def write(rows: dict[str, list[dict[str, Any]]], seeds: str) -> None:
    """The rows as JSON and as a table."""
    out = RESULTS / "almanac_answers"
    out.mkdir(parents=True, exist_ok=True)
    result = {
        "command": "python -m experiments.almanac_answers --runs RUNS --seeds " + seeds,
        "commit": commit(),
        "hardware": hardware(),
        "seeds": [int(seed) for seed in seeds.split(",")],
        "mean and spread": {stage: spread(reports) for stage, reports in rows.items()},
        "rows": rows,
    }
    (out / "result.json").write_text(json.dumps(result, indent=1) + "\n", "utf-8")
    (out / "table.md").write_text(table(rows), "utf-8")
    print(table(rows))


def answers(runs: Path, seed: int, stage: str) -> dict[str, Any]:
    """Fine-tunes from a stage of the quickstart of `seed` and measures; done before, it is read."""
    figures = runs / f"{stage}{seed}_test.json"
    if not figures.exists():
        run = runs / f"seed{seed}"
        if not (runs / f"seed{seed}.json").exists():
            ralm("quickstart", "--run", run, "--seed", seed, "--json", runs / f"seed{seed}.json")
        parts = split(run, seed)
        out = runs / f"{stage}{seed}_answers"
        told = ["--run", run, "--stage", stage, "--out", out, "--set", f"SEED = {seed}"]
        files = ["--train", parts["train"], "--dev", parts["dev"]]
        ralm("finetune", "--config", "runs/finetune_small.gin", *told, *files)
        ralm("evaluate", "--run", out, "--questions", parts["test"], "--json", figures)
    return json.loads(figures.read_text("utf-8"))


def split(run: Path, seed: int) -> dict[str, Path]:
    """The questions of a world as three files; facts that pretraining never asks for are the test."""
    asked = read_questions(run / "questions.jsonl.gz").asked
    test = {q.id for q in unasked(asked, HELD_OUT)}
    seen = [q.id for q in asked if q.id not in test]
    part = {name: "dev" if number % 10 == seed else "train" for number, name in enumerate(seen)}
    files = {name: run / f"{name}.jsonl" for name in ("train", "dev", "test")}
    lines: dict[str, list[str]] = {name: [] for name in files}
    with gzip.open(run / "questions.jsonl.gz", "rt", encoding="utf-8") as file:
        for line in file:
            name = json.loads(line)["id"]
            lines["test" if name in test else part[name]].append(line)
    for name, file in files.items():
        file.write_text("".join(lines[name]), "utf-8")
    return files


def table(rows: dict[str, list[dict[str, Any]]]) -> str:
    """Markdown: exact match, F1, oracle and recall@5 of each row; mean (least to greatest) over seeds."""
    lines = [
        "| pretraining | retriever, reader | EM | F1 | reader oracle | recall@5 |",
        "|---|---|---|---|---|---|",
    ]
    for stage, reports in rows.items():
        for kind, label in {"retriever": "both fine-tuned", **BESIDE}.items():
            each = [report[kind] for report in reports]
            values = [
                [row["exact_match"][0] for row in each],
                [row["f1"][0] for row in each],
                [row["reader_oracle"] for row in each],
                [row["recall"]["5"] for row in each],
            ]
            cells = (
                f"{sum(v) / len(v):.1%} ({min(v):.1%} to {max(v):.1%})".replace("%", "")
                for v in values
            )
            lines.append(f"| {STAGES[stage]} | {label} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
