"""One run on almanac, all stages and fine-tuning, killed at random again and again: does it end the same?

    python -m experiments.kills --out DIR [--kills 100] [--index exact] [--seed 0] [--set 'NAME = VALUE' ...]

Trains it once undisturbed and once with SIGKILLs to the trainer and to its ScaNN process, and compares them:
parameters, optimizer, metrics and index versions, to the bit with exact search. ScaNN does not find the same
passages twice; with it, the steps, evaluations and versions must be the same. Writes DIR/exact.json or
DIR/scann.json.
"""

import argparse
import collections
import functools
import json
import os
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from experiments import chaos, outcomes, pipeline
from experiments.runner import exit_code, write
from experiments.saved import markdown, result
from ralm_jax.errors import UserError
from ralm_jax.sources import almanac

SAVED_EVERY = 5
SIZES = (
    "ICT_STEPS = 60", "ICT_BATCH = 64", "WARMUP_STEPS = 60", "WARMUP_BATCH = 16", "REALM_STEPS = 240",
    "REALM_BATCH = 8", "REFRESH_EVERY = 20", "REFRESH_LAG = 8", "EVAL_EVERY = 60", "DROPOUT = 0.1",
    "quickstart.quickstart.clozes = 100", f"CHECKPOINT_EVERY = {SAVED_EVERY}", "LOG_EVERY = 1",
)  # fmt: skip
ASKED, QUESTIONS = "questions.jsonl", 60
TUNING = (
    "STEPS = 60",
    "BATCH = 8",
    "DEV_EVERY = 20",
    f"CHECKPOINT_EVERY = {SAVED_EVERY}",
    "LOG_EVERY = 1",
)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--index", choices=("exact", "scann"), default="exact")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--set", action="append", default=[])
    given = parser.parse_args(argv)
    return exit_code("kills", functools.partial(_run, given, argv))


def _run(given: argparse.Namespace, argv: Sequence[str] | None) -> None:
    given.out.mkdir(parents=True, exist_ok=True)
    changes = [*given.set, f'INDEX = "{given.index}"']
    words = sys.argv[1:] if argv is None else argv
    command = f"python -m experiments.kills {' '.join(words)}".replace(str(given.out), "DIR")
    report = compare(given.out, changes, given.kills, given.seed)
    write(given.out / f"{given.index}.json", result(command, **report))
    print("\n".join(f"{name}: {value}" for name, value in report.items() if name != "moments"))
    if report["differences"]:
        raise UserError("the run that was killed ended otherwise than the one that was not")


def compare(out: Path, changes: Sequence[str], kills: int, seed: int) -> dict[str, Any]:
    """Trains undisturbed in OUT/whole and killed in OUT/killed, and gives what the two differ in.

    Returns:
      {"kills": {of: count}, "seconds": {"whole", "killed"}, "steps", "versions", "differences": in words,
      "moments": of each kill}
    """
    os.environ["JAX_COMPILATION_CACHE_DIR"] = str(out.resolve() / "compiled")
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
    os.environ["RALM_CACHE"] = str(out.resolve() / "cache")
    asked = almanac.generate(almanac.World(), 0).questions[:QUESTIONS]
    write(out / ASKED, "".join(json.dumps(question) + "\n" for question in asked))
    seconds, began = {}, time.perf_counter()
    gone = [
        chaos.undisturbed(words, run, out / f"{run.name}.log")
        for words, run in _commands(out / "whole", changes)
    ]
    seconds["whole"] = round(time.perf_counter() - began, 1)
    pairs = zip(gone, _commands(out / "killed", changes), strict=True)
    commands = [went._replace(words=words, run=run) for went, (words, run) in pairs]
    began = time.perf_counter()
    made = chaos.endure(commands, out / "logs", kills=kills, saved_every=SAVED_EVERY, seed=seed)
    seconds["killed"] = round(time.perf_counter() - began, 1)
    found: list[str] = []
    steps = versions = 0
    for whole, killed in zip(gone, commands, strict=True):
        wanted, ended = outcomes.outcome(whole.run), outcomes.outcome(killed.run)
        steps += sum("loss" in line for line in ended["metrics"])
        versions += sum("publish/index_step" in line for line in ended["metrics"])
        if any("scann" in change for change in changes):
            wanted, ended = map(outcomes.in_outline, (wanted, ended))
        found += [f"{whole.run.name}: {words}" for words in outcomes.differences(wanted, ended)]
    return {
        "kills": dict(collections.Counter(kill.of for kill in made)),
        "seconds": seconds,
        "steps": steps,
        "versions": versions,
        "differences": found,
        "moments": [list(kill) for kill in made],
    }


def table(reports: Mapping[str, dict[str, Any]]) -> str:
    """Reports by kind of index: who was killed how often, and what came of it."""
    lines = []
    for kind, report in reports.items():
        killed = report["kills"]
        differences = len(report["differences"])
        lines.append(
            [
                kind.replace("_", ", "),
                f"{sum(killed.values())}",
                *(f"{killed.get(of, 0)}" for of in ("trainer", "operation", "scann")),
                f"{report['steps']:,}",
                f"{report['versions']}",
                f"{differences}" if differences else "none",
            ]
        )
    whom = ["at any moment", "at a file operation", "ScaNN process"]
    head = ["index", "SIGKILLs", *whom, "steps", "index versions", "differences in the end"]
    return markdown(head, lines)


def _commands(out: Path, changes: Sequence[str]) -> list[tuple[list[str], Path]]:
    """The words of each command, and its run."""
    run, tuned = out / "quickstart", out / "finetuned"
    train = ["quickstart", "--run", str(run), *pipeline.as_options((*SIZES, *changes))]
    questions = str(out.parent / ASKED)
    tune = [
        "finetune",
        "--config",
        "runs/finetune_small.gin",
        "--run",
        str(run),
        "--out",
        str(tuned),
    ]
    tune += [
        "--train",
        questions,
        "--dev",
        questions,
        *pipeline.as_options((*TUNING, *_known(changes))),
    ]
    return [(train, run), (tune, tuned)]


def _known(changes: Sequence[str]) -> list[str]:
    """Those that fine-tuning has too: sizes of the model, which the run brings, it has not."""
    names = ("BATCH", "PASSAGE_LENGTH", "JOINT_LENGTH", "QUERY_LENGTH", "BEAM")
    return [change for change in changes if change.split(" ")[0] in names]


if __name__ == "__main__":
    sys.exit(main())
