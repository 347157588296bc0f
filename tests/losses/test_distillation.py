"""Listwise distillation and its gradients against enumeration in numpy, and at its limits."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ralm_jax.losses import distillation, marginal

B, K, M = 3, 4, 2


@pytest.fixture
def given():
    """Scores of retriever and scorer, labels and candidates there are; query 2 has no label."""
    rng = np.random.default_rng(0)
    scores, raw = rng.normal(0, 1.5, (2, B, K)).astype(np.float32)
    labels = np.array([[1, 0, 0, 1], [0, 1, 0, 0], [0, 0, 0, 0]], bool)
    valid = np.ones((B, K), bool)
    valid[1, 3] = False
    return scores, raw, labels, valid


@pytest.fixture
def read():
    """log p(y_m|z,x) and weights: two tokens, one, none."""
    rng = np.random.default_rng(1)
    likelihood = -rng.exponential(1.5, (B, K, M)).astype(np.float32)
    return likelihood, np.array([[1, 1], [1, 0], [0, 0]], np.float32)


def log_lists(scores, raw, valid):
    return [marginal.log_prior(jnp.asarray(x), jnp.asarray(valid)) for x in (scores, raw)]


def probabilities(row, there):
    p = np.exp(row[there].astype(float))
    return p / p.sum()


def kl(p, q):
    return float((p * np.log(p / q)).sum())


def differences(f, x, step=1e-3):
    out = np.zeros_like(x)
    for place in np.ndindex(x.shape):
        moved = [x.copy(), x.copy()]
        moved[0][place] += step
        moved[1][place] -= step
        out[place] = (f(moved[0]) - f(moved[1])) / (2 * step)
    return out


def enumerated(form, scores, raw, labels, valid):
    """RocketQAv2 list by list; lists without a label are none."""
    total = 0.0
    for b in range(B):
        if labels[b].any():
            p, s = (probabilities(x[b], valid[b]) for x in (scores, raw))
            apart = kl(p, s) if form == "paper" else kl(s, p) / K
            total += apart - np.log(s[labels[b][valid[b]]].sum())
    return total


FORMS = {"paper": distillation.rocketqav2_paper, "released": distillation.rocketqav2_released}


@pytest.mark.parametrize("form", FORMS)
def test_rocketqav2_against_enumeration(form, given):
    scores, raw, labels, valid = given

    def total(scores, raw):
        prior, scorer = log_lists(scores, raw, valid)
        return FORMS[form](prior, scorer, jnp.asarray(labels))

    value, lists = total(scores, raw)
    assert lists == 2
    assert value == pytest.approx(enumerated(form, *given), rel=1e-5)
    to_scores, to_raw = jax.grad(lambda *x: total(*x)[0], argnums=(0, 1))(scores, raw)
    close = {"atol": 2e-3, "rtol": 1e-2}
    wanted = differences(lambda x: enumerated(form, x, raw, labels, valid), scores)
    np.testing.assert_allclose(to_scores, wanted, **close)
    wanted = differences(lambda x: enumerated(form, scores, x, labels, valid), raw)
    if form == "released":  # labels alone teach its scorer
        constant = [kl(*[probabilities(x[b], valid[b]) for x in (raw, scores)]) / K for b in (0, 1)]
        assert value > sum(constant) > 0
        wanted = differences(
            lambda x: sum(
                -np.log(probabilities(x[b], valid[b])[labels[b][valid[b]]].sum()) for b in (0, 1)
            ),
            raw,
        )
    np.testing.assert_allclose(to_raw, wanted, **close)
    assert to_raw[1, 3] == to_scores[1, 3] == 0  # no candidate


@pytest.mark.parametrize("static", [False, True])
@pytest.mark.parametrize("reverse", [False, True])
def test_label_free_against_enumeration(given, read, static, reverse):
    scores, raw, _, valid = given
    likelihood, weights = read

    def total(scores, raw, likelihood):
        prior, scorer = log_lists(scores, raw, valid)
        how = {"static": static, "reverse": reverse, "temperature": 0.5}
        return distillation.label_free(prior, likelihood, jnp.asarray(weights), scorer, **how)

    def parts(scores, raw, likelihood):
        """What teaches the reader, the scorer and the retriever."""
        out = np.zeros(3)
        for b in range(2):
            there, tokens = valid[b], weights[b].sum()
            p, s = (probabilities(x[b], there) for x in (scores, raw))
            y = np.exp((weights[b] * likelihood[b].astype(float)).sum(-1))[there]
            target = y ** (2 / tokens) / (y ** (2 / tokens)).sum()
            out += [-np.log(y.mean()), kl(target, s), kl(p, s) if reverse else kl(s, p)]
        return out

    value, count = total(scores, raw, likelihood)
    assert count == 3 and value == pytest.approx(parts(scores, raw, likelihood).sum(), rel=1e-5)
    grads = jax.grad(lambda *x: total(*x)[0], argnums=(0, 1, 2))(scores, raw, likelihood)
    close = {"atol": 2e-3, "rtol": 1e-2}
    wanted = differences(lambda x: parts(x, raw, likelihood)[2], scores)
    np.testing.assert_allclose(grads[0], wanted, **close)
    wanted = differences(lambda x: parts(scores, x, likelihood)[1], raw)
    np.testing.assert_allclose(grads[1], 0 * wanted if static else wanted, **close)
    wanted = differences(lambda x: parts(scores, raw, x)[0], likelihood)
    np.testing.assert_allclose(grads[2], wanted, **close)


def test_without_the_stop_both_move(given):
    scores, raw, _, valid = given

    def apart(raw, **how):
        return distillation.between(*log_lists(scores, raw, valid), **how).sum()

    assert np.abs(jax.grad(apart)(raw)).max() == 0
    found = jax.grad(lambda x: apart(x, stop_gradient=False))(raw)
    wanted = differences(
        lambda x: sum(
            kl(probabilities(x[b], valid[b]), probabilities(scores[b], valid[b])) for b in range(B)
        ),
        raw,
    )
    np.testing.assert_allclose(found, wanted, atol=2e-3, rtol=1e-2)


def test_limits():
    """Alike, alone and sharp: nothing to learn, nothing to learn, and no infinity."""
    ones = np.ones((1, 4), bool)
    alike = distillation.between(*log_lists(np.ones((1, 4)), np.full((1, 4), 7.0), ones))
    np.testing.assert_allclose(alike, 0, atol=1e-6)
    alone = np.array([[True, False, False, False]])
    assert distillation.between(*log_lists(np.ones((1, 4)), np.eye(4)[:1] * 5, alone)) == 0
    sharp = np.array([[90.0, 0.0, 0.0, 0.0]], np.float32)
    for pair in ((sharp, -sharp), (-sharp, sharp)):
        value, grad = jax.value_and_grad(
            lambda x, pair=pair: distillation.between(*log_lists(x, pair[1], ones)).sum()
        )(pair[0])
        assert value > 20 and np.isfinite(grad).all() and np.abs(grad).max() <= 1 + 1e-6


def test_doubtful_negatives_are_left_out(given):
    scores = given[0]
    raw = np.array([[1.0, 2.0, 0.9, 0.0], [5.0, 1.0, -1.0, 9.0], [3.0, 2.0, 1.0, 0.0]], np.float32)
    labels = np.array([[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 0, 0]], bool)
    valid = np.ones((3, 4), bool)
    valid[1, 3] = False
    kept = distillation.denoised(raw, labels, valid)
    assert kept.tolist() == [[True, False, True, True], [False, True, True, False], [True] * 4]
    closer = distillation.denoised(raw, labels, valid, margin=0.5)
    assert closer[0].tolist() == [True, False, False, True]
    found = distillation.supervised(scores, raw, labels, valid, margin=0.5)
    prior, scorer = log_lists(scores, raw, closer)
    wanted = distillation.rocketqav2_released(prior, scorer, jnp.asarray(labels))
    np.testing.assert_allclose(found, wanted, rtol=1e-6)
    assert found[0] != distillation.supervised(scores, raw, labels, valid)[0]
