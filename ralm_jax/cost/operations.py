"""What training will cost, before it starts: floating-point operations, from shapes alone.

Multiplications and additions of the matrix products, counted one each; a backward pass is two forward ones.
Not counted: LayerNorm, softmax, the optimiser, and that the last layer is spared where nothing is asked.
"""

import time
from typing import NamedTuple

import jax
import jax.numpy as jnp

from ralm_jax.batches import Lengths
from ralm_jax.models.config import EncoderConfig
from ralm_jax.models.openqa import OpenQA
from ralm_jax.models.ralm import Ralm
from ralm_jax.training.passage_windows import PassageWindows
from ralm_jax.training.read_clozes import TeachingReader
from ralm_jax.training.tasks import InverseCloze, OpenQuestions, Realm

TRAINED = 3  # forward, and backward at twice that


class Cost(NamedTuple):
    """Floating-point operations of a stage of training."""

    step: float
    index: float  # to embed the passages of a refresh
    steps: int
    # How often the index is refreshed, the first one not counted.
    refreshes: int
    # Before the first step: what a frozen reader reads.
    once: float = 0.0

    @property
    def total(self) -> float:
        return self.step * self.steps + self.index * self.refreshes + self.once


def encoder(config: EncoderConfig, texts: int, length: int) -> float:
    """A forward pass over texts of one length."""
    d = config.hidden
    # A gated feed-forward has two matrices before its activation. A window is a mask, and spares nothing.
    wide = (3 if config.rotary else 2) * d * config.intermediate
    token = 2 * (4 * d * d + wide) + 4 * length * d
    return float(texts * length * config.layers * token)


def embed(model: Ralm | OpenQA, texts: int, length: int) -> float:
    """Texts to vectors."""
    c = model.retriever_config
    return encoder(c, texts, length) + 2.0 * texts * c.hidden * model.embedding


def stage(
    model: Ralm | OpenQA,
    task: InverseCloze | PassageWindows | TeachingReader | Realm | OpenQuestions,
    *,
    passages: int,
    batch: int,
    steps: int,
) -> Cost:
    """A stage of so many steps of `batch` queries over a corpus of so many passages."""
    at = task.lengths
    if isinstance(task, InverseCloze):
        pairs = embed(model, batch, at.query) + embed(model, batch, at.passage)
        return Cost(TRAINED * pairs, 0.0, steps, 0)
    index = embed(model, passages, at.passage)
    if isinstance(task, TeachingReader):
        return _teaching(model, task, batch, steps, index)
    index /= task.refresh.parts
    refreshes = sum(task.refresh.snapshot_due(step) for step in range(steps))
    if isinstance(task, PassageWindows):
        towers = windows = embed(model, batch, task.longest + 2)
        searched = windows + 2.0 * batch * passages * model.embedding
        if task.train_passages:
            texts, part = batch * (1 + task.negatives), min(task.part or at.passage, at.passage)
            towers = windows + embed(model, texts, part)
        return Cost(searched + TRAINED * towers, index, steps, refreshes)
    searched = embed(model, batch, at.query) + 2.0 * batch * passages * model.embedding
    read = batch * task.candidates
    if isinstance(task, OpenQuestions):
        step = searched + encoder(model.reader_config, read, at.joint) * TRAINED
        step += TRAINED * embed(model, batch, at.query) + 6.0 * batch * task.beam * model.embedding
        if task.train_passages:
            step += TRAINED * embed(model, read, at.passage)
        return Cost(step + TRAINED * _spans(model, read, at.joint), index, steps, refreshes)
    step = searched + _read(model, batch, task.candidates, at) * (
        1 if task.freeze_encoder else TRAINED
    )
    if task.freeze_retriever:
        # Passages are known by their vectors.
        step += embed(model, batch, at.query)
    else:
        others = embed(model, read - batch, at.passage)
        step += TRAINED * (embed(model, batch, at.query) + others / task.passages_every)
    if task.needs_reranker:
        step += encoder(model.reader_config, read, at.joint) * TRAINED
    return Cost(step + TRAINED * _words(model, read, at.masked), index, steps, refreshes)


def _teaching(
    model: Ralm | OpenQA, task: TeachingReader, batch: int, steps: int, index: float
) -> Cost:
    """Clozes are read before the first step, unless every step reads its own."""
    at, learnt = task.lengths, task.candidates - 1
    learnt = learnt if task.passages is None else min(task.passages, learnt)
    part = min(task.part or at.passage, at.passage)
    step = TRAINED * embed(model, batch, at.query)
    if task.train_passages:
        step += TRAINED * embed(model, batch * learnt, part)
    asked = task.clozes if task.cached else batch
    read = _read(model, asked, task.candidates, at)
    read += _words(model, asked * task.candidates, at.masked)
    return Cost(step + (0 if task.cached else read), index, steps, 0, read if task.cached else 0.0)


def _words(model: Ralm | OpenQA, texts: int, masked: int) -> float:
    """Scores of all words at masked places."""
    d, vocabulary = model.reader_config.hidden, model.reader_config.vocab_size
    return 2.0 * texts * masked * d * (d + vocabulary)


def _read(model: Ralm | OpenQA, queries: int, candidates: int, at: Lengths) -> float:
    """Queries with their candidates, of which the null passage is no longer than the query."""
    null = encoder(model.reader_config, queries, min(at.joint, at.query + 1))
    return null + encoder(model.reader_config, queries * (candidates - 1), at.joint)


def _spans(model: Ralm | OpenQA, texts: int, length: int) -> float:
    """Scores of all spans."""
    assert isinstance(model, OpenQA)
    ends = 2.0 * texts * length * model.reader_config.hidden * 2 * model.span_hidden
    return ends + 2.0 * texts * length * model.span_width * model.span_hidden


def peak(seconds: float = 0.5) -> float:
    """Operations a second of this machine's devices in plain float32 matrix products, measured."""
    x = jnp.ones((2048, 1024))
    multiply = jax.jit(lambda a: a @ a.T)
    multiply(x).block_until_ready()
    begun, count = time.perf_counter(), 0
    while time.perf_counter() - begun < seconds:
        multiply(x).block_until_ready()
        count += 1
    rate = count * 2.0 * 2048 * 2048 * 1024 / (time.perf_counter() - begun)
    # Devices of a CPU share its cores; those of an accelerator do not.
    return rate * (1 if jax.default_backend() == "cpu" else jax.device_count())
