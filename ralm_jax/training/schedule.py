"""What a stage of training does, and for how long."""

import dataclasses

import optax

from ralm_jax.training import tasks


@dataclasses.dataclass(frozen=True)
class Stage:
    """One part of a run: what is done, for how many steps of how many queries, by what optimiser."""

    name: str
    task: tasks.Task
    steps: int
    batch: int
    optimizer: optax.GradientTransformation
    asked: str | None = (
        None  # a corpus whose sentences are asked (X), where not that of the run (Z)
    )
