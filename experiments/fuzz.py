"""What becomes of generated input in every parser and reader: is the outcome success or the declared error?

    python -m experiments.fuzz --out DIR [--minutes 10] [--target NAME ...]

A target is a folder of sound files and how a command reads it. One of the files is changed, by its structure
or byte by byte, over and over (`fuzzing.changes`), led by coverage where atheris is installed (`pip install
atheris`), by hypothesis elsewhere. What comes of it is

    success    it was read, and what is always true of what is read was true
    declared   the error that says what is wrong, in one line
    failed     another error, several lines, more than 5 seconds of the processor for less than 300 KB, more
               than 3 GiB of memory, or the end of the process

DIR/fuzz.json gets a row for each target, with the commit it was measured at; rows of other targets stay.
Inputs that failed lie in DIR/NAME.
"""

import argparse
import json
import re
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

from experiments.fuzzing.engines import engine, known
from experiments.record import commit
from experiments.saved import Saved, markdown, result, saved_rows

# Seconds without a word, after which a process is taken for hung; it has to import everything first.
PATIENCE = 180.0
WORDS = ("success", "declared", "failed")


def measure(name: str, out: Path, seconds: float) -> dict[str, Any]:
    """Lets an engine run for so long in all, again where an input ended its process."""
    out.mkdir(parents=True, exist_ok=True)
    counts, failures, files, covered, spent, used = Counter(), [], 0, 0, 0.0, 0.0
    at = commit()
    while seconds - spent > 1:
        ended = _one(name, out, seconds - spent)
        tally = (
            json.loads((out / "tally.json").read_text()) if (out / "tally.json").exists() else {}
        )
        (out / "tally.json").unlink(missing_ok=True)
        counts.update({word: tally.get(word, 0) for word in WORDS})
        failures += tally.get("failures", [])
        files = max(files, tally.get("files", 0))
        covered = max(covered, _coverage(out / "log"))
        spent, used = spent + tally.get("seconds", 0.0), used + tally.get("processor", 0.0)
        if ended:
            file = out / f"ended-{int(time.time())}"
            (out / "now").replace(file)
            failures.append({"kind": ended, "file": file.name, "size": file.stat().st_size})
            counts["failed"] += 1
            # Of a process that does not even begin there is nothing more to learn.
            spent += 5.0
    row: dict[str, Any] = {"target": name, "engine": engine(), "commit": at, "files": files}
    row |= {"seconds": round(spent, 1), "processor_seconds": round(used, 1)}
    row |= {"executions": counts.total(), **{word: counts[word] for word in WORDS}}
    return {**row, **({"coverage": covered} if covered else {}), "failures": failures}


def _one(name: str, out: Path, seconds: float) -> str:
    """Runs the engine in a process of its own; "" where it came to its end, else how the process ended."""
    words = [sys.executable, "-m", "experiments.fuzzing.engines", name, str(out), str(seconds)]
    with (out / "log").open("wb") as log:
        process = subprocess.Popen([*words, engine()], stdout=log, stderr=log)
        began = time.monotonic()
        while process.poll() is None:
            time.sleep(0.5)
            tally = out / "tally.json"
            silent = time.time() - tally.stat().st_mtime if tally.exists() else 0.0
            if silent > PATIENCE or time.monotonic() - began > seconds + 2 * PATIENCE:
                process.kill()
                process.wait()
                return "hung"
    return "" if process.returncode == 0 else f"ended with {process.returncode}"


def _coverage(log: Path) -> int:
    """What libFuzzer said last of how many places were reached."""
    found = re.findall(r"\bcov: (\d+)", log.read_text("utf-8", "replace"))
    return int(found[-1]) if found else 0


def table(saved: Saved) -> str:
    """What came of the inputs of each target."""
    head = ["", "engine", "seconds", "of the processor", "files", "inputs", *WORDS]
    lines = [
        [
            *(row["target"], row["engine"], f"{row['seconds']:.0f}"),
            *(f"{row['processor_seconds']:.0f}", str(row["files"])),
            *(f"{row[word]:,}" for word in ("executions", *WORDS)),
        ]
        for row in saved
    ]
    return markdown(head, lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--target", action="append", choices=known())
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    file = given.out / "fuzz.json"
    rows = {row["target"]: row for row in saved_rows(file)} if file.exists() else {}
    command = f"python -m experiments.fuzz --out DIR --minutes {given.minutes:g}"
    for name in given.target or known():
        rows[name] = measure(name, given.out / name, 60 * given.minutes)
        print({k: v for k, v in rows[name].items() if k != "failures"}, flush=True)
        ordered = [rows[each] for each in known() if each in rows]
        file.write_text(result(command, rows=ordered))


if __name__ == "__main__":
    main()
