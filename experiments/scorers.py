"""What a scorer knows about passages: its list beside the reader's, on held-out sentences.

    python -m experiments.scorers --out FILE RUN [RUN ...]

Each RUN is a pretraining run with a scorer (tasks/scorer.gin, or an objective of `distillation`). A scorer
teaches the retriever what it has learnt itself: if its list is flat, it teaches indifference.
"""

import argparse
import functools
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from experiments.runner import exit_code
from experiments.saved import result
from ralm_jax.batches import ClozeBatch
from ralm_jax.errors import UserError
from ralm_jax.evaluation.cloze import measure_clozes
from ralm_jax.inference.open_run import OpenRun
from ralm_jax.losses import marginal, objectives
from ralm_jax.models.ralm import Ralm
from ralm_jax.runs import directory

# K, the null passage included, as in experiments.objectives.
CANDIDATES = 6
SENTENCES = 600


@functools.partial(jax.jit, static_argnames="model")
def beside(model: Ralm, params: dict, batch: ClozeBatch) -> dict[str, tuple]:
    """{name: (sum, count)} over the clozes of a batch that have a masked token.

    scorer_agrees, retriever_agrees: the candidate that each puts first is the one from which the reader
    predicts best (chance: 1/K). to_scorer, to_flat: KL(reader's list || the scorer's, or a flat one), nats.
    """
    call: Any = functools.partial(model.apply, {"params": params})
    scores, log_likelihood = call(batch, False)
    prior = marginal.log_prior(scores, batch.valid)  # [B,K]
    scorer = marginal.log_prior(call(batch.joint, False, method="rerank"), batch.valid)
    flat = marginal.log_prior(jnp.zeros_like(scores), batch.valid)
    return lists(prior, scorer, flat, log_likelihood, batch.weights)


def lists(prior, scorer, flat, log_likelihood, weights) -> dict[str, tuple]:
    """The figures of `beside`: log-probabilities [B,K] three times, [B,K,M], [B,M]."""
    likelihood, valid = objectives.spans(prior, log_likelihood, weights)
    target = objectives.readers_list(likelihood, valid, weights, 1.0)
    asked = weights.any(-1)
    best = jnp.where(valid, likelihood, -jnp.inf).argmax(-1)
    entropy = -jnp.where(valid, jnp.exp(scorer) * scorer, 0.0).sum(-1)
    found = {
        "scorer_agrees": scorer.argmax(-1) == best,
        "retriever_agrees": prior.argmax(-1) == best,
        "scorer_entropy": entropy,
        "to_scorer": objectives.divergence_from(target, scorer),
        "to_flat": objectives.divergence_from(target, flat),
    }
    return {name: (jnp.where(asked, x, 0.0).sum(), asked.sum()) for name, x in found.items()}


def measured(run: Path) -> dict[str, Any]:
    """All figures of a run. Raises UserError where it has no scorer."""
    opened = OpenRun.open(run)
    if not isinstance(opened.model, Ralm) or not opened.model.with_scorer:
        raise UserError(f"{run} has no scorer: train one with tasks/scorer.gin")
    found = measure_clozes(opened, candidates=CANDIDATES, limit=SENTENCES, measure=beside)
    seed = directory.read_record(run)["seed"]
    return {"run": "/".join(run.parts[-2:]), "step": opened.step, "seed": seed, **found}


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args(argv)

    def start() -> None:
        rows = [measured(run) for run in options.runs]
        options.out.parent.mkdir(parents=True, exist_ok=True)
        command = "python -m experiments.scorers --out FILE RUN ..."
        options.out.write_text(result(command, rows=rows), "utf-8")
        for row in rows:
            figures = {k: round(v, 3) for k, v in row.items() if isinstance(v, float)}
            print(row["run"], figures)

    return exit_code("scorers", start)


if __name__ == "__main__":
    sys.exit(main())
