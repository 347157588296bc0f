"""A part of a large corpus that a small machine can take: the articles that answer most of some questions.

    python -m experiments.articles --corpus corpus.jsonl.gz --train FILE ... --dev FILE ... --out DIR
        [--articles 200]

Passages have `id` (article-hash-number), `title`, `text`; questions a field `bm25_hits_wiki9k`, ids of the
passages that hold an answer, of the first that BM25 finds. Writes DIR/corpus.jsonl.gz, all passages of the
articles that most questions of the training files hit, and DIR/train.jsonl and DIR/dev.jsonl, the questions
that hit these. What is chosen by BM25 leans towards BM25.
"""

import argparse
import collections
import sys
import zlib
from collections.abc import Sequence
from pathlib import Path

from experiments.ablation import write_records
from ralm_jax.errors import UserError
from ralm_jax.examples.question_sources import json_lines

HITS = "bm25_hits_wiki9k"


def article(passage: str) -> str:
    """Whose passage it is, by its id without the number."""
    return passage.rpartition("-")[0]


def most_hit(questions: Sequence[dict], articles: int) -> set[str]:
    """The articles that answer most questions; each counts once for a question."""
    hit = collections.Counter(name for q in questions for name in {article(i) for i in q[HITS]})
    return {name for name, _ in hit.most_common(articles)}


def hit_in(questions: Sequence[dict], chosen: set[str]) -> list[dict]:
    return [q for q in questions if any(article(i) in chosen for i in q[HITS])]


def read(path: Path, field: str) -> list[dict]:
    """Records of a file of JSON lines, gzipped or not, each with `field`.

    Raises UserError: no file that can be read, a line that is no JSON object, one without the field.
    """
    records = []
    try:
        for place, record in json_lines(path):
            if not isinstance(record, dict) or field not in record:
                raise UserError(f"{place}: no field {field!r}")
            records.append(record)
    except (OSError, EOFError, UnicodeDecodeError, zlib.error) as error:
        raise UserError(f"{path} cannot be read: {error}") from None
    return records


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--corpus", type=Path, required=True)
    parser.add_argument("--train", type=Path, nargs="+", required=True)
    parser.add_argument("--dev", type=Path, nargs="+", required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--articles", type=int, default=200)
    told = parser.parse_args()
    try:
        passages = read(told.corpus, "id")
        train, dev = ([q for f in files for q in read(f, HITS)] for files in (told.train, told.dev))
    except UserError as error:
        print(f"articles: {error}", file=sys.stderr)
        return 2
    chosen = most_hit(train, told.articles)
    kept = [passage for passage in passages if article(passage["id"]) in chosen]
    asked = {"train": hit_in(train, chosen), "dev": hit_in(dev, chosen)}
    told.out.mkdir(parents=True, exist_ok=True)
    write_records(told.out / "corpus.jsonl.gz", kept)
    for name, questions in asked.items():
        write_records(told.out / f"{name}.jsonl", questions)
    counts = ", ".join(f"{len(questions):,} to {name}" for name, questions in asked.items())
    print(f"{told.out}: {len(chosen):,} articles, {len(kept):,} passages; questions: {counts}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
