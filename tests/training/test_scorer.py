"""The scorer: how it begins, what teaches it, what it teaches, and the order it puts passages in."""

import dataclasses
import functools
import json
import shutil

import jax
import numpy as np
import pytest

from ralm_jax import cli, partition
from ralm_jax.errors import UserError
from ralm_jax.evaluation.qa import evaluate_answers, table
from ralm_jax.examples import question_batches
from ralm_jax.examples.masking import salient_span
from ralm_jax.inference import answering, embedding
from ralm_jax.inference.open_run import OpenRun
from ralm_jax.losses import distillation, marginal
from ralm_jax.models import initial
from ralm_jax.models.ralm import Ralm
from ralm_jax.questions.read import read_questions
from ralm_jax.retrieval import index
from ralm_jax.retrieval.refresh import Asynchronous, Synchronous
from ralm_jax.runs import directory
from ralm_jax.runs.checkpoint import Checkpoints
from ralm_jax.selection.by_answers import Selection
from ralm_jax.training import initialize, optim, pretrain, schedule, steps
from ralm_jax.training.tasks import FROZEN, Realm
from tests.training.test_finetune import LENGTHS, SMALL, finetune
from tests.training.test_steps import CALM, PLAIN, clozes, largest

SCORING = Ralm(CALM, CALM, embedding=4, score_scale=0.5, with_scorer=True)
__all__ = ["clozes"]  # a fixture


@pytest.fixture(scope="module")
def params(drawn, clozes):
    scorer = drawn(SCORING, clozes.joint, method="rerank")["params"]
    return {**drawn(SCORING, clozes)["params"], **scorer}


