"""The loop on a small almanac: whatever interrupts a run, it ends as if nothing had."""

import dataclasses
import errno
import functools
import itertools
import os
import shutil
import signal
import time

import compiling
import jax
import numpy as np
import optax
import pytest

from ralm_jax.batches import Lengths
from ralm_jax.errors import UserError
from ralm_jax.examples import cloze_batches
from ralm_jax.examples.masking import salient_span
from ralm_jax.inference import embedding
from ralm_jax.inference.open_run import OpenRun
from ralm_jax.models import initial
from ralm_jax.models.config import EncoderConfig
from ralm_jax.models.ralm import Ralm
from ralm_jax.retrieval import index
from ralm_jax.retrieval.refresh import Asynchronous
from ralm_jax.runs import directory
from ralm_jax.runs.checkpoint import Checkpoints
from ralm_jax.runs.writers import metrics_file, read_metrics
from ralm_jax.training import loop, optim, pretrain, schedule
from ralm_jax.training.tasks import InverseCloze, Realm

LENGTHS = Lengths(query=20, passage=56, joint=64, masked=4)
SMALL = EncoderConfig(
    hidden=8, layers=1, heads=2, intermediate=16, positions=64, init_stddev=0.2,
    attention_dropout=0.0,
)  # fmt: skip
MODEL = Ralm(SMALL, SMALL, embedding=8)
BOTH = optim.by_part(optim.adamw(1e-2), optim.adamw(1e-2))
REALM = Realm(LENGTHS, candidates=3, index="exact", refresh=Asynchronous(every=4, lag=3))
OFTEN = {"log_every": 1, "checkpoint_every": 100}
HALF_MASKED = InverseCloze(LENGTHS, mask=salient_span, mask_share=0.5)
ICT = schedule.Stage("ict", HALF_MASKED, schedule.Schedule(3, 16, BOTH, **OFTEN))
# Snapshots at steps 4 and 8, served from 7 and 11 on.
JOINT = schedule.Stage("realm", REALM, schedule.Schedule(12, 8, BOTH, **OFTEN))
CHAIN = (ICT, JOINT)


@pytest.fixture(autouse=True, scope="module")
def quick():
    """Every run here is of one model and few steps: they are traced and compiled once.

    Passages are embedded in small chunks, so that an index is made in several parts as a real one is.
    """

    def initial_params(model, key):
        seed = jax.random.key_data(key).tobytes()
        if (model, seed) not in begun:
            begun[model, seed] = jax.tree.map(np.asarray, begin(model, key))
        return begun[model, seed]

    begun, begin = {}, initial.initial_params
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(embedding, "CHUNK", 32)
        patch.setattr(initial, "initial_params", initial_params)
        patch.setattr(directory, "sized", functools.cache(directory.sized))
        yield


class Lost(Exception):
    """What the tests end a run with."""


def train(run, corpus, stages, **more):
    """Options that are a schedule's change those of all stages."""
    names = schedule.Schedule.__annotations__
    course = {name: more.pop(name) for name in list(more) if name in names}
    stages = [with_course(stage, **course) for stage in stages]
    options = {"model": MODEL, "held_out": 0.2, "seed": 7, **more}
    return pretrain.pretrain(run=run, corpus=corpus, stages=stages, **options)


def with_course(stage, **course):
    return dataclasses.replace(stage, schedule=dataclasses.replace(stage.schedule, **course))


def at(stage, step, act):
    """Options that call `act` after one step of one stage."""

    def evaluate(model, params, name, now):
        if (name, now) == (stage, step):
            act()
        return {}

    return {"evaluate": evaluate, "eval_every": 1}


def lose():
    raise Lost


def terminate(number=signal.SIGTERM):
    os.kill(os.getpid(), number)


def ended(run, stages=CHAIN):
    """Everything the last checkpoint of each stage has, by name."""
    found = {}
    for stage in stages:
        checkpoints = Checkpoints(directory.checkpoint_folder(run, stage.name))
        assert checkpoints.latest() == stage.schedule.steps
        tree = checkpoints.load(stage.schedule.steps)
        checkpoints.close()
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
            found[stage.name + jax.tree_util.keystr(path)] = np.asarray(leaf)
    return found


def curves(run):
    return [line for line in read_metrics(metrics_file(run)) if set(line) > {"stage", "step"}]


