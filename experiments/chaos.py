"""Commands that are killed at random, over and over, until they end; and what must be the same by then.

SIGKILL comes from outside at a random moment, or from within at a random file operation, just before it or
just after; the ScaNN process is killed from outside.

    python -m experiments.chaos N WORD ...

runs one command of `ralm` that kills itself at its N-th file operation, unless N is 0.
"""

import json
import os
import signal
import subprocess
import sys
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ralm_jax import cli
from ralm_jax.runs import directory
from ralm_jax.runs.checkpoint import newest
from ralm_jax.runs.writers import metrics_file, read_metrics

# What is done to files where a moment earlier or later may matter.
OPERATIONS = ("fsync", "rename", "replace", "unlink", "mkdir", "rmdir")
OF_THE_CLOCK = ("seconds", "per_second", "idle/", "memory")
PATIENCE = 600.0  # seconds for one process
ORPHANS = 20.0  # seconds for the children of a process to end after it


class Kill(NamedTuple):
    """One SIGKILL.

    of: "trainer", "operation" (the trainer, at one of its file operations) or "scann", its ScaNN process.
    command: which of those that were run.
    at: seconds after its start, or the number of the operation.
    """

    of: str
    command: int
    at: float


class Pace(NamedTuple):
    """How long a command takes to begin and, undisturbed, to end, in seconds: what moments are drawn from."""

    start: float
    whole: float


def endure(
    commands: Sequence[Sequence[str]], folder: Path, paces: Sequence[Pace], kills: int, seed: int
) -> list[Kill]:
    """Runs commands of `ralm` one after the other, each again and again until it ends.

    Args:
      folder: of the output of every process, and of nothing else.
      paces: of each command.
      kills: at most; they are spread over the commands.

    Returns:
      The processes that were killed.

    Raises:
      RuntimeError: a command ended otherwise than by a kill or well; or it went on for too long.
    """
    rng, done, tries = np.random.default_rng(seed), [], 0
    folder.mkdir(parents=True, exist_ok=True)
    total = sum(pace.whole - pace.start for pace in paces)
    for number, (words, pace) in enumerate(zip(commands, paces, strict=True)):
        # A process lives on average half of this beyond its start; most of that is kept by checkpoints.
        lives = 1.5 * total / kills
        # The last command gets what is left.
        last = number + 1 == len(commands)
        share = kills if last else len(done) + round(kills * (pace.whole - pace.start) / total)
        code: int | None = None
        while code != 0:
            log = folder / f"{tries:03}.log"
            operation = int(rng.integers(1, 60)) if rng.random() < 0.25 else 0
            early = rng.random() < 0.2
            moment = (0.0 if early else pace.start) + (
                pace.start if early else lives
            ) * rng.random()
            disturbed = len(done) < share
            process = begin(words, log, operation if disturbed else 0)
            if disturbed:
                done += _disturb(process, number, operation, moment, rng)
            code, tries = process.wait(PATIENCE), tries + 1
            if code == -signal.SIGKILL and operation:
                done.append(Kill("operation", number, operation))
            elif code not in (0, -signal.SIGKILL):
                raise RuntimeError(
                    f"{' '.join(words)}: exit code {code}: {log.read_text()[-2000:]}"
                )
    return done


def begin(words: Sequence[str], log: Path, operation: int = 0) -> subprocess.Popen:
    """Starts a command, which kills itself at its file operation of that number unless that is 0."""
    with log.open("w") as out:
        command = [sys.executable, "-m", "experiments.chaos", str(operation), *words]
        return subprocess.Popen(command, stdout=out, stderr=out)


