"""What a run ends with, as it must be the same however often it was interrupted."""

import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ralm_jax.retrieval import index
from ralm_jax.runs import directory
from ralm_jax.runs.checkpoint import newest
from ralm_jax.runs.writers import metrics_file, read_metrics

# Depend on the clock, or on when a thread was looked at.
OF_THE_CLOCK = ("seconds", "per_second", "idle/", "memory")
# What a line is about; besides, which figures it has.
NAMED = ("stage", "step", "publish/index_step")


def outcome(run: Path) -> dict[str, Any]:
    """What must be the same however often a run was interrupted: everything but what a clock says.

    {"metrics": lines without times, "state": {name: form and CRC-32} of saved arrays and index versions}
    """
    lines = [_timeless(line) for line in read_metrics(metrics_file(run))]
    return {"metrics": lines, "state": dict(_state(run))}


def differences(whole: dict[str, Any], other: dict[str, Any]) -> list[str]:
    """In words, what of an outcome is not as in another; nothing where all is the same."""
    found = []
    for number, (a, b) in enumerate(zip(whole["metrics"], other["metrics"], strict=False)):
        if a != b:
            found.append(f"line {number + 1} of the metrics: {json.dumps(a)} and {json.dumps(b)}")
            break
    if len(whole["metrics"]) != len(other["metrics"]):
        found.append(f"{len(whole['metrics'])} and {len(other['metrics'])} lines of metrics")
    for name in sorted(whole["state"].keys() | other["state"].keys()):
        if whole["state"].get(name) != other["state"].get(name):
            found.append(f"{name} differs")
    return found


def in_outline(outcome: dict[str, Any]) -> dict[str, Any]:
    """Of an outcome what is the same whichever passages were found: stages, steps, versions and shapes."""
    lines = [
        {k: line[k] for k in line if k in NAMED} | {"of": sorted(line)}
        for line in outcome["metrics"]
    ]
    shapes = {
        name: leaf[:2] if isinstance(leaf, tuple) else None
        for name, leaf in outcome["state"].items()
    }
    return {"metrics": lines, "state": shapes}


def _timeless(line: dict[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in line.items() if not any(word in k for word in OF_THE_CLOCK)}


def _state(run: Path) -> Iterator[tuple[str, Any]]:
    for stage in sorted(directory.checkpoint_folder(run, "").glob("*")):
        found = newest(stage)
        assert found is not None, f"no checkpoint in {stage}"
        yield from _leaves(f"{stage.name}/{found[0]}", found[1])
    for root in sorted((run / "index").glob("*")):
        # The one that is served and the one before; of older ones more or fewer are left.
        for step in index.versions(root)[-2:]:
            yield f"{root.name}/{step}", zlib.crc32(index.mapped(root, step).tobytes())


def _leaves(name: str, tree: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(tree, dict):
        for key, part in tree.items():
            yield from _leaves(f"{name}/{key}", part)
    elif isinstance(tree, list | tuple):
        for number, part in enumerate(tree):
            yield from _leaves(f"{name}/{number}", part)
    else:
        array = np.asarray(tree)
        yield name, (str(array.dtype), array.shape, zlib.crc32(array.tobytes()))
