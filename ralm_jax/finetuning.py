"""`ralm finetune`: a pretrained retriever and reader learn to answer questions (ORQA; REALM 3.3)."""

from pathlib import Path
from typing import Literal

import jax
import jax.numpy as jnp
import optax

from ralm_jax import runs, state, training
from ralm_jax.data import answering_batches, matching
from ralm_jax.data.corpus import digest
from ralm_jax.data.pipeline import Lengths
from ralm_jax.data.questions import read_questions
from ralm_jax.models.openqa import OpenQA
from ralm_jax.retrieval.refresh import Policy
from ralm_jax.tasks import FROZEN, OpenQuestions

STAGE = "finetune"


def finetune(
    *,
    out: str | Path,
    run: str | Path,
    train: str | Path,
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
) -> tuple[OpenQA, dict]:
    """Trains on the questions of a file, from the newest parameters of `run`; resumes `out`.

    Args:
      out: the run to make.
      run: pretrained or imported; its corpus is used unless another is given.
      train: JSONL of question and answers.
      rule: when a passage counts as holding an answer, for the retrieval loss.
      beam, candidates, span_width: R passages ranked, K of them read, W wordpieces an answer at most.
      train_passages: embeds the passages read afresh, so that the passage tower learns too; the vectors
        of the others stay until `refresh` makes them anew.

    Raises:
      UserError: as `training.pretrain`; no question that any passage answers; other wordpieces.
    """
    loaded, text = runs.load(Path(run)), runs.open_its_corpus(Path(run), corpus)
    model, params = question_answerer(loaded, span_width, seed)
    known = answering_batches.know(text, read_questions(train), rule)
    task = OpenQuestions(
        lengths=lengths,
        known=known,
        beam=min(beam, text.size),
        candidates=min(candidates, text.size),
        span_width=model.span_width,
        train_passages=train_passages,
        refresh=refresh,
        index=index,
    )
    stage = training.Stage(STAGE, task, steps, batch, optimizer)
    training.check(stage, model)
    shared = training.Run(
        Path(out), text, model, seed, 0.0, log_every, checkpoint_every, None, steps, Path(run)
    )
    questions = digest(Path(train))
    started = {"stage": loaded.stage, "step": loaded.step, "questions": questions}
    return model, training.train_chain(shared, [stage], params, started)


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
        span_width=span_width,
    )
    drawn = state.drawn_params(model, seed)["reader"]
    reader = {**drawn, "encoder": loaded.params["reader"]["encoder"]}
    return model, {"retriever": retriever, "reader": reader}
