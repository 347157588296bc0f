"""A run goes on over a corpus that is updated, and embeds what is new alone."""

import errno
import json
import shutil

import numpy as np
import pytest

from ralm_jax.batches import Lengths
from ralm_jax.data.corpus import open_corpus
from ralm_jax.errors import UserError
from ralm_jax.inference import embedding, vector_cache
from ralm_jax.inference.open_run import OpenRun
from ralm_jax.living import merging
from ralm_jax.living.update import update
from ralm_jax.models import initial
from ralm_jax.models.config import EncoderConfig
from ralm_jax.models.ralm import Ralm
from ralm_jax.runs import directory
from ralm_jax.runs.checkpoint import Checkpoints

# Wider than any passage here, so that the longest passage shapes the hash of the encoder.
LENGTHS = Lengths(query=20, passage=300, joint=320, masked=4)
SMALL = EncoderConfig(hidden=8, layers=1, heads=2, intermediate=8, positions=320, dropout=0.0)
PARTS = {"stages": ["ict"], "lengths": vars(LENGTHS), "held_out": 0.1, "seed": 0}


@pytest.fixture
def corpus(tiny, tmp_path):
    """One that may be changed."""
    return shutil.copytree(tiny.corpus.path, tmp_path / "corpus")


@pytest.fixture
def run(corpus, tmp_path, monkeypatch):
    monkeypatch.setattr(embedding, "CHUNK", 64)
    monkeypatch.setenv("RALM_CACHE", str(tmp_path / "cache"))
    path, opened = tmp_path / "run", open_corpus(corpus)
    model = directory.sized(Ralm(SMALL, SMALL, embedding=8), opened.vocabulary.size)
    directory.describe(path, model, opened, **PARTS)
    checkpoints = Checkpoints(directory.checkpoint_folder(path, "ict"))
    checkpoints.save(1, {"state": {"params": initial.drawn_params(model, seed=0)}}, wait=True)
    checkpoints.close()
    return path


@pytest.fixture
def embedded(monkeypatch):
    """How many passages have been embedded, at each time."""
    counts = []
    whole, some = vector_cache.embed_rows, vector_cache.embed_texts

    def embed_whole(model, params, corpus, *more):
        counts.append(corpus.size)
        return whole(model, params, corpus, *more)

    def embed_some(model, params, text, method):
        counts.append(len(text.tokens))
        return some(model, params, text, method)

    monkeypatch.setattr(vector_cache, "embed_rows", embed_whole)
    monkeypatch.setattr(vector_cache, "embed_texts", embed_some)
    return counts


def changed(corpus, number, **options):
    """Adds a passage of some length, and puts another in the place of it the next time."""
    text = " ".join([f"The kiln of Norford was built in {1500 + number}."] * (1 + number % 15))
    file = corpus.parent / "next.jsonl"
    file.write_text(json.dumps({"id": "kiln", "title": f"Kiln {number}", "text": text}) + "\n")
    return update(corpus, str(file), processes=1, say=str, **options)


def test_what_is_new_alone_is_embedded(run, corpus, embedded, tmp_path):
    opened = OpenRun.open(run)
    first = opened.vectors
    assert embedded == [len(first)] and opened.current() is opened
    for number in range(4):
        changed(corpus, number)
        before, opened = opened, opened.current()
        assert opened is not before and opened.corpus.version.number == number + 1
        anew = embedding.embed_corpus(opened.model, opened.params, opened.corpus, LENGTHS)
        np.testing.assert_allclose(opened.vectors, anew, atol=1e-5)
    assert embedded == [len(first), 1, 1, 1, 1]
    # What an encoder made of versions before the last is forgotten.
    assert len(list((tmp_path / "cache").iterdir())) == 2
    changed(corpus, 4)
    changed(corpus, 5)
    # Nobody had opened the version between.
    assert len(OpenRun.open(run).vectors) == len(first) + 1 and embedded[5:] == [1]
    update(corpus, delete=["kiln"], say=str)
    np.testing.assert_array_equal(np.sort(OpenRun.open(run).vectors, 0), np.sort(first, 0))
    assert embedded[6:] == []


def test_what_is_known_is_taken_over_in_blocks(run, corpus, embedded, monkeypatch):
    opened = OpenRun.open(run)
    monkeypatch.setattr(vector_cache, "BLOCK", opened.vectors.nbytes // 5)
    gone = [opened.texts[row]["documents"][0].decode() for row in (3, 40)]
    changed(corpus, 1, delete=gone)
    opened = opened.current()
    anew = embedding.embed_corpus(opened.model, opened.params, opened.corpus, LENGTHS)
    np.testing.assert_allclose(opened.vectors, anew, atol=1e-5)
    assert embedded[1:] == [1]


@pytest.mark.slow
def test_a_reader_is_right_through_fifty_versions(run, corpus):
    """It searches while the corpus changes, with BM25 and without, and finds what is there."""
    opened = OpenRun.open(run)
    for number in range(50):
        changed(corpus, number)
        opened = opened.current()
        anew = embedding.embed_corpus(opened.model, opened.params, opened.corpus, LENGTHS)
        question = [f"Which kiln was built in {1500 + number}?"]
        asked = opened.encode(question)
        vectors = embedding.embed_texts(opened.model, opened.params, asked)
        found, wanted = opened.search(asked, 10), embedding.search(vectors, anew, 10)
        # An encoder that has learnt nothing ranks passages within rounding of each other.
        np.testing.assert_allclose(found.scores, wanted.scores, atol=1e-4)
        np.testing.assert_allclose((vectors @ anew.T)[0, found.rows[0]], found.scores[0], atol=1e-4)
        best = opened.search(asked, 1, lexical_weight=100.0).rows[0, 0]
        assert opened.texts[int(best)]["title"] == f"Kiln {number}".encode()
        assert open_corpus(corpus).version.number == opened.corpus.version.number == number + 1


def test_a_run_is_not_trained_on_with_another_version(run, corpus):
    changed(corpus, 1)
    newest = open_corpus(corpus)
    model = directory.load_model(run)
    said = (
        r"is trained on version 0 of the corpus .* has version 1 now: train another run .* --init"
    )
    with pytest.raises(UserError, match=said):
        directory.check_same(run, model, newest, **PARTS)
    assert directory.own_corpus(run) == corpus.resolve()


def test_a_full_disk_leaves_the_version_that_is_there(corpus, monkeypatch):
    """And no file is left open, which would be a warning here."""

    def full(self, rows):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(merging.ArrayWriter, "append", full)
        with pytest.raises(UserError, match=r"corpus cannot be written: No space left on device$"):
            update(corpus, delete=["almanac-00000"], say=str)
    assert open_corpus(corpus).version.number == 0
    assert not (corpus / "versions").exists()
    assert update(corpus, delete=["almanac-00000"], say=str)["version"] == 1
