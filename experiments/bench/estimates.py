"""What `ralm estimate --probe` says of this machine, beside what training then takes.

    python -m experiments.bench.estimates CORPUS --out DIR [--steps 12]

CORPUS is a prepared corpus. Four configurations, two sizes of an encoder and two stages, are estimated and
then trained, each by a process of its own: the seconds of a step, median of the run, and the most that was
resident in its process. Writes DIR/estimates.json.
"""

import argparse
import functools
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from experiments import pipeline
from experiments.bench.verbs import memory
from experiments.runner import exit_code, write
from experiments.saved import markdown, result
from ralm_jax.errors import UserError
from ralm_jax.runs.writers import metrics_file, read_metrics

# Layers, hidden width, heads.
SIZES = {"mini": (4, 256, 4), "small": (4, 512, 8)}
# Queries a batch.
STAGES = {"ict": 32, "realm": 16}
LENGTHS = ("QUERY_LENGTH = 64", "PASSAGE_LENGTH = 192", "JOINT_LENGTH = 256", "MASKED = 8")
# Between two looks at a process, in seconds.
EVERY = 0.2


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("corpus", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=12)
    given = parser.parse_args(argv)
    return exit_code("bench.estimates", functools.partial(_run, given, argv))


def _run(given: argparse.Namespace, argv: Sequence[str] | None) -> None:
    given.out.mkdir(parents=True, exist_ok=True)
    rows = [measure(size, stage, given) for size in SIZES for stage in STAGES]
    command = f"python -m experiments.bench.estimates CORPUS --out DIR --steps {given.steps}"
    write(given.out / "estimates.json", result(command, rows=rows))
    print(table(rows))


def measure(size: str, stage: str, given: argparse.Namespace) -> dict[str, Any]:
    """One configuration, estimated and then trained."""
    layers, hidden, heads = SIZES[size]
    changes = [
        f"LAYERS = {layers}", f"RETRIEVER_LAYERS = {layers}", f"HIDDEN = {hidden}", f"HEADS = {heads}",
        f"INTERMEDIATE = {4 * hidden}", "POSITIONS = 256", *LENGTHS, "CANDIDATES = 4", "REFRESH_EVERY = 1000",
        f"{stage.upper()}_STEPS = {given.steps}", f"{stage.upper()}_BATCH = {STAGES[stage]}", "LOG_EVERY = 1",
        f"pretrain.pretrain.stages = [@{stage}/schedule.Stage()]",
    ]  # fmt: skip
    words = ["--config", "runs/pretrain.gin", "--corpus", str(given.corpus)]
    words += pipeline.as_options(changes)
    said, run = given.out / f"{size}_{stage}.json", given.out / f"{size}_{stage}"
    _ralm(["estimate", *words, "--probe", "--json", str(said)], given.out / "log")
    resident = _ralm(["pretrain", *words, "--run", str(run)], given.out / "log")
    (expected,) = json.loads(said.read_text("utf-8"))["stages"]
    seconds = [line["step_seconds"] for line in read_metrics(metrics_file(run)) if "loss" in line]
    # The first step compiles.
    taken = float(np.median(seconds[1:]))
    return {
        "size": size,
        "stage": stage,
        "seconds": [round(expected["seconds_a_step_here"], 4), round(taken, 4)],
        "seconds, estimate over measured": round(expected["seconds_a_step_here"] / taken, 3),
        "memory_mib": [round(expected["memory_bytes_here"] / 2**20), round(resident / 2**20)],
        "memory, estimate over measured": round(expected["memory_bytes_here"] / resident, 3),
    }


def _ralm(words: Sequence[str], log: Path) -> int:
    """Runs a verb; the most bytes that were resident of its process and of no file (Linux).

    Raises UserError where it fails.
    """
    most = 0
    with log.open("a") as out:
        command = [sys.executable, "-m", "ralm_jax.cli", *words]
        process = subprocess.Popen(command, stdout=out, stderr=out)
        while process.poll() is None:
            most = max(most, memory(process.pid)[0])
            time.sleep(EVERY)
    if process.returncode:
        raise UserError(f"ralm {words[0]} ended with exit code {process.returncode}, see {log}")
    return most


def table(rows: Sequence[dict[str, Any]]) -> str:
    heads = [
        "size",
        "stage",
        "s a step, estimated",
        "measured",
        "ratio",
        "MiB, estimated",
        "measured",
        "ratio",
    ]
    lines = [
        [
            row["size"], row["stage"], *map(str, row["seconds"]), str(row["seconds, estimate over measured"]),
            *map(str, row["memory_mib"]), str(row["memory, estimate over measured"]),
        ]
        for row in rows
    ]  # fmt: skip
    return markdown(heads, lines)


if __name__ == "__main__":
    sys.exit(main())
