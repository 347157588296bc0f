"""How long `ralm ask` takes to answer, and where the time goes.

    python -m experiments.bench.ask RUN QUESTIONS [--count 50]

The command itself is timed: from its start to the first answer, and the later answers of a command that reads
questions from its input. Writes experiments/results/bench_ask/result.json.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from experiments.record import RESULTS, commit, hardware
from ralm_jax.inference.open_run import OpenRun
from ralm_jax.questions.read import read_questions

ASK = [sys.executable, "-m", "ralm_jax.cli", "ask", "--json", "-", "--run"]


def first_answer(run: Path, question: str) -> float:
    """Seconds from starting the command to its answer, the process ended."""
    start = time.perf_counter()
    subprocess.run([*ASK, str(run), question], check=True, capture_output=True)
    return time.perf_counter() - start


def later_answers(run: Path, questions: list[str]) -> list[dict[str, float]]:
    """Seconds by part of each answer but the first."""
    asked = subprocess.run(
        [*ASK, str(run)],
        input="\n".join(questions) + "\n",
        check=True,
        capture_output=True,
        text=True,
    )
    return [json.loads(line)["seconds"] for line in asked.stdout.splitlines()][1:]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("run", type=Path)
    parser.add_argument("questions", type=Path)
    parser.add_argument("--count", type=int, default=50)
    arguments = parser.parse_args()
    questions = [q.question for q in read_questions(arguments.questions).asked[: arguments.count]]
    opened = OpenRun.open(arguments.run)
    reader = opened.model.reader_config
    load = round(os.getloadavg()[0], 2)
    cold = [first_answer(arguments.run, question) for question in questions[:3]]
    warm = later_answers(arguments.run, questions)
    whole = [sum(parts.values()) for parts in warm]
    result: dict[str, Any] = {
        "command": f"python -m experiments.bench.ask RUN QUESTIONS --count {arguments.count}",
        "commit": commit(),
        "hardware": hardware(),
        "load_average_at_start": load,
        "passages": opened.corpus.size,
        "reader layers, hidden": [reader.layers, reader.hidden],
        "first_answer_seconds": [round(s, 2) for s in cold],
        "later_answer_milliseconds": {
            "median": round(1000 * statistics.median(whole), 1),
            "nine in ten below": round(1000 * statistics.quantiles(whole, n=10)[-1], 1),
            "median by part": {
                part: round(1000 * statistics.median(w[part] for w in warm), 1) for part in warm[0]
            },
        },
    }
    out = RESULTS / "bench_ask"
    out.mkdir(parents=True, exist_ok=True)
    (out / "result.json").write_text(json.dumps(result, indent=1) + "\n", "utf-8")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
