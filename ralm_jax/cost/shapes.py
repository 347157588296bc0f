"""What a step is given, as shapes alone: enough to trace it or to compile it, with no corpus."""

from typing import Any

import jax
import jax.numpy as jnp
from flax.training.train_state import TrainState

from ralm_jax.batches import ClozeBatch, QueryPassages, QuestionBatch, ReadClozes, Text
from ralm_jax.errors import UserError
from ralm_jax.models import initial
from ralm_jax.models.openqa import OpenQA
from ralm_jax.models.ralm import Ralm
from ralm_jax.training import steps
from ralm_jax.training.passage_windows import PassageWindows
from ralm_jax.training.read_clozes import TeachingReader
from ralm_jax.training.schedule import Stage
from ralm_jax.training.tasks import InverseCloze, OpenQuestions, Realm


def state(model: Ralm | OpenQA, stage: Stage) -> TrainState:
    """Parameters and what the optimiser keeps of them."""
    params = initial.shapes(model)
    return jax.eval_shape(lambda p: steps.create_state(p, stage.schedule.optimizer), params)


def batch(model: Ralm | OpenQA, stage: Stage, rows: int, devices: int = 1) -> Any:
    """The batch of one device, of so many rows."""
    task = stage.task
    if isinstance(task, InverseCloze | PassageWindows):
        return _query_passages(model, task, rows, devices)
    if isinstance(task, TeachingReader):
        return _read_clozes(model, task, rows, devices)
    if isinstance(task, Realm):
        batch = _clozes(task, rows, task.candidates, task.lengths.passage)
        batch = batch._replace(
            lexical=_floats(rows, task.candidates) if task.lexical_weight else None
        )
        if task.freeze_retriever:
            batch = batch._replace(vectors=_floats(rows, task.candidates, model.embedding))
        return batch
    if isinstance(task, OpenQuestions):
        return _questions(model, task, rows)
    raise UserError(f"stage {stage.name}: what {type(task).__name__} costs is not known")


def _query_passages(model, task: InverseCloze | PassageWindows, rows: int, devices: int):
    at = task.lengths
    if isinstance(task, InverseCloze):
        return QueryPassages(_text(rows, at.query), _text(rows, 1, at.passage), _ints(rows, 1))
    each = 1 + task.negatives
    query = _text(rows, task.longest + 2)
    teacher = _floats(rows, devices * rows * each) if task.teaches else None
    if task.train_passages:
        part = min(task.part or at.passage, at.passage)
        return QueryPassages(query, _text(rows, each, part), _ints(rows, each), teacher)
    known = _floats(rows, each, model.embedding)
    return QueryPassages(query, None, _ints(rows, each), teacher, known)


def _read_clozes(model, task: TeachingReader, rows: int, devices: int) -> ReadClozes:
    learnt = task.candidates - 1
    k = 1 + (learnt if task.passages is None else min(task.passages, learnt))
    others = devices * rows * (k - 1)
    part = task.part if task.train_passages else None
    clozes = _clozes(task, rows, k, min(part or task.lengths.passage, task.lengths.passage))
    lexical = _floats(rows, others) if task.lexical_weight else None
    clozes = clozes._replace(lexical=_floats(rows, k) if task.lexical_weight else None)
    read = _floats(rows, k, task.lengths.masked) if task.cached else None
    known = None if task.train_passages else _floats(rows, k, model.embedding)
    return ReadClozes(clozes, read, _bools(rows, others), lexical, known)


def _clozes(task: Realm | TeachingReader, rows: int, k: int, passage: int) -> ClozeBatch:
    at = task.lengths
    return ClozeBatch(
        query=_text(rows, at.query),
        candidates=_text(rows, k, passage),
        joint=_text(rows, k, at.joint),
        valid=_bools(rows, k),
        positions=_ints(rows, at.masked),
        targets=_ints(rows, at.masked),
        weights=_floats(rows, at.masked),
    )


def _questions(model, task: OpenQuestions, rows: int) -> QuestionBatch:
    at, k = task.lengths, task.candidates
    return QuestionBatch(
        question=_text(rows, at.query),
        beam=_floats(rows, task.beam, model.embedding),
        found=_bools(rows, task.beam),
        has_answer=_bools(rows, task.beam),
        joint=_text(rows, k, at.joint),
        within=_bools(rows, k, at.joint),
        gold=_bools(rows, k, at.joint, task.span_width),
        candidates=_text(rows, k, at.passage) if task.train_passages else None,
    )


def _text(*shape: int) -> Text:
    return Text(_ints(*shape), _ints(*shape))


def _ints(*shape: int) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, jnp.int32)


def _floats(*shape: int) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, jnp.float32)


def _bools(*shape: int) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, jnp.bool_)