def assert_same(run, other):
    """Bit for bit, and every step logged once."""
    here, there = ended(run), ended(other)
    assert here.keys() == there.keys()
    for name, leaf in here.items():
        np.testing.assert_array_equal(leaf, there[name], err_msg=name)
    logged = [(line["stage"], line["step"]) for line in curves(run) if "step_seconds" in line]
    assert len(logged) == len(set(logged)) == sum(stage.schedule.steps for stage in CHAIN)


@pytest.fixture(scope="module")
def whole(quick, tiny, tmp_path_factory):
    """A chain that nothing has interrupted."""
    run = tmp_path_factory.mktemp("whole")
    train(run, tiny.corpus, CHAIN)
    return run


@pytest.fixture
def begun(whole, tmp_path):
    """Another run, killed in its second stage before it had a checkpoint there."""
    run = tmp_path / "run"
    shutil.copytree(whole, run)
    shutil.rmtree(directory.checkpoint_folder(run, "realm"))
    shutil.rmtree(directory.index_folder(run, "realm"))
    return run


def test_the_chain_goes_through_its_stages(whole, tiny):
    lines = curves(whole)
    assert [(x["stage"], x["step"]) for x in lines if "step_seconds" in x] == [
        (stage.name, step + 1) for stage in CHAIN for step in range(stage.schedule.steps)
    ]
    published = [
        (x["stage"], x["step"], x["publish/index_step"]) for x in lines if "publish/index_step" in x
    ]
    assert published == [("realm", 0, 0), ("realm", 8, 4), ("realm", 12, 8)]
    changed = [x.get("publish/index_churn") for x in lines if "publish/index_step" in x]
    assert changed[0] is None and all(0 < churn < 1 for churn in changed[1:])
    loaded = OpenRun.open(whole)
    assert (loaded.stage, loaded.step) == ("realm", 12)
    assert loaded.model.reader_config.vocab_size == tiny.corpus.vocabulary.size


def test_what_a_run_writes_has_no_text_of_the_corpus(whole, tiny):
    """Neither logs nor curves nor checkpoints: its words alone are there, in the vocabulary."""
    titles = {record["title"].encode() for record in tiny.almanac.documents}
    titles = {title for title in titles if b" " in title}
    assert len(titles) > 10 and any(whole.rglob("events.out.tfevents*"))
    for file in (file for file in whole.rglob("*") if file.is_file()):
        found = file.read_bytes()
        assert not [title for title in titles if title in found], file


@pytest.mark.slow
def test_a_line_of_the_log_is_the_mean_of_its_steps(whole, begun, tiny):
    """Whatever is saved between, and wherever a run was taken up again."""
    run = begun.with_name("new")
    with pytest.raises(loop.Stopped):
        train(run, tiny.corpus, CHAIN, log_every=3, checkpoint_every=2, **at("realm", 4, terminate))
    train(run, tiny.corpus, CHAIN, log_every=3, checkpoint_every=2)
    loss = {(line["stage"], line["step"]): line["loss"] for line in curves(whole) if "loss" in line}
    found = {(x["stage"], x["step"]): x["loss"] for x in curves(run) if "loss" in x}
    ends = {"ict": [0, 3], "realm": [0, 3, 5, 6, 9, 12]}  # stopped after 5: a line for what it had
    assert list(found) == [(stage, step) for stage in ends for step in ends[stage][1:]]
    for stage, steps in ends.items():
        for first, last in itertools.pairwise(steps):
            single = [loss[stage, step] for step in range(first + 1, last + 1)]
            np.testing.assert_allclose(found[stage, last], np.mean(single), rtol=0.02)


# The step after which the run is asked to stop; it does so one step later. Saved are thus: the middle
# of another stage, a state just before a snapshot (4), with a refresh in flight (5, 6), and just
# before (7) and after (8) its publish.
STOPS = [
    [("ict", 1), ("realm", 3), ("realm", 5), ("realm", 7)],
    [("realm", 4), ("realm", 6)],
]


@pytest.mark.slow
@pytest.mark.parametrize("stops", STOPS)
def test_a_run_stopped_by_signals_ends_as_if_nothing_had_happened(whole, begun, tiny, stops):
    run = begun if stops[0][0] == "realm" else begun.with_name("new")
    before = signal.getsignal(signal.SIGTERM)
    for stage, step in stops:
        with pytest.raises(loop.Stopped, match=f"step {step + 1} of stage {stage}"):
            train(run, tiny.corpus, CHAIN, **at(stage, step, terminate))
    train(run, tiny.corpus, CHAIN)
    assert_same(run, whole)
    assert signal.getsignal(signal.SIGTERM) == before


