"""The embedded demonstration: the whole chain on *almanac*, in minutes, without network or accelerator."""

import functools
import gzip
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from ralm_jax import terminal
from ralm_jax.data.corpus import Corpus, open_corpus
from ralm_jax.data.cutting import fact_group
from ralm_jax.data.prepare import prepare
from ralm_jax.errors import UserError
from ralm_jax.evaluation.cloze import measure_clozes
from ralm_jax.examples import cloze_batches
from ralm_jax.inference.open_run import OpenRun
from ralm_jax.metrics.means import Mean
from ralm_jax.metrics.ranking import recall_at_k
from ralm_jax.models import initial
from ralm_jax.models.ralm import Ralm
from ralm_jax.questions.question import Question
from ralm_jax.questions.read import read_questions
from ralm_jax.runs import directory, plots
from ralm_jax.runs.writers import metrics_file, read_metrics
from ralm_jax.settings import Seed
from ralm_jax.sources import almanac
from ralm_jax.terminal import printable
from ralm_jax.training import pretrain, schedule
from ralm_jax.training.tasks import Realm

KS = (1, 5, 20)
VOCABULARY = 2000  # wordpieces: enough for every word of the almanac
# Held-out clozes read for a point of the learning curve.
EVAL_CLOZES = 200
WORLD = almanac.World()
SHOWN = 3  # questions shown with their evidence

INTRODUCTION = """\
REALM puts the retriever inside the language model. A sentence with a hole,
    "Edda Marrow was born in [MASK]."
is answered by retrieving passages z and reading each: p(y|x) = sum_z p(z|x) p(y|z,x).
Passages that made the answer likely are retrieved more readily next time: the reader teaches
the retriever, with no one labelling which passage is right.

This run generates a synthetic encyclopedia, trains the three stages on it, and asks about facts that were
never asked in training:
  1 inverse cloze  the retriever learns which passage a sentence was taken from
  2 warm-up        the reader learns to use what it is handed; the retriever is frozen
  3 REALM          both learn together, the index of passages refreshed as they do
"""


def quickstart(
    *,
    run: str | Path,
    model: Ralm,
    stages: Sequence[schedule.Stage],
    seed: Seed = 0,
    world: almanac.World = WORLD,
    held_out: float = 0.2,
    clozes: int = 1500,
    config: str | None = None,
    say=terminal.say,
) -> dict[str, Any]:
    """Generates the almanac, trains the stages on it, measures, plots, and shows evidence.

    Called again on the same directory it goes on, or shows again what was measured.

    Returns:
      {"seed", "wall_seconds", "untrained": {...}, "ict": {...}, "realm": {...}}, each stage with
      question_recall and cloze_recall {k: value}, span_accuracy and span_accuracy_null.
    """
    start, path = time.perf_counter(), Path(run)
    say(INTRODUCTION)
    corpus, questions = encyclopedia(path, world, seed, say)
    asked = unasked(questions, held_out)
    task = stages[-1].task
    if not isinstance(task, Realm):
        raise UserError("the last stage of the quickstart must be tasks.Realm")
    evaluate = functools.partial(measure, corpus, asked, task, held_out, EVAL_CLOZES)
    pretrain.pretrain(
        run=path,
        corpus=corpus,
        model=model,
        stages=stages,
        seed=seed,
        held_out=held_out,
        evaluate=lambda model, params, stage, step: flat(evaluate(model, params)),
        config=config,
    )
    model = directory.sized(model, corpus.vocabulary.size)
    first, last = stages[0].name, stages[-1].name
    snapshots = {
        "untrained": initial.initial_params(model, jax.random.key(seed)),
        "ict": OpenRun.open(path, stage=first).params,
        "realm": OpenRun.open(path, stage=last).params,
    }
    report: dict[str, Any] = {"seed": seed, "wall_seconds": 0.0}
    for name, params in snapshots.items():
        report[name] = measure(corpus, asked, task, held_out, clozes, model, params)
    plots.learning_curves(read_metrics(metrics_file(path)), [s.name for s in stages], path)
    say(evidence(corpus, asked, task, model, snapshots))
    say(table(report))
    report["wall_seconds"] = round(time.perf_counter() - start, 1)
    say(f"Learning curves: {path / plots.LEARNING_CURVES}   ({report['wall_seconds']:.0f} s)")
    return report


def encyclopedia(path: Path, world: almanac.World, seed: int, say) -> tuple[Corpus, list[Question]]:
    """The almanac of this seed as files, and prepared as any other corpus would be."""
    source, asked = path / "almanac.jsonl.gz", path / "questions.jsonl.gz"
    if not (path / "corpus").exists():
        made = almanac.generate(world, seed)
        path.mkdir(parents=True, exist_ok=True)
        for file, records in ((source, made.documents), (asked, made.questions)):
            with gzip.open(file, "wt", encoding="utf-8") as out:
                out.writelines(json.dumps(record) + "\n" for record in records)
        prepare(str(source), path / "corpus", vocab_size=VOCABULARY, say=lambda line: None)
    corpus, questions = open_corpus(path / "corpus"), read_questions(asked).asked
    say(
        f"almanac {seed}: {corpus.size:,} passages, {len(questions):,} facts, each stated in two "
        "passages in different words"
    )
    example = corpus.texts()[int(np.argmax(corpus.lengths[:, 1]))]
    say(f'  "{example["title"].decode()}": {example["text"].decode()}\n')
    return corpus, questions


