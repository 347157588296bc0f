"""Retriever and reader together: what a retrieval-augmented language model computes for a batch.

Candidates arrive in the batch: the model never talks to an index (REALM 3.1). Candidate 0 is
the null passage. Query and candidates are embedded afresh with current parameters, so gradients
flow into both towers; the index has only chosen which candidates appear.
"""

from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from ralm_jax.models.config import EncoderConfig
from ralm_jax.models.embedder import Retriever
from ralm_jax.models.reader import Reader
from ralm_jax.models.scorer import Scorer

Array = Any  # numpy on the host, jax in a step


class Text(NamedTuple):
    """Token ids and segment types, int32 [..., length]; padding is 0 in both."""

    tokens: Array
    types: Array


class ClozeBatch(NamedTuple):
    """Masked queries with their candidates; leading axis B, or devices x B before a pmapped step."""

    query: Text  # [B,L]      [CLS] masked sentence [SEP]
    candidates: Text  # [B,K,P]    [CLS] title [SEP] body [SEP]; candidate 0 is null
    joint: Text  # [B,K,S]    [CLS] masked sentence [SEP] body [SEP]
    valid: Array  # [B,K]      bool; false where fewer than K candidates were found
    positions: Array  # [B,M]      of the masked tokens in query and joint; 0 where unused
    targets: Array  # [B,M]      the tokens that stood there
    weights: Array  # [B,M]      1 where a token is to be predicted


class ClozePair(NamedTuple):
    """Inverse cloze: query b [B,L] is a sentence of passage b [B,P], which has row[b] in the corpus."""

    query: Text
    passage: Text
    row: Array  # int32 [B]


class Ralm(nn.Module):
    """The whole model. Parameters: {"retriever": ..., "reader": ...}, no sharing between the two.

    With a scorer {"scorer": ...} too.
    """

    retriever_config: EncoderConfig
    reader_config: EncoderConfig
    embedding: int = 128
    pooling: str = "cls"
    share_towers: bool = True
    score_scale: float = 1.0  # on inner products before a softmax; REALM has none, cosines want 20
    head: str = "layer_norm"
    norm_eps: float = 1e-12  # of that LayerNorm
    with_scorer: bool = False  # a cross-encoder of the reader's sizes; parameters under "scorer"

    def setup(self):
        self.retriever = Retriever(
            self.retriever_config,
            self.embedding,
            self.pooling,
            self.head,
            self.norm_eps,
            self.share_towers,
        )
        self.reader = Reader(self.reader_config)
        if self.with_scorer:
            self.scorer = Scorer(self.reader_config)

    def queries(self, text: Text, train: bool = False) -> jax.Array:
        """[B,L] -> [B,E]."""
        return self.retriever.queries(text.tokens, text.types, train)

    def passages(self, text: Text, train: bool = False) -> jax.Array:
        """[B,P] -> [B,E]."""
        return self.retriever.passages(text.tokens, text.types, train)

    def scores(self, batch: ClozeBatch, train: bool = False) -> jax.Array:
        """Relevance of each candidate, f(x, z) = e(x) . e(z): [B,K]."""
        b, k, p = batch.candidates.tokens.shape
        flat = jax.tree.map(lambda x: x.reshape(b * k, p), batch.candidates)
        passages = self.passages(flat, train).reshape(b, k, -1)  # [B,K,E]
        queries = self.queries(batch.query, train)  # [B,E]
        return self.similarity(queries[:, None], passages)[:, 0]

    def similarity(self, queries: jax.Array, passages: jax.Array) -> jax.Array:
        """Scaled inner products: [...,Q,E] and [...,K,E] -> [...,Q,K]."""
        return self.score_scale * jnp.einsum("...qe,...ke->...qk", queries, passages)

    def read(self, batch: ClozeBatch, train: bool = False) -> jax.Array:
        """Masked-token logits for every candidate: [B,K,M,V]."""
        b, k, s = batch.joint.tokens.shape
        flat = jax.tree.map(lambda x: x.reshape(b * k, s), batch.joint)
        positions = jnp.repeat(batch.positions, k, axis=0)  # [B*K,M]
        logits = self.reader(flat.tokens, flat.types, positions, train)
        return logits.reshape(b, k, *logits.shape[1:])

    def judge(self, joint: Text, train: bool = False) -> jax.Array:
        """What the scorer makes of query and passage read together: [B,K,S] -> [B,K]."""
        return judged(self.scorer, joint, train)

    def __call__(self, batch: ClozeBatch, train: bool = False) -> tuple[jax.Array, jax.Array]:
        """-> scores [B,K] and log p(y_m | z_k, x) [B,K,M], float32."""
        logits = self.read(batch, train)  # [B,K,M,V]
        targets = jnp.broadcast_to(batch.targets[:, None, :, None], (*logits.shape[:-1], 1))
        chosen = jnp.take_along_axis(logits, targets, axis=-1)[..., 0]  # [B,K,M]
        return self.scores(batch, train), chosen - jax.nn.logsumexp(logits, axis=-1)


def judged(scorer: Scorer, joint: Text, train: bool) -> jax.Array:
    """[B,K,S] -> [B,K]."""
    b, k, s = joint.tokens.shape
    return scorer(joint.tokens.reshape(b * k, s), joint.types.reshape(b * k, s), train).reshape(
        b, k
    )
