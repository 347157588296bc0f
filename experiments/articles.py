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
import gzip
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from ralm_jax.errors import UserError

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

    Raises UserError: no such file, a line that is no JSON object, one without the field.
    """
    if not path.is_file():
        raise UserError(f"there is no file {path}")
    records = []
    with gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else path.open() as lines:
        for number, line in enumerate(lines, 1):
            try:
                record = json.loads(line)
            except ValueError:
                raise UserError(f"{path}, line {number}: not JSON") from None
            if not isinstance(record, dict) or field not in record:
                raise UserError(f"{path}, line {number}: no field {field!r}")
            records.append(record)
    return records


def write(path: Path, records: Sequence[dict]) -> None:
    text = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)
    if path.suffix == ".gz":
        path.write_bytes(gzip.compress(text.encode(), mtime=0))
    else:
        path.write_text(text, "utf-8")


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
    write(told.out / "corpus.jsonl.gz", kept)
    for name, questions in asked.items():
        write(told.out / f"{name}.jsonl", questions)
    counts = ", ".join(f"{len(questions):,} to {name}" for name, questions in asked.items())
    print(f"{told.out}: {len(chosen):,} articles, {len(kept):,} passages; questions: {counts}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
