"""X and Z: sentences are masked in one corpus, passages are retrieved from another (REALM, section 4.2)."""

import contextlib
import dataclasses
import json

import jax
import numpy as np
import pytest

from ralm_jax import embedding, optim, runs, training
from ralm_jax.data import features
from ralm_jax.data.corpus import open_corpus
from ralm_jax.data.pipeline import Lengths, sentence_tokens
from ralm_jax.data.prepare import prepare
from ralm_jax.errors import UserError
from ralm_jax.models.config import EncoderConfig
from ralm_jax.models.ralm import Ralm
from ralm_jax.progress import Progress
from ralm_jax.tasks import Realm

LENGTHS = Lengths(query=20, passage=56, joint=64, masked=4)
SMALL = EncoderConfig(hidden=8, layers=1, heads=2, intermediate=16, positions=64, init_stddev=0.2)
BOTH = optim.by_part(optim.adamw(1e-2), optim.adamw(1e-2))
STAGE = training.Stage("realm", Realm(LENGTHS, candidates=3, index="exact"), 2, 8, BOTH)


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(embedding, "CHUNK", 64)


@pytest.fixture(scope="module")
def news(tiny, tmp_path_factory):
    """A corpus of other texts about the same people, with the wordpieces of the almanac."""
    folder = tmp_path_factory.mktemp("news")
    records = [
        {"id": d["id"], "title": d["title"], "text": f"In other news: {d['text']}"}
        for d in tiny.almanac.documents[::2]
    ]
    (folder / "news.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records), "utf-8")
    vocab = tiny.corpus.path / "vocab.txt"
    prepare(str(folder / "news.jsonl"), folder / "x", vocab_file=vocab, say=lambda line: None)
    return open_corpus(folder / "x")


def test_queries_are_of_the_one_and_candidates_of_the_other(tiny, news, tmp_path):
    stage = dataclasses.replace(STAGE, asked=str(news.path))
    model, params = training.pretrain(
        run=tmp_path / "run", corpus=tiny.corpus, stages=[stage], model=Ralm(SMALL, SMALL, embedding=8),
        held_out=0.0, log_every=1,
    )  # fmt: skip
    run = training.Run(tmp_path / "run", tiny.corpus, model, 0, 0.0, 1, 1, None, 1)
    with contextlib.closing(Progress(tmp_path / "p", params)) as progress:
        supply = training.open_supply(run, stage, 0, progress)
    with contextlib.closing(supply):
        supply.start(jax.device_put(params))
        batch = supply.batch(0)
    sentences = [sentence_tokens(news, row).tolist() for row in range(len(news.sentences))]
    mask = news.vocabulary.mask
    for query in batch.query.tokens:
        asked = query[1 : np.flatnonzero(query)[-1]]
        assert any(
            len(s) >= len(asked) and all(a in (b, mask) for a, b in zip(asked, s, strict=False))
            for s in sentences
        )
    passages = features.passage_text(tiny.corpus, np.arange(tiny.corpus.size), LENGTHS.passage)
    known = {tuple(tokens) for tokens in passages.tokens.tolist()}
    read = batch.candidates.tokens[:, 1:].reshape(-1, LENGTHS.passage)
    assert len(read) == 8 * 2 and all(tuple(tokens) in known for tokens in read.tolist())
    assert batch.valid.all()  # nothing is left out as the query's own


def test_what_cannot_be_is_refused(tiny, news, tmp_path):
    runs.describe(
        tmp_path / "run", Ralm(SMALL, SMALL, embedding=8), tiny.corpus, stages=["realm"]
    )  # its wordpieces are what X is checked against
    run = training.Run(tmp_path / "run", tiny.corpus, None, 0, 0.0, 1, 1, None, 1)
    own = dataclasses.replace(STAGE.task, own_passage=True)
    with pytest.raises(UserError, match="what is asked must be of the corpus it reads"):
        training.asked_corpus(run, dataclasses.replace(STAGE, task=own, asked=str(news.path)))
    other = tmp_path / "other"
    prepare(
        str(tiny.corpus.path.parent / "almanac.jsonl"), other, vocab_size=700, say=lambda line: None
    )
    with pytest.raises(UserError, match="was tokenized with a different vocabulary than the run"):
        training.asked_corpus(run, dataclasses.replace(STAGE, asked=str(other)))
    with pytest.raises(UserError, match="no corpus"):
        training.asked_corpus(run, dataclasses.replace(STAGE, asked="nowhere"))
