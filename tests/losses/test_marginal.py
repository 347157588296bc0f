import functools
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ralm_jax.losses import marginal as losses

B, K, M, V = 3, 4, 3, 5
FORMS = [losses.marginal_per_token, losses.marginal_per_span]
WEIGHTS = np.array([[1, 1, 1], [1, 0, 0], [1, 1, 0]], np.float32)


@pytest.fixture
def example():
    """Scores [B,K], a distribution over V for every candidate and position, and what stood there."""
    rng = np.random.default_rng(0)
    scores = rng.normal(size=(B, K)).astype(np.float32)
    tables = rng.dirichlet(np.ones(V), (B, K, M)).astype(np.float32)  # p(y_m | z, x)
    return scores, tables, rng.integers(V, size=(B, M))


def log_likelihood(tables, targets):
    return np.log(np.take_along_axis(tables, targets[:, None, :, None], axis=-1)[..., 0])


@functools.partial(jax.jit, static_argnums=0)
def loss(form, scores, likelihood, weights=WEIGHTS, valid=None):
    valid = np.ones(scores.shape, bool) if valid is None else valid
    return form(losses.log_prior(scores, valid), likelihood, weights)


def enumerated(form, scores, likelihood, weights):
    """The definition in loops: sum over candidates of prior times likelihood, in float64."""
    total = 0.0
    for b in range(len(scores)):
        prior = np.exp(scores[b].astype(float))
        prior /= prior.sum()
        tokens = [m for m in range(weights.shape[1]) if weights[b, m]]
        groups = [tokens] if form is losses.marginal_per_span else [[m] for m in tokens]
        for group in groups:
            total -= math.log(
                sum(prior[z] * math.exp(likelihood[b, z, group].sum()) for z in range(len(prior)))
            )
    return total


@pytest.mark.parametrize("form", FORMS)
def test_marginal_likelihood_equals_enumeration(form, example):
    scores, tables, targets = example
    likelihood = log_likelihood(tables, targets)
    total, count = loss(form, scores, likelihood)
    np.testing.assert_allclose(total, enumerated(form, scores, likelihood, WEIGHTS), rtol=1e-5)
    assert count == WEIGHTS.sum()


def test_the_probabilities_of_all_spans_sum_to_one(example):
    scores, tables, _ = example
    scores, tables, weights = scores[:1], tables[:1], np.ones((1, M), np.float32)
    outcomes = np.array(list(itertools.product(range(V), repeat=M)))  # [V^M, M]
    span = [
        loss(losses.marginal_per_span, scores, log_likelihood(tables, y[None]), weights)[0]
        for y in outcomes
    ]
    np.testing.assert_allclose(np.exp(-np.array(span)).sum(), 1, rtol=1e-5)


def test_the_two_forms_agree_on_one_token_and_differ_on_more(example):
    scores, tables, targets = example
    likelihood = log_likelihood(tables, targets)
    one = np.array([[1, 0, 0], [0, 0, 1], [0, 1, 0]], np.float32)
    token, span = (loss(form, scores, likelihood, one) for form in FORMS)
    np.testing.assert_allclose(token, span, rtol=1e-6)
    token, span = (loss(form, scores, likelihood)[0] for form in FORMS)
    assert abs(token - span) > 1e-3


@pytest.mark.parametrize("form", FORMS)
def test_the_order_of_candidates_is_of_no_account(form, example):
    scores, tables, targets = example
    likelihood, valid = log_likelihood(tables, targets), np.ones((B, K), bool)
    valid[1, 2] = False
    order = [2, 0, 3, 1]
    here = loss(form, scores, likelihood, valid=valid)
    there = loss(form, scores[:, order], likelihood[:, order], valid=valid[:, order])
    np.testing.assert_allclose(here, there, rtol=1e-6)


@pytest.mark.parametrize("form", FORMS)
def test_null_alone_is_a_plain_masked_lm(form, example):
    scores, tables, targets = example
    likelihood = log_likelihood(tables, targets)
    only_null = np.zeros((B, K), bool)
    only_null[:, 0] = True
    wanted = -(WEIGHTS * likelihood[:, 0]).sum()
    np.testing.assert_allclose(
        loss(form, scores, likelihood, valid=only_null)[0], wanted, rtol=1e-5
    )
    np.testing.assert_allclose(loss(form, scores[:, :1], likelihood[:, :1])[0], wanted, rtol=1e-5)


