"""Exact search on this machine's devices: seconds by passages, neighbours, queries and rows scored at a time.

    python -m experiments.bench.device_search [--passages 1000000 13353718] [--blocks 14 15 16]

Vectors are drawn on a device, normal and of length one, which is the worst case for what rounds them. Each is
searched as `exact.Exact` does, in float32, and as `exact.Rounded` does, in bfloat16 and then in float32 among
the best, where recall is that of the latter in the former. --blocks: powers of two of rows that are scored at
a time.

Writes experiments/results/bench/device_search.json.
"""

import argparse
import functools
import json
import shlex
import sys
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.bench.deep_search import WIKIPEDIA
from experiments.record import RESULTS, commit, hardware
from ralm_jax.retrieval import sharded
from ralm_jax.retrieval.exact import Exact, Rounded
from ralm_jax.retrieval.index import Version

OUT = RESULTS / "bench" / "device_search.json"
DRAWN = 1 << 17


@functools.partial(jax.jit, static_argnames=("rows", "width"))
def _drawn(key: jax.Array, rows: int, width: int) -> jax.Array:
    x = jax.random.normal(key, (rows, width))
    return x / jnp.linalg.norm(x, axis=-1, keepdims=True)


def vectors(count: int, width: int) -> np.ndarray:
    """[count,width] float32 of length one."""
    found = np.empty((count, width), np.float32)
    for first in range(0, count, DRAWN):
        block = _drawn(jax.random.key(first), DRAWN, width)
        found[first : first + DRAWN] = np.asarray(block)[: count - first]
    return found


def measured(given: np.ndarray, kind: str, k: int, queries: int, repeats: int) -> dict[str, Any]:
    """Seconds of a search of so many queries, median and all; and what it takes to publish the vectors."""
    searcher = Exact() if kind == "float32" else Rounded(k)
    searcher.build(Version(0, given, Path()))
    begun = time.perf_counter()
    published = searcher.publish()
    waited = time.perf_counter() - begun
    asked = [_drawn(jax.random.key(-1 - n), queries, given.shape[1]) for n in range(1 + repeats)]
    seconds, queued = [], []
    for rows in asked:
        rows.block_until_ready()
        begun = time.perf_counter()
        answer = searcher.search(rows, k)
        queued.append(time.perf_counter() - begun)
        answer()
        seconds.append(time.perf_counter() - begun)
    searcher.close()
    return {
        "passages": len(given),
        "width": given.shape[1],
        "kind": kind,
        "k": k,
        "queries": queries,
        "block": sharded.BLOCK,
        "seconds": round(float(np.median(seconds[1:])), 5),
        "each": [round(s, 5) for s in seconds[1:]],
        # Until the host goes on, while the devices search.
        "seconds_to_queue": round(float(np.median(queued[1:])), 5),
        "recall": round(published.recall, 4),
        "publish_seconds": [round(published.build_seconds, 2), round(waited, 2)],
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--passages", type=int, nargs="+", default=[1_000_000, WIKIPEDIA])
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--k", type=int, nargs="+", default=[8, 100])
    parser.add_argument("--queries", type=int, nargs="+", default=[512])
    parser.add_argument("--kinds", nargs="+", default=["float32", "bfloat16"])
    parser.add_argument("--blocks", type=int, nargs="+", default=[14])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--out", type=Path, default=OUT)
    given = parser.parse_args()
    rows: list[dict[str, Any]] = []
    for count in given.passages:
        held = vectors(count, given.width)
        for power in given.blocks:
            sharded.BLOCK = 1 << power
            for kind in given.kinds:
                for k in given.k:
                    for queries in given.queries:
                        rows.append(measured(held, kind, k, queries, given.repeats))
                        print(json.dumps(rows[-1]), flush=True)
                        sharded.searching.cache_clear()
                        write(given.out, rows)
        del held


def write(out: Path, rows: list[dict[str, Any]]) -> None:
    made = {
        "command": shlex.join(["python", "-m", "experiments.bench.device_search", *sys.argv[1:]]),
        "commit": commit(),
        "hardware": hardware(),
        "devices": jax.local_device_count(),
        "rows": rows,
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(made, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
