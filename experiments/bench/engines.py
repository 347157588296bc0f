"""How fast a corpus is prepared here and on Apache Beam, by one worker and by four, and what a kill does.

    python experiments/bench/engines.py CORPUS.jsonl.gz [--note TEXT]

Writes experiments/results/bench/engines.json. The text is put into eight files; a vocabulary and a tagger are
learnt each time. Corpora are compared byte by byte. Processor seconds are those of all processes, and tell
more than the clock where workers share a core. Last, one of two workers is killed while passages are cut.
"""

import argparse
import gzip
import hashlib
import itertools
import json
import os
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from experiments.record import commit, hardware

RESULT = Path(__file__).parents[1] / "results" / "bench" / "engines.json"
FILES = 8
HERE = (
    "from ralm_jax.data.prepare import prepare; prepare({source!r}, {out!r}, processes={workers})"
)


def split(corpus: Path, folder: Path) -> tuple[str, int]:
    """Puts the lines of a corpus into files of a folder: a pattern of them, and the characters in all."""
    with gzip.open(corpus, "rt", encoding="utf-8") as file:
        lines = list(file)
    size = -(-len(lines) // FILES)
    for number in range(FILES):
        part = lines[number * size : (number + 1) * size]
        (folder / f"part-{number}.jsonl").write_text("".join(part), "utf-8")
    return f"{folder}/part-*.jsonl", sum(len(json.loads(line)["text"]) for line in lines)


def command(engine: str, workers: int, source: str, out: Path) -> list[str]:
    """What prepares a corpus."""
    if engine == "here":
        given = HERE.format(source=source, out=str(out), workers=workers)
        return [sys.executable, "-c", given]
    option = f"direct_num_workers={workers}"
    ralm = [sys.executable, "-m", "ralm_jax.cli", "prepare", source, "--out", str(out)]
    return [*ralm, "--runner", "beam", "--runner-option", option]


def timed(words: list[str]) -> dict[str, float]:
    """Runs a command to its end: seconds by the clock and of processors, the largest process in gigabytes."""
    start = time.perf_counter()
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{shlex.join(words)} failed")
    return {
        "seconds": round(time.perf_counter() - start, 1),
        "processor_seconds": round(usage.ru_utime + usage.ru_stime, 1),
        "largest_process_gigabytes": round(usage.ru_maxrss * 1024 / 1e9, 2),
    }


def digest(folder: Path) -> str:
    """Of every file below a folder, and of its name."""
    whole = hashlib.sha256()
    for file in sorted(file for file in folder.rglob("*") if file.is_file()):
        whole.update(str(file.relative_to(folder)).encode() + file.read_bytes())
    return whole.hexdigest()


def descendants(parent: int) -> list[int]:
    """The processes below one, parents first."""
    files = Path(f"/proc/{parent}/task").glob("*/children")
    children = [int(child) for file in files for child in file.read_text().split()]
    return [each for child in children for each in (child, *descendants(child))]


def killed(words: list[str], out: Path) -> dict[str, Any]:
    """Kills a worker once passages are cut; how the command ends, and in how many seconds."""
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    while not list(out.parent.glob(f".{out.name}.*/content/tokens.npy")):
        time.sleep(0.05)
    while len(found := descendants(process.pid)) < 2:
        time.sleep(0.05)
    time.sleep(5.0)
    os.kill(found[-1], signal.SIGKILL)
    start = time.perf_counter()
    _, said = process.communicate(timeout=300)
    return {
        "exit_code": process.returncode,
        "seconds_to_the_end": round(time.perf_counter() - start, 1),
        "said": said.splitlines()[-1],
        "left": sorted(file.name for file in out.parent.glob(f"*{out.name}*")),
    }


def measure(corpus: Path) -> dict[str, Any]:
    """The figures of both paths."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        source, characters = split(corpus, folder)
        runs, digests = [], set()
        for engine, workers in itertools.product(("here", "beam"), (1, 4)):
            out = folder / f"{engine}-{workers}"
            figures = timed(command(engine, workers, source, out))
            digests.add(digest(out))
            speed = round(characters / figures["processor_seconds"] / 1e6, 2)
            figures["million_characters_per_processor_second"] = speed
            runs.append({"engine": engine, "workers": workers, **figures})
            print(runs[-1], flush=True)
        kill = killed(command("beam", 2, source, folder / "killed"), folder / "killed")
        counts = json.loads((folder / "here-1" / "manifest.json").read_text("utf-8"))["counts"]
    same = len(digests) == 1
    return {
        "files": FILES,
        "characters": characters,
        "passages": counts["passages"],
        "same_bytes": same,
        "runs": runs,
        "killed": kill,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("corpus", type=Path, help="a .jsonl.gz of documents")
    parser.add_argument("--note", action="append", default=[])
    arguments = parser.parse_args()
    result = {
        "command": f"python experiments/bench/engines.py {arguments.corpus.name}",
        "commit": commit(),
        "hardware": hardware(),
        "load_average_at_start": round(os.getloadavg()[0], 2),
        "notes": arguments.note,
        **measure(arguments.corpus),
    }
    RESULT.write_text(json.dumps(result, indent=1) + "\n", "utf-8")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
