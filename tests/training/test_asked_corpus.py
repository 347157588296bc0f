"""X and Z: sentences are masked in one corpus, passages are retrieved from another (REALM, section 4.2)."""

import contextlib
import dataclasses
import json

import compiling
import jax
import numpy as np
import pytest

from ralm_jax.batches import Lengths
from ralm_jax.data.corpus import open_corpus
from ralm_jax.data.prepare import prepare
from ralm_jax.errors import UserError
from ralm_jax.examples import cloze_batches, features
from ralm_jax.examples.cloze_batches import sentence_tokens
from ralm_jax.loaders.loader import Source
from ralm_jax.loaders.retrieval_loader import RetrievalLoader
from ralm_jax.loaders.same_passages import same_passages
from ralm_jax.models import initial
from ralm_jax.models.config import EncoderConfig
from ralm_jax.models.ralm import Ralm
from ralm_jax.runs import directory
from ralm_jax.training import loop, optim, pretrain, schedule
from ralm_jax.training.tasks import Realm

LENGTHS = Lengths(query=20, passage=56, joint=64, masked=4)
SMALL = EncoderConfig(hidden=8, layers=1, heads=2, intermediate=16, positions=64, init_stddev=0.2)
BOTH = optim.by_part(optim.adamw(1e-2), optim.adamw(1e-2))
TASK = Realm(LENGTHS, candidates=3, index="exact")
STAGE = schedule.Stage("realm", TASK, schedule.Schedule(2, 8, BOTH, log_every=1))


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


@pytest.mark.slow
def test_queries_are_of_the_one_and_candidates_of_the_other(tiny, news, tmp_path):
    stage = dataclasses.replace(STAGE, asked=str(news.path))
    with compiling.traced():
        model, params = pretrain.pretrain(
            run=tmp_path / "run", corpus=tiny.corpus, stages=[stage], held_out=0.0,
            model=Ralm(SMALL, SMALL, embedding=8),
        )  # fmt: skip
    run = loop.Run(tmp_path / "run", tiny.corpus, model, 0, 0.0)
    asked = loop.asked_corpus(run, stage)
    source = loop.draw_from(run, stage, 0, asked, stage.task.queries(asked, 0.0))
    with contextlib.closing(stage.task.loader(source)) as loader:
        loader.start(jax.device_put(params))
        batch = loader.batch(0)
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


@pytest.fixture(scope="module")
def overlapping(tiny, tmp_path_factory):
    """A corpus of which some passages are the almanac's own, in another order, and others are not."""
    folder = tmp_path_factory.mktemp("overlapping")
    shared = [dict(d, id=f"again {d['id']}") for d in tiny.almanac.documents[::-2]]
    other = [
        {"id": str(i), "title": "New", "text": f"Born in 19{i}. He died."} for i in range(10, 40)
    ]
    records = [{k: d[k] for k in ("id", "title", "text")} for d in [*other, *shared]]
    (folder / "x.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records), "utf-8")
    vocab = tiny.corpus.path / "vocab.txt"
    prepare(str(folder / "x.jsonl"), folder / "x", vocab_file=vocab, say=lambda line: None)
    return open_corpus(folder / "x")


def test_rows_of_shared_passages(tiny, overlapping):
    rows = same_passages(overlapping, tiny.corpus)
    there, here = overlapping.texts(), tiny.corpus.texts()
    shared = [(there[i], here[int(row)]) for i, row in enumerate(rows) if row >= 0]
    assert all(x["title"] == z["title"] and x["text"] == z["text"] for x, z in shared)
    texts = {(z["title"], z["text"]) for z in (here[i] for i in range(tiny.corpus.size))}
    absent = [there[i] for i in np.flatnonzero(rows == features.NULL)]
    assert len(absent) == 30 and not any((x["title"], x["text"]) in texts for x in absent)
    assert rows.dtype == np.int32 and len(shared) > 20
    own = same_passages(tiny.corpus, tiny.corpus)
    np.testing.assert_array_equal(own, np.arange(tiny.corpus.size))


@pytest.mark.slow
def test_a_passage_in_both_corpora_is_never_a_candidate_of_its_own_sentence(
    tiny, overlapping, tmp_path
):
    """With as many candidates as there are passages, whatever is not excluded is among them."""
    task = Realm(LENGTHS, candidates=tiny.corpus.size + 1, index="exact")
    rows = task.queries(overlapping, 0.0).rows
    model = Ralm(SMALL, SMALL, embedding=8)
    model = directory.sized(model, tiny.corpus.vocabulary.size)
    source = Source(tiny.corpus, overlapping, model, rows, 0, 8, tmp_path / "index")
    loader = RetrievalLoader(source, task)
    params = jax.device_put(initial.drawn_params(model, seed=0))
    own_rows, shared = same_passages(overlapping, tiny.corpus), 0
    texts = features.passage_text(tiny.corpus, np.arange(tiny.corpus.size), LENGTHS.passage).tokens
    with contextlib.closing(loader):
        loader.start(params)
        for step in range(4):
            batch = loader.batch(step)
            drawn, _ = cloze_batches.draw(rows, 0, step, 8)
            for b, own in enumerate(own_rows[overlapping.sentences[drawn, 0]]):
                found = batch.candidates.tokens[b][batch.valid[b]]
                # The null passage, and all passages but the query's own.
                assert len(found) == 1 + tiny.corpus.size - (own >= 0)
                if own >= 0:
                    shared += 1
                    assert not (found == texts[own]).all(1).any()
            loader.prefetch(params, step + 1)
    assert shared > 5


def test_what_cannot_be_is_refused(tiny, news, tmp_path):
    run = loop.Run(tmp_path / "run", tiny.corpus, None, 0, 0.0)
    own = dataclasses.replace(TASK, own_passage=True)
    with pytest.raises(UserError, match="which is not in another corpus"):
        loop.asked_corpus(run, dataclasses.replace(STAGE, task=own, asked=str(news.path)))
    other = tmp_path / "other"
    prepare(
        str(tiny.corpus.path.parent / "almanac.jsonl"), other, vocab_size=700, say=lambda line: None
    )
    with pytest.raises(UserError, match="was tokenized with a different vocabulary than"):
        loop.asked_corpus(run, dataclasses.replace(STAGE, asked=str(other)))
    with pytest.raises(UserError, match="no corpus"):
        loop.asked_corpus(run, dataclasses.replace(STAGE, asked="nowhere"))
