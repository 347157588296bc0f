"""How fast a corpus is prepared, compared with the bare tokenizer on the same text, and in how much memory.

    python experiments/bench/prepare.py CORPUS.jsonl.gz

Writes experiments/results/bench_prepare/result.json. Both sides are timed in turns. The bare tokenizer has
its texts in memory already and returns nothing but wordpieces; `prepare` reads the file twice, cuts
passages, finds salient spans and writes the corpus.
"""

import argparse
import json
import multiprocessing
import os
import platform
import resource
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import NamedTuple

from ralm_jax.data.prepare import prepare
from ralm_jax.data.tokenizer import load_tokenizer, train_vocabulary
from ralm_jax.sources.read import read_documents

RESULT = Path(__file__).parents[1] / "results" / "bench_prepare" / "result.json"


class Run(NamedTuple):
    """One preparation: seconds by the clock and of the processors, counts, peak memory in bytes."""

    seconds: float
    processor_seconds: float
    counts: dict[str, int]
    memory: int


def time_tokenizer(texts: list[str], vocab_file: str) -> tuple[float, float]:
    """Seconds of `encode_batch`, on all cores, a thousand texts at a time: clock, processors."""
    tokenizer = load_tokenizer(vocab_file)
    start, processor_start = time.perf_counter(), time.process_time()
    for first in range(0, len(texts), 1000):
        tokenizer.encode_batch(texts[first : first + 1000], add_special_tokens=False)
    return time.perf_counter() - start, time.process_time() - processor_start


def time_prepare(source: str, vocab_file: str, processes: int) -> Run:
    """Prepares a corpus and discards it; to be called in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        counts = prepare(
            source, Path(folder) / "corpus", vocab_file=vocab_file, processes=processes, say=len
        )
        seconds = time.perf_counter() - start
    usage = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    own, worker = (each.ru_maxrss * 1024 for each in usage)
    return Run(
        seconds,
        sum(each.ru_utime + each.ru_stime for each in usage),
        counts,
        # An upper bound: every worker is taken to need as much as the largest.
        own + processes * worker,
    )


def measure(source: str, rounds: int) -> dict[str, object]:
    """The figures of the benchmark, both sides timed `rounds` times in turns."""
    processes = os.cpu_count() or 1
    texts = [document.text for document in read_documents(source)]
    characters = sum(map(len, texts))
    spawn = multiprocessing.get_context("spawn")
    bare: list[tuple[float, float]] = []
    runs: list[Run] = []
    with tempfile.TemporaryDirectory() as folder:
        vocab_file = f"{folder}/vocab.txt"
        Path(vocab_file).write_text(
            "".join(f"{p}\n" for p in train_vocabulary(texts, 30522)), "utf-8"
        )
        for _ in range(rounds):
            bare.append(time_tokenizer(texts, vocab_file))
            with ProcessPoolExecutor(1, spawn) as executor:
                runs.append(executor.submit(time_prepare, source, vocab_file, processes).result())
    seconds = statistics.median(run.seconds for run in runs)
    bare_seconds = statistics.median(wall for wall, _ in bare)
    return {
        "passages": runs[0].counts["passages"],
        "characters": characters,
        "prepare_seconds": [round(run.seconds, 2) for run in runs],
        "prepare_processor_seconds": [round(run.processor_seconds, 2) for run in runs],
        "tokenizer_seconds": [round(wall, 2) for wall, _ in bare],
        "tokenizer_processor_seconds": [round(processor, 2) for _, processor in bare],
        "prepare_million_characters_per_second": round(characters / seconds / 1e6, 2),
        "tokenizer_million_characters_per_second": round(characters / bare_seconds / 1e6, 2),
        "throughput_relative_to_tokenizer": round(bare_seconds / seconds, 3),
        "peak_memory_gigabytes": round(max(run.memory for run in runs) / 1e9, 3),
        "counts": runs[0].counts,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("source", help="a .jsonl or .jsonl.gz corpus")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    # Marked where files differ from the commit.
    described = ["git", "describe", "--always", "--dirty", "--abbrev=40"]
    commit = subprocess.run(described, capture_output=True, text=True, check=True)
    result = {
        "command": shlex.join(["python", *sys.argv]),
        "commit": commit.stdout.strip(),
        "hardware": f"{os.cpu_count()} cores, {platform.machine()}, {platform.system()}",
        "load_average_at_start": round(os.getloadavg()[0], 2),
        **measure(arguments.source, arguments.rounds),
    }
    RESULT.parent.mkdir(parents=True, exist_ok=True)
    RESULT.write_text(json.dumps(result, indent=1) + "\n", "utf-8")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
