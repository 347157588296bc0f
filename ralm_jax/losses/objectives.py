"""How the reader teaches the retriever, beyond REALM's marginal likelihood: each in the same three inputs.

log_prior [B,K]: log p(z|x), hugely negative for a candidate that is none; log_likelihood [B,K,M]: log
p(y_m|z,x); weights [B,M]: 1 for a masked token. Out: a sum over queries, and the count of tokens, so that
all have one scale with `losses.marginal_per_span`, which is REALM's.

The papers' readers see all passages at once (fusion in the decoder). Ours reads one at a time; where they
have log p(y|x,Z), here stands the log of the mean over the candidates of p(y|z,x): no passage weighs more
for being retrieved more readily, as none does for them. So the reader learns alike in all three, and only
what the retriever is taught differs: a target over the candidates that no gradient runs through.
"""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np

LEAST = -1e30  # of a log p(z|x): below it there is no such candidate


def emdr2(log_prior, log_likelihood, weights):
    """EMDR2 (Singh et al. 2021, eq. 5): -log p(y|x,Z) - log sum_z p(z|x) sg[p(y|z,x)].

    The gradient to the scores is p(z|x) - p(z|x,y), as under `marginal_per_span`.
    """
    likelihood, valid = spans(log_prior, log_likelihood, weights)
    taught = jax.nn.logsumexp(log_prior + jax.lax.stop_gradient(likelihood), axis=-1)
    return summed(log_mean(likelihood, valid) + taught, weights)


def perplexity_distillation(log_prior, log_likelihood, weights, temperature: float = 1.0):
    """PDist (Izacard et al. 2022, Atlas 2.2): KL(target || p(z|x)), beside -log p(y|x,Z).

    target = softmax over z of the mean log p(y_m|z,x) over the tokens, divided by `temperature`. Unlike the
    posterior it does not know p(z|x): it may name a passage that the retriever finds unlikely.
    """
    likelihood, valid = spans(log_prior, log_likelihood, weights)
    target = readers_list(likelihood, valid, weights, temperature)
    return summed(log_mean(likelihood, valid) - divergence_from(target, log_prior), weights)


def leave_one_out(log_prior, log_likelihood, weights, temperature: float = 1.0):
    """LOOP (Izacard et al. 2022, Atlas 2.2): KL(target || p(z|x)), beside -log p(y|x,Z).

    target = softmax over z of -log p(y|x, Z without z), divided by `temperature`: how much worse the answer
    is for want of z. One candidate alone teaches nothing.
    """
    likelihood, valid = spans(log_prior, log_likelihood, weights)
    others = valid[:, None, :] & ~jnp.eye(valid.shape[1], dtype=bool)[None]  # [B,K,K]
    without = log_mean(likelihood[:, None, :], others)  # [B,K]
    several = valid.sum(-1, keepdims=True) > 1
    target = _target(jnp.where(several, -without / temperature, 0.0), valid)
    return summed(log_mean(likelihood, valid) - divergence_from(target, log_prior), weights)


def expected_log_likelihood(log_prior, log_likelihood, weights):
    """-sum_z p(z|x) log p(y|z,x): what in-batch attention (Revela, Cai et al. 2025) is with such a reader.

    Revela mixes the passages by p(z|x) in the attention of its reader, before it predicts. A reader that has
    read each by itself can mix their logits at the latest; log p(y) of logits that are mixed is at least the
    mean of log p(y|z,x), which is taken here. The gradient to a score is p(z|x) (log p(y|z,x) - that mean):
    a passage below the mean is pushed down, however the others fare.
    """
    likelihood, valid = spans(log_prior, log_likelihood, weights)
    return summed(jnp.where(valid, jnp.exp(log_prior) * likelihood, 0.0).sum(-1), weights)


def list_marginal(log_prior, log_likelihood, weights, size: int = 2):
    """The latent is an ordered list of `size` passages read together (after DRO, Shi et al. 2025).

    -log sum over lists of p(list|x) p(y|x,list): passages are drawn one after another without replacement
    (Plackett and Luce), and p(y|x,list) is the mean of p(y|z,x) over its passages. DRO weighs sampled lists
    by p(y|x,list); here all K!/(K-size)! are summed, so that the gradient is what its estimate is of.
    """
    likelihood, valid = spans(log_prior, log_likelihood, weights)
    size = min(size, valid.shape[1])
    lists = np.array(list(itertools.permutations(range(valid.shape[1]), size)))  # [lists,size]
    picked, there = log_prior[:, lists], valid[:, lists]  # [B,lists,size]
    gone = jnp.cumsum(jnp.where(there, jnp.exp(picked), 0.0), -1)[..., :-1]
    left = jnp.log(jnp.maximum(1 - gone, 1e-6))  # what is left to draw from after each
    whole = there.all(-1)
    drawn = jnp.where(whole, picked.sum(-1) - left.sum(-1), 2 * LEAST)
    read = log_mean(likelihood[:, lists], there)  # [B,lists]
    enough = whole.any(-1)  # else fewer passages than a list has: one by one
    together = jax.nn.logsumexp(jnp.where(whole, drawn + read, 2 * LEAST), axis=-1)
    alone = jax.nn.logsumexp(log_prior + jnp.where(valid, likelihood, 0.0), axis=-1)
    return summed(jnp.where(enough, together, alone), weights)


def tempered(objective, temperature: float):
    """The objective with p(z|x) made sharper (below 1) or flatter, as it is given to it alone.

    Unlike the model's `score_scale` it leaves the telemetry and what is searched for as they are.
    """

    @functools.wraps(objective)
    def changed(log_prior, *given, **more):
        return objective(jax.nn.log_softmax(log_prior / temperature, axis=-1), *given, **more)

    return changed


def spans(log_prior, log_likelihood, weights):
    """log p(y|z,x) of all masked tokens [B,K], and which candidates there are, bool [B,K]."""
    return (weights[:, None, :] * log_likelihood).sum(-1), log_prior > LEAST


def log_mean(values, valid):
    """Log of the mean of exp(values) over the valid ones of the last axis; 0 where there are none."""
    some = valid.any(-1)
    total = jax.nn.logsumexp(jnp.where(valid, values, 2 * LEAST), axis=-1)
    return jnp.where(some, total - jnp.log(jnp.maximum(valid.sum(-1), 1)), 0.0)


def readers_list(likelihood, valid, weights, temperature):
    """Softmax over the valid candidates of the mean log p(y_m|z,x) over the tokens, [B,K]."""
    tokens = jnp.maximum(weights.sum(-1, keepdims=True), 1)
    return _target(likelihood / (tokens * temperature), valid)


def _target(scores, valid):
    """What the retriever is taught: softmax over the valid candidates [B,K], without a gradient."""
    return jax.lax.stop_gradient(jax.nn.softmax(jnp.where(valid, scores, 2 * LEAST), axis=-1))


def divergence_from(target, log_prior):
    """KL(target || p(z|x)), nats [B]."""
    log_target = jnp.log(jnp.where(target > 0, target, 1.0))
    return (target * (log_target - jnp.maximum(log_prior, 2 * LEAST))).sum(-1)


def summed(gain, weights):
    """Gains [B] to minus their sum over the queries that have a masked token, and the count of tokens."""
    return -(weights.max(-1) * gain).sum(), weights.sum()
