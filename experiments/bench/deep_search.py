"""The ScaNN process where it is hard: 5,000 passages of a million, and 13,353,718 passages.

    python -m experiments.bench.deep_search beam --out DIR [--repeats 31]
    python -m experiments.bench.deep_search wikipedia --out DIR [--fitted 100]

`beam`: how long a batch of queries takes with k = 100 and with k = 5000, each from a process that was
fitted to that k, timed in turn. `wikipedia`: as many passages as ORQA's Wikipedia has, built, published
and searched once. Both write a version, build and publish it, and search it as training does.

The vectors are synthetic, and made to resemble embeddings: 10,000 topics whose sizes fall as a power of
their rank, the passages around them, all on the unit sphere and with most of the variance in few
directions. A query lies near a passage. They are not independent noise, which has no near neighbours;
nor are they the vectors of a trained encoder. DIR takes them meanwhile: 0.6 kB for each passage, and
what ScaNN stores. Each part is kept in experiments/results/bench/deep_search.json beside the other.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from experiments.record import RESULTS, commit, hardware
from experiments.saved import markdown
from ralm_jax.retrieval import index
from ralm_jax.retrieval.scann_build import nearest
from ralm_jax.retrieval.scann_index import FOLDER, SETTINGS, ScannConfig
from ralm_jax.retrieval.scann_process import ScannProcess
from ralm_jax.retrieval.searcher import recall

RESULT = RESULTS / "bench" / "deep_search.json"
SEED, WIDTH, TOPICS = 0, 128, 10_000
# Standard deviations beside those of topics: of passages around a topic, of queries around a passage.
AROUND_TOPIC, AROUND_PASSAGE = 0.8, 0.5
# Rows drawn at a time.
DRAWN = 1 << 17
# Queries a search, queries that recall is measured with, and those that a process hears before it builds.
BATCH, MEASURED, HEARD = 64, 64, 512
WIKIPEDIA = 13_353_718


class World(NamedTuple):
    """What vectors are drawn from: directions [E, E], topics [T, E], the share [T] of each topic."""

    directions: np.ndarray
    topics: np.ndarray
    shares: np.ndarray


def world(width: int = WIDTH, topics: int = TOPICS) -> World:
    """Directions whose variance falls as one over their rank, and topics along them."""
    rng = np.random.default_rng([SEED, 0])
    decay = np.arange(1, width + 1) ** -0.5
    turned = np.linalg.qr(rng.normal(size=(width, width)))[0]
    directions = (turned * (decay / np.linalg.norm(decay))[:, None]).astype(np.float32)
    shares = np.arange(1, topics + 1) ** -0.8
    centres = rng.normal(size=(topics, width)).astype(np.float32) @ directions
    return World(directions, centres, shares / shares.sum())


def passages(drawn: World, rows: int, start: int) -> np.ndarray:
    """Vectors [rows, E] of passages from `start` on."""
    rng = np.random.default_rng([SEED, 1, start])
    topic = rng.choice(len(drawn.shares), rows, p=drawn.shares)
    noise = rng.standard_normal((rows, len(drawn.directions)), np.float32) @ drawn.directions
    return _unit(drawn.topics[topic] + AROUND_TOPIC * noise)


def queries(drawn: World, vectors: np.ndarray, count: int) -> np.ndarray:
    """Queries [count, E], each near one of vectors [N, E]."""
    rng = np.random.default_rng([SEED, 2])
    near = vectors[np.sort(rng.choice(len(vectors), count, replace=False))]
    noise = rng.standard_normal(near.shape, np.float32) @ drawn.directions
    return rng.permutation(_unit(near + AROUND_PASSAGE * _unit(noise)))


def _unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def write(drawn: World, root: Path, count: int) -> index.Version:
    """A committed version of `count` passages."""
    writer = index.create(root, 1, (count, len(drawn.directions)), "bench")
    for start in range(0, count, DRAWN):
        writer.write(start, passages(drawn, min(DRAWN, count - start), start))
    return writer.commit()


def serve(
    drawn: World, version: index.Version, heard: np.ndarray, config: ScannConfig
) -> tuple[ScannProcess, dict[str, Any]]:
    """A process that serves the version, and what it took to get there.

    It serves a small version first, so that it has heard queries [n, E] to measure recall with, as
    a process has from the second version of a training on.
    """
    process = ScannProcess(config)
    process.restore(write(drawn, version.path.parent / "small", 2000))
    process.search(heard, config.k)()
    began = time.perf_counter()
    process.build(version)
    published = process.publish()
    stored = version.path / FOLDER
    chosen = json.loads((stored / SETTINGS).read_text("utf-8"))
    return process, {
        "k": config.k,
        "seconds_to_build_and_publish": round(time.perf_counter() - began, 1),
        "recall_reported": round(published.recall, 4),
        "peak_resident_gib": _peak(process),
        "resident_gib": _resident(process),
        "vectors_bytes": os.path.getsize(version.path / index.VECTORS),
        "searcher_bytes": sum(file.stat().st_size for file in stored.iterdir()),
        **{key: chosen[key] for key in ("form", "leaves", "reorder")},
    }


def _peak(process: ScannProcess) -> float:
    return _status(process, "VmHWM")


def _resident(process: ScannProcess) -> float:
    return _status(process, "VmRSS")


def _status(process: ScannProcess, key: str) -> float:
    lines = Path(f"/proc/{process.pid}/status").read_text("utf-8").splitlines()
    (kibibytes,) = [int(line.split()[1]) for line in lines if line.startswith(key + ":")]
    return round(kibibytes / 2**20, 2)


def seconds(process: ScannProcess, asked: np.ndarray, k: int) -> float:
    """From the call to the answer for queries [B, E]."""
    began = time.perf_counter()
    process.search(asked, k)()
    return time.perf_counter() - began


def interval(compute: Any, *samples: list[float]) -> list[float]:
    """`compute` of the samples' medians, with its 95% interval over 2,000 bootstrap samples (seed 0)."""
    rng = np.random.default_rng(0)
    value = compute(*(np.median(sample) for sample in samples))
    drawn = [np.median(rng.choice(sample, (2000, len(sample))), axis=1) for sample in samples]
    low, high = np.percentile(compute(*drawn), (2.5, 97.5))
    return [round(float(figure), 4) for figure in (value, low, high)]