@pytest.mark.slow
def test_work_since_the_last_checkpoint_is_done_again(whole, begun, tiny):
    """Lost are a publish (at 7), of a snapshot that was in flight at 5, and the next snapshot (8)."""
    with pytest.raises(Lost):
        train(begun, tiny.corpus, CHAIN, checkpoint_every=5, **at("realm", 9, lose))
    assert OpenRun.open(begun).step == 5
    train(begun, tiny.corpus, CHAIN, checkpoint_every=5)
    assert_same(begun, whole)


@pytest.mark.slow
def test_an_index_stays_for_as_long_as_a_checkpoint_needs_it(tiny, tmp_path):
    """Version 2 served at the checkpoint; 4 and 6 have been published when the run is lost."""
    often = dataclasses.replace(REALM, refresh=Asynchronous(every=2, lag=1))
    stages = (with_course(dataclasses.replace(JOINT, task=often), steps=10),)
    whole, run = tmp_path / "whole", tmp_path / "run"
    train(whole, tiny.corpus, stages, checkpoint_every=5)
    with pytest.raises(Lost):
        train(run, tiny.corpus, stages, checkpoint_every=5, **at("realm", 9, lose))
    assert 2 in index.versions(directory.index_folder(run, "realm"))
    train(run, tiny.corpus, stages, checkpoint_every=5)
    found, wanted = ended(run, stages), ended(whole, stages)
    for name, leaf in wanted.items():
        np.testing.assert_array_equal(found[name], leaf, err_msg=name)
    assert len(index.versions(directory.index_folder(run, "realm"))) <= 5


def test_a_second_call_on_a_finished_run_changes_nothing(whole, begun, tiny):
    shutil.rmtree(begun)
    shutil.copytree(whole, begun)
    _, params = train(begun, tiny.corpus, CHAIN)
    assert_same(begun, whole)
    jax.tree.map(np.testing.assert_array_equal, params, OpenRun.open(whole).params)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"seed": 8}, "seed is 7 there and 8 here"),
        ({"held_out": 0.1}, "held_out is 0.2 there and 0.1 here"),
        ({"stages": (JOINT,)}, "stages is"),
        ({"model": MODEL.clone(embedding=4)}, "embedding is 8 there and 4 here"),
    ],
    ids=["seed", "held_out", "stages", "model"],
)
def test_a_run_of_another_configuration_is_not_resumed(whole, tiny, change, said):
    before = {path: path.stat().st_mtime_ns for path in whole.rglob("*")}
    with pytest.raises(UserError, match="has a run of another configuration") as error:
        train(whole, tiny.corpus, **{"stages": CHAIN, **change})
    assert said in str(error.value) and "\n" not in str(error.value)
    assert before == {path: path.stat().st_mtime_ns for path in whole.rglob("*")}


def test_a_run_is_not_resumed_on_another_corpus(whole, tiny):
    other = dataclasses.replace(tiny.corpus, fingerprint="another")
    with pytest.raises(UserError, match="another configuration: fingerprint is"):
        train(whole, other, CHAIN)


def test_a_batch_that_does_not_divide_is_refused_before_anything_is_made(tiny, tmp_path):
    odd = with_course(JOINT, batch=12)
    with pytest.raises(UserError, match="batch of 12 does not divide over 8 devices"):
        train(tmp_path / "run", tiny.corpus, (ICT, odd))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("share", [-0.1, 1.0])
def test_a_share_that_is_none_is_refused_before_anything_is_made(tiny, tmp_path, share):
    with pytest.raises(UserError, match="held_out must be a number from 0 to less than 1"):
        train(tmp_path / "run", tiny.corpus, CHAIN, held_out=share)
    assert not (tmp_path / "run").exists()


def test_the_null_passage_and_the_querys_own_need_two_places():
    with pytest.raises(
        UserError, match="candidates is 1, and the null passage and the query's own"
    ):
        dataclasses.replace(REALM, candidates=1, own_passage=True)
    with pytest.raises(UserError, match=r"Realm.candidates must be a whole number from 1, not 0"):
        dataclasses.replace(REALM, candidates=0)
    assert cloze_batches.candidates(np.array([[4]]), np.array([2]), 1).tolist() == [[-1]]


