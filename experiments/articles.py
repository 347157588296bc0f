"""A part of a large corpus for a small machine: the articles that answer most of some questions.

    python -m experiments.articles --corpus corpus.jsonl.gz --train FILE ... --dev FILE ... --out DIR
        [--articles 200]

Passages have `id` (article-hash-number), `title` and `text`; questions have a field `bm25_hits_wiki9k`: of
the first passages that BM25 finds, the ids of those that have an answer. Writes DIR/corpus.jsonl.gz, all
passages of the articles with hits for most training questions, and DIR/train.jsonl and DIR/dev.jsonl, the
questions with a hit in these articles. Choosing by BM25 leans towards BM25.
"""

import argparse
import collections
import sys
from collections.abc import Sequence
from pathlib import Path

from experiments.datasets import write_records
from experiments.runner import exit_code
from ralm_jax.errors import UserError
from ralm_jax.formats.json_records import json_records

HITS = "bm25_hits_wiki9k"


def article(passage: str) -> str:
    """The article of a passage: its id without the number."""
    return passage.rpartition("-")[0]


def most_hit(questions: Sequence[dict], articles: int) -> set[str]:
    """The articles with hits for most questions; an article counts once for a question."""
    hit = collections.Counter(name for q in questions for name in {article(i) for i in q[HITS]})
    return {name for name, _ in hit.most_common(articles)}


def hit_in(questions: Sequence[dict], chosen: set[str]) -> list[dict]:
    return [q for q in questions if any(article(i) in chosen for i in q[HITS])]


def read(path: Path, field: str) -> list[dict]:
    """Records of a file of JSON lines, gzipped or not, each with `field`.

    Raises UserError where a file cannot be read, or a line is not a JSON object or lacks the field.
    """
    records = []
    for where, record in json_records(path):
        if not isinstance(record, dict) or field not in record:
            raise UserError(f"{where}: no field {field!r}")
        records.append(record)
    return records


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--corpus", type=Path, required=True)
    parser.add_argument("--train", type=Path, nargs="+", required=True)
    parser.add_argument("--dev", type=Path, nargs="+", required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--articles", type=int, default=200)
    options = parser.parse_args(argv)
    return exit_code("articles", lambda: write_part(options))


def write_part(options: argparse.Namespace) -> None:
    """Writes the part of a corpus that the options ask for. Raises UserError as `read`."""
    passages = read(options.corpus, "id")
    train = [question for file in options.train for question in read(file, HITS)]
    dev = [question for file in options.dev for question in read(file, HITS)]
    chosen = most_hit(train, options.articles)
    part = [passage for passage in passages if article(passage["id"]) in chosen]
    asked = {"train": hit_in(train, chosen), "dev": hit_in(dev, chosen)}
    options.out.mkdir(parents=True, exist_ok=True)
    write_records(options.out / "corpus.jsonl.gz", part)
    for name, questions in asked.items():
        write_records(options.out / f"{name}.jsonl", questions)
    counts = ", ".join(f"{len(questions):,} to {name}" for name, questions in asked.items())
    print(f"{options.out}: {len(chosen):,} articles, {len(part):,} passages; questions: {counts}")


if __name__ == "__main__":
    sys.exit(main())
