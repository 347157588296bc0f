"""Queries learn alone: passages are known by their vectors, which stay bit for bit."""

import contextlib
import dataclasses

import compiling
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ralm_jax import cli, partition
from ralm_jax.batches import Lengths
from ralm_jax.errors import UserError
from ralm_jax.inference.open_run import OpenRun
from ralm_jax.loaders.loader import Source
from ralm_jax.models import initial
from ralm_jax.models.config import EncoderConfig
from ralm_jax.models.ralm import Ralm
from ralm_jax.runs import directory
from ralm_jax.training import initialize, optim, steps
from ralm_jax.training.passage_windows import PassageWindows
from ralm_jax.training.read_clozes import ABSENT, TeachingReader

LENGTHS = Lengths(query=20, passage=56, joint=64, masked=4)
SMALL = EncoderConfig(
    hidden=8, layers=1, heads=2, intermediate=16, positions=64, dropout=0.0, init_stddev=0.3
)
CLOZES = TeachingReader(LENGTHS, clozes=24, candidates=4, passages=None, part=None)
WINDOWS = PassageWindows(LENGTHS, shortest=4, longest=9, negatives=2, index="exact")
TAUGHT = dataclasses.replace(WINDOWS, teaches=True)


@pytest.fixture(scope="module")
def model(tiny):
    given = Ralm(SMALL, SMALL, embedding=8, copies=True, share_towers=False)
    return directory.sized(given, tiny.corpus.vocabulary.size)


@pytest.fixture(scope="module")
def params(model):
    return jax.device_put(initial.drawn_params(model, 0))


def first_batch(task, tiny, model, params, tmp_path):
    rows = task.queries(tiny.corpus, 0.2).rows
    source = Source(tiny.corpus, tiny.corpus, model, rows, 3, 8, tmp_path / "index")
    with contextlib.closing(task.loader(source)) as loader:
        loader.start(params)
        return loader.batch(0)


@pytest.mark.slow
@pytest.mark.parametrize("task", [CLOZES, WINDOWS, TAUGHT], ids=["clozes", "windows", "taught"])
def test_vectors_are_as_good_as_texts(task, tiny, model, params, tmp_path):
    """The same loss and the same gradient for the query tower; none for the passage tower."""
    alone = dataclasses.replace(task, train_passages=False)
    found = []
    for each in (task, alone):
        batch, loss = first_batch(each, tiny, model, params, tmp_path), each.loss(model)
        state = steps.create_state(params, optim.by_part(optax.sgd(1.0), optim.frozen()))

        def one(state, batch, key, loss=loss):
            return steps.train_step(state, batch, key, loss=loss)

        state = partition.replicate(jax.tree.map(jnp.copy, state))
        ended, metrics = partition.parallelize(one)(
            state, partition.shard(batch), jax.random.key(0)
        )
        given = (params["retriever"], ended.params["retriever"])
        gradient = jax.tree.map(lambda a, b: np.asarray(a) - np.asarray(b), *given)
        found.append((float(metrics["loss"][0]) / float(metrics["loss"][1]), gradient))
    (loss, both), (same, queries) = found
    np.testing.assert_allclose(loss, same, rtol=1e-5)
    close = lambda a, b: np.testing.assert_allclose(a, b, atol=2e-6)  # noqa: E731
    jax.tree.map(close, both["query_tower"], queries["query_tower"])
    assert max(float(abs(g).max()) for g in jax.tree.leaves(both["query_tower"])) > 1e-3
    assert max(float(abs(g).max()) for g in jax.tree.leaves(both["passage_tower"])) > 1e-3
    assert max(float(abs(g).max()) for g in jax.tree.leaves(queries["passage_tower"])) == 0


def test_a_query_tower_begins_as_the_passage_tower(tiny):
    shared = Ralm(SMALL, SMALL, embedding=8)
    shared = directory.sized(shared, tiny.corpus.vocabulary.size)
    params = initial.drawn_params(shared, 0)
    model, split = initialize.with_query_tower(shared, params)
    assert not model.share_towers
    towers = split["retriever"]
    jax.tree.map(np.testing.assert_array_equal, towers["query_tower"], towers["passage_tower"])
    assert initialize.with_query_tower(model, split) == (model, split)


