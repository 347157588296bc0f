"""Seconds of a step on this machine, from two smaller ones: what is fixed, and so much a query."""

import dataclasses
import functools
import time
from typing import Any

import jax
import numpy as np

from ralm_jax import partition
from ralm_jax.cost import shapes
from ralm_jax.models import initial
from ralm_jax.models.openqa import OpenQA
from ralm_jax.models.ralm import Ralm
from ralm_jax.training import steps
from ralm_jax.training.schedule import Stage

# Queries of a device in each of the two small steps, and how often each is timed once it is compiled.
SMALL, TIMES = (2, 4), 2


@dataclasses.dataclass(frozen=True)
class Probe:
    """What two small steps took: seconds of each, by queries of all devices."""

    rows: tuple[int, int]
    seconds: tuple[float, float]

    def of(self, batch: int) -> float:
        """Seconds of a step of so many queries."""
        each = (self.seconds[1] - self.seconds[0]) / (self.rows[1] - self.rows[0])
        return self.seconds[0] + max(each, 0.0) * (batch - self.rows[0])


def probe(model: Ralm | OpenQA, stage: Stage) -> Probe:
    """Trains for a few steps on texts that are drawn at random and fill their lengths."""
    devices = jax.device_count()
    params = initial.drawn_params(model, 0)
    seconds = []
    for rows in SMALL:
        step = partition.parallelize(
            functools.partial(steps.train_step, loss=stage.task.loss(model))
        )
        state = partition.replicate(steps.create_state(params, stage.schedule.optimizer))
        batch = _drawn(shapes.batch(model, stage, rows, devices), devices)
        taken = []
        for _ in range(1 + TIMES):
            begun = time.perf_counter()
            state, metrics = step(state, batch, jax.random.key(0))
            jax.block_until_ready((state, metrics))
            taken.append(time.perf_counter() - begun)
        seconds.append(min(taken[1:]))
    return Probe((SMALL[0] * devices, SMALL[1] * devices), (seconds[0], seconds[1]))


def _drawn(shaped: Any, devices: int) -> Any:
    rng = np.random.default_rng(0)

    def one(x: jax.ShapeDtypeStruct) -> np.ndarray:
        shape = (devices, *x.shape)
        if x.dtype == bool:
            return np.ones(shape, bool)
        if np.issubdtype(x.dtype, np.integer):
            # Wordpieces of any vocabulary, and places in any text.
            return rng.integers(1, 8, shape).astype(x.dtype)
        return rng.random(shape, np.float32)

    return jax.tree.map(one, shaped)
