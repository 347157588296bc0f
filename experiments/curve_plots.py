"""Plots of experiments.curves: quality against one thing at a time."""

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from experiments.curves import ALONE
from experiments.saved import Saved

# Of a PNG: the digest of the JSON it was drawn from.
SOURCE = "Source"
# The label of each curve's axis, and whether it is logarithmic.
AXES = {
    "staleness": (
        "times as many steps between two indexes (1: every 50; 30: never refreshed)",
        True,
    ),
    "candidates": ("passages read, the null passage included", False),
    "corpus": ("passages in the corpus", True),
    "compute": ("floating-point operations of training", True),
}
KINDS = [("recall@5", "recall@5 of questions", "C0"), ("spans_read", "masked spans read", "C1")]


def draw_all(points: Saved, folder: Path, source: str) -> list[Path]:
    """One plot a curve; `source`: the digest of the JSON with the points."""
    files = []
    for curve in dict.fromkeys(p["curve"] for p in points):
        figure = Figure(figsize=(6, 3.8), layout="constrained")
        draw(figure.subplots(), curve, points)
        files.append(folder / f"{curve}.png")
        figure.savefig(files[-1], dpi=130, metadata={SOURCE: source})
    return files


def draw(axis: Any, curve: str, points: Saved) -> None:
    """Mean over seeds, with a dot for each: recall@5 of questions, and masked spans read."""
    x = {"corpus": "passages", "compute": "flops"}.get(curve, "value")
    own = [p for p in points if p["curve"] == curve]
    # Inverse cloze trains no reader.
    for line, style, kinds in (("REALM", "-", KINDS), (ALONE, ":", KINDS[:1])):
        values = sorted({p["value"] for p in own if p["line"] == line})
        each = [[p for p in own if (p["line"], p["value"]) == (line, v)] for v in values]
        where = [float(np.mean([p[x] for p in seeds])) for seeds in each]
        for kind, label, color in kinds if each else ():
            means = [np.mean([p[kind] for p in seeds]) for seeds in each]
            axis.plot(where, means, style, color=color)
            for at, seeds in zip(where, each, strict=True):
                axis.plot([at] * len(seeds), [p[kind] for p in seeds], ".", color=color, alpha=0.6)
            axis.plot([], [], style, color=color, label=f"{label}, {line}")
    label, logarithmic = AXES[curve]
    axis.set(xlabel=label, ylim=(0, 1), title=f"quality against {curve}")
    if logarithmic:
        axis.set_xscale("log")
        ticks = sorted({p[x] for p in own if (p["seed"], p["line"]) == (0, "REALM")})
        axis.set_xticks(ticks, [f"{v:.2g}" if v > 1e6 else f"{v:,g}" for v in ticks])
        axis.minorticks_off()
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(frameon=False, fontsize=8)