def unasked(questions: list[Question], held_out: float) -> list[Question]:
    """Questions about facts that training never asks for."""
    groups = np.array([fact_group(q.id) for q in questions], np.uint64)
    kept = np.flatnonzero(cloze_batches.held_out(groups, held_out))
    return [questions[i] for i in kept]


def measure(
    corpus: Corpus,
    questions: Sequence[Question],
    task: Realm,
    held_out: float,
    clozes: int,
    model: Ralm,
    params: dict,
) -> dict[str, Any]:
    """Recall of held-out questions and clozes, and accuracy of masked spans with and without evidence."""
    opened = OpenRun(model, params, task.lengths, held_out=held_out, source=corpus)
    ranked = opened.search([q.question for q in questions], max(KS))
    rows = {doc: row for row, doc in enumerate(documents(corpus))}
    gold = [{rows[g] for g in q.gold_ids} for q in questions]
    recall = {str(k): pair for k, pair in recall_at_k(ranked.rows, gold, KS).items()}
    read = measure_clozes(opened, candidates=task.candidates, limit=clozes)
    return {
        "question_recall": Mean.of(recall).compute(),
        "cloze_recall": {k: v for k, v in read["cloze_recall"].items() if int(k) in KS},
        "span_accuracy": read["span_accuracy"],
        "span_accuracy_null": read["span_accuracy_null"],
        "retrieval_utility": read["retrieval_utility"],
    }


@functools.lru_cache(maxsize=2)
def _documents(path: Path, fingerprint: str) -> tuple[str, ...]:
    return tuple(record["documents"][0].decode() for record in open_corpus(path).texts())


def documents(corpus: Corpus) -> tuple[str, ...]:
    """The source id of each passage; in the almanac a document is one passage."""
    return _documents(corpus.path, corpus.fingerprint)


def flat(report: dict[str, Any]) -> dict[str, float]:
    """The figures of a learning curve, by name."""
    return {
        "question_recall@5": report["question_recall"]["5"],
        "cloze_recall@5": report["cloze_recall"]["5"],
        "span_accuracy": report["span_accuracy"],
        "span_accuracy_null": report["span_accuracy_null"],
    }


def evidence(corpus: Corpus, questions, task: Realm, model: Ralm, snapshots) -> str:
    """A few held-out questions with the best passage before and after: those that REALM got right."""
    texts, names, lines = corpus.texts(), documents(corpus), []
    ranked = {}
    for name in ("ict", "realm"):
        opened = OpenRun(model, snapshots[name], task.lengths, source=corpus)
        ranked[name] = opened.search([q.question for q in questions], 1).rows[:, 0]
    right = {
        n: [names[r] in q.gold_ids for r, q in zip(ranked[n], questions, strict=True)]
        for n in ranked
    }
    gained = np.flatnonzero(np.array(right["realm"]) & ~np.array(right["ict"]))
    for i in gained[:SHOWN]:
        lines.append(f"\n{questions[i].question}   ({questions[i].answers[0]})")
        for name, label in (("ict", "after ICT  "), ("realm", "after REALM")):
            record = texts[int(ranked[name][i])]
            mark = "yes" if right[name][i] else "no "
            said = f"[{record['title'].decode()}] {record['text'].decode()}"
            lines.append(f"  {label} {mark} {printable(said)}")
    share = {name: np.mean(hits) for name, hits in right.items()}
    lines.insert(
        0,
        f"The best passage answers {share['ict']:.0%} of {len(questions)} held-out questions after "
        f"ICT and {share['realm']:.0%} after REALM. Some that REALM gained:",
    )
    return "\n".join(lines) + "\n"


def table(report: dict[str, Any]) -> str:
    """The figures of the three stages side by side."""
    head = f"{'facts never asked in training':<32}{'before ICT':>12}{'after ICT':>12}{'after REALM':>13}"
    rows = [
        ("question recall@5", lambda r: r["question_recall"]["5"]),
        ("cloze recall@5", lambda r: r["cloze_recall"]["5"]),
        ("masked spans read, with passages", lambda r: r["span_accuracy"]),
        ("masked spans read, without", lambda r: r["span_accuracy_null"]),
    ]
    lines = [head, "-" * len(head)]
    for name, value in rows:
        figures = [value(report[stage]) for stage in ("untrained", "ict", "realm")]
        lines.append(
            f"{name:<32}"
            + "".join(f"{v:>{w}.1%}" for v, w in zip(figures, (12, 12, 13), strict=True))
        )
    lines.append("(the reader is trained from the second stage on; until then it reads nothing)")
    return "\n".join(lines)
