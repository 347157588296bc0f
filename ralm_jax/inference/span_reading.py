"""Questions and passages to the likeliest spans, a pair at a time: what a pair says depends on nothing else.

So a passage that two retrievers find is read once, short pairs are read among themselves, and how
likely each passage is comes in afterwards.
"""

import functools
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ralm_jax.batches import Text
from ralm_jax.data.corpus import Corpus
from ralm_jax.examples import question_batches
from ralm_jax.models.base import RetrievalModel
from ralm_jax.models.openqa import OpenQA
from ralm_jax.terminal import bar

SPANS = 20  # the likeliest of a passage
ROWS = 32  # pairs read at a time where there are many
WIDTHS = 8  # lengths that inputs are padded to, up to the whole


class Spans(NamedTuple):
    """Of m pairs: the likeliest spans, likeliest first, and what all spans of the pair add up to."""

    starts: np.ndarray  # int [m,SPANS], first wordpiece in the joint input
    wides: np.ndarray  # int [m,SPANS], wordpieces less one
    scores: (
        np.ndarray
    )  # float32 [m,SPANS], of the reader alone; hugely negative where no span is left
    total: np.ndarray  # float32 [m], log of the sum of exp(score) over all spans


def read_pairs(
    model: OpenQA, reader: Any, corpus: Corpus, asked: Text, pairs: np.ndarray, length: int
) -> Spans:
    """Reads passages for questions.

    Args:
      reader: parameters.
      asked: questions [n,L].
      pairs: int [m,2], row of `asked` and row of the corpus.
      length: S; longer passages are cut.
    """
    m = len(pairs)
    starts, wides = np.zeros((2, m, SPANS), int)
    out = Spans(starts, wides, np.zeros((m, SPANS), np.float32), np.zeros(m, np.float32))
    for chosen, inputs in _inputs(corpus, asked, pairs, length, "reading"):
        for whole, part in zip(out, best_spans(model, reader, *inputs), strict=True):
            whole[chosen] = np.asarray(part)[: len(chosen)]
    return out


def rerank_pairs(
    model: RetrievalModel, scorer: Any, corpus: Corpus, asked: Text, pairs: np.ndarray, length: int
) -> np.ndarray:
    """What the scorer makes of passages for questions, float32 [m]; as `read_pairs`, with its parameters."""
    out = np.zeros(len(pairs), np.float32)
    for chosen, (joint, _) in _inputs(corpus, asked, pairs, length, "re-ranking"):
        out[chosen] = np.asarray(_rerank(model, scorer, joint))[: len(chosen), 0]
    return out


def padded_widths(length: int) -> np.ndarray:
    """What joint inputs of up to `length` wordpieces are padded to, int [WIDTHS]."""
    return -(-length * np.arange(1, WIDTHS + 1) // WIDTHS)


def compile_ahead(
    model: RetrievalModel, params: dict, length: int, shortest: int, longest: int
) -> None:
    """Compiles what `read_pairs` and, with a scorer, `rerank_pairs` run on inputs of `shortest` to `longest`
    wordpieces, so that nobody who asks later waits for it.
    """
    first, last = np.searchsorted(padded_widths(length), np.minimum((shortest, longest), length))
    for width in padded_widths(length)[first : last + 1].tolist():
        for rows in (1, ROWS):
            empty = np.zeros((rows, 1, width), np.int32)
            if isinstance(model, OpenQA):
                best_spans(model, params["reader"], Text(empty, empty), np.ones(empty.shape, bool))
            if "scorer" in params:
                _rerank(model, params["scorer"], Text(empty, empty))


def _inputs(
    corpus: Corpus, asked: Text, pairs: np.ndarray, length: int, what: str
) -> Iterator[tuple[np.ndarray, tuple[Text, np.ndarray]]]:
    """Which pairs, and their joint inputs, short ones among themselves; the last group is padded."""
    front = (asked.tokens != 0).sum(1)
    body = np.asarray(corpus.lengths[pairs[:, 1]]).astype(int)[:, 1]
    needed = np.minimum(front[pairs[:, 0]] + body + 1, length)
    widths = padded_widths(length)
    fits = np.searchsorted(widths, needed)
    with bar(what, len(pairs)) as shown:
        for place in np.unique(fits):
            several = np.flatnonzero(fits == place)
            rows = ROWS if len(several) > ROWS // 4 else 1  # one compilation for few, one for many
            for start in range(0, len(several), rows):
                chosen = several[start : start + rows]
                padded = np.pad(chosen, (0, rows - len(chosen)), mode="edge")
                question, passage = pairs[padded].T
                query = Text(asked.tokens[question], asked.types[question])
                width = int(widths[place])
                yield (
                    chosen,
                    question_batches.joint_text(corpus, query, passage[:, None], width),
                )
                shown.update(len(chosen))


@functools.partial(jax.jit, static_argnames="model")
def _rerank(model: RetrievalModel, scorer, joint: Text):
    """joint [m,1,S] -> [m,1]."""
    return model.apply({"params": {"scorer": scorer}}, joint, method="rerank")


@functools.partial(jax.jit, static_argnames="model")
def best_spans(model: OpenQA, reader, joint: Text, within):
    """joint [m,1,S], within bool [m,1,S] -> as `Spans`."""
    spans: Any = model.apply({"params": {"reader": reader}}, joint, within, method="read")
    m, _, s, w = spans.shape
    flat = spans.reshape(m, s * w)
    scores, places = jax.lax.top_k(flat, SPANS)
    starts, wides = jnp.divmod(places, w)
    return starts, wides, scores, jax.nn.logsumexp(flat, axis=1)
