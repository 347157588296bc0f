"""`ralm finetune`: a pretrained retriever and reader learn to answer questions (ORQA; REALM 3.3)."""

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax

from ralm_jax import runs, span_loss, starting, state, training
from ralm_jax.data import answering_batches, matching
from ralm_jax.data.corpus import Corpus
from ralm_jax.data.pipeline import Lengths
from ralm_jax.data.question_sources import read_questions
from ralm_jax.data.questions import Question
from ralm_jax.dev_selection import Selection, spread
from ralm_jax.models.openqa import OpenQA
from ralm_jax.retrieval.refresh import Policy
from ralm_jax.tasks import FROZEN, OpenQuestions

STAGE = "finetune"


def finetune(
    *,
    out: str | Path,
    run: str | Path,
    stage: str | None = None,
    train: str | Path,
    dev: Sequence[Question] = (),
    steps: int,
    batch: int,
    optimizer: optax.GradientTransformation,
    lengths: Lengths,
    corpus: str | Path | None = None,
    rule: matching.Rule = matching.wordpieces,
    beam: int = 5000,
    candidates: int = 5,
    span_width: int = 10,
    train_passages: bool = False,
    refresh: Policy = FROZEN,
    index: Literal["auto", "exact", "scann"] = "auto",
    seed: int = 0,
    log_every: int = 20,
    checkpoint_every: int = 500,
    dev_every: int = 500,
    dev_questions: int = 500,
    at_once: int | None = None,
    distil: Callable | None = None,
) -> tuple[OpenQA, dict]:
    """Trains on questions with answers, from the parameters of `run`; resumes `out`.

    Args:
      out, run: the run to make, and the one to start from: its last stage or `stage`, its corpus or `corpus`.
      train: see `question_sources.read_questions`. dev: `dev_questions` of these are answered every
        `dev_every` steps; the parameters that did best are kept, without any the last ones.
      rule: when a passage holds an answer. beam, candidates, span_width: R passages ranked, K read, W.
      train_passages: the passage tower learns too; vectors not read stay until `refresh` makes them anew.
      at_once: questions a device reads at a time. None: all; on a CPU as few as its cache holds.
      distil: `distillation.supervised`: a scorer, added where there is none, and the retriever learn from
        which of the passages read hold an answer, and the retriever from the scorer.

    Raises:
      UserError: as `training.pretrain`; no question that any passage answers; other wordpieces.
    """
    loaded, text = runs.load(Path(run), stage), runs.open_its_corpus(Path(run), corpus)
    model, params = question_answerer(loaded, span_width, seed)
    if distil is not None:
        model, params = starting.with_scorer(model, params, seed)
    asked, notes = read_questions(train)
    known = answering_batches.know(text, asked, rule)
    widths = span_loss.widths(_needed(text, known, lengths), candidates, lengths.joint)
    read: dict[str, Any] = {"span_width": model.span_width, "at_once": at_once, "widths": widths}
    read |= {"beam": min(beam, text.size), "candidates": min(candidates, text.size)}
    found: dict[str, Any] = {"refresh": refresh, "index": index, "distil": distil}
    task = OpenQuestions(lengths, known, notes, train_passages=train_passages, **read, **found)
    tuning = training.Stage(STAGE, task, steps, batch, optimizer)
    probed = spread(dev, dev_questions)
    select = Selection(Path(out), text, probed, lengths, task.candidates) if dev else None
    often = (log_every, checkpoint_every, select, dev_every)
    shared = training.Run(Path(out), text, model, seed, 0.0, *often, Path(run))
    return model, training.train_chain(shared, [tuning], params, _started(loaded, asked))


def _needed(corpus: Corpus, known: answering_batches.Known, lengths: Lengths) -> np.ndarray:
    """Wordpieces of each passage behind a question of mean length [N]."""
    question = int(np.mean([len(pieces) for pieces in known.pieces]))
    return np.minimum(np.asarray(corpus.lengths)[:, 1].astype(int) + question + 3, lengths.joint)


def _started(loaded: runs.Loaded, questions: Sequence[Question]) -> dict:
    """What a fine-tuning began with: one that is resumed must have begun with the same."""
    digest = hashlib.sha256(repr(questions).encode()).hexdigest()
    return {"stage": loaded.stage, "step": loaded.step, "questions": digest}


def question_answerer(loaded: runs.Loaded, span_width: int, seed: int) -> tuple[OpenQA, dict]:
    """The model that answers, begun from one that was pretrained.

    Its question tower is a copy, so that passage vectors may stay while it learns; the scores of spans
    are drawn anew where the run has none.
    """
    given, retriever = loaded.model, dict(loaded.params["retriever"])
    copied = jax.tree.map(jnp.copy, retriever["passage_tower"])
    retriever.setdefault("query_tower", copied)
    if isinstance(given, OpenQA):
        model = given.clone(share_towers=False)
        return model, {**loaded.params, "retriever": retriever}
    model = OpenQA(
        given.retriever_config,
        given.reader_config,
        embedding=given.embedding,
        pooling=given.pooling,
        head=given.head,
        norm_eps=given.norm_eps,
        score_scale=given.score_scale,
        share_towers=False,
        with_scorer=given.with_scorer,
        span_width=span_width,
    )
    drawn = state.drawn_params(model, seed)["reader"]
    reader = {**drawn, "encoder": loaded.params["reader"]["encoder"]}
    return model, {**loaded.params, "retriever": retriever, "reader": reader}
