"""Records what a run was: command, commit, configuration, hardware, wall time, curves, evaluation.

    python -m experiments.record RUN --name wiki9k --command 'ralm pretrain ...' [--evaluation FILE.json]

Writes experiments/results/NAME/result.json, config.gin and curves.png.
"""

import argparse
import json
import os
import platform
import shutil
import subprocess
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from ralm_jax.runs.writers import metrics_file, read_metrics

RESULTS = Path(__file__).parent / "results"
PANELS = {
    "retrieval_utility": (
        ("loss", "loss, nats"),
        ("retrieval_utility", "retrieval utility, nats a token"),
        ("staleness", "staleness of the index, steps"),
    ),
    "reading_loss": (
        ("loss", "loss, nats"),
        ("answer_in_read", "an answer is in a passage that is read, training"),
        ("eval/exact_match", "exact match, development questions"),
    ),
}


# What shapes a result: the results themselves and the documents do not.
SOURCES = ("ralm_jax", "configs", "experiments", ":(exclude)experiments/results", ":(exclude)*.md")


def hardware() -> str:
    """Cores that this process may use, the kind of the machine and its GPUs, as results name them."""
    linux = hasattr(os, "sched_getaffinity")
    cores = len(os.sched_getaffinity(0)) if linux else os.cpu_count() or 1
    plural = "" if cores == 1 else "s"
    kind = platform.processor() or platform.machine()
    return f"{cores} core{plural}, {kind}, {' and '.join(_gpus()) or 'CPU only'}"


def _gpus() -> list[str]:
    """Names of NVIDIA's GPUs; JAX is not asked, which would take hold of them."""
    if shutil.which("nvidia-smi") is None:
        return []
    command = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
    return subprocess.run(command, capture_output=True, text=True).stdout.split("\n")[:-1]


def commit() -> str:
    """The commit of this checkout, marked "-dirty" where code or configurations differ from it.

    "unknown" in a copy of one without its history.
    """
    if not (RESULTS.parents[1] / ".git").exists():
        return "unknown"
    short = _git("rev-parse", "--short=12", "HEAD")
    return f"{short}-dirty" if _git("status", "--porcelain", "--", *SOURCES) else short


def _git(*words: str) -> str:
    command = ["git", "-C", str(RESULTS.parents[1]), *words]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def summary(lines: list[dict[str, Any]]) -> dict[str, Any]:
    """Per stage: its curve, its evaluations, the seconds it trained, and every publish of its index."""
    stages: dict[str, Any] = {}
    for line in lines:
        stage = stages.setdefault(line["stage"], {"seconds": 0.0, "publishes": [], "curve": []})
        if "publish/index_step" in line:
            event = {k.removeprefix("publish/"): v for k, v in line.items() if "/" in k}
            stage["publishes"].append({"at": line["step"], **event})
        elif any(name.startswith("eval/") for name in line):
            figures = {k.removeprefix("eval/"): v for k, v in line.items() if k != "stage"}
            stage.setdefault("evals", []).append(figures)
        elif "loss" in line:
            since = stage["curve"][-1]["step"] if stage["curve"] else 0
            stage["seconds"] += line["step_seconds"] * (line["step"] - since)
            stage["curve"].append({k: v for k, v in line.items() if k != "stage"})
    for stage in stages.values():
        every = max(1, len(stage["curve"]) // 40)
        stage["curve"] = [*stage["curve"][:-1:every], *stage["curve"][-1:]]
        stage["seconds"] = round(stage["seconds"], 1)
    return stages


def draw(lines: list[dict[str, Any]], path: Path) -> None:
    """One row of panels, in which the stages follow each other along the steps."""
    panels = next(panels for name, panels in PANELS.items() if any(name in x for x in lines))
    stages = list(dict.fromkeys(line["stage"] for line in lines))
    ends = [max(line["step"] for line in lines if line["stage"] == s) for s in stages]
    figure = Figure(figsize=(13, 3.8), layout="constrained")
    axes = figure.subplots(1, len(panels))
    for axis, (name, label) in zip(axes, panels, strict=True):
        for number, stage in enumerate(stages):
            points = [
                (line["step"] + sum(ends[:number]), line[name])
                for line in lines
                if line["stage"] == stage and name in line
            ]
            if points:
                axis.plot(*zip(*points, strict=True), label=stage, color=f"C{number}")
        axis.set(xlabel="training steps, all stages", title=label)
        axis.spines[["top", "right"]].set_visible(False)
        if len(stages) > 1:
            axis.legend(frameon=False)
    figure.savefig(path, dpi=130)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("run", type=Path)
    parser.add_argument("--name", required=True)
    parser.add_argument("--command", action="append", required=True)
    parser.add_argument("--evaluation", type=Path, action="append", default=[])
    parser.add_argument("--note", action="append", default=[])
    arguments = parser.parse_args()
    out = RESULTS / arguments.name
    out.mkdir(parents=True, exist_ok=True)
    lines = read_metrics(metrics_file(arguments.run))
    record = json.loads((arguments.run / "run.json").read_text("utf-8"))
    # A path of the machine it ran on.
    del record["corpus"]
    result = {
        "command": arguments.command,
        "commit": commit(),
        "hardware": hardware(),
        "run": record,
        "notes": arguments.note,
        "stages": summary(lines),
        "evaluation": {f.stem: _evaluation(f) for f in arguments.evaluation},
    }
    (out / "result.json").write_text(json.dumps(result, indent=1) + "\n", "utf-8")
    shutil.copy(arguments.run / "config.gin", out / "config.gin")
    drawn = [x for x in lines if "loss" in x or any(name.startswith("eval/") for name in x)]
    draw(drawn, out / "curves.png")


def _evaluation(file: Path) -> dict[str, Any]:
    report = json.loads(file.read_text("utf-8"))
    return {key: value for key, value in report.items() if key != "run"}


if __name__ == "__main__":
    main()
