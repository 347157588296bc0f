"""Searchers side by side: seconds to publish, recall@k, milliseconds for 64 queries, memory of ScaNN.

    python experiments/bench/mips.py [--passages 20000 200000] [--k 8 100] [--kinds spectrum]
    python experiments/bench/mips.py --vectors RUN/index/step_00000500/vectors.npy

Exact search in float32, the same in bfloat16 with float32 among the best (`exact.Rounded`, what accelerators
take; on a CPU only its recall tells something), ScaNN, and FAISS's flat index where faiss is installed. Each
batch goes to all of them in turn, and the ratios to ScaNN are within a batch. Without --vectors it draws
synthetic ones, 128 wide and normalised as by a LayerNorm, of four kinds: `clustered` (2,000 topics),
`spectrum` (a few directions have most of the variance, as in trained encoders), `isotropic` (no structure,
the worst case for partitions), `narrow` (nearly one direction, as from an untrained encoder). Writes
experiments/results/bench/mips.json.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import pathlib
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

from ralm_jax.retrieval import index
from ralm_jax.retrieval import searcher as mips
from ralm_jax.retrieval.exact import Exact, Rounded
from ralm_jax.retrieval.scann_index import FOLDER, SETTINGS, ScannConfig
from ralm_jax.retrieval.scann_process import ScannProcess

BATCH, QUERIES = 64, 1024
KINDS = ("clustered", "spectrum", "isotropic", "narrow")
# Batches that are timed.
ROUNDS = 9


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


class Flat:
    """FAISS's flat index as a `mips.Searcher`, on as many cores as ScaNN has."""

    def __init__(self, threads: int) -> None:
        self.step, self._threads = -1, threads
        self._next: Any = None
        self._served: Any = None

    def search(self, queries: np.ndarray, k: int):
        """Queries [B,E] -> ids [B,k], scores [B,k]."""
        scores, ids = self._served.search(queries, k)
        return lambda: (ids.astype(np.int32), scores)

    def build(self, version: index.Version) -> None:
        """Copies the vectors."""
        import faiss  # pyrefly: ignore

        began = time.perf_counter()
        faiss.omp_set_num_threads(self._threads)
        flat = faiss.IndexFlatIP(version.vectors.shape[1])
        flat.add(version.vectors)
        self._next = version.step, flat, time.perf_counter() - began

    def publish(self) -> mips.Published:
        """Serves what was built."""
        self.step, self._served, seconds = self._next
        return mips.Published(self.step, 1.0, seconds, 0.0)

    def restore(self, version: index.Version) -> None:
        """Builds and serves."""
        self.build(version)
        self.publish()

    def close(self) -> None:
        """Gives the memory back."""
        self._next = self._served = None


def searchers(k: int, threads: int) -> dict[str, mips.Searcher]:
    """Those that are compared; ScaNN first, for the others are set beside it."""
    found: dict[str, mips.Searcher] = {"scann": ScannProcess(ScannConfig(k=k, threads=threads))}
    found |= {"exact": Exact(), "rounded": Rounded(k)}
    return found | ({"faiss": Flat(threads)} if importlib.util.find_spec("faiss") else {})


def milliseconds(searcher: mips.Searcher, queries: np.ndarray, k: int) -> float:
    """How long queries [B,E] take from the call to the answer."""
    began = time.perf_counter()
    searcher.search(queries, k)()
    return 1e3 * (time.perf_counter() - began)


def compare(vectors: np.ndarray, queries: np.ndarray, k: int, threads: int) -> dict[str, dict]:
    """All searchers on vectors [N,E] and queries [QUERIES,E]."""
    wanted, _ = mips.exact(queries[: 4 * BATCH], vectors, k)
    results: dict[str, dict] = {}
    with tempfile.TemporaryDirectory() as folder:
        versions = [commit(pathlib.Path(folder), step, vectors) for step in (0, 1)]
        compared = searchers(k, threads)
        for name, searcher in compared.items():
            results[name] = published(searcher, versions[0], queries, wanted)
        batches = [queries[i * BATCH : (i + 1) * BATCH] for i in range(ROUNDS)]
        took = [
            {name: milliseconds(searcher, batch, k) for name, searcher in compared.items()}
            for batch in batches
        ]
        for name, searcher in compared.items():
            results[name] |= {
                "ms_per_batch": round(float(np.median([each[name] for each in took])), 2),
                "times_scann": round(float(np.median([x[name] / x["scann"] for x in took])), 3),
                **during_a_build(searcher, versions[1], batches, k),
            }
        results["scann"] |= about_scann(compared["scann"], versions[0])
        for searcher in compared.values():
            searcher.close()
    return results


