"""A released open-QA model is searched by the passage vectors that came with it."""

import json
import shutil

import jax
import numpy as np
import pytest
from state_dicts import REALM, draw, embedder, reader, write_model

from ralm_jax import cli
from ralm_jax.batches import Lengths
from ralm_jax.data.corpus import open_corpus
from ralm_jax.inference import embedding, vector_cache
from ralm_jax.inference.open_run import OpenRun
from ralm_jax.retrieval import index
from ralm_jax.runs import directory
from ralm_jax.training import finetune, optim
from ralm_jax.training.schedule import Schedule
from ralm_jax.weights.exporting import export_model
from ralm_jax.weights.importing import import_model

NAMES = {**embedder("embedder."), **reader("reader."), "block_emb": (6, 4)}
TEXTS = [
    "the city of a was born in b", "the year of c was d", "e was in the city of f",
    "  a b c d e was the city \n", "born in the year g h", "in the city of i j k",
]  # fmt: skip
LENGTHS = Lengths(query=8, passage=16, joint=20)


@pytest.fixture(autouse=True, scope="module")
def quick():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(embedding, "CHUNK", 8)
        yield


@pytest.fixture(scope="module")
def block_emb():
    return draw(np.random.default_rng(0), NAMES)["block_emb"]


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """The folder of a RealmForOpenQA with six passages."""
    path = tmp_path_factory.mktemp("source") / "model"
    write_model(path, NAMES, architectures=["RealmForOpenQA"], **REALM)
    texts = np.array([text.encode() for text in TEXTS])
    np.save(path / "block_records.npy", texts, allow_pickle=False)
    return path


@pytest.fixture(scope="module")
def made(source):
    run = source.with_name("run")
    import_model(str(source), run, say=lambda line: None)
    return run


@pytest.fixture
def imported(made, tmp_path):
    """The run of it, for one test to write in."""
    return shutil.copytree(made, tmp_path / "imported")


@pytest.fixture(scope="module")
def prepare(made, tmp_path_factory):
    """(texts) -> their corpus, as `ralm prepare --vocab RUN` makes it."""

    def make(texts):
        path = tmp_path_factory.mktemp("corpus")
        lines = [{"id": str(i), "title": "", "text": text} for i, text in enumerate(texts)]
        (path / "x.jsonl").write_text("".join(json.dumps(x) + "\n" for x in lines))
        words = ["prepare", path / "x.jsonl", "--out", path / "corpus", "--vocab", made]
        assert cli.main([*map(str, words), "--passage-tokens", "20"]) == 0
        return open_corpus(path / "corpus")

    return make


@pytest.fixture(scope="module")
def tuned(made, prepare, tmp_path_factory):
    """A run that was fine-tuned from it, with the passage tower frozen, and the corpus of both."""
    path = tmp_path_factory.mktemp("tuned")
    corpus = prepare(TEXTS[::-1])
    (path / "asked.jsonl").write_text('{"question": "was born in", "answer": ["a"]}\n')
    towers = optim.towers(query=optim.adamw(1e-2), passage=optim.frozen())
    finetune.finetune(
        out=path / "tuned", run=shutil.copytree(made, path / "run"), corpus=corpus.path,
        train=path / "asked.jsonl", beam=6, candidates=2, span_width=3, lengths=LENGTHS,
        schedule=Schedule(1, 8, optim.by_part(towers, optim.adamw(1e-2))),
    )  # fmt: skip
    return path / "tuned", corpus


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("RALM_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def nothing_embedded(monkeypatch):
    def fail(*_):
        raise AssertionError("passages were embedded")

    monkeypatch.setattr(vector_cache, "embed_rows", fail)


def vectors_of(run, corpus):
    return OpenRun.open(run, corpus.path).vectors


def by_question_tower(run, corpus):
    loaded = OpenRun.open(run)
    return embedding.embed_corpus(loaded.model, loaded.params, corpus, LENGTHS)


def test_the_file_of_its_passages_makes_its_corpus(imported, block_emb, nothing_embedded, tmp_path):
    words = ["prepare", imported / "passages.jsonl", "--out", tmp_path / "corpus"]
    assert cli.main([*map(str, words), "--vocab", str(imported), "--passage-tokens", "20"]) == 0
    corpus = open_corpus(tmp_path / "corpus")
    np.testing.assert_array_equal(vectors_of(imported, corpus), block_emb)


def test_passages_in_another_order_and_some_of_them(imported, prepare, block_emb, nothing_embedded):
    for order in ([4, 0, 5, 3, 1, 2], [5, 1]):
        corpus = prepare([TEXTS[i] for i in order])
        # The second time they are kept in that order.
        for _ in range(2):
            np.testing.assert_array_equal(vectors_of(imported, corpus), block_emb[order])


def test_questions_are_ranked_by_them(imported, prepare, block_emb):
    corpus = prepare(TEXTS[::-1])
    opened = OpenRun.open(imported, corpus.path)
    asked = opened.encode(["in the city", "born", "a b c"])
    queries = jax.jit(lambda p: opened.model.apply({"params": p}, asked, method="queries"))
    scores = np.asarray(queries(opened.params)) @ block_emb[::-1].T
    found = opened.search(asked, 6)
    np.testing.assert_array_equal(found.rows, np.argsort(-scores, axis=1, kind="stable"))
    np.testing.assert_allclose(found.scores, -np.sort(-scores, axis=1), rtol=1e-5)


def test_passages_that_are_not_its_own_are_said(imported, prepare, capsys):
    corpus = prepare([*TEXTS[:2], "x y z was in the city"])
    for _ in range(2):
        capsys.readouterr()
        vectors = vectors_of(imported, corpus)
        np.testing.assert_allclose(vectors, by_question_tower(imported, corpus), atol=1e-6)
        said = capsys.readouterr().err
        assert "1 of 3 passages have none of these vectors" in said
        assert "are embedded with its question tower" in said and said.count("\n") == 1


def test_vectors_without_texts_are_said(source, tmp_path, prepare, capsys):
    (bare := shutil.copytree(source, tmp_path / "bare")).joinpath("block_records.npy").unlink()
    said = []
    import_model(str(bare), tmp_path / "run", say=said.append)
    assert said[-1].startswith("passage vectors came without their texts")
    vectors_of(tmp_path / "run", prepare(TEXTS))
    assert "these vectors came without their texts" in capsys.readouterr().err


def test_an_import_of_an_earlier_release(imported, prepare, block_emb):
    """Its vectors bear no stamp, and what its question tower made of the passages may be kept."""
    corpus = prepare(TEXTS[::-1])
    manifest = index.folder(imported / "index" / "import", 0) / index.MANIFEST
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"encoder_hash": ""}))
    loaded = OpenRun.open(imported)
    name = vector_cache.encoder_hash(
        loaded.model, loaded.params["retriever"], corpus, LENGTHS.passage
    )
    root = imported / "vectors" / corpus.fingerprint[:16]
    writer = index.create(root, 0, (6, 4), corpus.fingerprint, name)
    writer.write(0, by_question_tower(imported, corpus))
    writer.commit()
    np.testing.assert_array_equal(vectors_of(imported, corpus), block_emb[::-1])


