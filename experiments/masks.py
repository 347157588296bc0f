"""Why random masks ruin the retriever on almanac: by what they ask, or by a reader that never learns to read?

    python -m experiments.masks --out DIR [--seeds 0,1,2] [--dry-run]

Joint training with each kind of masks starts from two warm-ups: one with the same masks (rows of
experiments.table2, made once in DIR) and one with salient spans, after which the reader does read. The table
also shows how many of the masked wordpieces lie in a salient span. Rows are saved in DIR/masks. Writes
DIR/masks.md and DIR/masks.json.
"""

import argparse
import functools
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from experiments import pipeline
from experiments.rows import Row, Training
from experiments.runner import run
from experiments.saved import Saved, markdown, percent
from experiments.setting import ALMANAC, Setting
from ralm_jax import gin_config
from ralm_jax.data.corpus import open_corpus
from ralm_jax.examples import cloze_batches
from ralm_jax.runs.writers import metrics_file, read_metrics

MASKS = {"salient": "salient_span", "span": "random_span", "uniform": "random_uniform"}
# The runs of Table 2 with these masks throughout.
RUNS = {"salient": "realm", "span": "span", "uniform": "uniform"}
# The masks of joint training, and of the warm-up before it.
ROWS = [("salient", "salient"), *((m, w) for m in ("span", "uniform") for w in (m, "salient"))]
# Sentences whose masked wordpieces are counted.
LIMIT = 2000


def rows(settings: Sequence[Setting], options: argparse.Namespace) -> list[Row]:
    return [row(setting, mask, warm) for setting in settings for mask, warm in ROWS]


def row(setting: Setting, mask: str, warm: str) -> Row:
    return Row(
        name=f"{mask}-{warm}-{setting.seed}",
        label=f"{mask} masks after {warm}, seed {setting.seed}",
        model=setting.model(),
        trainings=chain(setting, mask, warm),
        finetuning=None,
        make=lambda: make(setting, mask, warm),
    )


def chain(setting: Setting, mask: str, warm: str) -> list[Training]:
    """What is to be trained; `warm`: the masks of the warm-up."""
    if warm == mask:
        return setting.chain(RUNS[mask])
    *before, joint = setting.chain("realm")
    changes = [*joint.changes, f"MASK = @masking.{MASKS[mask]}"]
    return [*before, joint._replace(run=setting.run(f"{mask}_after_salient"), changes=changes)]


def make(setting: Setting, mask: str, warm: str) -> dict[str, Any]:
    """Trains what is missing and measures."""
    trainings = chain(setting, mask, warm)
    seconds = pipeline.pretrained_all(trainings)
    # A warm-up is a run of its own, or the first stage of the run of random masks.
    warmed = next(t for t in trainings if t.run.name in ("warmup", RUNS[mask]))
    after, end = _last(warmed, "warmup"), _last(trainings[-1], "realm")
    recall = pipeline.zero_shot(trainings[-1].run, setting.data.dev)
    return {
        "mask": mask,
        "warm": warm,
        "seed": setting.seed,
        "in_salient_spans": in_salient_spans(setting.data.corpus, trainings[-1]),
        "utility_warmed": after["retrieval_utility"],
        "utility": end["retrieval_utility"],
        "entropy": end["prior_entropy"],
        "recall@5": recall["holds_answer"]["recall"]["5"],
        "seconds": seconds,
    }


def _last(training: Training, stage: str) -> dict[str, Any]:
    """The last line of the log of a stage."""
    lines = read_metrics(metrics_file(training.run))
    return [line for line in lines if line["stage"] == stage and "loss" in line][-1]


def in_salient_spans(corpus_path: Path, last: Training) -> float:
    """Share of the masked wordpieces that are part of a salient span."""
    task = gin_config.bindings("pretrain.pretrain", last.config, last.changes)["stages"][-1].task
    corpus = open_corpus(corpus_path)
    sentences = np.flatnonzero(cloze_batches.with_span(corpus, task.lengths.query))[:LIMIT]
    numbers = np.arange(len(sentences))
    asked = cloze_batches.clozes(corpus, sentences, numbers, task.mask, task.lengths, seed=0)
    inside = total = 0
    for sentence, positions, weights in zip(sentences, asked.positions, asked.weights, strict=True):
        start = int(corpus.sentences[sentence, 1])
        spans = corpus.spans[cloze_batches.span_rows(corpus, sentence)]
        covered = {p - start for _, begin, end, *_ in spans for p in range(begin, end)}
        masked = [int(p) - 1 for p, w in zip(positions, weights, strict=True) if w]
        inside, total = inside + len(covered.intersection(masked)), total + len(masked)
    return inside / total


def table(saved: Saved) -> str:
    """Mean and range over seeds."""
    lines = []
    for mask, warm in ROWS:
        own = [r for r in saved if (r["mask"], r["warm"]) == (mask, warm)]
        cells = ["", "", "", "not run"]
        if own:
            cells = [f"{np.mean([r['in_salient_spans'] for r in own]):.0%}"]
            cells += [f"{np.mean([r[k] for r in own]):.2f}" for k in ("utility_warmed", "utility")]
            cells.append(percent([r["recall@5"] for r in own]))
        lines.append([mask, warm, *cells])
    head = ["masks", "masks of the warm-up", "masked pieces in salient spans"]
    head += ["utility after warm-up, nats", "utility at the end, nats", "recall@5"]
    return markdown(head, lines)


main = functools.partial(run, "masks", rows, table, usage=__doc__, scales=(ALMANAC,))

if __name__ == "__main__":
    sys.exit(main())
