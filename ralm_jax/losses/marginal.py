"""Objectives as sums and counts, so that devices and batches add up exactly.

Candidate probabilities and the marginal likelihood follow REALM (Guu et al. 2020, eq. 1 and 2);
the inverse cloze objective follows ORQA (Lee et al. 2019).
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

# log p(z|x) [B,K], log p(y_m|z,x) [B,K,M], weights [B,M] -> (sum of losses, count)
Objective = Callable[[jax.Array, jax.Array, jax.Array], tuple[jax.Array, jax.Array]]


def log_prior(scores: jax.Array, valid: jax.Array) -> jax.Array:
    """log p(z|x) over the candidates of each query only: scores, valid [B,K] -> [B,K].

    An invalid candidate gets the most negative finite number and so probability 0 (not -inf, whose
    gradient through logsumexp can be NaN).
    """
    return jax.nn.log_softmax(jnp.where(valid, scores, jnp.finfo(scores.dtype).min / 2), axis=-1)


def marginal_per_token(log_prior, log_likelihood, weights):
    """-log sum_z p(z|x) p(y_m|z,x), each masked token by itself: the released REALM code.

    log_prior [B,K]; log_likelihood [B,K,M]; weights [B,M] -> (sum over tokens, tokens).
    """
    marginal = jax.nn.logsumexp(log_prior[:, :, None] + log_likelihood, axis=1)  # [B,M]
    return -(weights * marginal).sum(), weights.sum()


def marginal_per_span(log_prior, log_likelihood, weights):
    """-log sum_z p(z|x) prod_m p(y_m|z,x), all masked tokens jointly: the REALM paper, eq. 1 and 2.

    Shapes as in `marginal_per_token`; the count is still of tokens, so that the two forms have one
    scale, and they are equal where a query has one masked token.
    """
    joint = log_prior + (weights[:, None, :] * log_likelihood).sum(-1)  # [B,K]
    masked = weights.max(-1)  # [B], 0 for a query without masked tokens
    return -(masked * jax.nn.logsumexp(joint, axis=-1)).sum(), weights.sum()


def in_batch(scores: jax.Array, labels: jax.Array, rows: jax.Array, passages: jax.Array):
    """Softmax cross-entropy of each query against all passages of the global batch (inverse cloze: ORQA 5).

    The query's own passage may be there once more: that column is no negative, and its probability is 0.

    Args:
      scores: [B, global B].
      labels: int [B], the column of each query's own pair.
      rows, passages: int [B] and [global B], the passage rows of the queries and of the columns.

    Returns:
      (sum over queries, queries), and how many queries were right.
    """
    columns = jnp.arange(scores.shape[1])[None, :]
    same = (rows[:, None] == passages[None, :]) & (columns != labels[:, None])
    scores = jnp.where(same, jnp.finfo(scores.dtype).min / 2, scores)
    chosen = jnp.take_along_axis(scores, labels[:, None], axis=1)[:, 0]
    total = (jax.nn.logsumexp(scores, axis=1) - chosen).sum()
    right = (scores.argmax(1) == labels).sum().astype(jnp.float32)
    return (total, jnp.float32(len(labels))), right


def listwise(scores: jax.Array, teacher: jax.Array):
    """KL divergence of softmax(scores) from softmax(teacher), over all passages of the global batch.

    Args:
      scores, teacher: [B, n]; where the teacher's is the most negative finite number, neither counts.

    Returns:
      (sum over queries, queries), and how many queries put first what the teacher does.
    """
    least = jnp.finfo(scores.dtype).min / 2
    log_p = jax.nn.log_softmax(jnp.where(teacher <= least, least, scores), axis=-1)
    log_t = jax.nn.log_softmax(teacher, axis=-1)
    p = jnp.exp(log_t)
    total = jnp.where(p > 0, p * (log_t - log_p), 0.0).sum()
    right = (log_p.argmax(1) == log_t.argmax(1)).sum().astype(jnp.float32)
    return (total, jnp.float32(len(scores))), right


def answer_likelihood(logits: jax.Array, correct: jax.Array):
    """-log of the probability that falls on any correct candidate (ORQA 4.2, maximum marginal likelihood).

    logits [B,n], correct bool [B,n] -> (sum, count) over the rows that have a correct candidate; the others
    add nothing.
    """
    least = jnp.finfo(logits.dtype).min / 2
    some = correct.any(-1)
    right = jax.nn.logsumexp(jnp.where(correct, logits, least), axis=-1)
    lost = jnp.where(some, jax.nn.logsumexp(logits, axis=-1) - right, 0.0)
    return lost.sum(), some.sum().astype(jnp.float32)


def retrieval_telemetry(log_prior, log_likelihood, weights) -> dict[str, tuple]:
    """What shows collapse when it happens, as {name: (sum, count)}; shapes as above.

    retrieval_utility: log p(y_m|x) - log p(y_m|null, x), per token (REALM 5.2, the released form);
    prior_entropy (nats) and p_null, per query; log_likelihood with the null passage, per token.
    """
    tokens, queries = weights.sum(), jnp.float32(len(log_prior))
    marginal = jax.nn.logsumexp(log_prior[:, :, None] + log_likelihood, axis=1)  # [B,M]
    null = log_likelihood[:, 0]  # [B,M]
    prior = jnp.exp(log_prior)
    return {
        "retrieval_utility": ((weights * (marginal - null)).sum(), tokens),
        "null_loss": (-(weights * null).sum(), tokens),
        "prior_entropy": (-(prior * jnp.where(prior > 0, log_prior, 0.0)).sum(), queries),
        "p_null": (prior[:, 0].sum(), queries),
    }