def beam(root: Path, count: int, ks: tuple[int, int], repeats: int) -> dict[str, Any]:
    """Both processes over equal vectors, timed in turn with the same queries."""
    drawn = world()
    served: dict[int, tuple[ScannProcess, dict[str, Any]]] = {}
    asked = np.empty(0)
    for k in ks:
        version = write(drawn, root / f"k{k}", count)
        asked = queries(drawn, version.vectors, MEASURED + HEARD)
        served[k] = serve(drawn, version, asked[MEASURED:], ScannConfig(k=k))
        file = version.path / index.VECTORS
        found, _ = served[k][0].search(asked[:MEASURED], k)()
        served[k][1]["recall"] = round(recall(found, nearest(file, asked[:MEASURED], k)), 4)
        print(served[k][1], flush=True)
    times: dict[int, list[float]] = {k: [] for k in ks}
    for turn in range(repeats + 1):
        batch = np.roll(asked, -BATCH * turn, axis=0)[:BATCH]
        for k in ks:
            times[k].append(seconds(served[k][0], batch, k))
    few, many = ks
    for k, (process, report) in served.items():
        process.close()
        # The first of each is a warm-up.
        report["seconds_per_batch"] = interval(lambda s: s, times[k][1:])
    return {
        "passages": count,
        "by_k": {str(k): report for k, (_, report) in served.items()},
        "times_as_long": interval(lambda a, b: b / a, times[few][1:], times[many][1:]),
    }


