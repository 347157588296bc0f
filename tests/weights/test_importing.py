"""`ralm import`: folders, packages and damage; and that a run comes out whole or not at all."""

import json
import sys

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from state_dicts import PIECES, REALM, draw, embedder, mlm, reader, trunk

from ralm_jax import cli
from ralm_jax.errors import UserError
from ralm_jax.inference.open_run import OpenRun
from ralm_jax.retrieval import index
from ralm_jax.runs import directory
from ralm_jax.weights import sources
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
    vocab, lowercase = directory.vocabulary(out)
    assert vocab.read_text("utf-8").splitlines() == PIECES and lowercase
    assert report["drawn"] == ["retriever: pooler and projection"]
    assert "drawn at random" in lines[1] and "pooler" in lines[1]


def test_an_out_that_exists_is_left_alone(folder, out):
    out.mkdir()
    (out / "mine").touch()
    with pytest.raises(UserError, match="exists; choose another --out"):
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
        (rename, r"layer\.1\.output\.dense\.weight \(8, 12\) is missing; it has .*wieght"),
        (widen, r"layer\.2\.intermediate\.dense\.bias is \(13,\), and its config asks for \(12,\)"),
        (add, r"the tensor bert\.adapter\.weight is none of this model's"),
        (untie, r"cls\.predictions\.decoder\.weight is not the word embeddings"),
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
        ({"model_type": "roberta"}, "model_type is 'roberta'; BERT and REALM encoders are read"),
        ({"hidden_act": "relu"}, "hidden_act 'relu' is none of gelu"),
        ({"position_embedding_type": "relative_key"}, "must be absolute"),
        ({"type_vocab_size": 1}, "type_vocab_size is 1"),
        ({"num_hidden_layers": 4}, r"encoder\.layer\.3\.attention\.self\.query\.weight .* missing"),
        ({"vocab_size": 41}, "40 wordpieces and the model 41 embeddings"),
    ],
    ids=lambda x: next(iter(x)) if isinstance(x, dict) else "",
)
def test_configs_that_are_not_read(folder, out, change, said):
    names = BERT | (
        {"bert.embeddings.word_embeddings.weight": (41, 8)} if "vocab_size" in change else {}
    )
    names |= {"cls.predictions.bias": (41,)} if "vocab_size" in change else {}
    refused(folder(names, **change), out, said)


def test_a_config_without_a_size(folder, out):
    path = folder(BERT)
    held = json.loads((path / "config.json").read_text())
    del held["hidden_size"]
    (path / "config.json").write_text(json.dumps(held))
    refused(path, out, "lacks hidden_size")
    (path / "config.json").write_text("{")
    refused(path, out, r"config\.json cannot be read")


def test_a_tokenizer_json_serves_where_there_is_no_vocab_txt(folder):
    path = folder(BERT)
    (path / "vocab.txt").unlink()
    with pytest.raises(UserError, match=r"neither vocab\.txt nor tokenizer\.json"):
        sources.vocabulary(path, 40)
    model = {"type": "WordPiece", "continuing_subword_prefix": "##"}
    model["vocab"] = {piece: i for i, piece in enumerate(PIECES)}
    record = {"model": model, "normalizer": {"lowercase": False}}
    (path / "tokenizer.json").write_text(json.dumps(record))
    assert sources.vocabulary(path, 40) == (PIECES, False)
    record["model"] = {"type": "BPE"}
    (path / "tokenizer.json").write_text(json.dumps(record))
    with pytest.raises(UserError, match="is a BPE tokenizer; WordPiece is read"):
        sources.vocabulary(path, 40)


def test_line_ends_of_windows_in_a_vocabulary(folder):
    path = folder(BERT)
    (path / "vocab.txt").write_bytes("".join(f"{p}\r\n" for p in PIECES).encode())
    assert sources.vocabulary(path, 40) == (PIECES, True)


def test_a_package_is_found_without_being_imported(folder, tmp_path, monkeypatch, out):
    path = folder(BERT)
    package = tmp_path / "carries_a_model"
    (package / "deep").mkdir(parents=True)
    (package / "__init__.py").write_text("raise RuntimeError('imported')")
    for file in path.iterdir():
        (package / "deep" / file.name).write_bytes(file.read_bytes())
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    assert sources.find("package:carries_a_model") == package / "deep"
    (package / "deep" / "model.safetensors").unlink()
    with pytest.raises(UserError, match="holds 0 models"):
        sources.find("package:carries_a_model")
    with pytest.raises(UserError, match="there is no package never_heard_of"):
        sources.find("package:never_heard_of")


def test_sources_that_are_not_there(tmp_path, monkeypatch):
    for source in ("nowhere", str(tmp_path / "no"), "./a/b"):
        with pytest.raises(UserError, match="there is no folder"):
            sources.find(source)
    with pytest.raises(UserError, match=r"holds no config\.json"):
        sources.find(str(tmp_path))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(
        UserError, match="nobody/nothing is neither a folder nor to be had"
    ) as error:
        sources.find("nobody/nothing")
    assert "\n" not in str(error.value)


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
    refused(path, out.with_name("other"), "holds 2 texts for 3 vectors")


def test_an_unknown_realm_is_refused(folder, out):
    refused(
        folder(embedder(), architectures=["RealmNew"], **REALM), out, "'RealmNew', none of REALM's"
    )


def test_at_the_command_line(folder, out, capsys):
    path = folder(BERT)
    assert cli.main(["import", str(path), "--out", str(out), "--json", str(out) + ".json"]) == 0
    assert json.loads(out.with_name("run.json").read_text())["model"] == "Ralm"
    assert cli.main(["import", "nowhere", "--out", str(out) + "2"]) == 2
    assert capsys.readouterr().err == (
        "ralm: there is no folder nowhere; give one, package:NAME or OWNER/NAME\n"
    )


@pytest.mark.parametrize("safe", [True, False])
def test_a_model_of_the_hub_is_downloaded_without_what_is_not_read(folder, monkeypatch, out, safe):
    import huggingface_hub

    held = ["config.json", "vocab.txt", "pytorch_model.bin", "tf_model.h5"]
    held += ["model.safetensors"] if safe else []
    asked = []

    def download(repository, allow_patterns):
        asked.append((repository, allow_patterns))
        return str(folder(BERT))

    monkeypatch.setattr(huggingface_hub.HfApi, "list_repo_files", lambda self, name: held)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    assert import_model("somebody/bert", out)["source"] == "somebody/bert"
    ((repository, patterns),) = asked
    assert repository == "somebody/bert" and {"*.json", "*.txt"} < set(patterns)
    assert ("model.safetensors" in patterns) == safe
    assert ("pytorch_model.bin" in patterns) == (not safe)
