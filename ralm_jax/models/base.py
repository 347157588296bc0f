"""What every retrieval-augmented model has: a retriever of one or two towers, and perhaps a scorer."""

import flax.linen as nn
import jax

from ralm_jax.batches import Text
from ralm_jax.models.config import EncoderConfig
from ralm_jax.models.embedder import Retriever
from ralm_jax.models.scorer import Scorer
from ralm_jax.settings import Count, Positive


class RetrievalModel(nn.Module):
    """The retriever's half. Parameters: {"retriever": ..., "reader": ...}, and perhaps {"scorer": ...}.

    Attributes:
      embedding: E.
      score_scale: on inner products before a softmax; REALM has none, cosines want 20.
      norm_eps: of the LayerNorm of the head.
      with_scorer: a cross-encoder of the reader's sizes.
    """

    retriever_config: EncoderConfig
    reader_config: EncoderConfig
    embedding: Count = 128
    pooling: str = "cls"
    share_towers: bool = True
    score_scale: Positive = 1.0
    head: str = "layer_norm"
    norm_eps: Positive = 1e-12
    with_scorer: bool = False

    def setup(self):
        self.retriever = Retriever(
            self.retriever_config,
            self.embedding,
            self.pooling,
            self.head,
            self.norm_eps,
            self.share_towers,
        )
        if self.with_scorer:
            self.scorer = Scorer(self.reader_config)

    @property
    def drops(self) -> bool:
        """Whether anything is dropped out in training."""
        configs = (self.retriever_config, self.reader_config)
        return any(c.dropout or c.attention_dropout for c in configs)

    def queries(self, text: Text, train: bool = False) -> jax.Array:
        """[B,L] -> [B,E]."""
        return self.retriever.queries(text.tokens, text.types, train)

    def passages(self, text: Text, train: bool = False) -> jax.Array:
        """[B,P] -> [B,E]."""
        return self.retriever.passages(text.tokens, text.types, train)

    def rerank(self, joint: Text, train: bool = False) -> jax.Array:
        """What the scorer makes of query and passage read together: [B,K,S] -> [B,K]."""
        b, k, s = joint.tokens.shape
        tokens, types = (x.reshape(b * k, s) for x in joint)
        return self.scorer(tokens, types, train).reshape(b, k)
