"""Every objective and its gradient against enumeration in numpy, and at its limits."""

import functools
import inspect
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ralm_jax.batches import Lengths
from ralm_jax.losses import distillation, marginal, objectives
from ralm_jax.training import tasks

ALL = [
    objectives.emdr2,
    objectives.perplexity_distillation,
    objectives.leave_one_out,
    marginal.marginal_per_span,
    objectives.list_marginal,
    objectives.expected_log_likelihood,
]
B, K, M = 3, 4, 2


@pytest.fixture
def given():
    rng = np.random.default_rng(0)
    scores = rng.normal(0, 1.5, (B, K)).astype(np.float32)
    likelihood = -rng.exponential(1.5, (B, K, M)).astype(np.float32)
    weights = np.array([[1, 1], [1, 0], [0, 0]], np.float32)
    valid = np.ones((B, K), bool)
    valid[1, 3] = False
    return scores, likelihood, weights, valid


def value(objective, scores, likelihood, weights, valid, **more):
    prior = marginal.log_prior(jnp.asarray(scores), jnp.asarray(valid))
    return objective(prior, jnp.asarray(likelihood), jnp.asarray(weights), **more)


def lists(scores, likelihood, weights, valid):
    """Per query: p(z|x) and p(y|z,x) of its candidates, in float64."""
    for b in range(len(scores)):
        if weights[b].any():
            own = scores[b][valid[b]].astype(float)
            p = np.exp(own - own.max())
            y = np.exp((weights[b] * likelihood[b].astype(float)).sum(-1))[valid[b]]
            yield p / p.sum(), y, weights[b].sum()


def enumerated(name, scores, likelihood, weights, valid, temperature=1.0):
    total = 0.0
    for p, y, tokens in lists(scores, likelihood, weights, valid):
        if name == "marginal_per_span":
            total -= np.log((p * y).sum())
            continue
        if name == "expected_log_likelihood":
            total -= (p * np.log(y)).sum()
            continue
        if name == "list_marginal":
            total -= np.log(
                sum(
                    p[i] * p[j] / (1 - p[i]) * (y[i] + y[j]) / 2
                    for i, j in itertools.permutations(range(len(p)), 2)
                )
            )
            continue
        total -= np.log(y.mean())
        if name == "emdr2":
            total -= np.log((p * y).sum())
            continue
        if name == "perplexity_distillation":
            target = y ** (1 / (tokens * temperature))
        else:
            without = np.array([np.delete(y, k).mean() for k in range(len(y))])
            target = without ** (-1 / temperature)
        target /= target.sum()
        total += (target * np.log(target / p)).sum()
    return total


@pytest.mark.parametrize("temperature", [1.0, 0.2])
@pytest.mark.parametrize("objective", ALL, ids=lambda f: f.__name__)
def test_against_enumeration(objective, temperature, given):
    has = objective.__name__ in ("perplexity_distillation", "leave_one_out")
    more = {"temperature": temperature} if has else {}
    total, count = value(objective, *given, **more)
    assert count == 3
    assert total == pytest.approx(enumerated(objective.__name__, *given, **more), rel=1e-5)


@pytest.mark.parametrize("objective", ALL, ids=lambda f: f.__name__)
def test_gradients_against_differences(objective, given):
    scores, likelihood, weights, valid = given
    found = jax.grad(lambda s: value(objective, s, likelihood, weights, valid)[0])(scores)
    for b, k in np.ndindex(B, K):
        moved = [scores.copy(), scores.copy()]
        moved[0][b, k] += 1e-3
        moved[1][b, k] -= 1e-3
        up, down = (enumerated(objective.__name__, s, likelihood, weights, valid) for s in moved)
        if valid[b, k]:
            assert found[b, k] == pytest.approx((up - down) / 2e-3, abs=2e-3)
        else:
            assert found[b, k] == 0


@pytest.mark.parametrize("objective", ALL[:3], ids=lambda f: f.__name__)
def test_the_reader_learns_alike_under_all_of_them(objective, given):
    """-d log mean p(y|z,x): the target over candidates passes nothing back."""
    scores, likelihood, weights, valid = given
    found = jax.grad(lambda y: value(objective, scores, y, weights, valid)[0])(likelihood)
    wanted = np.zeros_like(likelihood)
    for b in range(2):
        y = np.exp((weights[b] * likelihood[b]).sum(-1)) * valid[b]
        wanted[b] = -(y / y.sum())[:, None] * weights[b]
    np.testing.assert_allclose(found, wanted, atol=1e-6)


def to_scores(objective, likelihood, scores, **more):
    weights = np.ones((1, 1), np.float32)
    valid = np.ones((1, len(scores)), bool)
    given = np.asarray(likelihood, np.float32)[None, :, None]
    return np.asarray(gradient(objective, **more)(np.float32(scores), given, weights, valid))


@functools.cache
def gradient(objective, **more):
    """Compiled, or each of its operations would be for itself."""
    return jax.jit(jax.grad(lambda s, *given: value(objective, s[None], *given, **more)[0]))


