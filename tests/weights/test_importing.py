"""`ralm import`: folders, packages and damage; and that a run comes out whole or not at all."""

import json

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from state_dicts import PIECES, REALM, draw, embedder, mlm, reader, trunk

from ralm_jax import cli
from ralm_jax.data.tokenizer_settings import TokenizerSettings
from ralm_jax.errors import UserError
from ralm_jax.inference.open_run import OpenRun
from ralm_jax.retrieval import index
from ralm_jax.runs import directory
from ralm_jax.weights import tokenizer_files
from ralm_jax.weights.importing import import_model

BERT = {**trunk("bert.", pooler=False), **mlm()}


@pytest.fixture
def out(tmp_path):
    return tmp_path / "run"


def refused(folder, out, said):
    """Nothing is left, and the mistake is one line."""
    before = sorted(out.parent.iterdir())
    with pytest.raises(UserError, match=said) as error:
        import_model(str(folder), out)
    assert "\n" not in str(error.value) and sorted(out.parent.iterdir()) == before


def test_a_run_is_made(folder, out):
    lines = []
    report = import_model(str(folder(BERT)), out, say=lines.append)
    loaded = OpenRun.open(out)
    assert (loaded.stage, loaded.step, report["vocabulary"]) == ("import", 0, 40)
    assert loaded.model.reader_config.layers == 3
    np.testing.assert_array_equal(
        loaded.params["reader"]["encoder"]["word_embeddings"]["embedding"],
        draw(np.random.default_rng(0), BERT)["bert.embeddings.word_embeddings.weight"],
    )
    vocab, settings = directory.vocabulary(out)
    assert vocab.read_text("utf-8").splitlines() == PIECES and settings == TokenizerSettings()
    assert report["drawn"] == ["retriever: pooler and projection"]
    assert "drawn at random" in lines[1] and "pooler" in lines[1]


def test_an_out_that_exists_is_left_alone(folder, out):
    out.mkdir()
    (out / "mine").touch()
    with pytest.raises(UserError, match="exists; remove it or give another --out"):
        import_model(str(folder(BERT)), out)
    assert [f.name for f in out.iterdir()] == ["mine"]


def rename(tensors):
    tensors["bert.encoder.layer.1.output.dense.wieght"] = tensors.pop(
        "bert.encoder.layer.1.output.dense.weight"
    )


def widen(tensors):
    tensors["bert.encoder.layer.2.intermediate.dense.bias"] = np.zeros(13, "f")


def add(tensors):
    tensors["bert.adapter.weight"] = np.zeros(3, "f")


def untie(tensors):
    tensors["cls.predictions.decoder.weight"] = np.zeros((40, 8), "f")


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (rename, r"layer\.1\.output\.dense\.weight \(8, 12\) is missing; there is a .*wieght"),
        (
            widen,
            r"layer\.2\.intermediate\.dense\.bias has the shape \(13,\); by its config .* \(12,\)",
        ),
        (add, r"the tensor bert\.adapter\.weight has no place in this kind of model"),
        (untie, r"cls\.predictions\.decoder\.weight differs from the word embeddings"),
    ],
)
def test_tensors_that_do_not_fit_are_named(folder, out, harm, said):
    path = folder(BERT)
    tensors = load_file(path / "model.safetensors")
    harm(tensors)
    save_file(tensors, path / "model.safetensors")
    refused(path, out, said)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"model_type": "deberta"}, "model_type 'deberta' cannot be read; bert, .* and realm can"),
        ({"model_type": "roberta"}, "type_vocab_size must be 1, not 2"),
        ({"hidden_act": "relu"}, "hidden_act 'relu' cannot be read; gelu"),
        ({"position_embedding_type": "relative_key"}, "must be absolute"),
        ({"type_vocab_size": 1}, "type_vocab_size must be 2, not 1"),
        ({"num_hidden_layers": 4}, r"encoder\.layer\.3\.attention\.self\.query\.weight .* missing"),
        ({"vocab_size": 39}, "40 wordpieces, more than the 39 word embeddings of the model"),
        ({"num_attention_heads": 3}, "hidden_size 8 is no multiple of num_attention_heads 3"),
        ({"hidden_size": "8"}, "hidden_size must be a positive whole number, not '8'"),
    ],
    ids=lambda x: next(iter(x)) if isinstance(x, dict) else "",
)
def test_configs_that_are_not_read(folder, out, change, said):
    names = BERT | (
        {"bert.embeddings.word_embeddings.weight": (39, 8)} if "vocab_size" in change else {}
    )
    names |= {"cls.predictions.bias": (39,)} if "vocab_size" in change else {}
    refused(folder(names, **change), out, said)


def test_a_config_without_a_size(folder, out):
    path = folder(BERT)
    record = json.loads((path / "config.json").read_text())
    del record["hidden_size"]
    (path / "config.json").write_text(json.dumps(record))
    refused(path, out, "has no hidden_size")
    (path / "config.json").write_text("{")
    refused(path, out, r"config\.json cannot be read")
    (path / "config.json").write_text("[]")
    refused(path, out, r"config\.json must be a JSON object")


def test_an_open_qa_model_brings_its_passages(folder, out):
    names = {**embedder("embedder."), **reader("reader."), "block_emb": (3, 4)}
    path = folder(names, architectures=["RealmForOpenQA"], **REALM)
    np.save(path / "block_records.npy", np.array([b"one", b"two", b"three"]), allow_pickle=False)
    report = import_model(str(path), out)
    assert (report["model"], report["vectors"], report["passages"]) == ("OpenQA", 3, 3)
    assert report["drawn"] == []
    version = index.open_version(directory.index_folder(out, "import"), 0, "import")
    np.testing.assert_array_equal(
        version.vectors, draw(np.random.default_rng(0), names)["block_emb"]
    )
    lines = [json.loads(x) for x in (out / "passages.jsonl").read_text().splitlines()]
    assert [x["text"] for x in lines] == ["one", "two", "three"]
    loaded = OpenRun.open(out)
    assert (loaded.model.span_width, loaded.model.embedding) == (3, 4)
    np.save(path / "block_records.npy", np.array([b"one", b"two"]), allow_pickle=False)
    refused(path, out.with_name("other"), "has 2 texts for 3 vectors")


def test_an_unknown_realm_is_refused(folder, out):
    refused(
        folder(embedder(), architectures=["RealmNew"], **REALM),
        out,
        "architecture RealmNew cannot be read",
    )


def test_at_the_command_line(folder, out, capsys):
    path = folder(BERT)
    assert cli.main(["import", str(path), "--out", str(out), "--json", str(out) + ".json"]) == 0
    assert json.loads(out.with_name("run.json").read_text())["model"] == "Ralm"
    assert cli.main(["import", "nowhere", "--out", str(out) + "2"]) == 2
    assert capsys.readouterr().err == (
        "ralm: there is no folder nowhere; give one, package:NAME or OWNER/NAME\n"
    )


def test_folders_made_for_a_run_that_fails_are_gone(tmp_path):
    with pytest.raises(UserError, match="there is no folder nowhere"):
        import_model("nowhere", tmp_path / "deep" / "er" / "run")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("file", "said"),
    [
        ("/model/vocab.txt", "/model/vocab.txt: Permission denied"),
        (None, "run cannot be written: Permission denied"),
    ],
)
def test_what_the_system_refuses_is_one_line(folder, out, monkeypatch, file, said):
    def fail(*arguments):
        raise PermissionError(13, "Permission denied", file)

    path = folder(BERT)
    monkeypatch.setattr(tokenizer_files, "write_vocabulary", fail)
    refused(path, out, said)