@pytest.mark.slow
def test_fine_tuning_goes_on_with_them(tuned, block_emb, nothing_embedded):
    run, corpus = tuned
    root = directory.index_folder(run, finetune.STAGE)
    served = index.open_version(root, 0, corpus.fingerprint)
    np.testing.assert_array_equal(served.vectors, block_emb[::-1])
    # And the tuned run answers from them.
    np.testing.assert_array_equal(vectors_of(run, corpus), block_emb[::-1])


@pytest.mark.slow
def test_a_tuned_run_says_so_of_another_corpus(tuned, prepare, capsys):
    run, _ = tuned
    other = prepare(["x y z was in the city"])
    np.testing.assert_allclose(vectors_of(run, other), by_question_tower(run, other), atol=1e-6)
    assert "these vectors are of another corpus" in capsys.readouterr().err


def test_a_passage_tower_that_is_trained_makes_its_own(imported, prepare, capsys):
    """Its vectors and those of the passages that a step embeds afresh must be of one tower."""
    corpus, loaded = prepare(TEXTS), OpenRun.open(imported)
    for trained in (False, True):
        retriever = loaded.params["retriever"]
        about = (loaded.model, retriever, corpus, LENGTHS.passage)
        found = vector_cache.find([imported], *about, frozen=not trained)
        assert (found.vectors is None) == trained
        assert found.encoder.startswith("imported with ") != trained
    assert "its passage tower is to be trained" in capsys.readouterr().err


def test_a_passage_tower_that_was_trained_embeds(imported, prepare, capsys):
    corpus, loaded = prepare(TEXTS), OpenRun.open(imported)
    params = jax.tree.map(lambda x: x + 0.01, loaded.params)
    vectors = vector_cache.corpus_vectors([imported], loaded.model, params, corpus, LENGTHS)
    wanted = embedding.embed_corpus(loaded.model, params, corpus, LENGTHS)
    np.testing.assert_allclose(vectors, wanted, atol=1e-6)
    assert capsys.readouterr().err == ""


@pytest.mark.slow
def test_exports_are_of_what_it_has(imported, tuned, block_emb, tmp_path):
    run, corpus = tuned
    export_model(imported, "vectors", tmp_path / "vectors", corpus.path)
    np.testing.assert_array_equal(np.load(tmp_path / "vectors" / "vectors.npy"), block_emb[::-1])
    for each in (imported, run):
        out = tmp_path / f"st {each.name}"
        export_model(each, "sentence-transformers", out)
        assert {x.name for x in out.iterdir()} == {"README.md", "query", "ralm_checksums.json"}


def test_a_damaged_file_of_passages_is_one_line(imported, prepare, capsys):
    corpus = prepare(TEXTS)
    (imported / "passages.jsonl").write_text('{"text": "a"}\n')
    words = ["ask", "--run", imported, "--corpus", corpus.path, "who"]
    assert cli.main([*map(str, words)]) == 2
    said = capsys.readouterr().err
    assert "passages.jsonl is damaged" in said and said.count("\n") == 1