@pytest.mark.slow
@pytest.mark.parametrize("candidates", [2, 3])
def test_one_passage_beside_the_null_is_allowed_with_a_caution(tiny, tmp_path, capsys, candidates):
    task = dataclasses.replace(REALM, candidates=candidates)
    with compiling.traced():
        train(tmp_path / "run", tiny.corpus, [dataclasses.replace(JOINT, task=task)], steps=1)
    said = "".join(capsys.readouterr())
    assert ("realm: caution: with 2 candidates" in said) == (candidates == 2)
    # A warm-up gets no caution.
    assert len(dataclasses.replace(task, freeze_retriever=True).describe(9)) == 1


@pytest.mark.slow
def test_a_full_disk_while_an_index_is_published_ends_the_run_and_it_goes_on(
    whole, begun, tiny, monkeypatch
):
    def full(path):
        if "step_" in str(path) or index.WRITING in str(path):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        act = lambda: patch.setattr(index, "sync", full)  # noqa: E731
        with pytest.raises(UserError, match="disk full while publishing the index at step 4: free"):
            train(begun, tiny.corpus, CHAIN, checkpoint_every=2, **at("realm", 3, act))
    versions = index.versions(directory.index_folder(begun, "realm"))
    assert versions == [0] and not list(begun.rglob(index.WRITING + "*"))
    train(begun, tiny.corpus, CHAIN)
    assert_same(begun, whole)


def test_a_loss_that_is_not_finite_ends_the_run(tiny, tmp_path):
    wild = with_course(ICT, optimizer=optax.sgd(float("inf")))
    said = r"the loss became nan or infinite at step 2 of ict \(queries (\d+, ){3}\.\.\.; see .*ict_2\.npz\)"
    with pytest.raises(UserError, match=said + ": lower .* goes on from its beginning$"):
        train(tmp_path, tiny.corpus, (wild,))
    with np.load(next((tmp_path / "nonfinite").iterdir())) as kept:
        assert kept["query.tokens"].shape == (16, LENGTHS.query) and kept["drawn"].shape == (16,)


def test_measuring_is_not_training(tiny, tmp_path):
    """The idle time of the device is a share of the time of training, however long evaluating takes."""
    slow = {"evaluate": lambda *_: time.sleep(0.4) or {"x": 1.0}, "eval_every": 1}
    train(tmp_path, tiny.corpus, (ICT,), steps=5, **slow)
    lines = [x for x in curves(tmp_path) if "loss" in x]
    seconds = np.array([x["step_seconds"] for x in lines])
    idle = [sum(v for k, v in x.items() if k.startswith("idle/")) for x in lines]
    # Of all steps together: what one waited for may be in the line of the next.
    assert len(lines) == 5 and (idle * seconds).sum() < 1.1 * seconds.sum()
    assert all("idle/eval" not in x and x["examples_per_second"] > 0 for x in lines)


def test_on_a_cpu_no_step_is_queued_before_the_last_one_has_ended(tiny, tmp_path, monkeypatch):
    """Or the activations of both would be in memory."""
    ready, usual = [], loop.partition.parallelize
    # Long enough for the host to have done all that it does meanwhile.
    slow = jax.jit(lambda x: jax.lax.fori_loop(0, 20, lambda _, y: y @ y, x / 100).sum())
    large = np.ones((1500, 1500), np.float32)

    def parallelize(step):
        run = usual(step)

        def watched(state, *given):
            ready.append(all(leaf.is_ready() for leaf in jax.tree.leaves(state)))
            state, metrics = run(state, *given)
            return state.replace(step=state.step + 0 * slow(large).astype(int)), metrics

        return watched

    monkeypatch.setattr(loop.partition, "parallelize", parallelize)
    train(tmp_path, tiny.corpus, (ICT,), log_every=100)
    assert ready == [True] * ICT.schedule.steps


@pytest.mark.slow
def test_inverse_cloze_learns(tiny, tmp_path):
    config = dataclasses.replace(
        SMALL, hidden=16, dropout=0.0, attention_dropout=0.0, init_stddev=0.1
    )
    model = Ralm(config, config, embedding=16, pooling="mean")
    task = InverseCloze(LENGTHS)  # nothing masked
    stage = schedule.Stage(
        "ict", task, schedule.Schedule(40, 32, optim.by_part(optim.adamw(1e-2), optim.frozen()))
    )
    train(tmp_path, tiny.corpus, (stage,), log_every=10, model=model)
    losses = [line["loss"] for line in curves(tmp_path)]
    assert abs(losses[0] - np.log(32)) < 0.5 and losses[-1] < losses[0] - 0.8
