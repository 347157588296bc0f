"""Each verb over as many passages as ORQA's Wikipedia has: the memory of every process, and the time.

    python -m experiments.bench.verbs --out DIR [--passages 13353718]

The text is made up: a name, a place, a founder and a year in each passage. A small model is trained for 20
joint steps of 512 queries with 8 candidates, then fine-tuned for 20 steps, measured on 100 questions, asked
one, and checked. Passages are embedded once, for their tower stays. DIR takes 2 kB for each passage
meanwhile. Writes DIR/verbs.json; the same command goes on with the verb that it was stopped in.
"""

import argparse
import functools
import itertools
import json
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from experiments import chaos, pipeline
from experiments.bench.deep_search import WIKIPEDIA
from experiments.runner import exit_code, write
from experiments.saved import markdown, result
from ralm_jax.errors import UserError
from ralm_jax.runs.writers import metrics_file, read_metrics

# Names have two words of two syllables each, so there are 2^24 of them.
SYLLABLES = [c + v for c in "bdfgklmnprstvwyz" for v in "aeio"]
KINDS = ("museum", "library", "theatre", "harbour", "school", "observatory", "mill", "orchestra")
# Odd, so that multiplying by it makes another order of all names.
TURN, FOUNDER = 11_400_715, 7_046_029
QUESTIONS = {"train": 400, "dev": 100}
SMALL = (
    "LAYERS = 1", "RETRIEVER_LAYERS = 1", "HIDDEN = 64", "HEADS = 2", "INTERMEDIATE = 128", "POSITIONS = 128",
    "QUERY_LENGTH = 32", "PASSAGE_LENGTH = 64", "JOINT_LENGTH = 96", "MASKED = 4", "HELD_OUT = 0.001",
)  # fmt: skip
JOINT = (
    "REALM_STEPS = 20", "LOG_EVERY = 5", "EVAL_EVERY = 1000", "CHECKPOINT_EVERY = 20", "INDEX = 'scann'",
    "pretrain.pretrain.stages = [@realm/schedule.Stage()]", "realm/optim.by_part.retriever = @optim.towers()",
    "optim.towers.query = @retriever/optim.adamw()", "optim.towers.passage = @optim.frozen()",
    "realm/tasks.Realm.refresh = @refresh.Frozen()",
)  # fmt: skip
TUNED = ("STEPS = 20", "BATCH = 8", "DEV_EVERY = 20", "CHECKPOINT_EVERY = 20", "LOG_EVERY = 5")
# Between two looks at the processes, in seconds.
EVERY = 0.5
GIB = 2**30


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--passages", type=int, default=WIKIPEDIA)
    given = parser.parse_args(argv)
    return exit_code("bench.verbs", functools.partial(_run, given.out, given.passages))


def _run(out: Path, passages: int) -> None:
    if not 1000 <= passages <= len(SYLLABLES) ** 4:
        raise UserError(f"--passages {passages}: give 1,000 to {len(SYLLABLES) ** 4:,}")
    out.mkdir(parents=True, exist_ok=True)
    saved = out / "verbs.json"
    rows = json.loads(saved.read_text("utf-8"))["rows"] if saved.exists() else []
    _write_texts(out, passages)
    command = f"python -m experiments.bench.verbs --out DIR --passages {passages}"
    for words in verbs(out, passages)[len(rows) :]:
        rows.append(run(words, out))
        joint = host(out / "run") if (out / "run").exists() else {}
        write(saved, result(command, passages=passages, rows=rows, joint=joint))
    print(table(rows))


