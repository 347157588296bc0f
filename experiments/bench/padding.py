"""How much of what joint training reads is padding, on real corpora: on a CPU and on an accelerator.

    python -m experiments.bench.padding --out DIR --corpus NAME=CORPUS [--corpus NAME=CORPUS ...]

CORPUS is a prepared corpus. Clozes with random candidates are made as in training, and the widths are chosen
as there: of a query with 4 candidates on a CPU, of 64 queries with 8 on an accelerator. No model is run, so
this says nothing of time. Writes DIR/padding.json.
"""

import argparse
import functools
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from experiments.bench.step import LENGTHS, Timed, texts
from experiments.runner import exit_code, write
from experiments.saved import markdown, result
from ralm_jax.data.corpus import open_corpus
from ralm_jax.errors import UserError
from ralm_jax.examples import cloze_batches
from ralm_jax.losses import microbatch
from ralm_jax.models import parts

# Queries of a group, candidates, groups that are drawn.
CPU, ACCELERATOR = (1, 4, 400), (64, 8, 40)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--corpus", action="append", required=True, metavar="NAME=CORPUS")
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args(argv)
    return exit_code("bench.padding", functools.partial(_run, given))


def _run(given: argparse.Namespace) -> None:
    rows = []
    for word in given.corpus:
        name, equals, path = word.partition("=")
        if not equals:
            raise UserError(f"--corpus {word}: give NAME=CORPUS")
        rows.append({"corpus": name, **measured(Path(path))})
    given.out.mkdir(parents=True, exist_ok=True)
    words = "".join(f" --corpus {row['corpus']}=CORPUS" for row in rows)
    command = f"python -m experiments.bench.padding --out DIR{words}"
    write(given.out / "padding.json", result(command, longest=LENGTHS.joint, rows=rows))
    print(table(rows))


def measured(path: Path) -> dict[str, Any]:
    """Mean wordpieces of a query with a candidate, and the mean widths that they are read at."""
    corpus = open_corpus(path)
    needed = cloze_batches.needed(corpus, LENGTHS, titles=True)
    longest = LENGTHS.joint
    queries, k, groups = CPU
    widths = np.array(microbatch.widths(needed, queries * (k - 1), longest))
    given = [texts(Timed("", "real_lengths", path, queries, k), seed) for seed in range(groups)]
    alone = [widths[np.searchsorted(widths, int(batch.used()))] for batch in given]
    lengths = np.concatenate([(batch.joint.tokens[:, 1:] != 0).sum(-1).ravel() for batch in given])
    queries, k, groups = ACCELERATOR
    chosen = microbatch.part_widths(needed, queries * (k - 1), longest)
    given = [texts(Timed("", "real_lengths", path, queries, k), seed) for seed in range(groups)]
    fit = [bool(chosen) and bool(parts.fits(batch, chosen)) for batch in given]
    read = [float(np.mean(chosen)) if fits else float(longest) for fits in fit]
    return {
        "passages": corpus.size,
        "wordpieces": round(float(lengths.mean()), 1),
        "cpu": {"widths": widths.tolist(), "read": round(float(np.mean(alone)), 1)},
        "accelerator": {
            "widths": list(chosen),
            "groups_that_fit": round(float(np.mean(fit)), 3),
            "read": round(float(np.mean(read)), 1),
        },
    }


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Beside the longest there may be, which is what would be read otherwise."""
    heads = [
        "corpus",
        "wordpieces of a text",
        "read on a CPU",
        "read on an accelerator",
        "in parts of",
    ]
    lines = [
        [
            row["corpus"], f"{row['wordpieces']:.0f}", f"{row['cpu']['read']:.0f}",
            f"{row['accelerator']['read']:.0f}", ", ".join(map(str, row["accelerator"]["widths"])),
        ]
        for row in rows
    ]  # fmt: skip
    return markdown(heads, lines)


if __name__ == "__main__":
    sys.exit(main())
