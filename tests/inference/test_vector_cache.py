"""Vectors are made once for as long as the tower and the corpus are the same."""

import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest
import random_runs

from ralm_jax.batches import Lengths
from ralm_jax.inference import embedding, vector_cache
from ralm_jax.inference.open_run import OpenRun
from ralm_jax.loaders import retrieval_loader
from ralm_jax.models import initial
from ralm_jax.models.config import EncoderConfig
from ralm_jax.models.ralm import Ralm
from ralm_jax.retrieval import index
from ralm_jax.runs import directory
from ralm_jax.training import finetune, optim
from ralm_jax.training.schedule import Schedule

LENGTHS = Lengths(query=20, passage=56, joint=64, masked=4)
SMALL = EncoderConfig(hidden=8, layers=1, heads=2, intermediate=8, positions=64, dropout=0.0)


@pytest.fixture
def run(tiny, tmp_path, monkeypatch):
    """A run of random parameters, that nothing was measured with."""
    monkeypatch.setattr(embedding, "CHUNK", 64)
    return random_runs.saved(
        tmp_path / "run", Ralm(SMALL, SMALL, embedding=8), tiny.corpus, LENGTHS
    )


@pytest.fixture
def embedded(monkeypatch):
    """How often the whole corpus has been embedded."""
    times = []
    original = vector_cache.embed_rows
    monkeypatch.setattr(vector_cache, "embed_rows", lambda *a: times.append(1) or original(*a))
    return times


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("RALM_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def files(folder):
    return sorted(path for path in folder.rglob("*") if path.is_file())


def test_a_corpus_is_embedded_once_and_the_run_is_left_as_it_was(run, embedded, cache):
    before = files(run)
    first = OpenRun.open(run)
    again = OpenRun.open(run)
    np.testing.assert_array_equal(again.vectors, first.vectors)
    assert len(embedded) == 1
    params = initial.drawn_params(first.model, seed=1)
    changed = dataclasses.replace(first, params=params, embedded=None)
    assert np.abs(changed.vectors - first.vectors).max() > 1e-3
    assert len(embedded) == 2 and len(list(cache.iterdir())) == 2
    assert files(run) == before


def test_a_large_corpus_is_embedded_in_blocks(run, embedded, cache, tiny, monkeypatch):
    whole = np.array(OpenRun.open(run).vectors)
    monkeypatch.setenv("RALM_CACHE", str(cache / "blocks"))
    monkeypatch.setattr(vector_cache, "BLOCK", 100 * 4 * 8)
    found = OpenRun.open(run).vectors
    assert len(embedded) == 1 + -(-tiny.corpus.size // 100)
    np.testing.assert_allclose(found, whole, atol=1e-5)


def test_where_there_is_no_room_it_is_known_before_anything_is_embedded(
    run, embedded, cache, monkeypatch
):
    usage = SimpleNamespace(free=100)
    monkeypatch.setattr(vector_cache.shutil, "disk_usage", lambda place: usage)
    assert OpenRun.open(run).vectors.shape[1] == 8 and len(embedded) == 1
    assert not list(cache.rglob(index.VECTORS))


def test_what_is_damaged_is_embedded_again(run, embedded, cache):
    first = np.array(OpenRun.open(run).vectors)
    file = index.folder(next(cache.iterdir()), 0) / index.VECTORS
    file.write_bytes(file.read_bytes()[:-4] + b"\0\0\0\0")
    np.testing.assert_array_equal(OpenRun.open(run).vectors, first)
    assert len(embedded) == 2


def test_without_a_cache_a_run_is_measured_all_the_same(run, tiny, cache):
    cache.write_text("in the way")
    assert OpenRun.open(run).vectors.shape == (tiny.corpus.size, 8)


def test_the_hash_is_of_whatever_shapes_the_vectors(run, tiny):
    loaded, corpus = OpenRun.open(run), tiny.corpus
    model, retriever = loaded.model, loaded.params["retriever"]
    wide = int(np.asarray(corpus.lengths).astype(int).sum(1).max()) + 3
    name = vector_cache.encoder_hash(model, retriever, corpus, wide)
    assert name == vector_cache.encoder_hash(model, retriever, corpus, wide + 100)
    dropped = dataclasses.replace(model.retriever_config, dropout=0.5)
    assert name == vector_cache.encoder_hash(
        model.clone(retriever_config=dropped), retriever, corpus, wide
    )
    others = {
        vector_cache.encoder_hash(model, retriever, corpus, wide - 1),
        vector_cache.encoder_hash(model.clone(pooling="mean"), retriever, corpus, wide),
        vector_cache.encoder_hash(
            model, initial.drawn_params(model, seed=1)["retriever"], corpus, wide
        ),
    }
    assert len(others | {name}) == 4


@pytest.mark.slow
def test_fine_tuning_takes_over_what_was_measured(run, tiny, tmp_path, monkeypatch):
    vectors = OpenRun.open(run).vectors

    def fail(*_):
        raise AssertionError("embedded again")

    monkeypatch.setattr(retrieval_loader, "embed_passages", fail)
    tower = optim.by_part(
        optim.towers(query=optim.adamw(1e-3), passage=optim.frozen()), optim.adamw(1e-3)
    )
    finetune.finetune(
        out=tmp_path / "tuned", run=run, train=tiny.questions, beam=30, lengths=LENGTHS,
        schedule=Schedule(2, 8, tower, checkpoint_every=2), candidates=2, span_width=4,
    )  # fmt: skip
    root = directory.index_folder(tmp_path / "tuned", finetune.STAGE)
    served = index.open_version(root, 0, tiny.corpus.fingerprint)
    np.testing.assert_array_equal(served.vectors, vectors)
    # And what the stage began with is what the tuned run answers from.
    monkeypatch.setattr(vector_cache, "embed_rows", fail)
    assert len(OpenRun.open(tmp_path / "tuned").vectors) == tiny.corpus.size
