"""Rows as they are saved: JSON that says how a result was made, and the rows themselves."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from experiments.record import commit, hardware

Saved = list[dict[str, Any]]


def result(command: str, **parts: Any) -> str:
    """JSON of a result: the command, commit and hardware that made it, and what it is."""
    made = {"command": command, "commit": commit(), "hardware": hardware(), **parts}
    return json.dumps(made, indent=1) + "\n"


def saved_rows(file: Path) -> Saved:
    """The rows of a result, of earlier releases too; empty where it has none."""
    made = json.loads(file.read_text("utf-8"))
    # Curves had "points", the quickstart "seeds".
    rows = next((made[key] for key in ("points", "rows", "seeds") if key in made), [])
    if isinstance(rows, list):
        return rows
    if "seeds" in made:
        # Answers about almanac had lists by stage, in the order of the seeds.
        return [
            {"stage": stage, "seed": seed, "answers": report}
            for stage, reports in rows.items()
            for seed, report in zip(made["seeds"], reports, strict=True)
        ]
    # Table 1 had lists by question set.
    return [row for own in rows.values() for row in own]


def percent(values: Sequence[float]) -> str:
    """Mean, and least to greatest over the seeds where there are several."""
    mean = 100 * sum(values) / len(values)
    spread = f" ({100 * min(values):.1f} to {100 * max(values):.1f})" if len(values) > 1 else ""
    return f"{mean:.1f}{spread}"


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table."""
    lines = [head, ["---"] * len(head), *rows]
    return "".join("| " + " | ".join(line) + " |\n" for line in lines).replace("| --- ", "|---")


def gaps(above: Sequence[float], below: Sequence[float]) -> str:
    """Differences in percentage points, seed by seed; "not run" without any seed."""
    pairs = zip(above, below, strict=True)
    return ", ".join(f"{100 * (a - b):+.1f}" for a, b in pairs) or "not run"
