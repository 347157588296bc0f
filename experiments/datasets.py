"""Corpora and questions that rows are trained on and measured with."""

import gzip
import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ralm_jax.data.cutting import fact_group
from ralm_jax.data.prepare import prepare
from ralm_jax.examples import cloze_batches
from ralm_jax.questions.read import read_questions
from ralm_jax.sources import almanac
from ralm_jax.sources.almanac import World

# Share of the facts of an almanac that pretraining never asks about, as in runs/quickstart.gin.
HELD_OUT = 0.2
# Wordpieces of an almanac.
VOCABULARY = 2000


class Data(NamedTuple):
    """What a row is trained on and measured with.

    Attributes:
      corpus: to retrieve from (Z).
      train: questions of fine-tuning.
      select: questions that choose which step of fine-tuning is reported.
      dev: questions that are reported.
      asked: the corpus X of the row X != Z.
    """

    corpus: Path
    train: Path
    select: Path
    dev: Path
    asked: Path | None


def almanac_data(out: Path, seed: int, world: World = World()) -> Data:  # noqa: B008
    """A world for each seed. The questions reported are about facts that pretraining never asks about.

    X is another edition: the same facts in other passages and words.
    """
    folder = out / f"world{seed}"
    folder.mkdir(parents=True, exist_ok=True)
    made = almanac.generate(world, seed)
    facts = np.array([fact_group(q["id"]) for q in made.questions], np.uint64)
    parts: dict[str, list[dict]] = {"train": [], "dev": []}
    for question, unasked in zip(
        made.questions, cloze_batches.held_out(facts, HELD_OUT), strict=True
    ):
        parts["dev" if unasked else "train"].append(question)
    parts["select"] = parts["train"][seed % 10 :: 10]
    del parts["train"][seed % 10 :: 10]
    files = {name: write_records(folder / f"{name}.jsonl", lines) for name, lines in parts.items()}
    for name, edition, vocab in (("z", 0, None), ("x", 1, folder / "z" / "vocab.txt")):
        if not (folder / name).exists():
            documents = almanac.generate(world, seed, edition).documents
            source = write_records(folder / f"{name}.jsonl.gz", documents)
            prepare(
                str(source),
                folder / name,
                vocab_file=vocab,
                vocab_size=VOCABULARY,
                say=lambda line: None,
            )
    return Data(folder / "z", **files, asked=folder / "x")


def given_data(out: Path, corpus: Path, train: Path, dev: Path, asked: Path | None) -> Data:
    """Data from the user's own files. One question in ten of `train` selects."""
    out.mkdir(parents=True, exist_ok=True)
    parts: dict[str, list[dict]] = {"train": [], "select": []}
    for number, q in enumerate(read_questions(train).asked):
        record = {"id": q.id, "question": q.question, "answers": q.answers, "regex": q.patterns}
        parts["select" if number % 10 == 0 else "train"].append(record)
    files = {name: write_records(out / f"{name}.jsonl", lines) for name, lines in parts.items()}
    return Data(corpus, **files, dev=dev, asked=asked)


def write_records(path: Path, records: Sequence[dict]) -> Path:
    """JSON lines, gzipped where the name says so; the same records give the same bytes."""
    text = "".join(json.dumps(record) + "\n" for record in records)
    if path.suffix == ".gz":
        path.write_bytes(gzip.compress(text.encode(), mtime=0))
    else:
        path.write_text(text, "utf-8")
    return path
