"""Listwise distillation between the retriever and a scorer that reads query and passage together.

RocketQAv2 (Ren et al. 2021) trains a dual encoder and a cross-encoder on one list of candidates: both softmax
over the list, and one learns from the other. Here the scorer may be taught by labels, as there, or by the
reader's likelihood, with no labels at all. In all: log_prior, log_scorer [B,K], log-probabilities over the
candidates of each query, hugely negative for one that is none; sums over queries and counts come out.
"""

import jax
import jax.numpy as jnp

from ralm_jax.losses import marginal, objectives


def divergence(log_target: jax.Array, log_learner: jax.Array) -> jax.Array:
    """KL(target || learner), nats [B]: [B,K] twice. Gradients reach both."""
    there = log_target > objectives.LEAST
    gap = jnp.where(there, log_target - log_learner, 0.0)
    return (jnp.exp(jnp.where(there, log_target, 2 * objectives.LEAST)) * gap).sum(-1)


def between(log_prior, log_scorer, *, reverse: bool = False, stop_gradient: bool = True):
    """How far apart retriever and scorer are, nats [B].

    KL(scorer || retriever), the scorer standing still: the released code. `reverse`: KL(retriever || scorer);
    without `stop_gradient` both move: together the paper's equation 4.
    """
    if stop_gradient:
        log_scorer = jax.lax.stop_gradient(log_scorer)
    pair = (log_prior, log_scorer) if reverse else (log_scorer, log_prior)
    return divergence(*pair)


def label_free(
    log_prior,
    log_likelihood,
    weights,
    log_scorer,
    *,
    temperature: float = 1.0,
    static: bool = False,
    reverse: bool = False,
    stop_gradient: bool = True,
):
    """Dynamic listwise distillation with the reader in the place of labels: an objective with a scorer.

    The reader learns as under `objectives`; the scorer learns its list, softmax over z of the mean
    log p(y_m|z,x) divided by `temperature` (the target of perplexity distillation); the retriever learns the
    scorer's. `static`: the scorer teaches as it is and does not learn (the ablation of RocketQAv2).
    log_likelihood [B,K,M], weights [B,M]; returns (sum, count of tokens), as `objectives`.
    """
    likelihood, valid = objectives.spans(log_prior, log_likelihood, weights)
    target = objectives.readers_list(likelihood, valid, weights, temperature)
    taught = objectives.divergence_from(
        target, jax.lax.stop_gradient(log_scorer) if static else log_scorer
    )
    apart = between(log_prior, log_scorer, reverse=reverse, stop_gradient=stop_gradient or static)
    return objectives.summed(objectives.log_mean(likelihood, valid) - taught - apart, weights)


def labelled(log_scores: jax.Array, labels: jax.Array):
    """-log of what falls on candidates with a label: [B,K], bool [B,K] -> nats [B], 0 without any."""
    some = labels.any(-1)
    right = jax.nn.logsumexp(jnp.where(labels, log_scores, 2 * objectives.LEAST), axis=-1)
    return jnp.where(some, -right, 0.0)


def rocketqav2_paper(log_prior, log_scorer, labels):
    """RocketQAv2 as its paper has it (eq. 3 to 6): KL(retriever || scorer), gradients to both, plus the
    scorer's cross-entropy. labels bool [B,K] -> (sum, lists that have a label).

    `rocketqav2_released` is what its code computes, and differs in three ways: the other direction, no
    gradient to the scorer, and a mean over the list as well as over queries, so a weight of 1/K.
    """
    return _listed(
        between(log_prior, log_scorer, reverse=True, stop_gradient=False), log_scorer, labels
    )


def rocketqav2_released(log_prior, log_scorer, labels):
    """RocketQAv2 as its code has it: Paddle's kldiv_loss(log retriever, target=scorer), reduced by "mean",
    whose target receives no gradient, plus the scorer's cross-entropy. See `rocketqav2_paper`.
    """
    apart = between(log_prior, log_scorer) / log_prior.shape[-1]
    return _listed(apart, log_scorer, labels)


def _listed(apart, log_scorer, labels):
    some = labels.any(-1)
    total = jnp.where(some, apart + labelled(log_scorer, labels), 0.0)
    return total.sum(), some.sum().astype(jnp.float32)


def denoised(scores: jax.Array, labels: jax.Array, valid: jax.Array, margin: float = 0.0):
    """Candidates without those negatives that the scorer doubts: bool [B,K].

    One without a label which scores within `margin` of the best that has one, or above it, is likely a
    positive that no one labelled (RocketQA, section 3.2, drops what its cross-encoder is confident of).
    scores [B,K], raw.
    """
    best = jnp.where(labels, scores, -jnp.inf).max(-1, keepdims=True)
    return valid & (labels | (scores < best - margin) | ~labels.any(-1, keepdims=True))


def supervised(
    scores, raw, labels, valid, *, form=rocketqav2_released, margin: float | None = None
):
    """Retriever and scorer on one list with labels: `form` of RocketQAv2, doubtful negatives left out.

    scores, raw [B,K]: of retriever and scorer; labels, valid bool [B,K]; margin: of `denoised`, None: keeps
    all. Returns (sum, lists that have a label).
    """
    if margin is not None:
        valid = denoised(jax.lax.stop_gradient(raw), labels, valid, margin)
    return form(marginal.log_prior(scores, valid), marginal.log_prior(raw, valid), labels & valid)
