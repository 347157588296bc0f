"""Retriever and span reader together: question to answer (ORQA; REALM's downstream model)."""

import jax
import jax.numpy as jnp

from ralm_jax.batches import Array, QuestionBatch, Text
from ralm_jax.models.base import RetrievalModel
from ralm_jax.models.span_reader import SpanReader
from ralm_jax.settings import Count, Positive


class OpenQA(RetrievalModel):
    """The whole model; span_width is W."""

    span_width: Count = 10
    span_hidden: Count = 256
    span_norm_eps: Positive = 1e-3

    def setup(self):
        super().setup()
        self.reader = SpanReader(
            self.reader_config, self.span_width, self.span_hidden, self.span_norm_eps
        )

    def __call__(self, batch: QuestionBatch, train: bool = False) -> tuple[jax.Array, jax.Array]:
        """-> retrieval scores [B,R] and scores of spans [B,K,S,W]."""
        return self.scores(batch, train), self.read(batch.joint, batch.within, train)

    def scores(self, batch: QuestionBatch, train: bool = False) -> jax.Array:
        """Of the passages of the beam, least where nothing was found: [B,R]."""
        beam = batch.beam
        if batch.candidates is not None:
            b, k, p = batch.candidates.tokens.shape
            flat = jax.tree.map(lambda x: x.reshape(b * k, p), batch.candidates)
            fresh = self.passages(flat, train).reshape(b, k, -1)
            beam = jnp.concatenate([fresh, beam[:, k:]], axis=1)
        queries = self.queries(batch.question, train)
        scores = self.score_scale * jnp.einsum("be,bre->br", queries, beam)
        return jnp.where(batch.found, scores, jnp.finfo(scores.dtype).min / 2)

    def read(self, joint: Text, within: Array, train: bool = False) -> jax.Array:
        """[CLS] question [SEP] passage [SEP] of each candidate [B,K,S], and where an answer may lie
        (bool [B,K,S]) -> scores of spans [B,K,S,W]."""
        b, k, s = joint.tokens.shape
        tokens, types, within = (x.reshape(b * k, s) for x in (*joint, within))
        scores = self.reader(tokens, types, within, train)
        return scores.reshape(b, k, *scores.shape[1:])
