"""How fast a corpus is embedded here and on Apache Beam, by one worker and by four.

    python experiments/bench/embed.py CORPUS.jsonl.gz --documents 20000 [--note TEXT]

Writes experiments/results/bench/embed.json. The encoder is a small one of random parameters, so that what an
engine adds can be seen. What is written is compared byte by byte.
"""

import argparse
import gzip
import itertools
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

from experiments.bench.engines import digest, timed
from experiments.record import commit, hardware
from ralm_jax.batches import Lengths
from ralm_jax.data.corpus import open_corpus
from ralm_jax.data.prepare import prepare
from ralm_jax.models import initial
from ralm_jax.models.config import EncoderConfig
from ralm_jax.models.ralm import Ralm
from ralm_jax.runs import directory
from ralm_jax.runs.checkpoint import Checkpoints

RESULT = Path(__file__).parents[1] / "results" / "bench" / "embed.json"
SIZES = EncoderConfig(hidden=64, layers=2, heads=2, intermediate=128, positions=288)
WIDTH = 64


def describe(folder: Path, source: Path, documents: int) -> int:
    """Makes a corpus of the first documents and a run over it; how many passages there are."""
    with gzip.open(source, "rb") as file:
        (folder / "x.jsonl").write_bytes(b"".join(itertools.islice(file, documents)))
    prepare(str(folder / "x.jsonl"), folder / "corpus", vocab_size=8000, say=len)
    corpus = open_corpus(folder / "corpus")
    model = directory.sized(Ralm(SIZES, SIZES, embedding=WIDTH), corpus.vocabulary.size)
    lengths = vars(Lengths(query=64, passage=288, joint=288, masked=8))
    about: dict[str, Any] = {"stages": ["ict"], "lengths": lengths, "held_out": 0.1, "seed": 0}
    directory.describe(folder / "run", model, corpus, **about)
    checkpoints = Checkpoints(directory.checkpoint_folder(folder / "run", "ict"))
    params = initial.drawn_params(model, seed=0)
    checkpoints.save(1, {"state": {"params": params}}, wait=True)
    checkpoints.close()
    return corpus.size


def measure(source: Path, documents: int) -> dict[str, Any]:
    """The figures of each way."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        size = describe(folder, source, documents)
        runs, digests = [], set()
        for engine, workers in (("here", 1), ("beam", 1), ("beam", 4)):
            out = folder / f"{engine}-{workers}"
            words = [sys.executable, "-m", "ralm_jax.cli", "embed", "--run", str(folder / "run")]
            words += ["--out", str(out)]
            if engine == "beam":
                words += ["--runner", "beam", "--runner-option", f"direct_num_workers={workers}"]
            figures = timed(words)
            digests.add(digest(out))
            speed = round(size / figures["processor_seconds"])
            figures["passages_per_processor_second"] = speed
            runs.append({"engine": engine, "workers": workers, **figures})
            print(runs[-1], flush=True)
    return {"passages": size, "same_bytes": len(digests) == 1, "runs": runs}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("corpus", type=Path, help="a .jsonl.gz of documents")
    parser.add_argument("--documents", type=int, required=True)
    parser.add_argument("--note", action="append", default=[])
    arguments = parser.parse_args()
    result = {
        "command": "python experiments/bench/embed.py "
        f"{arguments.corpus.name} --documents {arguments.documents}",
        "commit": commit(),
        "hardware": hardware(),
        "load_average_at_start": round(os.getloadavg()[0], 2),
        "notes": arguments.note,
        "encoder": {"hidden": SIZES.hidden, "layers": SIZES.layers, "passage_tokens": 288},
        **measure(arguments.corpus, arguments.documents),
    }
    RESULT.write_text(json.dumps(result, indent=1) + "\n", "utf-8")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
