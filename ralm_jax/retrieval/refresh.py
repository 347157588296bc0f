"""When the index is refreshed, how much of it, and what is done about what has become stale.

A policy is pure in the step: which snapshot serves at a step, and how old each of its vectors is, follow
from the step alone, so a resumed run is the same run. See `loaders.refresher` for the work itself.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Protocol

from ralm_jax import settings
from ralm_jax.errors import UserError
from ralm_jax.settings import Count


class Policy(Protocol):
    """When snapshots are taken and which one serves. Step 0 begins with an index of its own."""

    @property
    def embedding_steps(self) -> int:
        """Steps over which the passages of a snapshot are embedded."""
        ...

    @property
    def parts(self) -> int:
        """Of so many parts of the passages a snapshot embeds one; the others keep their vectors."""
        ...

    @property
    def written(self) -> int:
        """How many vectors that steps made for their gradient are kept beside the index; 0 for none."""
        ...

    @property
    def over(self) -> int:
        """So many times the neighbours are searched for, to be scored again by those vectors."""
        ...

    def snapshot_due(self, step: int) -> bool:
        """Whether the parameters before training step `step` are to be embedded."""
        ...

    def published(self, step: int) -> int:
        """The snapshot step of the index that serves at `step`; 0 for the initial one."""
        ...

    def turn(self, step: int) -> int:
        """Which of the parts the snapshot of `step` embeds."""
        ...


class _Whole:
    """Every snapshot embeds all passages, and the index alone is searched."""

    @property
    def parts(self) -> int:
        return 1

    @property
    def written(self) -> int:
        return 0

    @property
    def over(self) -> int:
        return 1

    def turn(self, step: int) -> int:
        return 0


@dataclasses.dataclass(frozen=True)
class Frozen(_Whole):
    """The initial index serves for good."""

    @property
    def embedding_steps(self) -> int:
        return 1

    def snapshot_due(self, step: int) -> bool:
        return False

    def published(self, step: int) -> int:
        return 0


@dataclasses.dataclass(frozen=True)
class Synchronous(_Whole):
    """Training stops every `every` steps until the index is made of the present parameters."""

    every: Count

    @property
    def embedding_steps(self) -> int:
        return 1

    def __post_init__(self) -> None:
        settings.check_fields(self)

    def snapshot_due(self, step: int) -> bool:
        return step > 0 and step % self.every == 0

    def published(self, step: int) -> int:
        return step - step % self.every


@dataclasses.dataclass(frozen=True)
class Asynchronous(_Whole):
    """A snapshot every `every` steps, served from `lag` steps later on; training goes on."""

    every: Count
    lag: Count

    def __post_init__(self) -> None:
        settings.check_fields(self)
        if not 0 < self.lag <= self.every:
            raise UserError(
                f"refresh.{type(self).__name__}: lag is {self.lag}; "
                f"it must be greater than 0 and at most every ({self.every})"
            )

    def snapshot_due(self, step: int) -> bool:
        return step > 0 and step % self.every == 0

    def published(self, step: int) -> int:
        return max(0, (step - self.lag) // self.every * self.every)

    @property
    def embedding_steps(self) -> int:
        """The first three quarters of the lag; the rest is for building the searcher."""
        return max(1, self.lag * 3 // 4)


@dataclasses.dataclass(frozen=True)
class Rolling(Asynchronous):
    """As `Asynchronous`, but a snapshot embeds one part of the passages: all of them in `turns` snapshots."""

    turns: Count = 10

    @property
    def parts(self) -> int:
        return self.turns

    def turn(self, step: int) -> int:
        return step // self.every % self.turns


@dataclasses.dataclass(frozen=True)
class WriteBack:
    """Another policy, and beside its index the vectors that training steps make anyhow.

    A step embeds its candidates for their gradient. The newest of these vectors are kept; `over` times the
    neighbours are searched for, those that have such a vector are scored by it, and the best of all remain.
    So passages that are often retrieved are fresh however seldom the index is.

    Attributes:
      policy: of the index itself.
      over: at least 2, for what was scored too high is to make room for others.
      written: vectors that are kept, the newest; each takes 4 E bytes of memory and of every checkpoint.
    """

    policy: Policy
    over: Count = 4
    written: Count = 1 << 16

    def __post_init__(self) -> None:
        settings.check_fields(self)
        if self.over < 2:
            raise UserError(
                f"refresh.WriteBack: over is {self.over}; at least twice the neighbours must be searched for"
            )

    @property
    def embedding_steps(self) -> int:
        return self.policy.embedding_steps

    @property
    def parts(self) -> int:
        return self.policy.parts

    def snapshot_due(self, step: int) -> bool:
        return self.policy.snapshot_due(step)

    def published(self, step: int) -> int:
        return self.policy.published(step)

    def turn(self, step: int) -> int:
        return self.policy.turn(step)


@functools.lru_cache(maxsize=128)
def made(policy: Policy, version: int, chunk: int) -> int:
    """The step of the parameters that made a chunk of the passages in a version of the index.

    Chunks take turns: chunk c belongs to part c % parts.
    """
    if policy.parts == 1:
        return version
    for step in range(version, 0, -1):
        if policy.snapshot_due(step) and policy.turn(step) == chunk % policy.parts:
            return step
    return 0
