"""When the index is refreshed, and the work of doing so between training steps.

A policy is pure in the step: which snapshot serves at a step follows from the step alone, so a
resumed run is the same run. With a snapshot taken at step s the passages are embedded over the
following steps, and the index is published at exactly s + lag; if it is late, training is delayed.
"""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Callable, Set
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from ralm_jax import settings
from ralm_jax.errors import UserError
from ralm_jax.retrieval import index
from ralm_jax.retrieval.churn import churn
from ralm_jax.retrieval.refresh_job import Embed, RefreshJob
from ralm_jax.retrieval.searcher import Published, Searcher
from ralm_jax.settings import Count


class Policy(Protocol):
    """When snapshots are taken and which one serves. Step 0 begins with an index of its own."""

    @property
    def embedding_steps(self) -> int:
        """Steps over which the passages of a snapshot are embedded."""
        ...

    def snapshot_due(self, step: int) -> bool:
        """Whether the parameters before training step `step` are to be embedded."""
        ...

    def published(self, step: int) -> int:
        """The snapshot step of the index that serves at `step`; 0 for the initial one."""
        ...


@dataclasses.dataclass(frozen=True)
class Frozen:
    """The initial index serves for good."""

    @property
    def embedding_steps(self) -> int:
        return 1

    def snapshot_due(self, step: int) -> bool:
        return False

    def published(self, step: int) -> int:
        return 0


