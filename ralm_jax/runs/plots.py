"""Plots of a run, from its metrics file."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

LEARNING_CURVES = "learning_curves.png"

CURVES = {
    "retrieval of unasked facts": ("question_recall@5", "cloze_recall@5"),
    "masked spans read": ("span_accuracy", "span_accuracy_null"),
}
LABELS = {
    "question_recall@5": "questions, recall@5",
    "cloze_recall@5": "masked sentences, recall@5",
    "span_accuracy": "with retrieved passages",
    "span_accuracy_null": "with the null passage alone",
}


def learning_curves(
    lines: Sequence[dict[str, Any]], stages: Sequence[str], directory: Path
) -> Path:
    """Draws what was evaluated over all stages in a row; `lines` are those of metrics.jsonl."""
    from matplotlib.figure import Figure  # not pyplot, whose backend is the caller's

    evals = [line for line in lines if any(key.startswith("eval/") for key in line)]
    ends = [max((p["step"] for p in evals if p["stage"] == s), default=0) for s in stages]
    starts = [sum(ends[:i]) for i in range(len(stages))]
    figure = Figure(figsize=(11, 4.2), layout="constrained")
    axes = figure.subplots(1, len(CURVES), sharex=True)
    for axis, (title, names) in zip(axes, CURVES.items(), strict=True):
        for name in names:
            points = [
                (starts[stages.index(p["stage"])] + p["step"], p[f"eval/{name}"])
                for p in evals
                if f"eval/{name}" in p
            ]
            axis.plot(*zip(*points, strict=True), marker="o", markersize=3, label=LABELS[name])
        for stage, start, end in zip(stages, starts, ends, strict=True):
            axis.axvline(start, color="0.7", linewidth=0.8, zorder=0)
            axis.text(start + end / 2, 1.01, stage, ha="center", fontsize=9, color="0.35")
        axis.set(xlabel="training steps, all stages", ylim=(0, 1))
        axis.set_title(title, pad=18)
        axis.spines[["top", "right"]].set_visible(False)
        axis.legend(loc="best", frameon=False)
    figure.savefig(directory / LEARNING_CURVES, dpi=130)
    return directory / LEARNING_CURVES


def intervals(
    rows: Mapping[str, Mapping[str, Sequence[float]]], labels: Mapping[str, str], file: Path
) -> Path:
    """Draws a figure of every row with its interval, a panel for each measure, first row on top.

    rows: {row: {measure: [value, low, high]}}.
    """
    from matplotlib.figure import Figure

    measures = list(next(iter(rows.values())))
    figure = Figure(figsize=(5 * len(measures), 0.45 * len(rows) + 1.2), layout="constrained")
    axes = figure.subplots(1, len(measures), sharey=True, squeeze=False)[0]
    places = range(len(rows))
    for axis, measure in zip(axes, measures, strict=True):
        value, low, high = zip(*(row[measure] for row in rows.values()), strict=True)
        ours = [name in ("retriever", "mixed") for name in rows]
        sides = (np.subtract(value, low), np.subtract(high, value))
        axis.barh(places, value, 0.6, color=["C0" if own else "0.75" for own in ours])
        axis.errorbar(value, places, xerr=sides, fmt="none", ecolor="0.2", elinewidth=1, capsize=3)
        for place, x, end in zip(places, value, high, strict=True):
            axis.text(end + 0.01, place, f"{x:.3f}", va="center", fontsize=9, color="0.35")
        axis.set(xlim=(0, 1.12), title=measure.replace("ndcg", "nDCG"))
        axis.set_xticks([0, 0.25, 0.5, 0.75, 1])
        axis.set_yticks(places, [labels.get(name, name) for name in rows])
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].invert_yaxis()
    figure.savefig(file, dpi=130)
    return file
