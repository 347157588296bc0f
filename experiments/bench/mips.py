"""Searchers side by side: seconds to publish, recall@8, milliseconds per batch of 64 queries.

    python experiments/bench/mips.py [--vectors RUN/index/step_00000500/vectors.npy]

Without --vectors it draws 73,580 x 128 synthetic ones. It takes about 3 minutes on 2 cores and writes
experiments/results/bench_mips/result.json. The synthetic vectors are normalised as by a LayerNorm, and of
four kinds: `clustered` (2,000 topics), `spectrum` (a few directions have most of the variance, as in trained
encoders), `isotropic` (no structure, the worst case for partitions), `narrow` (nearly one direction, as from
an untrained encoder).
"""

from __future__ import annotations

import argparse
import json
import os
import pathlib
import platform
import subprocess
import sys
import tempfile
import time

import numpy as np

from ralm_jax.retrieval import index
from ralm_jax.retrieval import searcher as mips
from ralm_jax.retrieval.exact import Exact
from ralm_jax.retrieval.scann_index import FOLDER, SETTINGS, ScannConfig
from ralm_jax.retrieval.scann_process import ScannProcess

K, BATCH, QUERIES = 8, 64, 1024


def layer_norm(vectors: np.ndarray) -> np.ndarray:
    vectors = vectors - vectors.mean(axis=-1, keepdims=True)
    return (vectors / vectors.std(axis=-1, keepdims=True)).astype(np.float32)


def synthetic(kind: str, rows: int, width: int) -> np.ndarray:
    """Vectors [rows, width] float32 of one of the four kinds above."""
    rng = np.random.default_rng(0)
    noise = rng.normal(size=(rows, width))
    match kind:
        case "clustered":
            topics = rng.normal(size=(2000, width))
            return layer_norm(topics[rng.integers(0, len(topics), rows)] + 0.7 * noise)
        case "spectrum":
            decay = np.arange(1, width + 1)[:, None] ** -0.7
            return layer_norm(noise @ (decay * rng.normal(size=(width, width))))
        case "isotropic":
            return layer_norm(noise)
        case "narrow":
            return layer_norm(rng.normal(size=width) + 0.1 * noise)
    raise ValueError(kind)


def milliseconds(searcher: mips.Searcher, queries: np.ndarray) -> list[float]:
    """How long each batch of queries [n, E] takes from the call to the answer."""
    times = []
    for start in range(0, len(queries), BATCH):
        began = time.perf_counter()
        searcher.search(queries[start : start + BATCH], K)()
        times.append(1e3 * (time.perf_counter() - began))
    return times


def measure(
    searcher: mips.Searcher, version: index.Version, again: index.Version, queries: np.ndarray
) -> dict:
    """Publishes `version`, searches it, and searches it while `again` is being built."""
    began = time.perf_counter()
    searcher.build(version)
    first = searcher.publish()
    seconds = time.perf_counter() - began
    wanted, _ = mips.exact(queries, version.vectors, K)
    # The first search compiles.
    searcher.search(queries[:BATCH], K)()
    alone = milliseconds(searcher, queries)
    found, _ = searcher.search(queries, K)()
    searcher.build(again)
    during = milliseconds(searcher, queries)
    second = searcher.publish()
    return {
        "seconds_to_first_publish": round(seconds, 2),
        "build_seconds": [round(each.build_seconds, 2) for each in (first, second)],
        "recall_reported": [round(each.recall, 4) for each in (first, second)],
        "recall": round(mips.recall(found, wanted), 4),
        "ms_per_batch": round(float(np.median(alone)), 2),
        "ms_per_batch_during_a_build": round(float(np.median(during)), 2),
        "ms_per_batch_during_a_build_max": round(max(during), 2),
    }


def commit(root: pathlib.Path, step: int, vectors: np.ndarray) -> index.Version:
    writer = index.create(root, step, vectors.shape, "bench")
    writer.write(0, vectors)
    return writer.commit()


def compare(vectors: np.ndarray, queries: np.ndarray, threads: int) -> dict:
    """Both searchers on vectors [N, E] and queries [QUERIES, E]."""
    results: dict[str, dict] = {}
    for name, searcher in {
        "exact": Exact(),
        "scann": ScannProcess(ScannConfig(k=K, threads=threads)),
    }.items():
        with tempfile.TemporaryDirectory() as folder:
            root = pathlib.Path(folder)
            versions = commit(root, 0, vectors), commit(root, 1, vectors)
            results[name] = measure(searcher, *versions, queries)
            settings = versions[0].path / FOLDER / SETTINGS
            if settings.exists():
                chosen = json.loads(settings.read_text())
                results[name] |= {key: chosen[key] for key in ("form", "leaves", "reorder")}
            searcher.close()
        print(name, results[name], flush=True)
    return results


def described() -> str:
    """The commit, marked where files differ from it."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40"]
    return subprocess.check_output(command, text=True).strip()


def cpu_name() -> str:
    """The processor, as Linux calls it."""
    lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor())


def main() -> None:
    """Parses the command line, measures, writes the result."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--vectors", help="a version's vectors.npy; 1,024 of them serve as queries")
    parser.add_argument("--passages", type=int, default=73_580)
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--threads", type=int, default=1, help="cores of the ScaNN process")
    parser.add_argument("--out", default="experiments/results/bench_mips/result.json")
    options = parser.parse_args()
    if options.vectors:
        given = np.load(options.vectors)
        picked = np.random.default_rng(0).permutation(len(given))[:QUERIES]
        data = {pathlib.Path(options.vectors).name: (given, given[picked])}
    else:
        data = {}
        for kind in "clustered", "spectrum", "isotropic", "narrow":
            drawn = synthetic(kind, options.passages + QUERIES, options.width)
            data[kind] = drawn[:-QUERIES], drawn[-QUERIES:]
    result = {
        "command": "python " + " ".join(sys.argv),
        "commit": described(),
        "hardware": {"cpu": cpu_name(), "cores": os.cpu_count(), "load": os.getloadavg()[0]},
        "k": K,
        "batch": BATCH,
        "threads": options.threads,
        "data": {},
    }
    for name, (vectors, queries) in data.items():
        print(f"{name}: {vectors.shape}", flush=True)
        result["data"][name] = {
            "shape": vectors.shape,
            **compare(vectors, queries, options.threads),
        }
    out = pathlib.Path(options.out)
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
