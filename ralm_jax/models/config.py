"""Sizes of a BERT encoder or one of its kin, and the letters that name every array dimension in ralm_jax.

B  batch (queries)              D  hidden width of an encoder
K  candidates per query,        E  width of a retrieval embedding
   null passage included        H  attention heads
L  query length                 V  vocabulary
P  passage length               N  passages in the corpus
S  joint length: query+passage  M  masked positions per query
"""

import dataclasses
from typing import Any, Literal

import jax.numpy as jnp

from ralm_jax import settings
from ralm_jax.errors import UserError
from ralm_jax.settings import Count, CountOrZero, Positive, ShareBelowOne

# Under transformers' names. The first five have BERT's layers, the others turn queries and keys by position.
Family = Literal[
    "bert", "distilbert", "roberta", "xlm-roberta", "mpnet", "modernbert", "nomic_bert"
]
# Rows of position embeddings before the first position, and token types: fairseq's models have padding there.
OFFSETS = {"roberta": 2, "xlm-roberta": 2, "mpnet": 2}
TYPES = {"bert": 2, "nomic_bert": 2, "roberta": 1, "xlm-roberta": 1}


@dataclasses.dataclass(frozen=True)
class EncoderConfig:
    """A BERT encoder, or one of its kin; the defaults are BERT-base as REALM used it.

    See Devlin et al. 2019, and Guu et al. 2020.

    `vocab_size` is set from the corpus when a run starts. Named sizes are `configs/models/*.gin`.
    """

    vocab_size: Count = 30522
    hidden: Count = 768
    layers: Count = 12
    heads: Count = 12
    intermediate: Count = 3072
    positions: Count = 512
    dropout: ShareBelowOne = 0.1
    attention_dropout: ShareBelowOne = 0.1
    layer_norm_eps: Positive = 1e-12
    # The tanh form, as released; transformers' BertModel uses erf.
    gelu_approximate: bool = True
    init_stddev: Positive = 0.02
    # Position embeddings, which are trained, start as sinusoids. From random weights a reader of 2
    # layers learns to copy out of a passage in half the steps or less; an import overwrites them.
    sinusoidal_start: bool = False
    # Which layers it has, and in whose layout it is exported.
    family: Family = "bert"
    # By what positions turn queries and keys (modernbert, nomic_bert): the base of the angles.
    rotary_base: Positive = 10000.0
    # Layers that see no further than `local_reach` to either side, but for every `global_every`-th from the
    # first; angles of theirs go by another base (modernbert).
    local_reach: CountOrZero = 0
    local_rotary_base: Positive = 10000.0
    global_every: Count = 1
    # Memory for time: True computes each layer again in the backward pass, a third more work; "dots" keeps
    # its matrix products and computes what is cheap again, of attention too, for a few percent.
    remat: bool | Literal["dots"] = False
    # How a device attends, and no part of what a model is: a run does not keep it. See `attention`.
    attention: Literal["xla", "cudnn"] = "xla"
    # Of activations; parameters, softmax, norms' statistics, logits and losses are float32.
    dtype: Any = jnp.float32

    def __post_init__(self):
        settings.check_fields(self)
        if self.hidden % self.heads:
            raise UserError(
                f"EncoderConfig: hidden {self.hidden} does not divide into {self.heads} heads; "
                "change one of them"
            )
        if self.rotary and self.hidden // self.heads % 2:
            raise UserError(
                f"EncoderConfig: positions turn pairs of numbers, and heads of {self.hidden // self.heads} "
                "have no whole number of them; change hidden or heads"
            )
        if self.attention == "cudnn" and not self.can_fuse:
            raise UserError(
                "EncoderConfig.attention is 'cudnn', which takes bfloat16, no dropout of attention, and "
                f"heads of 8, 16, ... 128, not {jnp.dtype(self.dtype).name}, {self.attention_dropout} and "
                f"{self.hidden // self.heads}: set it to 'xla'"
            )

    @property
    def can_fuse(self) -> bool:
        """Whether cuDNN can attend in its place."""
        # It takes no bias of positions and no window.
        if self.family in ("mpnet", "modernbert"):
            return False
        width = self.hidden // self.heads
        half = jnp.dtype(self.dtype) == jnp.bfloat16
        return half and not self.attention_dropout and not width % 8 and width <= 128

    @property
    def rotary(self) -> bool:
        """Whether positions turn queries and keys, instead of having embeddings."""
        return self.family in ("modernbert", "nomic_bert")

    @property
    def position_offset(self) -> int:
        """Rows of position embeddings before that of the first position."""
        return OFFSETS.get(self.family, 0)

    @property
    def token_types(self) -> int:
        """Rows of type embeddings; with one of them all tokens are of one type."""
        return TYPES.get(self.family, 0)

    def record(self) -> dict[str, Any]:
        """As JSON: all but how a device attends, which the next one may do otherwise.

        Of BERT's own no more than was recorded when there was no other, so that what is known by this stays.
        """
        fields = dataclasses.asdict(self)
        del fields["attention"]
        if self.family == "bert":
            fields = {name: x for name, x in fields.items() if name not in KIN}
        return {**fields, "dtype": jnp.dtype(self.dtype).name}


# Fields that only kin of BERT have a use for.
KIN = ("family", "rotary_base", "local_reach", "local_rotary_base", "global_every")


@dataclasses.dataclass(frozen=True)
class Compute:
    """How an accelerator computes what a model is: its sizes and parameters stay.

    The defaults are those of an accelerator. ModernBERT and MosaicBERT are pretrained without dropout of
    attention, which is what fused attention allows: "auto" is cuDNN's on NVIDIA's GPUs wherever that can be.
    """

    dtype: Literal["float32", "bfloat16"] = "bfloat16"
    remat: bool | Literal["dots"] = "dots"
    attention_dropout: ShareBelowOne = 0.0
    attention: Literal["auto", "xla", "cudnn"] = "auto"

    def __post_init__(self):
        settings.check_fields(self)

    def of(self, config: EncoderConfig, cuda: bool) -> EncoderConfig:
        """cuda: whether it is computed on NVIDIA's GPUs. Raises UserError where cuDNN cannot attend so."""
        how: dict[str, Any] = {"dtype": jnp.dtype(self.dtype).type, "remat": self.remat}
        how |= {"attention_dropout": self.attention_dropout, "attention": "xla"}
        plain = dataclasses.replace(config, **how)
        if self.attention == "auto":
            wanted = cuda and plain.can_fuse
        else:
            wanted = self.attention == "cudnn"
        return dataclasses.replace(plain, attention="cudnn") if wanted else plain
