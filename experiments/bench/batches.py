"""Whether the host's work for a batch grows with the corpus: seconds per query over two synthetic corpora.

    python -m experiments.bench.batches [--few 100000] [--many 10000000] [--repeats 40] [--out FILE.json]

A batch is assembled as in training: sentences are drawn and masked, and the texts of random candidates are
put together. The tables have the shapes and types of a prepared corpus and random content; they are written
to a temporary folder (2.6 GB for 10 million passages) and memory-mapped. Both are read through once, so that
their pages are in memory. Then repeats over the two corpora alternate, and medians are compared. Each
repeat is another step, so its rows are ones that the batch before did not touch.
Takes about half a minute on 2 cores. Writes experiments/results/bench_batches/result.json, or FILE.json.
"""

import argparse
import json
import os
import shlex
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from experiments.record import RESULTS, commit, hardware
from ralm_jax.batches import Lengths
from ralm_jax.data.corpus import ARRAYS, Corpus
from ralm_jax.data.tokenizer import Vocabulary
from ralm_jax.data.tokenizer_settings import TokenizerSettings
from ralm_jax.examples import cloze_batches
from ralm_jax.examples.masking import salient_span

# Wordpieces: of a row of the token table, of its title, and of each sentence of its body.
STORED, TITLE, SENTENCE = 64, 4, 15
SENTENCES = 4
VOCABULARY = 30_522
BATCH, CANDIDATES = 64, 8
LENGTHS = Lengths(query=64, passage=STORED + 3, joint=128, masked=10)
BLOCK = 1 << 18
PARTS = ("draw", "clozes", "with_candidates")


def blocks(folder: Path, passages: int) -> Iterator[tuple[dict[str, np.memmap], int, int]]:
    """The tables of a corpus, created as files, and the rows [start, stop) of passages to fill in next."""
    forms = {
        "tokens": (np.uint16, (passages, STORED)),
        "lengths": (np.uint16, (passages, 2)),
        "ids": ("S32", (passages,)),
        "sentences": (np.int32, (passages * SENTENCES, 3)),
        "spans": (np.int32, (passages * SENTENCES, 4)),
        "span_groups": (np.uint64, (passages * SENTENCES,)),
    }
    tables = {
        name: np.lib.format.open_memmap(folder / f"{name}.npy", "w+", dtype, shape)
        for name, (dtype, shape) in forms.items()
    }
    for start in range(0, passages, BLOCK):
        yield tables, start, min(start + BLOCK, passages)
    for table in tables.values():
        table.flush()


def synthetic(folder: Path, passages: int) -> Corpus:
    """A corpus of passages of four sentences, each with one salient span of one to five wordpieces."""
    folder.mkdir()
    rng = np.random.default_rng(passages)
    for tables, start, stop in blocks(folder, passages):
        rows = np.arange(start * SENTENCES, stop * SENTENCES)
        begins = rows % SENTENCES * SENTENCE
        first = begins + rng.integers(0, SENTENCE - 5, len(rows))
        last = first + rng.integers(1, 6, len(rows))
        shape = (stop - start, STORED)
        tables["tokens"][start:stop] = rng.integers(1000, VOCABULARY, shape, np.uint16)
        tables["lengths"][start:stop] = TITLE, SENTENCES * SENTENCE
        columns = rows // SENTENCES, begins, begins + SENTENCE
        tables["sentences"][rows[0] : rows[-1] + 1] = np.stack(columns, 1)
        columns = rows, first, last, np.zeros_like(rows)
        tables["spans"][rows[0] : rows[-1] + 1] = np.stack(columns, 1)
    arrays = {name: np.load(folder / f"{name}.npy", mmap_mode="r") for name in ARRAYS}
    vocabulary = Vocabulary(0, 100, 101, 102, 103, VOCABULARY, np.zeros(VOCABULARY, bool))
    return Corpus(
        path=folder,
        vocabulary=vocabulary,
        tokenizer_settings=TokenizerSettings(),
        passage_tokens=STORED + 3,
        fingerprint=str(passages),
        counts={},
        kinds=("name",),
        **arrays,
    )


def assemble(corpus: Corpus, rows: np.ndarray, step: int) -> list[float]:
    """Seconds that each of the PARTS of one batch takes."""
    rng = np.random.default_rng(step)
    found = rng.integers(0, corpus.size, (BATCH, CANDIDATES)).astype(np.int32)
    times = [time.perf_counter()]
    drawn, positions = cloze_batches.draw(rows, 0, step, BATCH)
    times.append(time.perf_counter())
    asked = cloze_batches.clozes(corpus, drawn, positions, salient_span, LENGTHS, seed=0)
    times.append(time.perf_counter())
    chosen = cloze_batches.candidates(found, asked.passages, CANDIDATES)
    cloze_batches.with_candidates(corpus, asked, chosen, LENGTHS)
    times.append(time.perf_counter())
    return np.diff(times).tolist()


def measure(sizes: list[int], repeats: int) -> dict[str, Any]:
    """Milliseconds per query over a corpus of each size, and how many times as long over the last."""
    seconds: dict[int, list[list[float]]] = {size: [] for size in sizes}
    with tempfile.TemporaryDirectory() as folder:
        corpora = [synthetic(Path(folder) / str(size), size) for size in sizes]
        rows = {c.size: np.arange(len(c.sentences)) for c in corpora}
        for corpus in corpora:
            for name in ("tokens", "lengths", "sentences", "spans"):
                int(getattr(corpus, name).sum(dtype=np.int64))
            assemble(corpus, rows[corpus.size], 0)
        for step in range(1, repeats + 1):
            for corpus in corpora:
                seconds[corpus.size].append(assemble(corpus, rows[corpus.size], step))
    report: dict[str, Any] = {}
    whole = {}
    for size, times in seconds.items():
        each = np.array(times) * 1e3 / BATCH
        whole[size] = statistics.median(each.sum(1))
        quarter = statistics.quantiles(each.sum(1), n=4)
        report[f"{size:,} passages"] = {
            "milliseconds_per_query": round(whole[size], 4),
            "quartiles": [round(quarter[0], 4), round(quarter[2], 4)],
            "by_part": dict(zip(PARTS, np.median(each, axis=0).round(4).tolist(), strict=True)),
        }
    report["ratio"] = round(whole[sizes[-1]] / whole[sizes[0]], 3)
    return report


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--few", type=int, default=100_000)
    parser.add_argument("--many", type=int, default=10_000_000)
    parser.add_argument("--repeats", type=int, default=40)
    parser.add_argument("--out", type=Path, default=RESULTS / "bench_batches" / "result.json")
    given = parser.parse_args()
    result: dict[str, Any] = {
        "command": shlex.join(["python", "-m", "experiments.bench.batches", *sys.argv[1:]]),
        "commit": commit(),
        "hardware": hardware(),
        "load_average_at_start": round(os.getloadavg()[0], 2),
        "batch, candidates, repeats": [BATCH, CANDIDATES, given.repeats],
        **measure([given.few, given.many], given.repeats),
    }
    given.out.parent.mkdir(parents=True, exist_ok=True)
    given.out.write_text(json.dumps(result, indent=1) + "\n", "utf-8")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
