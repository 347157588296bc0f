"""What notebooks show: it agrees with what is measured, and with Bayes."""

import numpy as np
import pytest

from ralm_jax.errors import UserError
from ralm_jax.evaluation.cloze import measure_clozes
from ralm_jax.inference import inspect
from ralm_jax.inference.open_run import OpenRun
from ralm_jax.models import initial
from ralm_jax.models.config import EncoderConfig
from ralm_jax.models.openqa import OpenQA
from ralm_jax.models.ralm import Ralm
from ralm_jax.runs import directory
from ralm_jax.runs.checkpoint import Checkpoints

CONFIG = EncoderConfig(hidden=8, layers=1, heads=2, intermediate=8, positions=96, init_stddev=0.5)
LENGTHS = {"query": 20, "passage": 54, "joint": 66, "masked": 4}


def a_run(folder, model, corpus):
    parts = {"lengths": LENGTHS, "held_out": 0.3, "seed": 0}
    directory.describe(folder, model, corpus, stages=["realm"], **parts)
    checkpoints = Checkpoints(directory.checkpoint_folder(folder, "realm"))
    checkpoints.save(1, {"state": {"params": initial.drawn_params(model, 0)}}, wait=True)
    checkpoints.close()
    return folder


@pytest.fixture(scope="module")
def opened(tiny, tmp_path_factory):
    model = directory.sized(Ralm(CONFIG, CONFIG, embedding=8), tiny.corpus.vocabulary.size)
    return OpenRun.open(a_run(tmp_path_factory.mktemp("run"), model, tiny.corpus))


@pytest.mark.slow
def test_what_is_read_agrees_with_what_is_measured(opened):
    rows = inspect.sentences(opened, 1000)
    clozes = inspect.read(opened, rows)
    measured = measure_clozes(
        opened,
        candidates=6,
    )
    assert measured["sentences"] == len(clozes) > 50
    right = np.mean([cloze.says == cloze.answer for cloze in clozes])
    alone = np.mean([cloze.candidates[0].says == cloze.answer for cloze in clozes])
    assert right == pytest.approx(measured["span_accuracy"])
    assert alone == pytest.approx(measured["span_accuracy_null"])


@pytest.mark.slow
def test_bayes_holds_and_the_own_passage_is_left_out(opened):
    rows = inspect.sentences(opened, 20)
    for row, cloze in zip(rows, inspect.read(opened, rows), strict=True):
        prior, likelihood, posterior = np.array([c[1:4] for c in cloze.candidates]).T
        assert sum(prior) == pytest.approx(1) and sum(posterior) == pytest.approx(1)
        assert cloze.probability == pytest.approx((prior * likelihood).sum(), rel=1e-4)
        np.testing.assert_allclose(
            posterior, prior * likelihood / cloze.probability, rtol=1e-3, atol=1e-6
        )
        read = [c.row for c in cloze.candidates]
        assert read[0] == -1 and opened.corpus.sentences[row, 0] not in read
        assert "[MASK]" in cloze.sentence
        assert (
            cloze.answer in inspect.passage(opened.corpus, opened.corpus.sentences[row, 0]).lower()
        )


def test_questions_find_the_passages_with_the_greatest_products(opened, tiny):
    (found,) = inspect.retrieve(opened, ["Who was born in Ulmouth?"], 3)
    assert len({row for row, _ in found}) == 3
    weights = [p for _, p in found]
    assert weights == sorted(weights, reverse=True) and sum(weights) == pytest.approx(1)


def test_the_projection_keeps_distances_of_a_plane():
    rng = np.random.default_rng(0)
    plane = rng.normal(size=(40, 2)) @ np.linalg.qr(rng.normal(size=(9, 2)))[0].T
    flat = inspect.projection(plane + 3)
    wanted = np.linalg.norm(plane[:, None] - plane[None], axis=-1)
    np.testing.assert_allclose(
        np.linalg.norm(flat[:, None] - flat[None], axis=-1), wanted, atol=1e-9
    )


def test_a_run_that_answers_questions_is_refused(tiny, tmp_path):
    model = directory.sized(OpenQA(CONFIG, CONFIG, embedding=8), tiny.corpus.vocabulary.size)
    run = a_run(tmp_path / "answers", model, tiny.corpus)
    with pytest.raises(UserError, match="inspect the run that it was fine-tuned from"):
        inspect.read(OpenRun.open(run), np.arange(1))
