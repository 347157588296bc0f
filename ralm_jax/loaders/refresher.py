"""The work of refreshing an index between training steps, as a policy says when.

With a snapshot taken at step s the passages are embedded over the following steps, and the index is
published at exactly s + lag; if it is late, training is delayed.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Set
from typing import Any

import jax
import numpy as np

from ralm_jax.errors import UserError
from ralm_jax.hosts.share import mean_over_hosts
from ralm_jax.loaders.refresh_job import Embed, Job, RefreshJob
from ralm_jax.loaders.snapshots import Handed, Handing
from ralm_jax.retrieval import index
from ralm_jax.retrieval.churn import churn
from ralm_jax.retrieval.refresh import Policy, made
from ralm_jax.retrieval.searcher import Published, Searcher


class Refresher:
    """Keeps the searcher's index as fresh as the policy says.

    Call `start` or `resume` once, then `advance` before every training step.

    Args:
      policy: when, and how late.
      embed: (params, start, stop) -> vectors [stop - start, E] of the passages with those ids. It
        queues device work and returns without waiting.
      searcher: who serves.
      root: folder of the versions.
      rows: of the passages, those that this process keeps the vectors of.
      width: E.
      fingerprint: of the corpus, or of these rows of it.
      chunk: passages embedded per call of `embed`.
      turn: passages that take turns together where a version embeds a part of them; None for a chunk.
      keep: called at each publish; the steps of versions that must stay on disk, as checkpoints
        need them. The version served and the one served before it stay in any case.
      handing: to an indexing job, if one embeds the snapshots.
    """

    def __init__(
        self,
        policy: Policy,
        embed: Embed,
        searcher: Searcher,
        root: str | os.PathLike,
        *,
        rows: range,
        width: int,
        fingerprint: str,
        chunk: int = 1024,
        turn: int | None = None,
        keep: Callable[[], Set[int]] = frozenset,
        handing: Handing | None = None,
    ):
        self._policy, self._embed, self._searcher, self._root = policy, embed, searcher, root
        self._shape, self._fingerprint, self._keep = (len(rows), width), fingerprint, keep
        self._rows = rows
        self._chunks = [(start, min(start + chunk, rows.stop)) for start in rows[::chunk]]
        self._turn = turn or chunk
        self._handing = handing
        self._job: Job | None = None

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

    def made(self, rows: np.ndarray) -> np.ndarray:
        """Steps of the parameters that made the served vectors of some passages: [...] -> int32 [...]."""
        version, chunks = self._searcher.step, rows // self._turn
        if self._policy.parts == 1:
            return np.full(rows.shape, version, np.int32)
        parts = [made(self._policy, version, part) for part in range(self._policy.parts)]
        return np.array(parts, np.int32)[chunks % self._policy.parts]

    def start(
        self, params: Any, known: np.ndarray | None = None, encoder_hash: str = ""
    ) -> Published:
        """Embeds all passages with `params` and serves that as version 0.

        Args:
          known: vectors [N, E] of the whole corpus by these very parameters, where there are any already.
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
    ) -> Job:
        if embed is None and self._handing is not None:
            self._job = Handed(step, params, self._handing, len(self._chunks))
            return self._job
        writer = index.create(self._root, step, self._shape, self._fingerprint, encoder_hash)
        if embed is None:
            embed = self._embed if self._policy.parts == 1 else self._one_part(step)
        self._job = RefreshJob(step, params, embed, self._chunks, writer)
        return self._job

    def _one_part(self, step: int) -> Embed:
        """Embeds the chunks whose turn it is; the others are as they were in the version before."""
        parts, turn = self._policy.parts, self._policy.turn(step)
        before = index.mapped(self._root, self._policy.published(step))

        def embed(params: Any, start: int, stop: int) -> jax.Array | np.ndarray:
            if start // self._turn % parts == turn:
                return self._embed(params, start, stop)
            return before[start - self._rows.start : stop - self._rows.start]

        return embed

    def _due(self, job: Job, step: int) -> int:
        """Chunks to have been queued once `advance` has been called at `step`."""
        over = self._policy.embedding_steps
        share = min(step - job.step + 1, over)
        return -(-len(self._chunks) * share // over)

    def _hand_over(self, version: index.Version | None) -> None:
        if version:
            self._searcher.build(version)

    def _publish(self, job: Job) -> Published:
        """Publishes the version in flight, waiting for what is left of it, and prunes others."""
        job.embed_until(len(self._chunks))
        self._hand_over(job.fetch())
        previous = self._searcher.step
        published = self._searcher.publish()
        self._job = None
        if previous >= 0:
            changed = churn(*(index.mapped(self._root, step) for step in (previous, job.step)))
            published = published._replace(churn=mean_over_hosts(changed))
        index.prune(self._root, {previous, job.step} | self._keep())
        return published


def _rows(known: np.ndarray, params: Any, start: int, stop: int) -> np.ndarray:
    """Stands in for embedding where the vectors are known."""
    return known[start:stop]


def _flying(policy: Policy, step: int) -> int | None:
    """The snapshot taken at or before `step` and not published by then, if there is one."""
    since = range(policy.published(step) + 1, step + 1)
    return max(filter(policy.snapshot_due, since), default=None)
