"""Does a long run grow? Joint training on almanac for hours, with memory, descriptors and step times watched.

    python -m experiments.soak --out DIR [--minutes 120] [--index scann] [--set 'NAME = VALUE']

Index refreshes, checkpoints and evaluations go on all the while. Writes DIR/soak.json and DIR/soak.png.
"""

import argparse
import functools
import itertools
import os
import shlex
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib.figure import Figure

from experiments import chaos, pipeline
from experiments.runner import exit_code, write
from experiments.saved import result
from ralm_jax.errors import UserError
from ralm_jax.runs.writers import metrics_file, read_metrics

SIZES = (
    "ICT_STEPS = 20", "WARMUP_STEPS = 20", "REALM_STEPS = 10000000", "REFRESH_EVERY = 50", "REFRESH_LAG = 20",
    "CHECKPOINT_EVERY = 100", "EVAL_EVERY = 1000", "LOG_EVERY = 10",
)  # fmt: skip
EVERY = 5.0  # seconds between two looks
# Of the time: until then caches fill and programs are compiled.
SETTLED = 0.25
TENTHS = 10


class Look(NamedTuple):
    """At one process: seconds since the start, resident bytes, open descriptors, threads."""

    at: float
    resident: int
    descriptors: int
    threads: int


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=120.0)
    parser.add_argument("--index", choices=("exact", "scann"), default="scann")
    parser.add_argument("--set", action="append", default=[], metavar="'NAME = VALUE'")
    given = parser.parse_args(argv)
    return exit_code("soak", functools.partial(_run, given, argv))


def _run(given: argparse.Namespace, argv: Sequence[str] | None) -> None:
    given.out.mkdir(parents=True, exist_ok=True)
    run, changes = given.out / "run", [*SIZES, f'INDEX = "{given.index}"', *given.set]
    words = ["quickstart", "--run", str(run), *pipeline.as_options(changes)]
    looks = watch(words, given.out / "log", 60 * given.minutes)
    steps = [
        (line["step"], line["step_seconds"])
        for line in read_metrics(metrics_file(run))
        if line["stage"] == "realm" and "loss" in line
    ]
    words = sys.argv[1:] if argv is None else argv
    command = f"python -m experiments.soak {shlex.join(words)}"
    report: dict[str, Any] = {name: growth(seen) for name, seen in looks.items()}
    report["step_seconds"] = by_tenths([seconds for _, seconds in steps])
    report["steps"] = steps[-1][0]
    said = result(command.replace(str(given.out), "DIR"), config=changes, **report)
    write(given.out / "soak.json", said)
    draw(looks, steps, given.out / "soak.png")
    print(said)


def watch(words: Sequence[str], log: Path, seconds: float) -> dict[str, list[Look]]:
    """Looks at a command and its child until so much time has passed, then asks the command to stop.

    Raises UserError where it ends before, or not well.
    """
    process, began = chaos.begin(words, log), time.monotonic()
    looks: dict[str, list[Look]] = {"trainer": [], "scann": []}
    while (passed := time.monotonic() - began) < seconds:
        if process.poll() is not None:
            raise UserError(f"it ended after {passed:.0f} s, see {log}")
        looks["trainer"].append(look(process.pid, passed))
        for child in chaos.children(process.pid)[:1]:
            looks["scann"].append(look(child, passed))
        time.sleep(EVERY)
    process.terminate()
    if process.wait(chaos.PATIENCE):
        raise UserError(f"it stopped with exit code {process.returncode}, see {log}")
    return {name: seen for name, seen in looks.items() if seen}


def look(process: int, at: float) -> Look:
    """At a process that lives (Linux)."""
    words = Path(f"/proc/{process}/statm").read_text().split()
    resident = int(words[1]) * os.sysconf("SC_PAGE_SIZE")
    here = Path(f"/proc/{process}")
    return Look(at, resident, len(os.listdir(here / "fd")), len(os.listdir(here / "task")))


def growth(looks: Sequence[Look]) -> dict[str, Any]:
    """How much a process grows once it has settled, and how sure that is.

    Returns:
      {"resident_mib": [least, greatest], "mib_an_hour": [slope, its standard error over tenths],
      "least_mib_an_hour": the same of the least of each tenth, for what is freed is not given back at once;
      "descriptors": [least, greatest], "threads": [least, greatest]}
    """
    settled = [seen for seen in looks if seen.at >= SETTLED * looks[-1].at]
    hours = np.array([seen.at for seen in settled]) / 3600
    mib = np.array([seen.resident for seen in settled]) / 2**20
    # Looks that follow each other are alike: means of tenths are taken for independent.
    parts = [slice(*pair) for pair in _tenths(len(settled))]
    x = np.array([hours[part].mean() for part in parts])
    return {
        "resident_mib": [round(float(mib.min()), 1), round(float(mib.max()), 1)],
        "mib_an_hour": slope(x, np.array([mib[part].mean() for part in parts])),
        "least_mib_an_hour": slope(x, np.array([mib[part].min() for part in parts])),
        "descriptors": _range([seen.descriptors for seen in settled]),
        "threads": _range([seen.threads for seen in settled]),
    }


def slope(x: np.ndarray, y: np.ndarray) -> list[float]:
    """Of the line through points [n], and its standard error."""
    rise, start = np.polyfit(x, y, 1)
    off = y - (rise * x + start)
    error = np.sqrt((off @ off) / max(len(x) - 2, 1) / ((x - x.mean()) ** 2).sum())
    return [round(float(rise), 2), round(float(error), 2)]


def by_tenths(seconds: Sequence[float]) -> list[float]:
    """Medians over ten parts of a run, in the order of time."""
    return [round(float(np.median(seconds[a:b])), 4) for a, b in _tenths(len(seconds))]


def draw(looks: dict[str, list[Look]], steps: Sequence[tuple[int, float]], path: Path) -> None:
    figure = Figure(figsize=(13, 3.6), layout="constrained")
    memory, descriptors, times = figure.subplots(1, 3)
    for name, seen in looks.items():
        minutes = [one.at / 60 for one in seen]
        memory.plot(minutes, [one.resident / 2**20 for one in seen], label=name)
        descriptors.plot(minutes, [one.descriptors for one in seen], label=name)
    times.plot(*zip(*steps, strict=True), ".", markersize=2)
    memory.set(xlabel="minutes", title="resident memory, MiB")
    descriptors.set(xlabel="minutes", title="open descriptors")
    times.set(xlabel="joint steps", title="seconds a step", yscale="log")
    for axis in (memory, descriptors):
        axis.set_ylim(bottom=0)
        axis.legend(frameon=False)
    for axis in (memory, descriptors, times):
        axis.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=130)


def _tenths(count: int) -> list[tuple[int, int]]:
    """Where ten parts of so many begin and end; fewer parts where there are fewer."""
    ends = np.linspace(0, count, min(TENTHS, count) + 1).astype(int).tolist()
    return list(itertools.pairwise(ends))


def _range(counts: Sequence[int]) -> list[int]:
    return [min(counts), max(counts)]


if __name__ == "__main__":
    sys.exit(main())
