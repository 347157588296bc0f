"""What every retrieval-augmented model has: a retriever of one or two towers, and perhaps a scorer."""

import flax.linen as nn
import jax
import jax.numpy as jnp

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
      with_scorer: a cross-encoder, of the reader's sizes unless `scorer_config` gives others; with
        `scorer_pooler` as it was released, see `scorer`.
      query_prompt, passage_prompt: wordpieces that the retriever reads before every query or passage, as
        the encoder was trained to; the reader and the scorer never see them.
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
    query_prompt: tuple[int, ...] = ()
    passage_prompt: tuple[int, ...] = ()
    scorer_config: EncoderConfig | None = None
    scorer_pooler: bool = False

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
            self.scorer = Scorer(self.scorer_config or self.reader_config, self.scorer_pooler)

    @property
    def drops(self) -> bool:
        """Whether anything is dropped out in training."""
        configs = (self.retriever_config, self.reader_config)
        return any(c.dropout or c.attention_dropout for c in configs)

    @property
    def joint_positions(self) -> int:
        """Wordpieces of the longest query with its passage that reader and scorer can read."""
        readers = [self.reader_config]
        readers += [self.scorer_config] if self.with_scorer and self.scorer_config else []
        return min(c.positions for c in readers)

    def queries(self, text: Text, train: bool = False) -> jax.Array:
        """[B,L] -> [B,E]."""
        return self.retriever.queries(*prompted(text, self.query_prompt), train)

    def passages(self, text: Text, train: bool = False) -> jax.Array:
        """[B,P] -> [B,E]."""
        return self.retriever.passages(*prompted(text, self.passage_prompt), train)

    def rerank(self, joint: Text, train: bool = False) -> jax.Array:
        """What the scorer makes of query and passage read together: [B,K,S] -> [B,K]."""
        b, k, s = joint.tokens.shape
        tokens, types = (x.reshape(b * k, s) for x in joint)
        return self.scorer(tokens, types, train).reshape(b, k)


def prompted(text: Text, prompt: tuple[int, ...]) -> Text:
    """[B,P] -> [B,P+n]: the n wordpieces of a prompt behind [CLS], of type 0."""
    if not prompt:
        return text
    rows = len(text.tokens)
    pieces = jnp.broadcast_to(jnp.array(prompt, jnp.int32), (rows, len(prompt)))
    return Text(
        jnp.concatenate([text.tokens[:, :1], pieces, text.tokens[:, 1:]], axis=1),
        jnp.concatenate([text.types[:, :1], jnp.zeros_like(pieces), text.types[:, 1:]], axis=1),
    )
