"""How well a reader reads real text: clozes that runs/teach.gin has read and did not learn to read by.

    python -m experiments.reads RUN CORPUS --out DIR

Of lists that hold passages with the span and without it: how often the likeliest passage has the span, beside
chance; and what the likeliest passage that has it adds to the query alone. Writes DIR/reads.json.
"""

import argparse
import functools
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from experiments.runner import exit_code, write
from experiments.saved import result
from ralm_jax import gin_config
from ralm_jax.data.corpus import open_corpus
from ralm_jax.errors import UserError
from ralm_jax.examples import cloze_batches
from ralm_jax.runs import directory
from ralm_jax.runs.checkpoint import Checkpoints
from ralm_jax.training.read_clozes import spans_told

STAGE = "teach"


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("run", type=Path, metavar="RUN")
    parser.add_argument("corpus", type=Path, metavar="CORPUS")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR")
    given = parser.parse_args(argv)
    return exit_code("reads", functools.partial(_run, given))


def _run(given: argparse.Namespace) -> None:
    configured = gin_config.pretraining(str(given.run / "config.gin"))
    task, trained = configured["stages"][-1].task, _trained_on(str(given.run / "config.gin"))
    corpus = open_corpus(given.corpus)
    checkpoints = Checkpoints(directory.checkpoint_folder(given.run, STAGE))
    if (step := checkpoints.latest()) is None:
        raise UserError(f"{given.run} has no checkpoint of the stage {STAGE}")
    pool = checkpoints.load(step)["loader"]
    asks = task.recurring(corpus).corpus if task.recurring else corpus
    rows = task.queries(corpus, configured["held_out"]).rows
    drawn = cloze_batches.draw(rows, configured["seed"], 0, task.clozes)
    asked = task.ask(asks, *drawn, configured["seed"])
    # The stage that taught the reader drew from the same order.
    fresh = np.arange(trained, task.clozes)
    asked = cloze_batches.taken(asked, fresh)
    found, read = (np.asarray(pool[name])[fresh] for name in ("found", "likelihood"))
    has = spans_told(corpus, asked, found).sum(-1) == 0
    figures = {"clozes": len(fresh), **reading(found, (read * asked.weights[:, None]).sum(-1), has)}
    figures["tokens_a_span"] = float(asked.weights.sum() / len(fresh))
    command = "python -m experiments.reads RUN CORPUS --out DIR"
    write(given.out / "reads.json", result(command, seeds=[configured["seed"]], rows=[figures]))
    print("\n".join(f"{name}: {value:.3f}" for name, value in figures.items()))


def _trained_on(config: str) -> int:
    """Clozes that taught the reader, whether in this run or, by the same settings, in another."""
    changes = ["pretrain.pretrain.stages = [@read/schedule.Stage()]"]
    schedule = gin_config.pretraining(config, changes)["stages"][0].schedule
    return schedule.steps * schedule.batch


def reading(found: np.ndarray, likelihood: np.ndarray, has: np.ndarray) -> dict[str, Any]:
    """Candidate rows [n,K], null first; log p(y|z,x) of spans [n,K]; which candidates have the span."""
    there = found[:, 1:] >= 0
    has, likelihood, null = has[:, 1:] & there, likelihood[:, 1:], likelihood[:, 0]
    mixed = has.any(1) & (~has & there).any(1)
    likeliest = np.where(there, likelihood, -np.inf).argmax(1)
    held = has[np.arange(len(has)), likeliest]
    some = has.any(1)
    best = np.where(has, likelihood, -np.inf).max(1)[some] - null[some]
    return {
        "mixed_lists": float(mixed.mean()),
        "likeliest_holds": float(held[mixed].mean()),
        "holds_by_chance": float((has.sum(1) / there.sum(1).clip(1))[mixed].mean()),
        "nats_a_span_of_the_best_holder": float(best.mean()),
    }


if __name__ == "__main__":
    sys.exit(main())
