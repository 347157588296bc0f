"""Folders of models, as transformers leaves them, drawn here."""

import json

import numpy as np
import pytest
from safetensors.numpy import save_file
from state_dicts import PIECES, SIZES, draw

from ralm_jax.data.tokenizer import write_vocabulary


@pytest.fixture
def folder(tmp_path):
    """(names or tensors, **config) -> the folder of a model, with its vocabulary."""

    def make(names, **config):
        path = tmp_path / f"model{len(list(tmp_path.iterdir()))}"
        path.mkdir()
        tensors = names
        if not isinstance(next(iter(names.values())), np.ndarray):
            tensors = draw(np.random.default_rng(0), names)
        record = {**SIZES, "model_type": "bert", **config}
        (path / "config.json").write_text(json.dumps(record))
        write_vocabulary(path, PIECES, lowercase=True)
        save_file(tensors, path / "model.safetensors")
        return path

    return make


@pytest.fixture
def tensors():
    """names -> tensors, as `folder` draws them."""
    return lambda names: draw(np.random.default_rng(0), names)
