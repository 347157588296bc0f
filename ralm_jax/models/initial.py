"""Parameters to begin with: drawn on the device as the modules say, or by numpy without compiling."""

import functools
from collections.abc import Hashable
from typing import Any, cast

import jax
import numpy as np

from ralm_jax.batches import ClozeBatch, Text
from ralm_jax.models.openqa import OpenQA
from ralm_jax.models.ralm import Ralm


def initial_params(model: Ralm | OpenQA, key: jax.Array) -> dict:
    """Random parameters {"retriever": ..., "reader": ...}, float32, on the host's default device."""
    init = jax.jit(lambda key: model.init(key, method=_everything)["params"])
    return init(key)


def shapes(model: Ralm | OpenQA) -> dict:
    """Shapes and types of `initial_params`: a model is traced for long, and but once."""
    return _shapes(cast(Hashable, model))


@functools.lru_cache(maxsize=64)
def _shapes(model: Any) -> dict:
    return jax.eval_shape(lambda key: initial_params(model, key), jax.random.key(0))


def drawn_params(model: Ralm | OpenQA, seed: int) -> dict:
    """The same as numpy arrays, drawn by numpy: most will be written over, and nothing is compiled."""
    rng = np.random.default_rng(seed)

    def one(path, leaf):
        kind = path[-1].key
        if any(part.key == "pointer" for part in path):
            square = len(leaf.shape) == 2 and leaf.shape[0] == leaf.shape[1]
            return (
                np.eye(leaf.shape[0], dtype=np.float32)
                if square
                else np.zeros(leaf.shape, np.float32)
            )
        if kind in ("kernel", "embedding"):
            spread = np.float32(model.reader_config.init_stddev)
            return rng.standard_normal(leaf.shape, np.float32) * spread
        return np.full(leaf.shape, 1 if kind == "scale" else 0, np.float32)

    return jax.tree_util.tree_map_with_path(one, shapes(model))


def _everything(model: Ralm | OpenQA):
    """Every part on the smallest input: the query tower exists apart only where towers are not shared."""
    text = lambda *shape: Text(np.ones(shape, np.int32), np.zeros(shape, np.int32))  # noqa: E731
    model.queries(text(1, 4))
    model.passages(text(1, 4))
    if model.with_scorer:
        model.rerank(text(1, 1, 4))
    if isinstance(model, OpenQA):
        return model.read(text(1, 1, 4), np.ones((1, 1, 4), bool))
    joint, single = text(1, 1, 4), np.zeros((1, 1), np.int32)
    batch = ClozeBatch(text(1, 4), joint, joint, single == 0, single, single, single + 1.0)
    return model.read(batch)