def published(searcher: mips.Searcher, version: index.Version, queries, wanted) -> dict:
    """Publishes a version and searches it; wanted: ids [n,k] of the first queries."""
    began = time.perf_counter()
    searcher.build(version)
    first = searcher.publish()
    seconds = time.perf_counter() - began
    n, k = wanted.shape
    found, _ = searcher.search(queries[:n], k)()
    # The first search of a batch compiles.
    milliseconds(searcher, queries[:BATCH], k)
    return {
        "seconds_to_first_publish": round(seconds, 2),
        "recall_reported": round(first.recall, 4),
        "recall": round(mips.recall(found, wanted), 4),
    }


def during_a_build(searcher: mips.Searcher, version: index.Version, batches, k: int) -> dict:
    """What it takes to publish another version, and what searches take meanwhile."""
    searcher.build(version)
    during = [milliseconds(searcher, batch, k) for batch in batches]
    second = searcher.publish()
    return {
        "build_seconds": round(second.build_seconds, 2),
        "ms_per_batch_during_a_build": round(float(np.median(during)), 2),
        "ms_per_batch_during_a_build_max": round(max(during), 2),
    }


def about_scann(searcher: mips.Searcher, version: index.Version) -> dict:
    """What was chosen, and the most memory its process had while it served one version and built another."""
    assert isinstance(searcher, ScannProcess)
    chosen = json.loads((version.path / FOLDER / SETTINGS).read_text())
    status = pathlib.Path(f"/proc/{searcher.pid}/status").read_text().splitlines()
    (most,) = (int(line.split()[1]) << 10 for line in status if line.startswith("VmHWM"))
    return {
        **{key: chosen[key] for key in ("form", "leaves", "reorder")},
        "most_megabytes": round(most / 1e6),
    }


def commit(root: pathlib.Path, step: int, vectors: np.ndarray) -> index.Version:
    writer = index.create(root, step, vectors.shape, "bench")
    writer.write(0, vectors)
    return writer.commit()


def described() -> str:
    """The commit, marked where files differ from it."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40"]
    return subprocess.check_output(command, text=True).strip()


def cpu_name() -> str:
    """The processor, as Linux calls it."""
    lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor())


def drawn(options: argparse.Namespace) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """(name, vectors [N,E], queries [QUERIES,E])."""
    if options.vectors:
        given = np.load(options.vectors)
        picked = np.random.default_rng(0).permutation(len(given))[:QUERIES]
        yield pathlib.Path(options.vectors).name, given, given[picked]
        return
    for kind in options.kinds:
        for passages in options.passages:
            found = synthetic(kind, passages + QUERIES, options.width)
            yield kind, found[:-QUERIES], found[-QUERIES:]


def main() -> None:
    """Parses the command line, measures, writes the result."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--vectors", help="a version's vectors.npy; 1,024 of them serve as queries")
    parser.add_argument("--passages", type=int, nargs="+", default=[20_000, 200_000])
    parser.add_argument("--k", type=int, nargs="+", default=[8, 100])
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=["spectrum"])
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--threads", type=int, default=1, help="cores of the ScaNN process")
    parser.add_argument("--out", default="experiments/results/bench/mips.json")
    options = parser.parse_args()
    device = jax.local_devices()[0]
    result: dict[str, Any] = {
        "command": "python " + " ".join(sys.argv),
        "commit": described(),
        "hardware": {
            "cpu": cpu_name(),
            "cores": os.cpu_count(),
            "load": os.getloadavg()[0],
            "device": device.device_kind,
            "devices": jax.local_device_count(),
        },
        "batch": BATCH,
        "threads": options.threads,
        "measured": [],
    }
    for name, vectors, queries in drawn(options):
        for k in options.k:
            found = compare(vectors, queries, k, options.threads)
            result["measured"].append(
                {"vectors": name, "shape": vectors.shape, "k": k, "searchers": found}
            )
            print(name, vectors.shape, k, found, flush=True)
    out = pathlib.Path(options.out)
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
