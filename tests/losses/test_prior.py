"""Dense and lexical in one prior, and the marginal over a batch: enumeration and closed forms."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ralm_jax.errors import UserError
from ralm_jax.losses import marginal
from ralm_jax.losses.prior import DENSE, Prior, over_batch

B, K, N, M = 3, 4, 5, 2
WEIGHTS = np.array([[1, 1], [1, 0], [1, 1]], np.float32)


@pytest.fixture
def lists():
    """Scores of candidates and of others, BM25 of both, likelihoods, and which of them count."""
    rng = np.random.default_rng(0)
    draw = lambda *shape: rng.normal(size=shape).astype(np.float32)  # noqa: E731
    own, others, likelihood = draw(B, K), draw(B, N), -np.exp(draw(B, K, M))
    lexical = rng.random((B, K + N)).astype(np.float32)
    valid = rng.random((B, K + N)) > 0.3
    valid[:, 0] = True
    return own, others, likelihood, lexical, valid


def test_the_mixed_prior_equals_enumeration(lists):
    own, _, _, lexical, valid = lists
    prior = Prior(sharpness=0.5, lexical_weight=3.0)
    found = np.exp(prior(own, valid[:, :K], lexical[:, :K]))
    for b in range(B):
        weights = [
            math.exp(0.5 * (own[b, z] + 3.0 * lexical[b, z])) if valid[b, z] else 0.0
            for z in range(K)
        ]
        np.testing.assert_allclose(found[b], np.array(weights) / sum(weights), rtol=1e-5)


def test_without_a_lexical_weight_it_is_the_present_prior_bit_for_bit(lists):
    own, _, _, lexical, valid = lists
    wanted = np.asarray(marginal.log_prior(own, valid[:, :K]))
    for found in (DENSE(own, valid[:, :K]), DENSE(own, valid[:, :K], lexical[:, :K])):
        assert np.asarray(found).tobytes() == wanted.tobytes()


def test_sharpness_and_weight_are_apart(lists):
    """A weight that grows moves probability to where BM25 is, at any sharpness."""
    own, _, _, lexical, _ = lists
    own, lexical, valid = 0 * own, lexical[:, :K], np.ones((B, K), bool)
    best = lexical.argmax(1)
    flat = np.exp(Prior(0.1, 3.0)(own, valid, lexical))
    sharp = np.exp(Prior(1.0, 3.0)(own, valid, lexical))
    assert (flat.argmax(1) == best).all() and (sharp.max(1) > flat.max(1)).all()


@pytest.mark.parametrize("weight", [-1.0, float("nan"), float("inf"), "much"])
def test_a_weight_that_is_none_is_refused(weight):
    with pytest.raises(UserError, match=r"Prior\.lexical_weight must be a number from 0"):
        Prior(1.0, weight)


def test_a_sharpness_of_nothing_is_refused():
    with pytest.raises(UserError, match=r"Prior\.sharpness must be a number above 0"):
        Prior(0.0)


def marginal_over(own, others, likelihood, valid):
    scores, read = over_batch(own, others, likelihood)
    log_prior = marginal.log_prior(scores, valid)
    return marginal.marginal_per_span(log_prior, read, WEIGHTS)[0]


def test_the_batch_marginal_equals_enumeration(lists):
    own, others, likelihood, _, valid = lists
    wanted = 0.0
    for b in range(B):
        total = spoken = 0.0
        for z in range(K + N):
            score = own[b, z] if z < K else others[b, z - K]
            # What was not retrieved for this query reads as the null passage does.
            read = likelihood[b, z] if z < K else likelihood[b, 0]
            if valid[b, z]:
                total += math.exp(score)
                spoken += math.exp(score + (WEIGHTS[b] * read).sum())
        wanted -= math.log(spoken / total)
    found = marginal_over(own, others, likelihood, valid)
    np.testing.assert_allclose(float(found), wanted, rtol=1e-5)


def test_without_others_it_is_the_list(lists):
    own, others, likelihood, _, valid = lists
    alone = valid & (np.arange(K + N) < K)
    wanted = marginal.marginal_per_span(marginal.log_prior(own, valid[:, :K]), likelihood, WEIGHTS)[
        0
    ]
    np.testing.assert_allclose(marginal_over(own, others, likelihood, alone), wanted, rtol=1e-6)


def test_the_gradient_is_prior_less_posterior(lists):
    """d loss / d score = p(z|x) - p(z|x,y), of candidates and of others; 0 where nothing counts."""
    own, others, likelihood, _, valid = lists
    found = jax.grad(marginal_over, argnums=(0, 1))(
        jnp.array(own), jnp.array(others), jnp.array(likelihood), valid
    )
    scores, read = over_batch(own, others, likelihood)
    scores = np.where(valid, scores, -1e9)
    spoken = scores + (WEIGHTS[:, None] * np.asarray(read)).sum(-1)
    wanted = jax.nn.softmax(scores) - jax.nn.softmax(spoken)
    np.testing.assert_allclose(np.concatenate(found, axis=1), wanted, atol=1e-6)