def verbs(out: Path, passages: int) -> list[list[str]]:
    """The words of each command line, in order."""
    corpus, run, tuned = (str(out / name) for name in ("corpus", "run", "tuned"))
    asked = {name: str(out / f"{name}.jsonl") for name in QUESTIONS}
    joint = pipeline.as_options([*SMALL, *JOINT])
    small = ["--config", "runs/pretrain.gin", "--corpus", corpus, "--run", run, *joint]
    tune = ["--config", "runs/finetune_small.gin", "--run", run, "--out", tuned]
    tune += ["--train", asked["train"], "--dev", asked["dev"], "--no-bm25"]
    tune += pipeline.as_options(TUNED)
    return [
        ["prepare", str(out / "text.jsonl"), "--out", corpus, "--passage-tokens", "64"],
        ["pretrain", *small],
        ["finetune", *tune],
        ["evaluate", "--run", run, "--questions", asked["dev"], "--no-bm25"],
        ["evaluate", "--run", tuned, "--questions", asked["dev"], "--no-bm25"],
        ["ask", question(passages // 2)["question"], "--run", tuned],
        ["check", corpus],
        ["check", run],
    ]


def name(number: int) -> str:
    """Of whatever has this number; all below 2^24 have names of their own."""
    turned = number * TURN % len(SYLLABLES) ** 4
    parts = [SYLLABLES[turned >> shift & 63] for shift in (18, 12, 6, 0)]
    return f"{parts[0]}{parts[1]}".capitalize() + " " + f"{parts[2]}{parts[3]}".capitalize()


def document(number: int) -> dict[str, str]:
    kind, founder = KINDS[number % len(KINDS)], name(number + FOUNDER)
    text = f"{name(number)} is a {kind} in {name(number % 5000)}. "
    text += (
        f"{founder} founded it in {1500 + number % 500}, and {number % 97 + 3} people work there."
    )
    return {"id": str(number), "title": name(number), "text": text}


def question(number: int) -> dict[str, Any]:
    """Whose gold passage is the document of that number."""
    return {
        "question": f"Who founded {name(number)}?",
        "answers": [name(number + FOUNDER)],
        "gold_ids": [str(number)],
    }


def _write_texts(out: Path, passages: int) -> None:
    """The source, whole or not at all, and questions about documents spread over it."""
    places = np.linspace(0, passages - 1, sum(QUESTIONS.values())).astype(int).tolist()
    asked = map(question, np.random.default_rng(0).permutation(places).tolist())
    for part, count in QUESTIONS.items():
        _write_lines(out / f"{part}.jsonl", itertools.islice(asked, count))
    if not (out / "text.jsonl").exists():
        _write_lines(out / "text.jsonl", map(document, range(passages)))


def _write_lines(file: Path, records: Iterator[dict[str, Any]]) -> None:
    partial = file.with_suffix(".part")
    with partial.open("w", encoding="utf-8") as lines:
        lines.writelines(json.dumps(record) + "\n" for record in records)
    partial.replace(file)


def run(words: Sequence[str], out: Path) -> dict[str, Any]:
    """Runs a verb: its seconds, and by kind of process the most GiB that one held, and held with files.

    Raises UserError where it fails.
    """
    most: dict[str, tuple[int, int]] = {}
    began = time.perf_counter()
    with (out / "log").open("a") as log:
        command = [sys.executable, "-m", "ralm_jax.cli", *words]
        process = subprocess.Popen(command, stdout=log, stderr=log)
        while process.poll() is None:
            for each in (process.pid, *_below(process.pid)):
                kind = words[0] if each == process.pid else _kind(each)
                before, now = most.get(kind, (0, 0)), memory(each)
                most[kind] = (max(before[0], now[0]), max(before[1], now[1]))
            time.sleep(EVERY)
    seconds = time.perf_counter() - began
    if process.returncode:
        raise UserError(
            f"ralm {words[0]} ended with exit code {process.returncode}, see {out / 'log'}"
        )
    gib = {kind: [round(size / GIB, 2) for size in sizes] for kind, sizes in most.items()}
    what = words[0] + (f" {Path(words[1]).name}" if words[0] == "check" else "")
    what += " (answers)" if words[0] == "evaluate" and words[2].endswith("tuned") else ""
    return {"verb": what, "seconds": round(seconds, 1), "gib of its own, with files": gib}


def _below(process: int) -> Iterator[int]:
    """All processes that a process has started, and theirs."""
    for child in chaos.children(process):
        yield child
        yield from _below(child)


def _kind(process: int) -> str:
    try:
        words = Path(f"/proc/{process}/cmdline").read_bytes()
    except OSError:
        return "worker"
    return "ScaNN" if b"scann_server" in words else "worker"


def memory(process: int) -> tuple[int, int]:
    """Bytes in memory of no file, and of files too; none of a process that has ended."""
    try:
        lines = Path(f"/proc/{process}/status").read_text("utf-8", "replace").splitlines()
    except OSError:
        return 0, 0
    sizes = {name: 1024 * int(rest.split()[0]) for name, rest in _sizes(lines)}
    return sizes.get("RssAnon", 0) + sizes.get("RssShmem", 0), sizes.get("VmRSS", 0)


def _sizes(lines: Sequence[str]) -> Iterator[list[str]]:
    return (line.split(":", 1) for line in lines if line.startswith(("Rss", "VmRSS")))


def host(run: Path) -> dict[str, float]:
    """Of joint training: seconds of a step, and what of them the device waited for, by what it waited for."""
    # The first line has the step that compiles.
    lines = [line for line in read_metrics(metrics_file(run)) if "loss" in line][1:]
    names = [name for name in lines[0] if name.startswith("idle/")]
    found = {"step": [line["step_seconds"] for line in lines]}
    found |= {name: [line[name] * line["step_seconds"] for line in lines] for name in names}
    return {name: round(float(np.median(seconds)), 3) for name, seconds in found.items()}


def table(rows: Sequence[dict[str, Any]]) -> str:
    lines = []
    for row in rows:
        for kind, (own, whole) in row["gib of its own, with files"].items():
            lines.append(
                [row["verb"], f"{row['seconds']:,.0f}", kind, f"{own:.1f}", f"{whole:.1f}"]
            )
    return markdown(["verb", "seconds", "process", "GiB of its own", "GiB with files"], lines)


if __name__ == "__main__":
    sys.exit(main())
