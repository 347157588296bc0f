"""Folders of models, as transformers leaves them, drawn here."""

import numpy as np
import pytest
from state_dicts import draw, write_model


@pytest.fixture
def folder(tmp_path):
    """(names or tensors, **config) -> the folder of a model, with its vocabulary."""

    def make(names, **config):
        path = tmp_path / f"model{len(list(tmp_path.iterdir()))}"
        return write_model(path, names, **config)

    return make


@pytest.fixture
def tensors():
    """names -> tensors, as `folder` draws them."""
    return lambda names: draw(np.random.default_rng(0), names)
