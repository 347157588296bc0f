"""`ralm export`: what is imported comes back as it was, and every layout is whole."""

import json
import os
import shutil

import jax
import numpy as np
import pytest
from safetensors import SafetensorError
from safetensors.numpy import load_file
from state_dicts import REALM, draw, embedder, mlm, reader, trunk

from ralm_jax import cli
from ralm_jax.batches import Lengths, Text
from ralm_jax.data.tokenizer import pieces_of, write_vocabulary
from ralm_jax.errors import UserError
from ralm_jax.inference import embedding
from ralm_jax.inference.open_run import OpenRun
from ralm_jax.models import initial
from ralm_jax.models.config import EncoderConfig
from ralm_jax.models.ralm import Ralm
from ralm_jax.runs import directory
from ralm_jax.weights import families, tensors
from ralm_jax.weights.exporting import export_model
from ralm_jax.weights.importing import import_model

TEXT = Text(
    np.array([[2, 7, 9, 5, 3, 0, 0], [2, 11, 3, 6, 6, 19, 3]], np.int32),
    np.array([[0, 0, 0, 1, 1, 0, 0], [0, 0, 0, 1, 1, 1, 1]], np.int32),
)
LENGTHS = Lengths(query=20, passage=24, joint=24, masked=4)
SIZES = EncoderConfig(40, hidden=8, layers=2, heads=2, intermediate=12, positions=24)


@pytest.fixture(autouse=True, scope="module")
def quick():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(embedding, "CHUNK", 32)
        yield


def same(found, wanted):
    assert found.keys() == wanted.keys()
    for name, array in wanted.items():
        np.testing.assert_array_equal(found[name], array, err_msg=name, strict=True)


def test_a_masked_lm_comes_back(folder, tmp_path):
    names = {**trunk("bert.", pooler=False), **mlm()}
    import_model(str(folder(names)), tmp_path / "run")
    export_model(tmp_path / "run", "transformers", tmp_path / "out")
    same(load_file(tmp_path / "out" / "model.safetensors"), draw(np.random.default_rng(0), names))
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert (config["architectures"], config["hidden_act"]) == (["BertForMaskedLM"], "gelu")
    import_model(str(tmp_path / "out"), tmp_path / "again")
    for part in ("encoder", "head"):
        jax.tree.map(
            np.testing.assert_array_equal,
            OpenRun.open(tmp_path / "again").params["reader"][part],
            OpenRun.open(tmp_path / "run").params["reader"][part],
        )


@pytest.mark.parametrize(
    ("kind", "names", "to"),
    [
        ("RealmReader", reader(), "transformers"),
        ("RealmForOpenQA", {**embedder("embedder."), **reader("reader.")}, "realm"),
    ],
)
def test_a_realm_comes_back(folder, tmp_path, kind, names, to):
    whole = names if kind == "RealmReader" else names | {"block_emb": (3, 4)}
    path = folder(whole, architectures=[kind], **REALM)
    np.save(path / "block_records.npy", np.array([b"one", b"two", b"three"]), allow_pickle=False)
    import_model(str(path), tmp_path / "run")
    export_model(tmp_path / "run", to, tmp_path / "out")
    same(load_file(tmp_path / "out" / "model.safetensors"), draw(np.random.default_rng(0), whole))
    if to == "realm":
        records = np.load(tmp_path / "out" / "block_records.npy", allow_pickle=False)
        assert records.tolist() == [b"one", b"two", b"three"]


def test_embedder_scorer_and_encoder_come_back(folder, tmp_path):
    path = folder(embedder(), architectures=["RealmEmbedder"], **REALM)
    import_model(str(path), tmp_path / "run")
    export_model(tmp_path / "run", "realm", tmp_path / "out")
    given = draw(np.random.default_rng(0), embedder())
    same(load_file(tmp_path / "out" / "embedder" / "model.safetensors"), given)
    wanted = {n: x for n, x in given.items() if "cls.predictions" not in n}
    twice = {f"{t}.{n}": x for n, x in wanted.items() for t in ("embedder", "query_embedder")}
    same(load_file(tmp_path / "out" / "scorer" / "model.safetensors"), twice)
    found = load_file(tmp_path / "out" / "encoder" / "model.safetensors")
    trunk_there = {n: x for n, x in wanted.items() if n.startswith("realm.") and "pooler" not in n}
    same({n: x for n, x in found.items() if n.startswith("realm.")}, trunk_there)


