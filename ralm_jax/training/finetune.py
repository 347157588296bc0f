"""`ralm finetune`: a pretrained retriever and reader learn to answer questions (ORQA; REALM 3.3)."""

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

import jax
import numpy as np

from ralm_jax.batches import Lengths
from ralm_jax.data.corpus import Corpus
from ralm_jax.errors import UserError
from ralm_jax.examples import matching, question_batches
from ralm_jax.inference.open_run import OpenRun
from ralm_jax.losses import microbatch
from ralm_jax.models import initial
from ralm_jax.models.openqa import OpenQA
from ralm_jax.questions.question import Question
from ralm_jax.questions.read import read_questions
from ralm_jax.retrieval.refresh import Policy
from ralm_jax.selection.by_answers import Selection, spread
from ralm_jax.settings import Count, Seed
from ralm_jax.training import initialize
from ralm_jax.training.loop import Run, train_chain
from ralm_jax.training.schedule import Schedule, Stage
from ralm_jax.training.tasks import FROZEN, OpenQuestions

STAGE = "finetune"


def finetune(
    *,
    out: str | Path,
    run: str | Path,
    train: str | Path,
    schedule: Schedule,
    lengths: Lengths,
    stage: str | None = None,
    corpus: str | Path | None = None,
    dev: Sequence[Question] = (),
    dev_questions: Count = 500,
    rule: matching.Rule = matching.wordpieces,
    beam: Count = 5000,
    candidates: Count = 5,
    span_width: Count = 10,
    train_passages: bool = False,
    refresh: Policy = FROZEN,
    index: Literal["auto", "exact", "scann"] = "auto",
    seed: Seed = 0,
    microbatch_size: microbatch.Microbatch = None,
    distil: Callable | None = None,
    config: str | None = None,
) -> tuple[OpenQA, dict]:
    """Trains on questions with answers, from the parameters of `run`; resumes `out`.

    Args:
      out, run: the run to make, and the one to start from: its last stage or `stage`, its corpus or `corpus`.
      train: see `questions.read.read_questions`.
      dev: `dev_questions` of these are answered as often as the schedule evaluates; the parameters that did
        best are kept, without any the last ones.
      rule: when a passage has an answer. beam, candidates, span_width: R passages ranked, K read, W.
      train_passages: the passage tower learns too; vectors not read stay until `refresh` makes new ones.
      microbatch_size: questions a device reads at a time; see `tasks.Realm`.
      distil: `distillation.supervised`: a scorer, added where there is none, and the retriever learn from
        which of the passages read have an answer, and the retriever from the scorer.
      config: the configuration this was called with, resolved; kept in the run and compared on resuming.

    Raises:
      UserError: as `pretrain`; no question that any passage answers. Stopped: as `pretrain`.
    """
    opened = _opened(run, corpus, stage)
    text = opened.corpus
    # What evaluation after training needs is looked at before it.
    check_texts(text)
    model, params = question_answerer(opened, span_width, seed)
    if distil is not None:
        model, params = initialize.with_scorer(model, params, seed)
    asked, notes = read_questions(train)
    annotated = question_batches.annotate(text, asked, rule)
    few = min(candidates, text.size)
    read = {"beam": min(beam, text.size), "candidates": few, "span_width": model.span_width}
    widths = microbatch.widths(_needed(text, annotated, lengths), few, lengths.joint)
    learn = {"train_passages": train_passages, "microbatch_size": microbatch_size, "distil": distil}
    found = {"refresh": refresh, "index": index, "widths": widths}
    task = OpenQuestions(lengths, annotated, notes, **read, **learn, **found)
    evenly = spread(dev, dev_questions)
    select = Selection(Path(out), text, evenly, lengths, few, refresh) if dev else None
    started = _started(opened, asked)
    shared = Run(Path(out), text, model, seed, 0.0, select, Path(run), started, config)
    return model, train_chain(shared, [Stage(STAGE, task, schedule)], params)


def _opened(run, corpus, stage: str | None) -> OpenRun:
    """The run to begin from. Raises UserError in one of several processes, none of which has all vectors."""
    if jax.process_count() > 1:
        raise UserError(
            f"fine-tuning runs in one process, and this is one of {jax.process_count()}: start it alone"
        )
    return OpenRun.open(run, corpus, stage=stage)


def check_texts(corpus: Corpus) -> None:
    """Raises UserError where the texts of a corpus cannot be read."""
    try:
        texts = corpus.texts()
        texts[corpus.size - 1]
    # The reader of the texts raises whatever it meets.
    except Exception as error:
        said = " ".join(str(error).split())[:200]
        raise UserError(f"the texts of the corpus {corpus.path} cannot be read: {said}") from error


def _needed(
    corpus: Corpus, annotated: question_batches.AnnotatedQuestions, lengths: Lengths
) -> np.ndarray:
    """Wordpieces of each passage behind a question of mean length [N]."""
    question = int(np.mean([len(pieces) for pieces in annotated.pieces]))
    return np.minimum(np.asarray(corpus.lengths)[:, 1].astype(int) + question + 3, lengths.joint)


def _started(opened: OpenRun, questions: Sequence[Question]) -> dict:
    """What a fine-tuning began with: one that is resumed must have begun with the same."""
    digest = hashlib.sha256(repr([q._replace(grades=()) for q in questions]).encode()).hexdigest()
    return {"stage": opened.stage, "step": opened.step, "questions": digest}


def question_answerer(opened: OpenRun, span_width: int, seed: int) -> tuple[OpenQA, dict]:
    """The model that answers, begun from one that was pretrained.

    Its question tower is a copy, so that passage vectors may stay while it learns; the scores of spans
    are initialised at random where the run has none.
    """
    if isinstance(opened.model, OpenQA):
        return initialize.with_query_tower(opened.model, opened.params)
    given, params = initialize.with_query_tower(opened.model, opened.params)
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
        scorer_config=given.scorer_config,
        scorer_pooler=given.scorer_pooler,
        query_prompt=given.query_prompt,
        passage_prompt=given.passage_prompt,
        span_width=span_width,
    )
    drawn = initial.drawn_params(model, seed)["reader"]
    reader = {**drawn, "encoder": params["reader"]["encoder"]}
    return model, {**params, "reader": reader}