@pytest.mark.parametrize("form", FORMS)
def test_equal_passages_give_the_retriever_no_gradient(form, example):
    scores, tables, targets = example
    same = np.repeat(log_likelihood(tables, targets)[:, :1], K, axis=1)
    gradient = jax.grad(lambda s: loss(form, s, same)[0])(scores)
    np.testing.assert_allclose(gradient, np.zeros((B, K)), atol=1e-6)


@pytest.mark.parametrize("form", FORMS)
def test_the_retrievers_gradient_is_the_closed_form(form, example):
    """d log p(y|x) / d score(z) = [p(y|z,x) / p(y|x) - 1] p(z|x) (REALM, appendix A)."""
    scores, tables, targets = example
    likelihood = log_likelihood(tables, targets)
    gradient = jax.grad(lambda s: -loss(form, s, likelihood)[0])(scores)
    prior = np.exp(scores) / np.exp(scores).sum(1, keepdims=True)
    if form is losses.marginal_per_span:
        given = np.exp((WEIGHTS[:, None] * likelihood).sum(-1))[..., None]  # [B,K,1]
        weights = np.ones((B, 1), np.float32)
    else:
        given, weights = np.exp(likelihood), WEIGHTS  # [B,K,M]
    marginal = (prior[..., None] * given).sum(1, keepdims=True)
    wanted = ((given / marginal - 1) * prior[..., None] * weights[:, None]).sum(-1)
    np.testing.assert_allclose(gradient, wanted, atol=1e-6)
    assert np.abs(wanted).max() > 0.05


@pytest.mark.parametrize("form", FORMS)
def test_an_invalid_candidate_counts_for_nothing(form, example):
    scores, tables, targets = example
    likelihood, valid = log_likelihood(tables, targets), np.ones((B, K), bool)
    valid[0, 2:] = valid[2, 1] = False
    prior = np.exp(losses.log_prior(scores, valid))
    assert (prior[~valid] == 0).all()
    np.testing.assert_allclose(prior.sum(1), np.ones(B), rtol=1e-6)
    # Whatever its score and likelihood, loss and gradients are the same, finite, and nothing is its own.
    value = jax.value_and_grad(lambda s, y: loss(form, s, y, valid=valid)[0], argnums=(0, 1))
    total, gradients = value(scores, likelihood)
    other, _ = value(np.where(valid, scores, 50), np.where(valid[..., None], likelihood, -30))
    np.testing.assert_allclose(total, other, rtol=1e-6)
    for gradient in gradients:
        assert np.isfinite(gradient).all() and (np.asarray(gradient)[~valid] == 0).all()
    left = [
        loss(form, scores[b : b + 1, v], likelihood[b : b + 1, v], WEIGHTS[b : b + 1])[0]
        for b, v in enumerate(valid)
    ]
    np.testing.assert_allclose(total, sum(left), rtol=1e-5)


@pytest.mark.parametrize("form", FORMS)
def test_a_query_without_masked_tokens_adds_nothing(form, example):
    scores, tables, targets = example
    likelihood = log_likelihood(tables, targets)
    weights = WEIGHTS.copy()
    weights[1] = 0
    total, count = loss(form, scores, likelihood, weights)
    rest = [0, 2]
    fewer = loss(form, scores[rest], likelihood[rest], weights[rest])
    np.testing.assert_allclose((total, count), fewer, rtol=1e-6)
    gradient = jax.grad(lambda s: loss(form, s, likelihood, weights)[0])(scores)
    np.testing.assert_array_equal(gradient[1], np.zeros(K))


def test_inverse_cloze_by_hand():
    scores = jnp.log(jnp.array([[1.0, 2.0, 1.0, 4.0], [6.0, 1.0, 2.0, 3.0]]))
    rows, passages = jnp.array([9, 9]), jnp.array([5, 6, 7, 9])
    (total, count), right = losses.in_batch(scores, jnp.array([3, 3]), rows, passages)
    np.testing.assert_allclose(total, -math.log(4 / 8) - math.log(3 / 12), rtol=1e-6)
    assert (count, right) == (2, 1)


