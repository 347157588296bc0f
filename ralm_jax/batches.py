"""What crosses from the host to a step: texts, batches, and how long each of them may be.

Arrays are numpy on the host and jax inside a step. Dimensions are those of `models.config`.
"""

import dataclasses
from typing import Annotated, Any, NamedTuple

import jax.numpy as jnp

from ralm_jax import settings
from ralm_jax.settings import Count, From

Array = Any  # numpy on the host, jax in a step


@dataclasses.dataclass(frozen=True)
class Lengths:
    """Tokens per input, special tokens included; the defaults are REALM's."""

    # L, P, S, M; masked tokens beyond M stay hidden but are not predicted.
    query: Annotated[int, From(3)] = 96
    passage: Annotated[int, From(3)] = 288
    joint: Annotated[int, From(3)] = 384
    masked: Count = 10

    def __post_init__(self):
        settings.check_fields(self)


class Text(NamedTuple):
    """Token ids and segment types, int32 [..., length]; padding is 0 in both."""

    tokens: Array
    types: Array

    def at(self, candidates: slice, width: int | None = None) -> "Text":
        """Of texts [B,K,length] some candidates, or as many of their wordpieces as `width`."""
        return Text(*(x[:, candidates, :width] for x in self))

    def used(self) -> Array:
        """Of texts [...,length] how many wordpieces there are up to the last, [...]."""
        places = jnp.arange(1, self.tokens.shape[-1] + 1)
        return jnp.where(self.tokens != 0, places, 0).max(-1)


class ClozeBatch(NamedTuple):
    """Masked queries with their candidates; leading axis B, or devices x B before a pmapped step."""

    query: Text  # [B,L]      [CLS] masked sentence [SEP], or another view of it
    candidates: Text  # [B,K,P]    [CLS] title [SEP] body [SEP]; candidate 0 is null
    joint: Text  # [B,K,S]    [CLS] masked sentence [SEP] body [SEP]
    valid: Array  # [B,K]      bool; false where fewer than K candidates were found
    positions: Array  # [B,M]      of the masked tokens in joint; 0 where unused
    targets: Array  # [B,M]      the tokens that stood there
    weights: Array  # [B,M]      1 where a token is to be predicted
    lexical: Array | None = None  # [B,K]      BM25 over the query's best, where the prior has it
    vectors: Array | None = None  # [B,K,E]    by a retriever that stays; the null's is not used
    rows: Array | None = (
        None  # [B,K]      int32, of the candidates, where their vectors are written back
    )

    def used(self) -> Array:
        """Wordpieces of the longest text that is read for any of the queries."""
        return jnp.stack([text.used().max() for text in self.read()]).max()

    def read(self) -> tuple[Text, ...]:
        """Of the texts of candidates those that are read: none is embedded that is known by its vector."""
        return (self.joint,) if self.vectors is not None else (self.joint, self.candidates)

    def narrowed(self, width: int) -> "ClozeBatch":
        """Without what is padding in all of its texts."""
        every = slice(None)
        return self._replace(
            candidates=self.candidates.at(every, width), joint=self.joint.at(every, width)
        )


class ReadClozes(NamedTuple):
    """Clozes that a frozen reader has read, beside the candidates of all queries of all devices, n in all."""

    clozes: ClozeBatch
    likelihood: Array | None  # [B,K,M]    log p(y_m|z,x); None where it is to be read in the step
    others: Array  # [B,n]      bool; candidates of other queries that say nothing of this one
    lexical: Array | None = None  # [B,n]      BM25 of them
    vectors: Array | None = None  # [B,K,E]    of the candidates, where the passage tower stays


class QueryPassages(NamedTuple):
    """Queries and passages to tell apart: the first is the query's own, C - 1 are hard negatives."""

    query: Text  # [B,L]
    passages: Text | None  # [B,C,P]; None where their vectors are given
    rows: Array  # [B,C]      int32, of the passages in the corpus
    # [B,C of all devices]  a teacher's scores, or none; the most negative where a passage is left out
    teacher: Array | None = None
    vectors: Array | None = None  # [B,C,E]    of the passages, where the passage tower stays


class QuestionBatch(NamedTuple):
    """Questions with a wide beam of passages, of which the first K are read. R passages, R >= K."""

    question: Text  # [B,L]     [CLS] question [SEP]
    beam: Array  # [B,R,E]    vectors of the index, which stay as they are
    found: Array  # [B,R]      bool; false where the corpus has fewer than R passages
    has_answer: Array  # [B,R]      bool; the passage has an answer
    joint: Text  # [B,K,S]    [CLS] question [SEP] passage [SEP]
    within: Array  # [B,K,S]    bool; where an answer may lie
    gold: Array  # [B,K,S,W]  bool; the spans that are an answer, by first wordpiece and width less one
    candidates: Text | None = None  # [B,K,P]  to embed afresh, where the passage tower learns too
