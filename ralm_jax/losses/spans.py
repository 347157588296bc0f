"""How well the right spans of the passages read are picked out: the second term of ORQA's loss.

Most of fine-tuning is this. Passages are padded, and of a weak retriever few hold an answer: so questions
are read a few at a time, no wider than their passages are, and not at all where there is nothing to learn.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

from ralm_jax.batches import Array, QuestionBatch, Text
from ralm_jax.losses import marginal, microbatch
from ralm_jax.models.base import RetrievalModel


class Passages(NamedTuple):
    """What is read for each question, as in `QuestionBatch`, and its key of dropout."""

    joint: Text  # [B,K,S]
    within: Array  # [B,K,S]
    gold: Array  # [B,K,S,W]
    keys: jax.Array  # [B]


def passages(batch: QuestionBatch, key: jax.Array) -> Passages:
    keys = jax.random.split(key, len(batch.found))
    return Passages(batch.joint, batch.within, batch.gold, keys)


def reading(model: RetrievalModel, microbatch_size: int, widths: Sequence[int]) -> microbatch.Loss:
    """(reader, scores of the passages [B,K], Passages) -> (sum of losses, ((questions that have a right span,
    those answered with one), ())), differentiable in the first two.

    Args:
      model: an OpenQA.
      microbatch_size: questions read at a time; divides B.
      widths: ascending, the last one S: a group is read at the least that all its passages fit.
    """

    def nothing(reader, scores, part):
        del reader, part
        zero = 0.0 * scores.sum()
        return zero, ((zero, zero), ())

    def at(width: int) -> microbatch.Loss:
        def loss(reader, scores, part: Passages):
            joint = Text(part.joint.tokens[..., :width], part.joint.types[..., :width])

            def read(inputs, key):
                rngs = {"dropout": key}
                return model.apply(
                    {"params": {"reader": reader}}, *inputs, True, method="read", rngs=rngs
                )

            inputs = (joint, part.within[..., :width])
            spans = microbatch.each_example(
                read, inputs, part.keys, alone=model.drops
            )  # [b,K,width,W]
            logits = (spans + scores[..., None, None]).reshape(len(scores), -1)
            gold = part.gold[:, :, :width].reshape(logits.shape)
            total, readable = marginal.answer_likelihood(logits, gold)
            right = jnp.take_along_axis(gold, logits.argmax(1)[:, None], axis=1).sum()
            return total, ((readable, right.astype(jnp.float32)), ())

        return loss

    def way(part: Passages):
        used = part.joint.used().max()
        return jnp.where(part.gold.any(), 1 + (used > jnp.array(widths[:-1], int)).sum(), 0)

    return microbatch.in_groups([nothing, *map(at, widths)], way, microbatch_size)
