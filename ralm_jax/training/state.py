"""The training state: step, parameters, optimiser state, and nothing else."""

import jax.numpy as jnp
import optax
from flax.training.train_state import TrainState

from ralm_jax.models.openqa import OpenQA
from ralm_jax.models.ralm import Ralm

__all__ = ["TrainState", "create"]


def create(
    model: Ralm | OpenQA, params: dict, optimizer: optax.GradientTransformation
) -> TrainState:
    """Step 0 with given parameters; `apply_fn` is the model's."""
    state = TrainState.create(apply_fn=model.apply, params=params, tx=optimizer)
    return state.replace(step=jnp.zeros((), jnp.int32))
