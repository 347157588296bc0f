"""How the reader teaches the retriever, beyond REALM's marginal likelihood: each in the same three inputs.

log_prior [B,K]: log p(z|x), hugely negative for a candidate that is none; log_likelihood [B,K,M]: log
p(y_m|z,x); weights [B,M]: 1 for a masked token. Out: a sum over queries, and the count of tokens, so that
all have one scale with `losses.marginal_per_span`, which is REALM's.

The papers' readers see all passages at once (fusion in the decoder). Ours reads one at a time; where they
have log p(y|x,Z), here stands the log of the mean over the candidates of p(y|z,x): no passage weighs more
for being retrieved more readily, as none does for them. So the reader learns alike in all three, and only
what the retriever is taught differs: a target over the candidates that no gradient runs through.
"""

import jax
import jax.numpy as jnp

LEAST = -1e30  # of a log p(z|x): below it there is no such candidate


def emdr2(log_prior, log_likelihood, weights):
    """EMDR2 (Singh et al. 2021, eq. 5): -log p(y|x,Z) - log sum_z p(z|x) sg[p(y|z,x)].

    The gradient to the scores is p(z|x) - p(z|x,y), as under `marginal_per_span`.
    """
    likelihood, valid = _spans(log_prior, log_likelihood, weights)
    taught = jax.nn.logsumexp(log_prior + jax.lax.stop_gradient(likelihood), axis=-1)
    return _summed(_log_mean(likelihood, valid) + taught, weights)


def perplexity_distillation(log_prior, log_likelihood, weights, temperature: float = 1.0):
    """PDist (Izacard et al. 2022, Atlas 2.2): KL(target || p(z|x)), beside -log p(y|x,Z).

    target = softmax over z of the mean log p(y_m|z,x) over the tokens, divided by `temperature`. Unlike the
    posterior it does not know p(z|x): it may name a passage that the retriever finds unlikely.
    """
    likelihood, valid = _spans(log_prior, log_likelihood, weights)
    tokens = jnp.maximum(weights.sum(-1, keepdims=True), 1)
    target = _target(likelihood / (tokens * temperature), valid)
    return _summed(_log_mean(likelihood, valid) - _divergence(target, log_prior), weights)


def leave_one_out(log_prior, log_likelihood, weights, temperature: float = 1.0):
    """LOOP (Izacard et al. 2022, Atlas 2.2): KL(target || p(z|x)), beside -log p(y|x,Z).

    target = softmax over z of -log p(y|x, Z without z), divided by `temperature`: how much worse the answer
    is for want of z. One candidate alone teaches nothing.
    """
    likelihood, valid = _spans(log_prior, log_likelihood, weights)
    others = valid[:, None, :] & ~jnp.eye(valid.shape[1], dtype=bool)[None]  # [B,K,K]
    without = _log_mean(likelihood[:, None, :], others)  # [B,K]
    several = valid.sum(-1, keepdims=True) > 1
    target = _target(jnp.where(several, -without / temperature, 0.0), valid)
    return _summed(_log_mean(likelihood, valid) - _divergence(target, log_prior), weights)


def _spans(log_prior, log_likelihood, weights):
    """log p(y|z,x) of all masked tokens [B,K], and which candidates there are, bool [B,K]."""
    return (weights[:, None, :] * log_likelihood).sum(-1), log_prior > LEAST


def _log_mean(values, valid):
    """Log of the mean of exp(values) over the valid ones of the last axis; 0 where there are none."""
    some = valid.any(-1)
    total = jax.nn.logsumexp(jnp.where(valid, values, 2 * LEAST), axis=-1)
    return jnp.where(some, total - jnp.log(jnp.maximum(valid.sum(-1), 1)), 0.0)


def _target(scores, valid):
    """What the retriever is taught: softmax over the valid candidates [B,K], without a gradient."""
    return jax.lax.stop_gradient(jax.nn.softmax(jnp.where(valid, scores, 2 * LEAST), axis=-1))


def _divergence(target, log_prior):
    """KL(target || p(z|x)), nats [B]."""
    log_target = jnp.log(jnp.where(target > 0, target, 1.0))
    return (target * (log_target - jnp.maximum(log_prior, 2 * LEAST))).sum(-1)


def _summed(gain, weights):
    """Gains [B] to minus their sum over the queries that have a masked token, and the count of tokens."""
    return -(weights.max(-1) * gain).sum(), weights.sum()
