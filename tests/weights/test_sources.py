"""Where a model is looked for: folders, packages by either of their names, the hub with and without it."""

import json
import sys

import huggingface_hub
import pytest
from state_dicts import mlm, trunk

from ralm_jax import cli
from ralm_jax.errors import UserError
from ralm_jax.weights import sources
from ralm_jax.weights.importing import import_model

BERT = {**trunk("bert.", pooler=False), **mlm()}


def copy(source, target):
    target.mkdir(parents=True)
    for file in source.iterdir():
        (target / file.name).write_bytes(file.read_bytes())
    return target


@pytest.fixture
def package(folder, tmp_path, monkeypatch):
    """A package that carries a model, as a distribution whose name is written in another way."""
    root = tmp_path / "site"
    deep = copy(folder(BERT), root / "carries_a_model" / "deep")
    (deep.parent / "__init__.py").write_text("raise RuntimeError('imported')")
    info = root / "model_carrier-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: Model.Carrier\nVersion: 1.0\n")
    (info / "top_level.txt").write_text("carries_a_model\n")
    monkeypatch.setattr(sys, "path", [str(root), *sys.path])
    return deep


@pytest.mark.parametrize("name", ["carries_a_model", "model-carrier", "Model_Carrier"])
def test_a_package_is_found_without_being_imported(package, name):
    assert sources.find(f"package:{name}") == package


def test_a_package_without_a_model(package):
    (package / "model.safetensors").unlink()
    with pytest.raises(UserError, match="contains 0 models"):
        sources.find("package:model-carrier")
    with pytest.raises(UserError, match="there is no package never-heard-of"):
        sources.find("package:never-heard-of")


def test_the_modules_of_a_model_are_no_models_by_themselves(package):
    """sentence-transformers keeps weights of its Dense modules in folders of their own."""
    modules = [{"type": "x.Transformer", "path": ""}, {"type": "x.Dense", "path": "2_Dense"}]
    (package / "modules.json").write_text(json.dumps(modules))
    dense = package / "2_Dense"
    dense.mkdir()
    (dense / "config.json").write_text("{}")
    (dense / "model.safetensors").touch()
    assert sources.find("package:carries_a_model") == package


def test_sources_that_are_not_there(tmp_path, monkeypatch):
    for source in ("nowhere", str(tmp_path / "no"), "./a/b"):
        with pytest.raises(UserError, match="there is no folder"):
            sources.find(source)
    with pytest.raises(UserError, match=r"contains no config\.json"):
        sources.find(str(tmp_path))
    (tmp_path / "modules.json").write_text('[{"type": "x.Transformer"}]')
    with pytest.raises(UserError, match=r"modules\.json must be a list of modules"):
        sources.find(str(tmp_path))


@pytest.fixture
def offline(tmp_path, monkeypatch):
    """The hub cannot be reached, and its cache is empty."""

    def refuse(self, name):
        raise huggingface_hub.errors.OfflineModeIsEnabled("offline mode\nis enabled")

    monkeypatch.setattr(huggingface_hub.HfApi, "list_repo_files", refuse)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub" / "models--acme--tiny"


def test_a_model_in_the_cache_is_used_without_the_hub(offline, folder, tmp_path, capsys):
    commit = "a" * 40
    snapshot = copy(folder(BERT), offline / "snapshots" / commit)
    (offline / "refs").mkdir()
    (offline / "refs" / "main").write_text(commit)
    assert cli.main(["import", "acme/tiny", "--out", str(tmp_path / "run")]) == 0
    assert "acme/tiny cannot be looked up on the hub" in capsys.readouterr().out
    (snapshot / "vocab.txt").unlink()
    with pytest.raises(UserError, match=r"contains neither vocab\.txt nor tokenizer\.json"):
        import_model("acme/tiny", tmp_path / "other")


def test_a_model_that_is_nowhere_is_one_line(offline):
    with pytest.raises(
        UserError, match=r"there is no folder acme/tiny, and the hub .*offline"
    ) as error:
        sources.find("acme/tiny")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("safe", [True, False])
def test_a_model_of_the_hub_is_downloaded_without_what_is_not_read(
    folder, monkeypatch, tmp_path, safe
):
    files = ["config.json", "vocab.txt", "pytorch_model.bin", "tf_model.h5", "onnx/model.onnx"]
    files += ["2_Dense/model.safetensors", "2_Dense/pytorch_model.bin", "other/pytorch_model.bin"]
    files += (
        ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"] if safe else []
    )
    asked = []

    def download(repository, allow_patterns):
        asked.append((repository, allow_patterns))
        return str(folder(BERT))

    monkeypatch.setattr(huggingface_hub.HfApi, "list_repo_files", lambda self, name: files)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    assert import_model("somebody/bert", tmp_path / "run")["source"] == "somebody/bert"
    ((repository, patterns),) = asked
    assert repository == "somebody/bert" and {"*.json", "*.txt"} < set(patterns)
    weights = {p for p in patterns if p.endswith((".bin", ".safetensors", ".h5", ".onnx"))}
    whole = {x for x in files if x.startswith("model-")} if safe else {"pytorch_model.bin"}
    assert weights == whole | {"2_Dense/model.safetensors"}
