"""Weights between a start and an end of training: what questions and what label-free probes make of them.

    python -m experiments.shares --out DIR --questions QUESTIONS --run NAME=RUN [--run NAME=RUN ...]
        [--shares 0,0.25,0.5,1] [--size 1000]

Each RUN was trained from one start on one corpus, by a configuration that selects (runs/domain.gin). Of every
share of the way, QUESTIONS with gold passages are ranked among `size` passages, theirs included, and so are
titles and windows of held-out passages. Writes DIR/shares.md and DIR/shares.json.
"""

import argparse
import dataclasses
import functools
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from experiments.runner import exit_code, write
from experiments.saved import Saved, markdown, result
from ralm_jax.errors import UserError
from ralm_jax.evaluation.retrieval import Relevance
from ralm_jax.inference.open_run import OpenRun
from ralm_jax.questions.read import read_questions
from ralm_jax.runs import directory
from ralm_jax.selection import interpolation, titles
from ralm_jax.selection.interpolation import Interpolation, Probe

# What BM25 weighs beside the dense score, as shipped (LEXICAL_WEIGHT).
WEIGHT = 7.5


def main(argv: Sequence[str] | None = None) -> int:
    given = _parser().parse_args(argv)
    return exit_code("shares", functools.partial(_run, given, argv))


def _run(given: argparse.Namespace, argv: Sequence[str] | None) -> None:
    rows: Saved = []
    given.out.mkdir(parents=True, exist_ok=True)
    words = shlex.join(str(word) for word in (sys.argv[1:] if argv is None else argv))
    for name, run in map(_named, given.run):
        record = directory.read_record(run)
        if not record.get("began_from"):
            raise UserError(
                f"--run {name}: {run} began from no other run, so there is no way from it"
            )
        ended = OpenRun.open(run, stage=record["stages"][-1])
        start = OpenRun.open(record["began_from"], ended.corpus.path)
        probes = probes_of(ended, given.questions, given.size)
        for share in given.shares:
            rows.append({"run": name, "share": share, **measured(start, ended, share, probes)})
            command = f"python -m experiments.shares {words}"
            write(given.out / "shares.json", result(command, seeds=[record["seed"]], rows=rows))
            write(given.out / "shares.md", table(rows))
    print(table(rows))


def probes_of(ended: OpenRun, questions: Path, size: int) -> dict[str, Probe]:
    """Questions, windows of held-out passages, and titles where the corpus has enough."""
    asked, rng = read_questions(questions).asked, np.random.default_rng(0)
    gold = Relevance(ended.corpus, asked).gold
    # As many as leave room for other passages.
    known = [i for i in rng.permutation(len(asked)) if gold[i]][: 2 * size // 5]
    if not known:
        raise UserError(f"{questions}: no question has a gold passage in {ended.corpus.path}")
    wanted = np.array(sorted(set().union(*(gold[i] for i in known))))
    others = rng.permutation(np.setdiff1d(np.arange(ended.corpus.size), wanted))
    pool = np.concatenate([wanted, others[: max(0, size - len(wanted))]]).astype(int)
    text = ended.encode([asked[i].question for i in known])
    found = {"questions": Probe(text, [gold[i] for i in known], pool, "questions")}
    select = Interpolation(size=size, pool=size)
    found["windows"] = select.probe(ended.corpus, ended.lengths, ended.held_out)
    named = titles.probe(ended.corpus, ended.lengths, size)
    return found | ({"titles": named} if named else {})


def measured(
    start: OpenRun, ended: OpenRun, share: float, probes: dict[str, Probe]
) -> dict[str, Any]:
    """Mean reciprocal rank of each probe; of questions also how many have a gold passage among five."""
    params = interpolation.kept(start.params, ended.params, share)
    # Without a path, nothing is looked for in a cache.
    opened = dataclasses.replace(ended, params=params, path=None, source=ended.corpus)
    found: dict[str, Any] = {}
    for name, probe in probes.items():
        dense = interpolation.similarities(opened, probe)
        ranks = interpolation.reciprocal_ranks(dense, probe)
        found[name] = {"queries": len(ranks), "mrr": float(ranks.mean())}
        if name == "questions":
            mixed = dense + WEIGHT * interpolation.lexical_scores(opened, probe)
            ranked = {"dense": ranks, "mixed": interpolation.reciprocal_ranks(mixed, probe)}
            found[name] |= {f"{of}@5": float((r >= 0.2).mean()) for of, r in ranked.items()}
    return found


def table(rows: Saved) -> str:
    """A line for each share of each run; titles and windows are what could choose without labels."""
    lines = []
    for row in rows:
        asked = row["questions"]
        values = [asked["dense@5"], asked["mixed@5"], asked["mrr"]]
        values += [row[name]["mrr"] if name in row else None for name in ("titles", "windows")]
        cells = ["" if value is None else f"{100 * value:.1f}" for value in values]
        lines.append([row["run"], f"{row['share']:.0%}", *cells])
    head = ["run", "of the way", "questions, dense@5", f"with BM25 at {WEIGHT}", "MRR"]
    return markdown([*head, "MRR of titles", "MRR of windows"], lines)


def _named(word: str) -> tuple[str, Path]:
    """NAME=RUN. Raises UserError for anything else."""
    name, _, run = word.partition("=")
    if not name or not run:
        raise UserError(f"--run {word}: write it as NAME=RUN")
    return name, Path(run)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="experiments.shares",
        description=__doc__,
        formatter_class=argparse.RawTextHelpFormatter,
    )
    parser.add_argument("--out", type=Path, required=True, metavar="DIR")
    parser.add_argument("--questions", type=Path, required=True, metavar="FILE")
    parser.add_argument("--run", action="append", required=True, metavar="NAME=RUN")
    numbers = lambda text: [float(part) for part in text.split(",")]  # noqa: E731
    parser.add_argument("--shares", type=numbers, default=[0.0, 0.25, 0.5, 1.0])
    parser.add_argument("--size", type=int, default=1000)
    return parser


if __name__ == "__main__":
    sys.exit(main())