def test_a_span_judges_by_hand(tiny, model, params, tmp_path):
    task = dataclasses.replace(CLOZES, judge="span")
    batch = first_batch(task, tiny, model, params, tmp_path)
    corpus = tiny.corpus
    joint, weights = batch.clozes.joint.tokens, batch.clozes.weights
    told = batch.likelihood.sum(-1)  # [B,K]
    for i, row in enumerate(joint):
        span = " ".join(map(str, batch.clozes.targets[i][weights[i] > 0]))
        for k, tokens in enumerate(row):
            # Behind the query, whose own pieces are masked.
            there = f" {span} " in " " + " ".join(map(str, tokens)) + " "
            count = max(1, int(weights[i].sum()))
            assert told[i, k] == pytest.approx(0 if there else 4 * ABSENT / count, rel=1e-5)
    assert (told[:, 0] < 0).all() and (told[:, 1:] == 0).any() and corpus.size


@pytest.mark.slow
def test_a_scorer_judges_what_the_retriever_sees(tiny, params, tmp_path):
    given = Ralm(SMALL, SMALL, embedding=8, with_scorer=True, share_towers=False)
    model = directory.sized(given, tiny.corpus.vocabulary.size)
    drawn = jax.device_put(initial.drawn_params(model, 0))
    task = dataclasses.replace(CLOZES, judge="scorer")
    assert task.needs_reranker
    batch = first_batch(task, tiny, model, drawn, tmp_path)
    assert (batch.likelihood == batch.likelihood[..., :1]).all()
    assert len(np.unique(batch.likelihood[..., 0])) > 8
    mask = tiny.corpus.vocabulary.mask
    assert (batch.clozes.joint.tokens == mask).any() and not (
        batch.clozes.query.tokens == mask
    ).any()
    # What the reader sees, with its masks, is judged otherwise.
    masked = model.apply({"params": drawn}, batch.clozes.joint, method="rerank")
    assert np.abs(np.asarray(masked) - batch.likelihood[..., 0])[:, 1:].max() > 1e-4


def test_only_the_reader_reads_in_every_step():
    with pytest.raises(UserError, match="the span judges once: set `cached` to True"):
        dataclasses.replace(CLOZES, judge="span", cached=False)


@pytest.fixture(scope="module")
def begun(tiny, tiny_settings, tmp_path_factory):
    """A run of all stages, of random parameters."""
    run = tmp_path_factory.mktemp("begun") / "run"
    first = ["--config", "runs/pretrain.gin", "--corpus", str(tiny.corpus.path)]
    with compiling.traced():
        assert cli.main(["pretrain", *first, "--run", str(run), *tiny_settings]) == 0
    return run


@pytest.mark.slow
@pytest.mark.parametrize("config", ["runs/domain_queries.gin", "runs/teach_queries.gin"])
def test_passages_stay(config, begun, tiny, tiny_settings, tmp_path):
    out = tmp_path / "out"
    kept = ("QUERY_LENGTH", "PASSAGE_LENGTH", "JOINT_LENGTH", "MASKED", "HELD_OUT")
    sizes = [size for size in tiny_settings[1::2] if size.split()[0] in kept]
    sizes += ["WINDOW_SHORTEST = 4", "WINDOW_LONGEST = 9", "WINDOW_STEPS = 3", "WINDOW_BATCH = 8"]
    sizes += ["WINDOW_WARMUP = 1", "WINDOW_RATE = 1e-2", "WINDOW_PART = None"]
    if "teach" in config:
        sizes = [size for size in sizes if not size.startswith("WINDOW")]
        sizes += ["READER_BATCH = 8", "READER_STEPS = 1", "TEACH_BATCH = 8", "TEACH_CLOZES = 16"]
        sizes += ["TEACH_STEPS = 3", "TEACH_RATE = 1e-2"]
    words = ["--config", config, "--init", str(begun), "--corpus", str(tiny.corpus.path)]
    changes = [word for size in sizes for word in ("--set", size)]
    assert cli.main(["pretrain", *words, "--run", str(out), *changes]) == 0
    start = OpenRun.open(begun)
    last = "teach" if "teach" in config else "windows"
    ended = OpenRun.open(out, stage=last)
    assert not ended.model.share_towers
    towers = ended.params["retriever"]
    before = start.params["retriever"]["passage_tower"]
    jax.tree.map(np.testing.assert_array_equal, towers["passage_tower"], before)
    moved = jax.tree.map(lambda a, b: float(abs(a - b).max()), towers["query_tower"], before)
    assert max(jax.tree.leaves(moved)) > 1e-4
