"""How fast passages are embedded, beside sentence-transformers with the same weights.

    pip install -r tests/parity/requirements-sentence-transformers.txt
    python -m experiments.bench.embedding RUN CORPUS [--passages 1000] [--rounds 3]

RUN is an imported or trained model, CORPUS is prepared with its vocabulary. The model is exported to
sentence-transformers, which encodes titles and texts of the same passages in batches of its own choice; both
sides use all cores in float32, or what the device has. They are timed in turns, each in a process of its own
that has embedded all of them once, and must give the same vectors. sentence-transformers cuts texts into
wordpieces each time, which `ralm prepare` has done before: what that takes is timed apart.

Rates are medians over all rounds, with 95% bootstrap intervals. Writes results/bench/embedding.json.
"""

import argparse
import json
import multiprocessing
import os
import shlex
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from experiments.bench.step import interval
from experiments.record import RESULTS, commit, hardware

AGREE = 1e-3


class Timed(NamedTuple):
    """What is embedded: so many passages of a corpus, drawn at random (seed 0), by a run and its export."""

    run: Path
    corpus: Path
    export: Path
    passages: int


def rows(given: Timed, size: int) -> np.ndarray:
    drawn = np.random.default_rng(0).permutation(size)[: given.passages]
    return np.sort(drawn)


def ours(given: Timed) -> tuple[list[float], np.ndarray]:
    """Seconds, and the vectors [n,E]."""
    from ralm_jax.inference.embedding import embed_rows
    from ralm_jax.inference.open_run import OpenRun

    opened = OpenRun.open(given.run, given.corpus)
    chosen = rows(given, opened.corpus.size)
    whole = (opened.model, opened.params, opened.corpus, opened.lengths, chosen)
    embed_rows(*whole)
    start = time.perf_counter()
    vectors = embed_rows(*whole)
    return [time.perf_counter() - start], vectors


def theirs(given: Timed) -> tuple[list[float], np.ndarray]:
    """Seconds with cutting, and of cutting alone, and the vectors [n,E]."""
    import sentence_transformers  # pyrefly: ignore[missing-import]

    from ralm_jax.data.corpus import open_corpus

    corpus = open_corpus(given.corpus)
    read = corpus.texts().read(rows(given, corpus.size).tolist())
    texts = [(record["title"].decode(), record["text"].decode()) for record in read]
    model = sentence_transformers.SentenceTransformer(str(given.export))
    encode = getattr(model, "encode_document", model.encode)
    encode(texts)
    start = time.perf_counter()
    vectors = encode(texts)
    whole = time.perf_counter() - start
    start = time.perf_counter()
    for first in range(0, len(texts), 32):
        model.preprocess(texts[first : first + 32])
    return [whole, time.perf_counter() - start], np.asarray(vectors)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("run", type=Path)
    parser.add_argument("corpus", type=Path)
    parser.add_argument("--passages", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=RESULTS / "bench" / "embedding.json")
    given = parser.parse_args()
    os.environ.setdefault("JAX_NUM_CPU_DEVICES", str(len(os.sched_getaffinity(0))))
    load = round(os.getloadavg()[0], 2)
    with tempfile.TemporaryDirectory() as folder:
        export = Path(folder) / "export"
        verb = [sys.executable, "-m", "ralm_jax.cli", "export", "--to", "sentence-transformers"]
        subprocess.run([*verb, "--run", str(given.run), "--out", str(export)], check=True)
        timed = Timed(given.run, given.corpus, export, given.passages)
        found = measured(timed, given.rounds)
    result: dict[str, Any] = {
        "command": f"python -m experiments.bench.embedding RUN CORPUS {shlex.join(sys.argv[3:])}".strip(),
        "commit": commit(),
        "hardware": hardware(),
        "load_average_at_start": load,
        **found,
    }
    given.out.parent.mkdir(parents=True, exist_ok=True)
    given.out.write_text(json.dumps(result, indent=1) + "\n", "utf-8")
    print(f"{found['ratio']:.2f} times sentence-transformers, {found['interval']}")


def measured(timed: Timed, rounds: int) -> dict[str, Any]:
    """Both sides in turns, so that a machine that slows down slows both."""
    each = [(alone(ours, timed), alone(theirs, timed)) for _ in range(rounds)]
    (_, mine), (_, yours) = each[-1]
    difference = float(np.abs(mine - yours).max())
    if difference > AGREE:
        raise SystemExit(f"the vectors differ by {difference}: something else is measured")
    own, other = ([row[side][0][0] for row in each] for side in (0, 1))
    return {
        "passages": timed.passages,
        "greatest_difference_of_a_number": difference,
        **interval(timed.passages, own, other),
        "torch_seconds_of_cutting": [round(seconds[1], 4) for _, (seconds, _) in each],
    }


def alone(side: Any, given: Any) -> Any:
    """In a process of its own."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(side, (given,))


if __name__ == "__main__":
    main()
