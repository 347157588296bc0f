"""Why random masks ruin the retriever on almanac: is it what they ask, or a reader that never learnt to read?

    python -m experiments.masks --out DIR [--seeds 0,1,2] [--dry-run]

Joint training with each kind of masks from two warm-ups: one with the same masks (rows of experiments.table2,
made once in DIR) and one with salient spans, after which the reader reads. Beside it: how many of the masked
wordpieces lie in a salient span. Rows are kept in DIR/masks; writes DIR/masks.md and DIR/masks.json.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

import numpy as np

from experiments import ablation
from experiments.ablation import Training
from experiments.place import Place, model_of
from experiments.rows import Kept, Row, keep, percent, result
from ralm_jax import gin_config
from ralm_jax.data.corpus import open_corpus
from ralm_jax.examples import cloze_batches
from ralm_jax.runs.writers import metrics_file, read_metrics

REALM = "experiments/almanac/realm.gin"
MASKS = {"salient": "salient_span", "span": "random_span", "uniform": "random_uniform"}
ROW = {"salient": "realm", "span": "span", "uniform": "uniform"}  # of table2
LIMIT = 2000  # sentences of which masked wordpieces are counted


def chain(place: Place, mask: str, warm: str) -> list[Training]:
    """What is to be trained; `warm`: the masks of the warm-up."""
    if warm == mask:
        return place.chain(ROW[mask])
    *before, joint = place.chain("realm")
    changes = [*joint.changes, f"MASK = @masking.{MASKS[mask]}"]
    return [*before, joint._replace(run=place.run(f"{mask}_after_salient"), changes=changes)]


def in_salient_spans(corpus_path: Path, last: Training) -> float:
    """Share of the masked wordpieces that are part of a salient span."""
    task = gin_config.bindings("pretrain.pretrain", last.config, last.changes)["stages"][-1].task
    corpus = open_corpus(corpus_path)
    rows = np.flatnonzero(cloze_batches.with_span(corpus, task.lengths.query))[:LIMIT]
    asked = cloze_batches.clozes(
        corpus, rows, np.arange(len(rows)), task.mask, task.lengths, seed=0
    )
    inside = total = 0
    for row, positions, weights in zip(rows, asked.positions, asked.weights, strict=True):
        start = int(corpus.sentences[row, 1])
        own = corpus.spans[pipeline.span_rows(corpus, row)]
        covered = {p - start for _, begin, end, *_ in own for p in range(begin, end)}
        masked = [int(p) - 1 for p, w in zip(positions, weights, strict=True) if w]
        inside, total = inside + len(covered.intersection(masked)), total + len(masked)
    return inside / total


def row(place: Place, mask: str, warm: str) -> Row:
    def make() -> dict[str, Any]:
        trainings = chain(place, mask, warm)
        seconds = {t.run.name: round(ablation.pretrained(t), 1) for t in trainings}
        last, warmed = trainings[-1], [t for t in trainings if t.run.name in ("warmup", ROW[mask])]
        log = [x for x in read_metrics(metrics_file(last.run)) if x["stage"] == "realm"]
        log = [x for x in log if "loss" in x]
        before = [x for x in read_metrics(metrics_file(warmed[0].run)) if x["stage"] == "warmup"]
        before = [x for x in before if "loss" in x]
        found = ablation.zero_shot(last.run, place.data.dev)
        return {
            "mask": mask,
            "warm": warm,
            "seed": place.seed,
            "in_salient_spans": in_salient_spans(place.data.corpus, last),
            "utility_warmed": before[-1]["retrieval_utility"],
            "utility": log[-1]["retrieval_utility"],
            "entropy": log[-1]["prior_entropy"],
            "recall@5": found["holds_answer"]["recall"]["5"],
            "seconds": seconds,
        }

    name, label = f"{mask}-{warm}-{place.seed}", f"{mask} masks after {warm}, seed {place.seed}"
    return Row(name, label, model_of(place), chain(place, mask, warm), None, make)


PAIRS = [("salient", "salient"), *((m, w) for m in ("span", "uniform") for w in (m, "salient"))]


def table(rows: Kept) -> str:
    """Markdown: mean and range over seeds."""
    head = ["masks", "masks of the warm-up", "masked pieces in salient spans"]
    head += ["utility after warm-up, nats", "utility at the end, nats", "recall@5"]
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    for mask, warm in PAIRS:
        own = [r for r in rows if (r["mask"], r["warm"]) == (mask, warm)]
        cells = ["", "", "", "not run"]
        if own:
            cells = [f"{np.mean([r['in_salient_spans'] for r in own]):.0%}"]
            cells += [f"{np.mean([r[k] for r in own]):.2f}" for k in ("utility_warmed", "utility")]
            cells.append(percent([r["recall@5"] for r in own]))
        lines.append(f"| {mask} | {warm} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--dry-run", action="store_true")
    arguments = parser.parse_args()
    out, wanted = arguments.out, []
    for seed in map(int, arguments.seeds.split(",")):
        place = Place("almanac", out, seed, ablation.almanac_data(out, seed), None)
        wanted += [row(place, mask, warm) for mask, warm in PAIRS]
    told = f"python -m experiments.masks --seeds {arguments.seeds} --out DIR"

    def write(rows: Kept) -> None:
        (out / "masks.json").write_text(result(told, rows=rows), "utf-8")
        (out / "masks.md").write_text(table(rows), "utf-8")

    keep(wanted, out / "masks", arguments.dry_run, write)
    if not arguments.dry_run:
        print((out / "masks.md").read_text("utf-8"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