@dataclasses.dataclass(frozen=True)
class Synchronous:
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
class Asynchronous:
    """A snapshot every `every` steps, served from `lag` steps later on; training goes on."""

    every: Count
    lag: Count

    def __post_init__(self) -> None:
        settings.check_fields(self)
        if not 0 < self.lag <= self.every:
            raise UserError(
                f"refresh.Asynchronous: lag is {self.lag}; "
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


class Refresher:
    """Keeps the searcher's index as fresh as the policy says.

    Call `start` or `resume` once, then `advance` before every training step.

    Args:
      policy: when, and how late.
      embed: (params, start, stop) -> vectors [stop - start, E] of the passages with those ids. It
        queues device work and returns without waiting.
      searcher: who serves.
      root: folder of the versions.
      shape: (N, E).
      fingerprint: of the corpus.
      chunk: passages embedded per call of `embed`.
      keep: called at each publish; the steps of versions that must stay on disk, as checkpoints
        need them. The version served and the one served before it stay in any case.
    """

    def __init__(
        self,
        policy: Policy,
        embed: Embed,
        searcher: Searcher,
        root: str | os.PathLike,
        *,
        shape: tuple[int, int],
        fingerprint: str,
        chunk: int = 1024,
        keep: Callable[[], Set[int]] = frozenset,
    ):
        self._policy, self._embed, self._searcher, self._root = policy, embed, searcher, root
        self._shape, self._fingerprint, self._keep = shape, fingerprint, keep
        self._chunks = [
            (start, min(start + chunk, shape[0])) for start in range(0, shape[0], chunk)
        ]
        self._job: RefreshJob | None = None

    @property
    def in_flight(self) -> int | None:
        """The step of the snapshot taken and not yet published, if there is one."""
        return self._job.step if self._job else None

    @property
    def snapshot(self) -> Any:
        """The parameters of the snapshot in flight: with its step, what a checkpoint needs."""
        return self._job.params if self._job else None

    def staleness(self, step: int) -> int:
        """Steps between the parameters that made the served index and `step`."""
        return step - self._searcher.step

    def start(
        self, params: Any, known: np.ndarray | None = None, encoder_hash: str = ""
    ) -> Published:
        """Embeds all passages with `params` and serves that as version 0.

        Args:
          known: their vectors [N, E] by these very parameters, where there are any already.
          encoder_hash: what the version is known by; see `index.create`.
        """
        embed = self._embed if known is None else functools.partial(_rows, known)
        return self._publish(self._begin(params, 0, embed, encoder_hash))

    def resume(self, snapshot: Any, snapshot_step: int | None, step: int) -> None:
        """Puts everything as it was in the lost run just before it called `advance(..., step)`.

        Args:
          snapshot: `self.snapshot` as it was then, if a refresh was under way.
          snapshot_step: `self.in_flight` as it was then.
          step: the training step that comes next.

        Raises:
          UserError: the version to be served is not on disk, or the policy is not the one that
            the lost run had.
        """
        before = max(step - 1, 0)
        served, flying = self._policy.published(before), _flying(self._policy, before)
        if snapshot_step not in (None, flying):
            raise UserError(
                f"index {self._root}: the checkpoint of step {step} contains a snapshot of step "
                f"{snapshot_step}, but the refresh policy expects {flying}; "
                "resume with the policy that the run began with"
            )
        self._searcher.restore(index.open_version(self._root, served, self._fingerprint))
        if flying is None:
            return
        try:
            version = index.open_version(self._root, flying, self._fingerprint)
        except UserError:
            if snapshot_step is None:
                raise
            job = self._begin(snapshot, flying)
            job.embed_until(self._due(job, before))
        else:
            # Finished before the run was lost, perhaps even served; the same parameters made it.
            self._searcher.build(version)
            self._job = RefreshJob(flying, snapshot, self._embed, self._chunks, None)

    def advance(self, params: Any, step: int) -> Published | None:
        """Does the share of refreshing that falls to `step`; call it before the step is trained.

        Nothing queued here is waited for here, except by `Synchronous` and when a publish is late.

        Args:
          params: read only if `policy.snapshot_due(step)`, and then kept until the publish; the
            caller must not donate those buffers.
          step: the training step that comes next.

        Returns:
          What was published at this step, if anything.
        """
        published, serves = None, self._policy.published(step)
        if self._job and self._job.step == serves:
            published = self._publish(self._job)
        if self._policy.snapshot_due(step):
            job = self._begin(params, step)
            if serves == step:
                return self._publish(job)
        if self._job:
            self._hand_over(self._job.fetch())
            self._job.queue_until(self._due(self._job, step))
        return published

    def close(self) -> None:
        """Drops the refresh in flight, and its files. The searcher stays the caller's."""
        if self._job:
            self._job.abandon()
        self._job = None

    def _begin(
        self, params: Any, step: int, embed: Embed | None = None, encoder_hash: str = ""
    ) -> RefreshJob:
        writer = index.create(self._root, step, self._shape, self._fingerprint, encoder_hash)
        self._job = RefreshJob(step, params, embed or self._embed, self._chunks, writer)
        return self._job

    def _due(self, job: RefreshJob, step: int) -> int:
        """Chunks to have been queued once `advance` has been called at `step`."""
        over = self._policy.embedding_steps
        share = min(step - job.step + 1, over)
        return -(-len(self._chunks) * share // over)

    def _hand_over(self, version: index.Version | None) -> None:
        if version:
            self._searcher.build(version)

    def _publish(self, job: RefreshJob) -> Published:
        """Publishes the version in flight, waiting for what is left of it, and prunes others."""
        job.embed_until(len(self._chunks))
        self._hand_over(job.fetch())
        previous = self._searcher.step
        published = self._searcher.publish()
        self._job = None
        if previous >= 0:
            changed = churn(*(index.mapped(self._root, step) for step in (previous, job.step)))
            published = published._replace(churn=changed)
        index.prune(self._root, {previous, job.step} | self._keep())
        return published


def _rows(known: np.ndarray, params: Any, start: int, stop: int) -> jax.Array:
    """Stands in for embedding where the vectors are known."""
    return jnp.asarray(known[start:stop])


def _flying(policy: Policy, step: int) -> int | None:
    """The snapshot taken at or before `step` and not published by then, if there is one."""
    since = range(policy.published(step) + 1, step + 1)
    return max(filter(policy.snapshot_due, since), default=None)