def undisturbed(words: Sequence[str], run: Path, log: Path) -> Pace:
    """Runs a command to its end, and says when it took its first step and when it ended.

    Raises RuntimeError where it does not end well.
    """
    process, began, start = begin(words, log), time.monotonic(), 0.0
    while process.poll() is None:
        time.sleep(0.02)
        if not start and metrics_file(run).exists() and read_metrics(metrics_file(run)):
            start = time.monotonic() - began
    if process.returncode:
        raise RuntimeError(f"{' '.join(words)}: exit code {process.returncode}: {log.read_text()}")
    return Pace(start, time.monotonic() - began)


def children(process: int) -> list[int]:
    """Process ids of the children of a process, such as its ScaNN process (Linux)."""
    found = []
    for task in Path(f"/proc/{process}/task").glob("*/children"):
        try:
            found += [int(word) for word in task.read_text().split()]
        except OSError:
            continue  # the thread has ended
    return found


def outcome(run: Path) -> dict[str, Any]:
    """What must be the same however often a run was interrupted: everything but what a clock says.

    {"metrics": lines without times, "files": {path: CRC-32} of checkpoints' arrays and index versions}
    """
    lines = [_timeless(line) for line in read_metrics(metrics_file(run))]
    return {"metrics": lines, "state": dict(_state(run))}


def _disturb(
    process: subprocess.Popen, command: int, operation: int, moment: float, rng: np.random.Generator
) -> Iterator[Kill]:
    """Kills a process at a moment of its life, and on the way there its ScaNN process where it has one."""
    began = time.monotonic()
    while (lived := time.monotonic() - began) < moment or operation:
        if process.poll() is not None or lived > PATIENCE:
            return
        # Once in two seconds.
        if rng.random() < 0.01:
            for child in children(process.pid):
                yield Kill("scann", command, _killed(child, began))
        time.sleep(0.02)
    if process.poll() is None:
        orphans = children(process.pid)
        yield Kill("trainer", command, _killed(process.pid, began))
        process.wait()
        _require_end(orphans)


def _require_end(orphans: list[int]) -> None:
    """Raises RuntimeError where a process outlives its parent."""
    until = time.monotonic() + ORPHANS
    while left := [process for process in orphans if Path(f"/proc/{process}").exists()]:
        if time.monotonic() > until:
            raise RuntimeError(f"processes {left} have outlived their parent")
        time.sleep(0.1)


def _killed(process: int, began: float) -> float:
    os.kill(process, signal.SIGKILL)
    return round(time.monotonic() - began, 2)


def _die_at(number: int) -> None:
    """Kills this process at its file operation of that number: before it if the number is odd, else after."""
    count = 0

    def counted(operate: Callable) -> Callable:
        def call(*given: Any, **named: Any) -> Any:
            nonlocal count
            count += 1
            if count == number and number % 2:
                os.kill(os.getpid(), signal.SIGKILL)
            result, due = operate(*given, **named), count == number
            if due:
                os.kill(os.getpid(), signal.SIGKILL)
            return result

        return call

    for name in OPERATIONS:
        setattr(os, name, counted(getattr(os, name)))


def _timeless(line: dict[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in line.items() if not any(word in k for word in OF_THE_CLOCK)}


def _state(run: Path) -> Iterator[tuple[str, Any]]:
    for stage in sorted(directory.checkpoint_folder(run, "").glob("*")):
        found = newest(stage)
        assert found is not None, f"no checkpoint in {stage}"
        yield from _leaves(f"{stage.name}/{found[0]}", found[1])
    for vectors in sorted((run / "index").rglob("vectors.npy")):
        yield str(vectors.relative_to(run)), zlib.crc32(vectors.read_bytes())


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
    named = ("stage", "step", "publish/index_step")
    lines = [{k: line[k] for k in named if k in line} for line in outcome["metrics"]]
    shapes = {
        name: leaf[:2] if isinstance(leaf, tuple) else None
        for name, leaf in outcome["state"].items()
    }
    return {"metrics": lines, "state": shapes}


if __name__ == "__main__":
    if int(sys.argv[1]):
        _die_at(int(sys.argv[1]))
    sys.exit(cli.main(sys.argv[2:]))
