"""Files of tensors, whole and damaged."""

import json
import sys

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

from ralm_jax.errors import UserError
from ralm_jax.weights import tensors

GIVEN = {"first": np.arange(6, dtype="f").reshape(2, 3), "second": np.ones(300, "f")}


def test_tensors_come_back(tmp_path):
    tensors.write_tensors(GIVEN, tmp_path / "model.safetensors")
    found = tensors.read_tensors(tmp_path)
    assert found.keys() == GIVEN.keys()
    for name, array in GIVEN.items():
        np.testing.assert_array_equal(found[name], array, strict=True)


def test_half_precision_widens_exactly_and_old_names_are_read_as_new(tmp_path):
    half = np.array([1.5, -0.25, 3e4])
    save_file(
        {
            "a.gamma": half.astype(np.float16),
            "a.beta": half.astype(ml_dtypes.bfloat16),
            "ids": np.arange(3),
        },
        tmp_path / "model.safetensors",
    )
    found = tensors.read_tensors(tmp_path)
    assert found["a.weight"].dtype == found["a.bias"].dtype == np.float32
    np.testing.assert_array_equal(found["a.weight"], half)
    np.testing.assert_array_equal(found["a.bias"][:2], half[:2])
    assert found["ids"].dtype == np.int64


def shards(folder):
    """Two files and the index of what is where."""
    for name, array in GIVEN.items():
        save_file({name: array}, folder / f"{name}.safetensors")
    places = {name: f"{name}.safetensors" for name in GIVEN}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))


def test_shards_are_put_together(tmp_path):
    shards(tmp_path)
    assert tensors.read_tensors(tmp_path).keys() == GIVEN.keys()
    save_file({"other": GIVEN["first"]}, tmp_path / "first.safetensors")
    with pytest.raises(
        UserError, match=r"first\.safetensors has no tensor first, which its index lists"
    ):
        tensors.read_tensors(tmp_path)
    (tmp_path / "first.safetensors").unlink()
    with pytest.raises(UserError, match=r"first\.safetensors cannot be read: No such file"):
        tensors.read_tensors(tmp_path)
    (tmp_path / "model.safetensors.index.json").write_text("[]")
    with pytest.raises(UserError, match=r"index\.json cannot be read"):
        tensors.read_tensors(tmp_path)


def test_a_file_that_is_cut_off_names_the_tensor(tmp_path):
    file = tmp_path / "model.safetensors"
    save_file(GIVEN, file)
    data = file.read_bytes()
    file.write_bytes(data[:-40])
    last = max(GIVEN, key=lambda name: data.index(name.encode()))
    with pytest.raises(UserError, match=rf"is damaged: it is cut off in {last}, at .* bytes"):
        tensors.read_tensors(tmp_path)
    for stump in (data[:40], data[:4], b"", b"\xff" * 100):
        file.write_bytes(stump)
        with pytest.raises(UserError, match="is damaged"):
            tensors.read_tensors(tmp_path)


def test_a_value_that_is_not_finite_names_the_tensor(tmp_path):
    save_file({**GIVEN, "third": np.array([1, np.nan], "f")}, tmp_path / "model.safetensors")
    with pytest.raises(UserError, match="third has values that are not finite"):
        tensors.read_tensors(tmp_path)


def test_no_weights_and_weights_that_need_pytorch(tmp_path, monkeypatch):
    with pytest.raises(UserError, match="contains no weights: neither"):
        tensors.read_tensors(tmp_path)
    (tmp_path / "pytorch_model.bin").write_bytes(b"anything")
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(UserError, match=r"reading it needs torch: pip install 'ralm_jax\[torch\]'"):
        tensors.read_tensors(tmp_path)