def once(clozes, params, devices=1, **how):
    begun = steps.create_state(params, PLAIN)
    begun = partition.replicate(begun) if devices == jax.device_count() else begun
    split = jax.tree.map(lambda x: x.reshape(devices, len(x) // devices, *x.shape[1:]), clozes)
    scorer = "objective" in how
    loss = functools.partial(steps.realm_loss, model=SCORING, scorer=scorer, **how)
    step = functools.partial(steps.train_step, loss=loss)
    ended, metrics = partition.parallelize(step)(begun, split, jax.random.key(0))
    return jax.tree.map(lambda a, b: np.asarray(a) - b, ended.params, params), metrics


def test_it_begins_as_the_encoder_of_the_reader():
    model = Ralm(CALM, CALM, embedding=4)
    given = initial.drawn_params(model, 3)
    scoring, begun = initialize.with_scorer(model, given, seed=0)
    assert scoring.with_scorer and begun.keys() == {"retriever", "reader", "scorer"}
    jax.tree.map(
        np.testing.assert_array_equal, begun["scorer"]["encoder"], given["reader"]["encoder"]
    )
    assert initialize.with_scorer(scoring, begun, seed=1) == (scoring, begun)


@pytest.mark.slow
def test_who_learns_under_which_objective(clozes, params):
    """Dynamic: all three. Static: the scorer stands still. REALM's: as if there were none."""
    dynamic, said = once(clozes, params, objective=distillation.label_free)
    still = functools.partial(distillation.label_free, static=True)
    static, _ = once(clozes, params, objective=still)
    alone, _ = once(clozes, params)
    for moved in (dynamic, static):
        assert min(largest(moved["retriever"]), largest(moved["reader"])) > 1e-3
    assert largest(dynamic["scorer"]) > 1e-3 and said["grad_norm_scorer"][0] > 0
    assert largest(static["scorer"]) == largest(alone["scorer"]) == 0
    jax.tree.map(
        functools.partial(np.testing.assert_allclose, atol=1e-7),
        (dynamic["retriever"], dynamic["reader"]),
        (static["retriever"], static["reader"]),
    )


@pytest.mark.slow
def test_the_loss_of_a_step_is_that_of_the_objective(clozes, params):
    _, metrics = once(clozes, params, devices=8, objective=distillation.label_free)
    scores, likelihood = SCORING.apply({"params": params}, clozes)
    raw = SCORING.apply({"params": params}, clozes.joint, method="rerank")
    lists = (marginal.log_prior(x, clozes.valid) for x in (scores, raw))
    prior, scorer = lists
    wanted = distillation.label_free(prior, likelihood, clozes.weights, scorer)
    np.testing.assert_allclose(metrics["loss"], wanted, rtol=1e-5)


def test_an_optimiser_of_its_own(params):
    each = optim.by_part(optim.frozen(), optim.frozen(), scorer=PLAIN)
    begun = steps.create_state(params, each)
    ended = begun.apply_gradients(grads=begun.params)
    moved = jax.tree.map(lambda a, b: np.asarray(a) - b, ended.params, params)
    assert largest(moved["scorer"]) > 0 == max(largest(moved[p]) for p in ("retriever", "reader"))


def test_an_objective_that_wants_one_says_so(tiny, tmp_path):
    model = Ralm(SMALL, SMALL, embedding=8)
    task = Realm(LENGTHS, mask=salient_span, objective=distillation.label_free)
    stage = schedule.Stage("realm", task, schedule.Schedule(1, 8, PLAIN))
    options = {"corpus": tiny.corpus, "stages": [stage], "model": model}
    with pytest.raises(
        UserError, match="stage realm: its objective needs a scorer, which the model lacks"
    ):
        pretrain.pretrain(run=tmp_path / "run", **options)
    assert not (tmp_path / "run").exists()


@pytest.fixture(scope="module")
def tuned(tiny, tmp_path_factory):
    """Fine-tuned with labels, from a run without a scorer."""
    folder = tmp_path_factory.mktemp("scored")
    model = directory.sized(Ralm(SMALL, SMALL, embedding=8), tiny.corpus.vocabulary.size)
    parts = {"stages": ["ict"], "lengths": vars(LENGTHS), "held_out": 0.1, "seed": 0}
    directory.describe(folder / "run", model, tiny.corpus, **parts)
    checkpoints = Checkpoints(directory.checkpoint_folder(folder / "run", "ict"))
    checkpoints.save(1, {"state": {"params": initial.drawn_params(model, seed=0)}}, wait=True)
    checkpoints.close()
    distil = functools.partial(distillation.supervised, margin=0.0)
    finetune(folder / "out", folder / "run", tiny, steps=20, checkpoint_every=20, distil=distil)
    return folder / "out"


@pytest.mark.slow
def test_labels_teach_it_in_fine_tuning(tuned):
    assert OpenRun.open(tuned).model.with_scorer
    lines = [json.loads(x) for x in (tuned / "metrics.jsonl").read_text().splitlines()]
    listed = [x["distillation_loss"] for x in lines if x.get("answer_in_read", 0) > 0]
    assert len(listed) > 5 and np.mean(listed[-5:]) < np.mean(listed[:5])


@pytest.mark.slow
def test_it_puts_passages_in_order(tuned, tiny):
    """By what it makes of each, whatever the others are; what is beyond the depth is left out."""
    opened = OpenRun.open(tuned)
    asked = opened.encode([q["question"] for q in tiny.almanac.questions[:4]])
    ranked = opened.search(asked, 12)
    missing = embedding.Ranking(ranked.rows.copy(), ranked.scores.copy())
    missing.rows[1, 5:], missing.scores[1, 5:] = -1, -np.inf
    found = answering.reranked(opened, asked, missing, depth=8)
    assert found.rows.shape == (4, 8)
    for b in range(4):
        assert set(found.rows[b]) == set(missing.rows[b, :8])
        real = found.rows[b] >= 0
        text, _ = question_batches.joint_text(
            opened.corpus,
            type(asked)(*(x[b : b + 1] for x in asked)),
            found.rows[b : b + 1, real],
            64,
        )
        raw = opened.model.apply({"params": opened.params}, text, method="rerank")[0]
        scale = opened.model.score_scale
        assert (np.diff(found.scores[b][real]) <= 0).all()
        np.testing.assert_allclose(found.scores[b][real] * scale, raw, rtol=1e-4, atol=1e-5)
        assert np.isneginf(found.scores[b][~real]).all()


@pytest.mark.slow
@pytest.mark.parametrize(("exact", "reranks"), [(0.75, True), (0.5, False), (0.25, False)])
def test_development_questions_decide_whether_it_is_used(
    exact, reranks, tuned, tiny, tmp_path, monkeypatch
):
    """Where its order answers more of them, and only there; the step that is kept is that of the better."""
    run = shutil.copytree(tuned, tmp_path / "run")
    questions = read_questions(tiny.questions).asked[:4]
    select = Selection(run, tiny.corpus, questions, LENGTHS, 2, FROZEN)
    opened = OpenRun.open(run)
    scores = iter([(0.5, 0.5), (exact, exact)])
    monkeypatch.setattr(Selection, "_score", lambda self, found: next(scores))
    said = select(opened.model, opened.params, "finetune", 20)
    best = max(exact, 0.5)
    assert said == {"exact_match": best, "f1": best, "reranking_gain": exact - 0.5}
    assert OpenRun.open(run).stage == directory.BEST and OpenRun.open(run).rerank == reranks
    assert OpenRun.open(run).rerank == reranks
    assert not OpenRun.open(
        run, stage="finetune"
    ).rerank  # of a step that was not chosen nothing is known


@pytest.mark.slow
@pytest.mark.parametrize("policy", [Asynchronous(1, 1), Synchronous(1)])
def test_questions_are_answered_from_the_index_that_served(
    policy, tuned, tiny, tmp_path, monkeypatch
):
    """The next one is published when the next step begins, so it may not be there yet."""
    run = shutil.copytree(tuned, tmp_path / "run")
    folder = directory.index_folder(run, "finetune")
    served = index.folder(folder, policy.published(2))
    index.folder(folder, index.versions(folder)[-1]).rename(served)
    select = Selection(
        run, tiny.corpus, read_questions(tiny.questions).asked[:2], LENGTHS, 2, policy
    )
    opened = OpenRun.open(run)
    said = select(opened.model, opened.params, "finetune", 3)
    assert {"exact_match", "f1"} <= said.keys()


@pytest.mark.slow
def test_both_orders_of_development_questions_are_read(tuned, tiny):
    questions = read_questions(tiny.questions).asked[:4]
    select = Selection(tuned, tiny.corpus, questions, LENGTHS, 2, FROZEN)
    opened = OpenRun.open(tuned)
    first, second = select._answered(opened)
    asked = [q.question for q in questions]
    for found, reranks in ((first, False), (second, True)):
        ordered = dataclasses.replace(opened, rerank=reranks)
        wanted = ordered.answer(asked, beam=answering.RERANKED, candidates=2)
        assert [a.answers[0].text for a in found] == [a.answers[0].text for a in wanted]
        assert [a.rows.tolist() for a in found] == [a.rows.tolist() for a in wanted]
    assert [a.rows.tolist() for a in first] != [a.rows.tolist() for a in second]


@pytest.mark.slow
@pytest.mark.parametrize("reranks", [True, False])
def test_evaluate_and_ask_use_it(reranks, tuned, tiny, tmp_path, capsys):
    loaded, run = OpenRun.open(tuned), shutil.copytree(tuned, tmp_path / "run")
    tree = {"state": {"params": loaded.params}, directory.RERANK: np.array(reranks)}
    checkpoints = Checkpoints(directory.checkpoint_folder(run, directory.BEST))
    checkpoints.save(21, tree, wait=True)
    checkpoints.close()
    opened = OpenRun.open(run)
    given = read_questions(tiny.questions)
    few = given._replace(asked=given.asked[:6])
    report = evaluate_answers(opened, few, beam=20, candidates=2)
    assert 0 <= report["reranked"]["exact_match"][0] <= 1
    assert report["reranked"]["recall"]["20"] == report["retriever"]["recall"]["20"]
    assert report["asking"] == ("reranked" if reranks else "retriever")
    assert "fine-tuned, re-ranked by scorer" in table(report)
    assert ("ralm ask re-ranks:" in table(report)) == reranks
    question = few.asked[0].question
    assert cli.main(["ask", question, "--run", str(run), "--json", "-"]) == 0
    record = json.loads(capsys.readouterr().out)
    ranking = ["re-rank"] if reranks else []
    assert list(record["seconds"]) == ["embed", "search", *ranking, "read"]
    (found,) = opened.answer([question])
    assert record["answer"] == found.answers[0].text
