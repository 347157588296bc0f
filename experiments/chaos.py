"""Commands that are killed at random, over and over, until they end.

SIGKILL comes from outside at a random moment, or from within at a random file operation, just before it or
just after; the ScaNN process is killed from outside.

    python -m experiments.chaos N WORD ...

runs one command of `ralm` that kills itself at its N-th file operation, unless N is 0.
"""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ralm_jax import cli
from ralm_jax.runs.writers import metrics_file

# What is done to files where a moment earlier or later may matter.
OPERATIONS = ("fsync", "rename", "replace", "unlink", "mkdir", "rmdir")
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


class Command(NamedTuple):
    """Words of `ralm`, the run that they train, and how they go undisturbed.

    start, lines: seconds until the first line of the metrics, and how many lines there are in the end.
    """

    words: Sequence[str]
    run: Path
    start: float
    lines: int


class Fate(NamedTuple):
    """What is drawn for one process.

    operation: the file operation at which it kills itself, if it comes that far; 0 for none.
    lines, late: it is killed once it has written so many lines and so many seconds have passed since.
    seconds: it is killed so soon in any case, which is while it starts.
    scann: its ScaNN process is killed once it has written so many lines.
    """

    operation: int
    lines: int
    late: float
    seconds: float
    scann: int

    @classmethod
    def draw(cls, rng: np.random.Generator, start: float, lines: float) -> "Fate":
        """start: seconds that a process takes to start. lines: the most that it may write."""
        operation = int(rng.integers(1, 60)) if rng.random() < 0.25 else 0
        seconds = start * rng.random() if rng.random() < 0.2 else PATIENCE
        drawn = int(lines * rng.random())
        return cls(operation, drawn, 0.2 * rng.random(), seconds, int((drawn + 1) * rng.random()))


def endure(
    commands: Sequence[Command], folder: Path, *, kills: int, saved_every: int, seed: int
) -> list[Kill]:
    """Runs commands of `ralm` one after the other, each again and again until it ends.

    Args:
      folder: of the output of every process, and of nothing else.
      kills: at most; they are spread over the commands.
      saved_every: lines of the metrics between two checkpoints.

    Returns:
      The processes that were killed.

    Raises:
      RuntimeError: a command ended otherwise than by a kill or well; or it went on for too long.
    """
    rng, done, tries = np.random.default_rng(seed), [], 0
    folder.mkdir(parents=True, exist_ok=True)
    total, share = sum(command.lines for command in commands), 0.0
    for number, command in enumerate(commands):
        share += kills * command.lines / total
        code: int | None = None
        while code != 0:
            log = folder / f"{tries:03}.log"
            # What a process does beyond its last checkpoint is lost, half of what lies between two.
            # So half of the run is left when the last is killed, by and large.
            fate = Fate.draw(rng, command.start, total / kills + saved_every)
            disturbed = len(done) < round(share)
            process = begin(command.words, log, fate.operation if disturbed else 0)
            killed = list(_disturb(process, number, command.run, fate)) if disturbed else []
            code, tries = process.wait(PATIENCE), tries + 1
            done += killed
            if code == -signal.SIGKILL and not any(kill.of == "trainer" for kill in killed):
                done.append(Kill("operation", number, fate.operation))
            elif code not in (0, -signal.SIGKILL):
                said = log.read_text()[-2000:]
                raise RuntimeError(f"{' '.join(command.words)}: exit code {code}: {said}")
    return done


def begin(words: Sequence[str], log: Path, operation: int = 0) -> subprocess.Popen:
    """Starts a command, which kills itself at its file operation of that number unless that is 0."""
    with log.open("w") as out:
        command = [sys.executable, "-m", "experiments.chaos", str(operation), *words]
        return subprocess.Popen(command, stdout=out, stderr=out)


def undisturbed(words: Sequence[str], run: Path, log: Path) -> Command:
    """Runs a command to its end, and says how it went.

    Raises RuntimeError where it does not end well.
    """
    process, began, start = begin(words, log), time.monotonic(), 0.0
    while process.poll() is None:
        time.sleep(0.02)
        if not start and _lines(run):
            start = time.monotonic() - began
    if process.returncode:
        raise RuntimeError(f"{' '.join(words)}: exit code {process.returncode}: {log.read_text()}")
    return Command(words, run, start, _lines(run))


def _lines(run: Path) -> int:
    try:
        return metrics_file(run).read_bytes().count(b"\n")
    except FileNotFoundError:
        return 0


def children(process: int) -> list[int]:
    """Process ids of the children of a process, such as its ScaNN process (Linux)."""
    found = []
    for task in Path(f"/proc/{process}/task").glob("*/children"):
        try:
            found += [int(word) for word in task.read_text().split()]
        except OSError:
            continue  # the thread has ended
    return found


def _disturb(process: subprocess.Popen, number: int, run: Path, fate: Fate) -> Iterator[Kill]:
    """Kills a process as its fate says, unless it does so itself; before that its ScaNN process."""
    began, before, spared = time.monotonic(), _lines(run), True
    while process.poll() is None and (lived := time.monotonic() - began) < PATIENCE:
        lines = _lines(run) - before
        if spared and lines >= fate.scann:
            # Before the first index is made there is none.
            for child in filter(_is_scann, children(process.pid)):
                spared = False
                yield Kill("scann", number, _killed(child, began))
        if lines > fate.lines or lived > fate.seconds:
            time.sleep(fate.late)
            break
        time.sleep(0.02)
    if process.poll() is None:
        orphans = children(process.pid)
        yield Kill("trainer", number, _killed(process.pid, began))
        process.wait()
        _require_end(orphans)


def _is_scann(process: int) -> bool:
    try:
        return b"scann_server" in Path(f"/proc/{process}/cmdline").read_bytes()
    except OSError:
        return False


def _require_end(orphans: list[int]) -> None:
    """Raises RuntimeError where a process outlives its parent."""
    until = time.monotonic() + ORPHANS
    while left := [process for process in orphans if Path(f"/proc/{process}").exists()]:
        if time.monotonic() > until:
            raise RuntimeError(f"processes {left} have outlived their parent")
        time.sleep(0.1)


def _killed(process: int, began: float) -> float:
    # It may have ended by itself just now.
    with contextlib.suppress(ProcessLookupError):
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


if __name__ == "__main__":
    if int(sys.argv[1]):
        _die_at(int(sys.argv[1]))
    sys.exit(cli.main(sys.argv[2:]))
