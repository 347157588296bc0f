"""How long a stage trains, by what optimiser, and how often it reports; and the stage itself."""

import dataclasses
from collections.abc import Sequence

import optax

from ralm_jax import partition, settings
from ralm_jax.errors import UserError
from ralm_jax.models.openqa import OpenQA
from ralm_jax.models.ralm import Ralm
from ralm_jax.retrieval.refresh import Frozen
from ralm_jax.settings import Count, CountOrZero
from ralm_jax.training.tasks import Task


@dataclasses.dataclass(frozen=True)
class Schedule:
    """The course of a stage, of pretraining and of fine-tuning alike.

    Attributes:
      steps: of training.
      batch: queries a step, over all devices.
      optimizer: with its rates, their warm-up and decay; see `optim`.
      log_every, checkpoint_every, eval_every: in steps.
      skip_nonfinite: so many steps whose loss or gradient is not finite change nothing, and are counted; the
        next one ends the run.
    """

    steps: Count
    batch: Count
    optimizer: optax.GradientTransformation
    log_every: Count = 20
    checkpoint_every: Count = 500
    eval_every: Count = 500
    skip_nonfinite: CountOrZero = 0

    def __post_init__(self):
        settings.check_fields(self)


@dataclasses.dataclass(frozen=True)
class Stage:
    """One part of a run: what is learnt, and how.

    Attributes:
      asked: a corpus whose sentences are asked (X), where it is not that of the run (Z).
    """

    name: str
    task: Task
    schedule: Schedule
    asked: str | None = None


def check(stage: Stage, model: Ralm | OpenQA) -> None:
    """Raises UserError where a stage does not go with the devices or the model."""
    partition.check_batch(stage.schedule.batch)
    if stage.task.needs_reranker and not model.with_scorer:
        raise UserError(
            f"stage {stage.name}: its objective needs a scorer, which the model lacks; SCORER = True adds one"
        )
    refresh = getattr(stage.task, "refresh", None)
    if refresh is not None and refresh.written and not getattr(stage.task, "writes_back", False):
        raise UserError(
            f"stage {stage.name}: WriteBack needs a stage that embeds its candidates to learn from them, as "
            "joint training (Realm) does; choose the policy inside it"
        )
    asked, retriever = stage.task.lengths, model.retriever_config.positions
    if hasattr(stage.task, "candidates") and asked.joint <= asked.query:
        raise UserError(
            f"stage {stage.name}: the joint length {asked.joint} has no room for a passage behind a query of "
            f"{asked.query}: raise JOINT_LENGTH above QUERY_LENGTH"
        )
    for name, length, most in (
        ("query", asked.query, retriever - len(model.query_prompt)),
        ("passage", asked.passage, retriever - len(model.passage_prompt)),
        ("joint", asked.joint, model.joint_positions),
    ):
        if length > most:
            raise UserError(
                f"stage {stage.name}: {name} length {length} exceeds {most} positions of the model: "
                "shorten the one or raise the other"
            )


def check_indexed(stages: Sequence[Stage]) -> None:
    """Raises UserError where an indexing job has nothing to embed, or would have to embed a part."""
    policies = {stage.name: getattr(stage.task, "refresh", None) for stage in stages}
    for name, policy in policies.items():
        if policy is not None and policy.parts > 1:
            raise UserError(
                f"stage {name}: {type(policy).__name__} embeds a part of the passages at a time, and an "
                "indexing job embeds all: leave out --index-job, or choose Asynchronous"
            )
    if all(policy is None or isinstance(policy, Frozen) for policy in policies.values()):
        raise UserError(
            "no stage of this configuration refreshes its index, so an indexing job has nothing to do: leave "
            "out --index-job"
        )