def test_another_sentence_of_the_same_passage_is_no_negative():
    """Columns 0 and 3 are of passage 9, 1 and 2 of passages of their own."""
    scores = jnp.log(jnp.array([[6.0, 1.0, 1.0, 4.0], [6.0, 2.0, 1.0, 3.0], [8.0, 1.0, 1.0, 2.0]]))
    rows, passages = jnp.array([9, 7, 9]), jnp.array([9, 7, 8, 9])
    labels = jnp.array([3, 1, 0])

    def loss(scores):
        (total, count), right = losses.in_batch(scores, labels, rows, passages)
        return total, (count, right)

    (total, (count, right)), gradient = jax.value_and_grad(loss, has_aux=True)(scores)
    # 4 of 1 + 1 + 4; 2 of all 12, since passage 7 is there once; 8 of 8 + 1 + 1.
    wanted = -math.log(4 / 6) - math.log(2 / 12) - math.log(8 / 10)
    np.testing.assert_allclose(total, wanted, rtol=1e-6)
    assert (count, right) == (3, 2)
    assert gradient[0, 0] == gradient[2, 3] == 0 and (gradient[1] != 0).all()
    np.testing.assert_allclose(gradient.sum(1), np.zeros(3), atol=1e-6)


def test_telemetry_by_hand():
    # Two queries, the null passage and one more; the second has a single masked token.
    prior = np.log([[0.25, 0.75], [1.0, 1e-30]]).astype(np.float32)
    likelihood = np.log([[[0.2, 0.4], [0.6, 0.4]], [[0.5, 0.1], [0.9, 0.1]]]).astype(np.float32)
    weights = np.array([[1, 1], [1, 0]], np.float32)
    found = losses.retrieval_telemetry(prior, likelihood, weights)
    entropy = -(0.25 * math.log(0.25) + 0.75 * math.log(0.75))
    wanted = {
        # p(y) is 0.25 * 0.2 + 0.75 * 0.6 = 0.5 for the first token; null alone suffices elsewhere
        "retrieval_utility": (math.log(0.5 / 0.2), 3),
        "null_loss": (-math.log(0.2) - math.log(0.4) - math.log(0.5), 3),
        "prior_entropy": (entropy, 2),
        "p_null": (1.25, 2),
    }
    assert found.keys() == wanted.keys()
    for name, pair in wanted.items():
        np.testing.assert_allclose(found[name], pair, rtol=1e-5, err_msg=name)


def test_the_entropy_of_a_query_with_one_candidate_is_zero():
    prior = losses.log_prior(np.array([[0.3, 9.0]], np.float32), np.array([[True, False]]))
    likelihood, weights = np.zeros((1, 2, 1), np.float32), np.ones((1, 1), np.float32)
    found = losses.retrieval_telemetry(prior, likelihood, weights)
    np.testing.assert_allclose([found["prior_entropy"][0], found["p_null"][0]], [0, 1], atol=1e-6)


def test_the_likelihood_of_answers_by_enumeration():
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 2, (5, 7)).astype("f")
    correct = rng.random((5, 7)) < 0.4
    correct[1], correct[2] = False, True
    total, count = losses.answer_likelihood(jnp.asarray(logits), jnp.asarray(correct))
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    wanted = [-np.log(p[i][correct[i]].sum()) for i in range(5) if correct[i].any()]
    assert float(count) == len(wanted) == 4 and wanted[1] == pytest.approx(0, abs=1e-6)
    np.testing.assert_allclose(total, sum(wanted), rtol=1e-5)
    # d/dl = p - p restricted to what is correct; nothing where nothing is.
    grad = jax.grad(lambda x: losses.answer_likelihood(x, jnp.asarray(correct))[0])(logits)
    right = p * correct
    right = np.divide(
        right, right.sum(1, keepdims=True), out=p.copy(), where=correct.any(1)[:, None]
    )
    np.testing.assert_allclose(grad, p - right, atol=1e-6)
