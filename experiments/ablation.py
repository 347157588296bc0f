"""What the tables are made of: pretraining runs, halves of two runs put together, fine-tuning, measuring.

Everything lies in one folder and is made once: a run that is there is gone on with, or taken as it is.
"""

import gzip
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from experiments.record import summary
from ralm_jax import gin_config
from ralm_jax.batches import Lengths
from ralm_jax.data import almanac
from ralm_jax.data.almanac import World
from ralm_jax.data.cutting import fact_group
from ralm_jax.data.prepare import prepare
from ralm_jax.errors import UserError
from ralm_jax.evaluation import retrieval
from ralm_jax.evaluation.cloze import KS
from ralm_jax.examples import cloze_batches
from ralm_jax.examples.question_sources import read_questions
from ralm_jax.inference.open_run import OpenRun
from ralm_jax.inference.vector_cache import corpus_vectors
from ralm_jax.models.ralm import Ralm
from ralm_jax.runs import directory
from ralm_jax.runs.checkpoint import Checkpoints
from ralm_jax.runs.writers import metrics_file, read_metrics
from ralm_jax.training import finetune

HELD_OUT = 0.2  # of the facts of an almanac, as runs/quickstart.gin
VOCABULARY = 2000  # wordpieces of an almanac


class Data(NamedTuple):
    """What a row is trained on and measured with."""

    corpus: Path
    train: Path
    select: Path  # questions that choose the step of fine-tuning that is kept
    dev: Path  # questions that are reported
    asked: Path | None  # the corpus X of the row X != Z


class Training(NamedTuple):
    """A pretraining run: made once, whatever rests on it."""

    run: Path
    config: str
    corpus: Path
    start: Path | None = None  # the run whose parameters it begins with
    changes: Sequence[str] = ()  # to the configuration


def almanac_data(out: Path, seed: int, world: World = World()) -> Data:  # noqa: B008
    """A world of its own for each seed. Reported: questions about facts that pretraining never asks for.

    X is another edition: the same facts in other passages and words.
    """
    folder = out / f"world{seed}"
    folder.mkdir(parents=True, exist_ok=True)
    made = almanac.generate(world, seed)
    asked = np.array([fact_group(q["id"]) for q in made.questions], np.uint64)
    unasked = cloze_batches.held_out(asked, HELD_OUT)
    parts: dict[str, list[dict]] = {"train": [], "dev": []}
    for question, kept in zip(made.questions, unasked, strict=True):
        parts["dev" if kept else "train"].append(question)
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
    """Files of one's own; one question in ten of `train` selects."""
    out.mkdir(parents=True, exist_ok=True)
    questions = read_questions(train).asked
    kept: dict[str, list[dict]] = {"train": [], "select": []}
    for number, q in enumerate(questions):
        record = {"id": q.id, "question": q.question, "answers": q.answers, "regex": q.patterns}
        kept["select" if number % 10 == 0 else "train"].append(record)
    files = {name: write_records(out / f"{name}.jsonl", lines) for name, lines in kept.items()}
    return Data(corpus, **files, dev=dev, asked=asked)


def write_records(path: Path, records: Sequence[dict]) -> Path:
    """JSON lines, gzipped where the name says so; the same records are the same bytes."""
    text = "".join(json.dumps(record) + "\n" for record in records)
    if path.suffix == ".gz":
        path.write_bytes(gzip.compress(text.encode(), mtime=0))
    else:
        path.write_text(text, "utf-8")
    return path


def ralm(*words: object) -> None:
    """Runs the command line. What it says goes where this program's output goes."""
    subprocess.run([sys.executable, "-m", "ralm_jax.cli", *map(str, words)], check=True)


def trained(run: Path, stage: str, steps: int, *words: object) -> float:
    """Has the command line train a run, or go on with it, unless it is done; seconds of all its steps.

    Raises UserError where it was told to stop before the end.
    """
    if _reached(run, stage) < steps:
        ralm(*words)
    if (reached := _reached(run, stage)) < steps:
        raise UserError(
            f"{run} stopped at step {reached} of {steps}; the same command goes on from there"
        )
    stages = summary(read_metrics(metrics_file(run)))
    return sum(part["seconds"] for part in stages.values())


def _reached(run: Path, stage: str) -> int:
    folder = directory.checkpoint_folder(run, stage)
    if not folder.is_dir():
        return 0
    checkpoints = Checkpoints(folder)
    try:
        return checkpoints.latest() or 0
    finally:
        checkpoints.close()


def pretrained(training: Training) -> float:
    """Makes a run, or goes on with it; the seconds it was trained for."""
    last = gin_config.bindings("pretrain.pretrain", training.config, training.changes)["stages"][-1]
    told = [word for change in training.changes for word in ("--set", change)]
    begin = ["--init", training.start] if training.start else []
    words = ["--config", training.config, "--corpus", training.corpus, "--run", training.run]
    return trained(training.run, last.name, last.steps, "pretrain", *words, *begin, *told)


def combined(out: Path, retriever: Path, reader: Path) -> Path:
    """A run of the retriever of one and the reader of another, as they were left."""
    if directory.checkpoint_folder(out, "combined").is_dir():
        return out
    first, second = OpenRun.open(retriever), OpenRun.open(reader)
    assert isinstance(first.model, Ralm)
    corpus = directory.open_its_corpus(retriever, None)
    own = directory.read_record(retriever)
    parts = {name: own[name] for name in ("lengths", "held_out", "seed")}
    directory.describe(out, first.model, corpus, stages=["combined"], **parts)
    params = {"retriever": first.params["retriever"], "reader": second.params["reader"]}
    checkpoints = Checkpoints(directory.checkpoint_folder(out, "combined"))
    checkpoints.save(0, {"state": {"params": params}}, wait=True)
    checkpoints.close()
    return out


def zero_shot(run: Path, dev: Path) -> dict[str, Any]:
    """Recall and MRR on questions before any fine-tuning."""
    loaded, own = OpenRun.open(run), directory.read_record(run)
    corpus, questions = directory.open_its_corpus(run, None), read_questions(dev).asked
    lengths = Lengths(**own["lengths"])
    vectors = corpus_vectors(run, loaded, corpus, lengths)
    ranked = retrieval.rank(
        loaded.model, loaded.params, corpus, vectors, lengths, questions, max(KS)
    )
    return retrieval.Relevance(corpus, questions).score(ranked)


def answered(
    run: Path, out: Path, config: str, data: Data, changes: list[str], stage: str | None = None
) -> tuple[dict, float]:
    """Fine-tunes a run, from its last stage or `stage`, and measures it on the reported questions; the
    report, and the seconds of training.
    """
    told = [word for change in changes for word in ("--set", change)]
    told += ["--stage", stage] if stage else []
    words = ["--config", config, "--run", run, "--out", out]
    words += ["--train", data.train, "--dev", data.select]
    steps = gin_config.bindings("finetune.finetune", config, changes)["steps"]
    seconds = trained(out, finetune.STAGE, steps, "finetune", *words, *told)
    figures = out / "dev.json"
    ralm("evaluate", "--run", out, "--questions", data.dev, "--json", figures)
    log = [x for x in read_metrics(metrics_file(out)) if "eval/exact_match" in x]
    curve = [[x["step"], round(x["eval/exact_match"], 4)] for x in log]  # questions that select
    return {**json.loads(figures.read_text("utf-8")), "selecting": curve}, seconds