@pytest.mark.parametrize("objective", ALL, ids=lambda f: f.__name__)
def test_limits(objective):
    equal = to_scores(objective, [-2.0] * 4, [0.0] * 4)
    np.testing.assert_allclose(equal, 0, atol=1e-6)  # nothing to prefer, nothing preferred
    alone = to_scores(objective, [-3.0], [0.7])
    np.testing.assert_allclose(alone, 0, atol=1e-6)
    sharp = to_scores(objective, [-0.1, -40.0, -40.0, -40.0], [-3.0, 2.0, 0.0, 0.0])
    assert np.isfinite(sharp).all() and sharp[0] < 0 and (sharp[1:] > 0).all()
    flat = to_scores(objective, [-1.0, -1.2, -1.1, -1.3], [0.0] * 4)
    assert np.isfinite(flat).all() and np.abs(flat).max() < np.abs(sharp).max()
    assert abs(flat.sum()) < 1e-5 and flat.argmin() == 0


def test_equal_candidates_still_pull_a_sharp_retriever_back():
    """Where all passages read alike, the posterior is the prior; the two distilled targets are flat."""
    scores = [4.0, 0.0, 0.0, 0.0]
    for objective in (marginal.marginal_per_span, objectives.emdr2):
        np.testing.assert_allclose(to_scores(objective, [-2.0] * 4, scores), 0, atol=1e-6)
    for objective in ALL[1:3]:
        assert to_scores(objective, [-2.0] * 4, scores)[0] > 0.5


def test_emdr2_teaches_the_retriever_as_realm_does():
    rng = np.random.default_rng(3)
    likelihood, scores = -rng.exponential(2, 6), rng.normal(size=6)
    np.testing.assert_allclose(
        to_scores(objectives.emdr2, likelihood, scores),
        to_scores(marginal.marginal_per_span, likelihood, scores),
        atol=1e-6,
    )


def test_a_low_temperature_names_the_best_passage():
    scores = np.zeros(4)
    cold = to_scores(objectives.perplexity_distillation, [-1, -2, -3, -4], scores, temperature=0.01)
    np.testing.assert_allclose(cold, [0.25 - 1, 0.25, 0.25, 0.25], atol=1e-4)


def test_a_list_longer_than_the_candidates_is_what_there_is():
    """Of one candidate the list is that one; a list of all weighs no passage more than another."""
    rng = np.random.default_rng(4)
    likelihood, scores = -rng.exponential(2, 3), rng.normal(size=3)
    everything = to_scores(objectives.list_marginal, likelihood, scores, size=3)
    np.testing.assert_allclose(everything, 0, atol=1e-5)
    one = to_scores(objectives.list_marginal, likelihood, scores, size=1)
    wanted = to_scores(marginal.marginal_per_span, likelihood, scores)
    np.testing.assert_allclose(one, wanted, atol=1e-5)


def test_a_temperature_is_of_the_scores_alone(given):
    """As scores divided by it, whatever the objective; what the objective asks for is still seen."""
    scores, likelihood, weights, valid = given
    for objective in (objectives.emdr2, distillation.label_free):
        cold = objectives.tempered(objective, 0.25)
        more = () if objective is objectives.emdr2 else (marginal.log_prior(scores, valid),)
        rest = (jnp.asarray(likelihood), jnp.asarray(weights), *more)
        found = cold(marginal.log_prior(jnp.asarray(scores), jnp.asarray(valid)), *rest)
        wanted = objective(marginal.log_prior(jnp.asarray(4 * scores), jnp.asarray(valid)), *rest)
        np.testing.assert_allclose(found, wanted, rtol=1e-5)
        assert inspect.signature(cold) == inspect.signature(objective)
    assert not tasks.Realm(Lengths(8, 8, 8, 1), objective=objectives.emdr2).needs_reranker
    asking = functools.partial(distillation.label_free, static=True)
    assert tasks.Realm(Lengths(8, 8, 8, 1), objective=asking).needs_reranker


def test_logits_that_are_mixed_are_at_least_as_likely_as_the_mean_of_logs():
    """So what `expected_log_likelihood` minimises is no less than what mixing before the softmax loses."""
    rng = np.random.default_rng(1)
    logits, prior = rng.normal(0, 3, (K, 50)), np.array([0.1, 0.2, 0.3, 0.4])
    each = np.asarray(jax.nn.log_softmax(jnp.asarray(logits)))[:, 7]
    together = np.asarray(jax.nn.log_softmax(jnp.asarray(prior @ logits)))[7]
    ones = np.ones((1, 1), np.float32)
    log_prior, read = jnp.log(jnp.asarray(prior))[None], jnp.asarray(each)[None, :, None]
    lost, _ = objectives.expected_log_likelihood(log_prior, read, ones)
    assert lost == pytest.approx(-(prior * each).sum(), rel=1e-5) and lost >= -together