def wikipedia(root: Path, count: int, fitted: int, ks: list[int], repeats: int) -> dict[str, Any]:
    """One process, fitted to `fitted`, asked for each of `ks` passages."""
    drawn = world()
    began = time.perf_counter()
    version = write(drawn, root / "large", count)
    drawing = round(time.perf_counter() - began, 1)
    asked = queries(drawn, version.vectors, MEASURED + HEARD)
    process, report = serve(drawn, version, asked[MEASURED:], ScannConfig(k=fitted))
    print(report, flush=True)
    began = time.perf_counter()
    wanted = nearest(version.path / index.VECTORS, asked[:MEASURED], max(ks))
    report["seconds_of_exact_search"] = round(time.perf_counter() - began, 1)
    found = {}
    for k in ks:
        ids, _ = process.search(asked[:MEASURED], k)()
        times = []
        for turn in range(repeats):
            batch = np.roll(asked, -BATCH * turn, axis=0)[:BATCH]
            times.append(seconds(process, batch, k))
        found[str(k)] = {
            "recall": round(recall(ids, wanted[:, :k]), 4),
            "seconds_per_batch": interval(lambda s: s, times),
            "queries_per_second": interval(lambda s: BATCH / s, times),
        }
        print(k, found[str(k)], flush=True)
    report["peak_resident_gib"] = _peak(process)
    process.close()
    return {"passages": count, "seconds_of_drawing": drawing, "process": report, "by_k": found}


def table(made: dict[str, Any]) -> str:
    """What the searches and the builds of the parts took, and how the two beams compare."""
    searches, builds = [], []
    for part in made.values():
        count = f"{part['passages']:,}"
        processes = {part["process"]["k"]: part["process"]} if "process" in part else part["by_k"]
        for k, own in part["by_k"].items():
            fitted = own.get("k") or part["process"]["k"]
            value, low, high = (1000 * figure for figure in own["seconds_per_batch"])
            searches.append(
                [
                    *(count, f"{fitted:,}", f"{int(k):,}", f"{own['recall']:.3f}"),
                    f"{value:.0f} ({low:.0f} to {high:.0f})",
                    f"{1000 * BATCH / value:.0f}",
                ]
            )
        for k, own in processes.items():
            builds.append(
                [
                    *(count, f"{int(k):,}", f"{own['recall_reported']:.3f}"),
                    f"{own['leaves']:,}, {own['reorder']:,}",
                    f"{own['seconds_to_build_and_publish'] / 60:.1f}",
                    f"{own['peak_resident_gib']:.1f}",
                    f"{(own['searcher_bytes'] + own['vectors_bytes']) / 2**30:.1f}",
                ]
            )
    asked = ["passages", "fitted to k", "k", "recall@k", "ms for 64 queries", "queries a second"]
    took = [
        "passages",
        "fitted to k",
        "recall reported",
        "leaves, candidates",
        "minutes to publish",
    ]
    took += ["peak, GiB", "on disk, GiB"]
    few, many = (f"{int(k):,}" for k in made["beam"]["by_k"])
    value, low, high = made["beam"]["times_as_long"]
    ratio = f"k = {many} takes {value:.1f} times ({low:.1f} to {high:.1f}) as long as k = {few}"
    alike = f"over {made['beam']['passages']:,} passages, each fitted to its k and timed in turn."
    return "\n".join([markdown(asked, searches), markdown(took, builds), f"{ratio} {alike}\n"])


def main() -> None:
    """Parses the command line, measures, writes the part."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("part", choices=("beam", "wikipedia"))
    parser.add_argument("--out", type=Path, required=True, help="a folder for the vectors")
    parser.add_argument("--repeats", type=int, default=31)
    parser.add_argument("--fitted", type=int, default=100, help="the k of `wikipedia`'s process")
    options = parser.parse_args()
    command = f"python -m experiments.bench.deep_search {options.part} --out DIR"
    if options.part == "wikipedia":
        command += f" --fitted {options.fitted}"
    described = {
        "command": f"{command} --repeats {options.repeats}",
        "commit": commit(),
        "hardware": hardware(),
        "load_average_at_start": round(os.getloadavg()[0], 2),
        "seed": SEED,
        "width": WIDTH,
        "queries_a_batch": BATCH,
        "queries_of_recall": MEASURED,
    }
    root = options.out / options.part
    began = time.perf_counter()
    try:
        if options.part == "beam":
            found = beam(root, 1_000_000, (100, 5000), options.repeats)
        else:
            found = wikipedia(root, WIKIPEDIA, options.fitted, [8, 100, 5000], options.repeats)
    finally:
        shutil.rmtree(root, ignore_errors=True)
    described["seconds"] = round(time.perf_counter() - began)
    parts = json.loads(RESULT.read_text("utf-8")) if RESULT.exists() else {}
    parts[options.part] = described | found
    RESULT.write_text(json.dumps(parts, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
