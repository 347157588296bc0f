"""The released REALM weights, where a person has them: the five numbers transformers tested its port by.

    REALM_WEIGHTS=FOLDER pytest tests/weights/test_released.py

FOLDER contains the repositories by name (realm-cc-news-pretrained-embedder, ...). Anchors:
transformers 4.40.2, tests/models/realm/test_modeling_realm.py, there with an absolute tolerance of
1e-4.
"""

import json
import os
from pathlib import Path

import jax
import numpy as np
import pytest

from ralm_jax.batches import Text
from ralm_jax.data.tokenizer import load_tokenizer
from ralm_jax.inference.open_run import OpenRun
from ralm_jax.retrieval import index
from ralm_jax.runs import directory
from ralm_jax.weights.importing import import_model

FOLDER = os.environ.get("REALM_WEIGHTS")
pytestmark = pytest.mark.skipif(
    FOLDER is None,
    reason="the released REALM weights are not here: set REALM_WEIGHTS to their folder",
)


@pytest.fixture
def released(tmp_path):
    def load(name):
        import_model(str(Path(FOLDER or "") / name), tmp_path / name)
        return OpenRun.open(tmp_path / name), tmp_path / name

    return load


def with_zero(params):
    """The last wordpiece becomes wordpiece 0: the anchors attend to it, and we never to padding."""

    def one(path, leaf):
        leaf = np.array(leaf)
        if "word_embeddings" in {getattr(p, "key", None) for p in path}:
            leaf[-1] = leaf[0]
        return leaf

    return jax.tree_util.tree_map_with_path(one, params)


def tokens(vocab_size, *rows):
    ids = np.array(rows, np.int32)
    return np.where(ids == 0, vocab_size - 1, ids)


def likeliest(spans, relevance) -> tuple[int, int, int]:
    """Scores of spans [K,S,W] and of passages [K] -> which passage, first and last wordpiece."""
    best = np.argmax(np.asarray(spans) + relevance[:, None, None])
    k, start, wide = (int(x) for x in np.unravel_index(best, spans.shape))
    return k, start, start + wide


def test_embedder(released):
    loaded, _ = released("realm-cc-news-pretrained-embedder")
    size = loaded.model.retriever_config.vocab_size
    text = Text(tokens(size, range(6)), np.zeros((1, 6), np.int32))
    params = with_zero(loaded.params)
    found = loaded.model.apply({"params": params}, text, method="queries")
    np.testing.assert_allclose(found[0, :3], [-0.0714, -0.0837, -0.1314], atol=1e-4)


def test_scorer(released):
    loaded, _ = released("realm-cc-news-pretrained-scorer")
    size = loaded.model.retriever_config.vocab_size
    params = with_zero(loaded.params)
    embed = lambda rows, method: loaded.model.apply(  # noqa: E731
        {"params": params},
        Text(tokens(size, *rows), np.zeros((len(rows), 6), np.int32)),
        method=method,
    )
    scores = embed([range(6)], "queries") @ embed([range(6), range(6, 12)], "passages").T
    np.testing.assert_allclose(scores[0], [0.7410, 0.7170], atol=1e-4)


def test_encoder(released):
    loaded, _ = released("realm-cc-news-pretrained-encoder")
    size = loaded.model.reader_config.vocab_size
    rows = tokens(size, range(6), range(6, 12))
    params = with_zero(loaded.params)
    logits = loaded.model.apply(
        {"params": params},
        rows,
        np.zeros_like(rows),
        np.tile(np.arange(6, dtype=np.int32), (2, 1)),
        method=lambda model, *given: model.reader(*given),
    )
    wanted = [[-11.0888, -11.2544], [-10.2170, -10.3874]]
    np.testing.assert_allclose(logits[1, :2, :2], wanted, atol=1e-4)


def test_reader(released):
    loaded, _ = released("realm-orqa-nq-reader")
    size = loaded.model.reader_config.vocab_size
    model = loaded.model.clone(span_width=3)
    joint = Text(
        tokens(size, range(5), range(5, 10))[None], np.array([[[0, 0, 1, 1, 1]] * 2], np.int32)
    )
    within = np.array([[[0, 0, 1, 1, 0]] * 2], bool)
    params = with_zero(loaded.params)
    spans = model.apply({"params": params}, joint, within, method="read")
    assert likeliest(spans[0], np.array([0.3, 0.7])) == (1, 3, 3)


def test_open_qa(released):
    loaded, run = released("realm-orqa-nq-openqa")
    tokenizer = load_tokenizer(run / "vocab.txt")
    encode = lambda text: tokenizer.encode(text, add_special_tokens=False).ids  # noqa: E731
    question = encode("Who is the pioneer in modern computer science?")
    cls, sep = (tokenizer.token_to_id(piece) for piece in ("[CLS]", "[SEP]"))
    asked = np.array([[cls, *question, sep]], np.int32)
    text = Text(asked, np.zeros_like(asked))
    vector = np.asarray(loaded.model.apply({"params": loaded.params}, text, method="queries"))[0]
    vectors = index.open_version(directory.index_folder(run, "import"), 0, "import").vectors
    scores = vectors @ vector
    best = np.argsort(-scores)[:5]
    with (run / "passages.jsonl").open(encoding="utf-8") as file:
        wanted = {
            row: json.loads(line)["text"] for row, line in enumerate(file) if row in set(best)
        }
    rows = [[*asked[0], *encode(wanted[row])][:319] for row in best]
    joint = np.array([[*row, sep, *[0] * (319 - len(row))] for row in rows], np.int32)
    types = ((np.arange(320) >= asked.shape[1]) & (joint != 0)).astype(np.int32)
    within = (types == 1) & (joint != sep)
    spans = loaded.model.apply(
        {"params": loaded.params}, Text(joint[None], types[None]), within[None], method="read"
    )
    k, start, stop = likeliest(spans[0], scores[best])
    assert tokenizer.decode(joint[k, start : stop + 1].tolist()) == "alan mathison turing"
