"""Vectors are made once for as long as the tower and the corpus are the same."""

import dataclasses

import numpy as np
import pytest

from ralm_jax.batches import Lengths
from ralm_jax.inference import embedding, vector_cache
from ralm_jax.inference.open_run import OpenRun
from ralm_jax.models import initial
from ralm_jax.models.config import EncoderConfig
from ralm_jax.models.ralm import Ralm
from ralm_jax.retrieval import index
from ralm_jax.runs import directory
from ralm_jax.runs.checkpoint import Checkpoints
from ralm_jax.training import finetune, loader, optim

LENGTHS = Lengths(query=20, passage=56, joint=64, masked=4)
SMALL = EncoderConfig(hidden=8, layers=1, heads=2, intermediate=8, positions=64, dropout=0.0)


@pytest.fixture
def run(tiny, tmp_path, monkeypatch):
    """A run of random parameters, that nothing was measured with."""
    monkeypatch.setattr(embedding, "CHUNK", 64)
    path = tmp_path / "run"
    model = directory.sized(Ralm(SMALL, SMALL, embedding=8), tiny.corpus.vocabulary.size)
    parts = {"stages": ["ict"], "lengths": vars(LENGTHS), "held_out": 0.1, "seed": 0}
    directory.describe(path, model, tiny.corpus, **parts)
    checkpoints = Checkpoints(directory.checkpoint_folder(path, "ict"))
    checkpoints.save(1, {"state": {"params": initial.drawn_params(model, seed=0)}}, wait=True)
    checkpoints.close()
    return path


@pytest.fixture
def embedded(monkeypatch):
    """How often the whole corpus has been embedded."""
    times = []
    original = vector_cache.embed_corpus
    monkeypatch.setattr(vector_cache, "embed_corpus", lambda *a: times.append(1) or original(*a))
    return times


def test_a_corpus_is_embedded_once(run, tiny, embedded):
    loaded = OpenRun.open(run)
    first = vector_cache.corpus_vectors(run, loaded, tiny.corpus, LENGTHS)
    again = vector_cache.corpus_vectors(run, OpenRun.open(run), tiny.corpus, LENGTHS)
    np.testing.assert_array_equal(again, first)
    assert len(embedded) == 1
    other = loaded._replace(params=initial.drawn_params(loaded.model, seed=1), step=2)
    changed = vector_cache.corpus_vectors(run, other, tiny.corpus, LENGTHS)
    assert len(embedded) == 2 and np.abs(changed - first).max() > 1e-3
    assert index.versions(next((run / "vectors").iterdir())) == [2]  # of the last measured alone


def test_what_is_damaged_is_made_again(run, tiny, embedded):
    loaded = OpenRun.open(run)
    first = np.array(vector_cache.corpus_vectors(run, loaded, tiny.corpus, LENGTHS))
    file = index.folder(next((run / "vectors").iterdir()), 1) / index.VECTORS
    file.write_bytes(file.read_bytes()[:-4] + b"\0\0\0\0")
    again = vector_cache.corpus_vectors(run, loaded, tiny.corpus, LENGTHS)
    np.testing.assert_array_equal(again, first)
    assert len(embedded) == 2


def test_a_run_that_cannot_be_written_to_is_measured_all_the_same(run, tiny):
    (run / "vectors").write_text("in the way")
    vectors = vector_cache.corpus_vectors(run, OpenRun.open(run), tiny.corpus, LENGTHS)
    assert vectors.shape == (tiny.corpus.size, 8)


def test_the_maker_is_whatever_shapes_the_vectors(run, tiny):
    loaded, corpus = OpenRun.open(run), tiny.corpus
    model, retriever = loaded.model, loaded.params["retriever"]
    wide = int(np.asarray(corpus.lengths).astype(int).sum(1).max()) + 3
    name = vector_cache.maker(model, retriever, corpus, wide)
    assert name == vector_cache.maker(model, retriever, corpus, wide + 100)
    dropped = dataclasses.replace(model.retriever_config, dropout=0.5)
    assert name == vector_cache.maker(
        model.clone(retriever_config=dropped), retriever, corpus, wide
    )
    others = {
        vector_cache.maker(model, retriever, corpus, wide - 1),
        vector_cache.maker(model.clone(pooling="mean"), retriever, corpus, wide),
        vector_cache.maker(model, initial.drawn_params(model, seed=1)["retriever"], corpus, wide),
    }
    assert len(others | {name}) == 4


def test_fine_tuning_takes_over_what_was_measured(run, tiny, tmp_path, monkeypatch):
    vectors = vector_cache.corpus_vectors(run, OpenRun.open(run), tiny.corpus, LENGTHS)

    def fail(*_):
        raise AssertionError("embedded again")

    monkeypatch.setattr(loader, "embed_passages", fail)
    tower = optim.by_part(
        optim.towers(query=optim.adamw(1e-3), passage=optim.frozen()), optim.adamw(1e-3)
    )
    finetune.finetune(
        out=tmp_path / "tuned", run=run, train=tiny.questions, steps=2, batch=8, beam=30,
        optimizer=tower, lengths=LENGTHS, candidates=2, span_width=4, checkpoint_every=2,
    )  # fmt: skip
    root = directory.index_folder(tmp_path / "tuned", finetune.STAGE)
    served = index.open_version(root, 0, tiny.corpus.fingerprint)
    np.testing.assert_array_equal(served.vectors, vectors)
    # And what the stage began with is what the tuned run answers from.
    monkeypatch.setattr(vector_cache, "embed_corpus", fail)
    tuned = OpenRun.open(tmp_path / "tuned")
    vector_cache.corpus_vectors(tmp_path / "tuned", tuned, tiny.corpus, LENGTHS)
