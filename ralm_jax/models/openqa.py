"""Retriever and span reader together: question to answer (ORQA; REALM's downstream model)."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from ralm_jax.batches import Array, QuestionBatch, Text
from ralm_jax.models.config import EncoderConfig
from ralm_jax.models.embedder import Retriever
from ralm_jax.models.ralm import reranked_joint
from ralm_jax.models.scorer import Scorer
from ralm_jax.models.span_reader import SpanReader


class OpenQA(nn.Module):
    """The whole model. Parameters: {"retriever": ..., "reader": ...}, as those of `Ralm`."""

    retriever_config: EncoderConfig
    reader_config: EncoderConfig
    embedding: int = 128
    pooling: str = "cls"
    share_towers: bool = True
    score_scale: float = 1.0
    head: str = "layer_norm"
    norm_eps: float = 1e-12
    with_scorer: bool = False
    span_width: int = 10  # W
    span_hidden: int = 256
    span_norm_eps: float = 1e-3

    def setup(self):
        self.retriever = Retriever(
            self.retriever_config,
            self.embedding,
            self.pooling,
            self.head,
            self.norm_eps,
            self.share_towers,
        )
        self.reader = SpanReader(
            self.reader_config, self.span_width, self.span_hidden, self.span_norm_eps
        )
        if self.with_scorer:
            self.scorer = Scorer(self.reader_config)

    def queries(self, text: Text, train: bool = False) -> jax.Array:
        """[B,L] -> [B,E]."""
        return self.retriever.queries(text.tokens, text.types, train)

    def passages(self, text: Text, train: bool = False) -> jax.Array:
        """[B,P] -> [B,E]."""
        return self.retriever.passages(text.tokens, text.types, train)

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

    def rerank(self, joint: Text, train: bool = False) -> jax.Array:
        """What the scorer makes of question and passage read together: [B,K,S] -> [B,K]."""
        return reranked_joint(self.scorer, joint, train)

    def read(self, joint: Text, within: Array, train: bool = False) -> jax.Array:
        """[CLS] question [SEP] passage [SEP] of each candidate [B,K,S], and where an answer may lie
        (bool [B,K,S]) -> scores of spans [B,K,S,W]."""
        b, k, s = joint.tokens.shape
        tokens, types, within = (x.reshape(b * k, s) for x in (*joint, within))
        scores = self.reader(tokens, types, within, train)
        return scores.reshape(b, k, *scores.shape[1:])