@pytest.fixture
def run(tiny, tmp_path):
    """(model) -> a run of it over the small almanac, as training leaves one, and its parameters."""

    def make(**settings):
        from ralm_jax.runs.checkpoint import Checkpoints

        path = tmp_path / "trained"
        model = directory.sized(Ralm(SIZES, SIZES, **settings), tiny.corpus.vocabulary.size)
        shapes = jax.eval_shape(lambda key: initial.initial_params(model, key), jax.random.key(0))
        rng = np.random.default_rng(3)
        params = jax.tree.map(lambda x: rng.normal(0, 0.5, x.shape).astype("f"), shapes)
        parts = {"stages": ["ict"], "lengths": vars(LENGTHS), "held_out": 0.1, "seed": 0}
        directory.describe(path, model, tiny.corpus, **parts)
        checkpoints = Checkpoints(directory.checkpoint_folder(path, "ict"))
        checkpoints.save(3, {"state": {"params": params}}, wait=True)
        checkpoints.close()
        return path, model, params

    return make


@pytest.mark.slow
@pytest.mark.parametrize(
    "settings",
    [
        {"embedding": 8, "pooling": "mean", "head": "unit"},
        {"embedding": 8, "pooling": "first", "head": "plain"},
        {"embedding": 8, "pooling": "cls", "head": "unit"},
        {"embedding": 8, "pooling": "cls", "head": "plain"},
        {"embedding": 4, "pooling": "mean"},
        {"embedding": 4, "pooling": "cls"},
    ],
    ids=lambda s: "-".join(map(str, s.values())),
)
def test_a_retriever_goes_to_sentence_transformers_and_back(run, tmp_path, settings):
    path, model, params = run(**settings)
    files = export_model(path, "sentence-transformers", tmp_path / "out")
    assert {"modules.json", "vocab.txt", "config.json"} < {file.name for file in files}
    back = families.read(tmp_path / "out")
    assert (back.model.pooling, back.model.head) == (model.pooling, model.head)
    embed = jax.jit(lambda m, p: m.apply({"params": p}, TEXT, method="passages"), static_argnums=0)
    np.testing.assert_allclose(
        embed(back.model, back.params), embed(model, params), rtol=1e-5, atol=1e-5
    )
    export_model(_imported(tmp_path), "sentence-transformers", tmp_path / "twice")
    for file in files:
        other = tmp_path / "twice" / file.relative_to(tmp_path / "out")
        if file.suffix == ".safetensors":
            same(load_file(other), load_file(file))


def _imported(tmp_path):
    import_model(str(tmp_path / "out"), tmp_path / "imported")
    return tmp_path / "imported"


def test_two_towers_are_two_folders(run, tmp_path):
    path, _, params = run(embedding=4, pooling="mean", share_towers=False)
    export_model(path, "sentence-transformers", tmp_path / "out")
    for folder, tower in (("query", "query_tower"), ("passage", "passage_tower")):
        found = load_file(tmp_path / "out" / folder / "model.safetensors")
        np.testing.assert_array_equal(
            found["embeddings.word_embeddings.weight"],
            params["retriever"][tower]["encoder"]["word_embeddings"]["embedding"],
        )


def test_vectors_are_in_the_order_of_ids_and_texts(run, tiny, tmp_path, capsys):
    path, model, params = run(embedding=4, pooling="mean")
    out = tmp_path / "out"
    assert cli.main(["export", "--run", str(path), "--to", "vectors", "--out", str(out)]) == 0
    assert "vectors.npy" in capsys.readouterr().out
    vectors, ids = np.load(out / "vectors.npy"), np.load(out / "ids.npy")
    passages = [json.loads(line) for line in (out / "passages.jsonl").read_text().splitlines()]
    assert vectors.shape == (tiny.corpus.size, 4) and vectors.dtype == np.float32
    assert ids.tolist() == [p["id"] for p in passages]
    row = tiny.corpus.size // 2
    assert passages[row]["text"] == tiny.corpus.texts()[row]["text"].decode()
    wanted = embedding.embed_corpus(model, params, tiny.corpus, LENGTHS)
    np.testing.assert_allclose(vectors, wanted, atol=1e-5)


