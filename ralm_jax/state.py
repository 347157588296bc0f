"""The training state: step, parameters, optimiser state, and nothing else."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax.training.train_state import TrainState

from ralm_jax.models.ralm import ClozeBatch, Ralm, Text

__all__ = ["TrainState", "create", "initial_params"]


def initial_params(model: Ralm, key: jax.Array) -> dict:
    """Random parameters {"retriever": ..., "reader": ...}, float32, on the host's default device."""
    text = lambda *shape: Text(np.ones(shape, np.int32), np.zeros(shape, np.int32))  # noqa: E731
    batch = ClozeBatch(
        query=text(1, 4),
        candidates=text(1, 1, 4),
        joint=text(1, 1, 4),
        valid=np.ones((1, 1), bool),
        positions=np.zeros((1, 1), np.int32),
        targets=np.zeros((1, 1), np.int32),
        weights=np.ones((1, 1), np.float32),
    )
    keys = {"params": key}
    init = jax.jit(lambda keys: _init(model, keys, batch))
    return init(keys)


def _init(model: Ralm, keys, batch):
    def everything(module, batch):
        module.queries(batch.query)  # the query tower exists apart only when towers are not shared
        return module(batch)

    return model.init(keys, batch, method=everything)["params"]


def create(model: Ralm, params: dict, optimizer: optax.GradientTransformation) -> TrainState:
    """Step 0 with given parameters; `apply_fn` is the model's."""
    state = TrainState.create(apply_fn=model.apply, params=params, tx=optimizer)
    return state.replace(step=jnp.zeros((), jnp.int32))