def test_what_a_layout_has_no_place_for(run, tmp_path, folder):
    path, _, _ = run(embedding=8, pooling="mean", head="unit")
    with pytest.raises(UserError, match=r"REALM's layout has CLS pooling .* has mean pooling"):
        export_model(path, "realm", tmp_path / "out")
    with pytest.raises(UserError, match="--to must be one of"):
        export_model(path, "onnx", tmp_path / "out")
    import_model(str(folder({**trunk("bert."), **mlm()})), tmp_path / "bert")
    with pytest.raises(UserError, match="was imported and has no passages: give --corpus"):
        export_model(tmp_path / "bert", "vectors", tmp_path / "out")
    assert not (tmp_path / "out").exists() and not list(tmp_path.glob(".*"))
    shutil.copytree(path, tmp_path / "out")
    with pytest.raises(UserError, match="exists; remove it or give another --out"):
        export_model(path, "vectors", tmp_path / "out")


def test_a_vocabulary_is_written_as_it_was_read(tiny, tmp_path):
    pieces = pieces_of(tiny.corpus.tokenizer())
    write_vocabulary(tmp_path, pieces, tiny.corpus.tokenizer_settings)
    assert (tmp_path / "vocab.txt").read_text() == (tiny.corpus.path / "vocab.txt").read_text()


@pytest.mark.parametrize("to", ["transformers", "sentence-transformers", "realm"])
def test_the_settings_of_a_tokenizer_are_given_back(folder, tmp_path, to):
    path = folder(embedder(), architectures=["RealmEmbedder"], **REALM)
    given = {"strip_accents": False, "tokenize_chinese_chars": False, "model_max_length": 16}
    (path / "tokenizer_config.json").write_text(json.dumps(given))
    import_model(str(path), tmp_path / "run")
    export_model(tmp_path / "run", to, tmp_path / "out")
    files = list((tmp_path / "out").rglob("tokenizer_config.json"))
    assert files
    for file in files:
        written = json.loads(file.read_text())
        assert {name: written[name] for name in given} == given


def test_texts_are_no_longer_than_there_are_positions(run, tmp_path):
    """The libraries that read an export cut texts by this number."""
    path, _, _ = run(embedding=4, pooling="mean")
    export_model(path, "sentence-transformers", tmp_path / "out")
    written = json.loads((tmp_path / "out" / "tokenizer_config.json").read_text())
    assert written["model_max_length"] == SIZES.positions


@pytest.mark.parametrize("step", ["write_text", "rename"])
def test_an_export_that_cannot_be_written_leaves_nothing(run, tmp_path, monkeypatch, step):
    path, _, _ = run(embedding=4, pooling="mean")
    out = tmp_path / "deep" / "out"

    def fail(path, *arguments):
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr(os if step == "rename" else type(tmp_path), step, fail)
    with pytest.raises(UserError, match=f"{out} cannot be written: No space left on device"):
        export_model(path, "transformers", out)
    assert not out.parent.exists()


def test_weights_that_cannot_be_written_are_one_line(run, tmp_path, monkeypatch):
    """safetensors has an error of its own for a full disk."""
    path, _, _ = run(embedding=4, pooling="mean")

    def fail(*arguments, **options):
        raise SafetensorError("Error while serializing: I/O error: No space left on device")

    monkeypatch.setattr(tensors, "save_file", fail)
    with pytest.raises(UserError, match=r"out cannot be written: .*No space left on device"):
        export_model(path, "transformers", tmp_path / "out")
    assert not (tmp_path / "out").exists() and not list(tmp_path.glob(".*"))
