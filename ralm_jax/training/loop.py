"""The loop: stages in a row, each resumable, with an index that stays fresh while training runs."""

import contextlib
import dataclasses
import functools
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from flax.training.train_state import TrainState

from ralm_jax import partition
from ralm_jax.cost import fitting
from ralm_jax.data.corpus import Corpus, open_corpus, verify_corpus
from ralm_jax.errors import UserError
from ralm_jax.examples.cloze_batches import Queries
from ralm_jax.loaders.loader import Loader, Params, Source, drawn_rows
from ralm_jax.models.openqa import OpenQA
from ralm_jax.models.ralm import Ralm
from ralm_jax.runs import agreement, config_record, directory
from ralm_jax.runs.checkpoint import Checkpoints
from ralm_jax.runs.lock import owned
from ralm_jax.runs.nonfinite import NotFinite, save_batch
from ralm_jax.signals import stop_on_signal
from ralm_jax.training.idle import DeviceIdle
from ralm_jax.training.progress import EVAL, Progress, computed
from ralm_jax.training.schedule import Stage, check, check_indexed
from ralm_jax.training.steps import WRITTEN, create_state, train_step

# (model, params, stage, step) -> scalars to log: learning curves, measured as training runs.
Eval = Callable[[Any, dict, str, int], dict[str, float]]


@dataclasses.dataclass(frozen=True)
class Run:
    """What all stages of a run share; see `pretrain`.

    Attributes:
      begun: the run whose parameters are the first, and `started` a note of them.
      indexed: whether `ralm index` embeds what an index is refreshed with.
    """

    path: Path
    corpus: Corpus
    model: Ralm | OpenQA
    seed: int
    held_out: float
    evaluate: Eval | None = None
    begun: Path | None = None
    started: dict | None = None
    config: str | None = None
    indexed: bool = False


class Stopped(Exception):
    """A signal ended the run; its checkpoint is written."""


def train_chain(run: Run, stages: Sequence[Stage], params: Params) -> Params:
    """The stages in order, from `params` on."""
    # Whatever can be wrong is found before anything is made.
    asked = [asked_corpus(run, stage) for stage in stages]
    for path in {run.corpus.path, *(corpus.path for corpus in asked)}:
        verify_corpus(path)
    for stage in stages:
        check(stage, run.model)
    if run.indexed:
        check_indexed(stages)
    queries = [s.task.queries(x, run.held_out) for s, x in zip(stages, asked, strict=True)]
    parts = {
        "stages": [stage.name for stage in stages],
        "lengths": dataclasses.asdict(stages[-1].task.lengths),
        "held_out": run.held_out,
        "seed": run.seed,
        "init": run.started,
        "began_from": None if run.begun is None else str(run.begun.resolve()),
    }
    agreement.agree(run.corpus, run.config, params)
    if run.config is not None:
        config_record.check_config(run.path, run.config)
    directory.check_same(run.path, run.model, run.corpus, **parts)
    with _owned_by_one_process(run.path):
        if run.config is not None:
            config_record.save_config(run.path, run.config)
        directory.describe(run.path, run.model, run.corpus, **parts)
        with contextlib.closing(Progress(run.path, params)) as progress, stop_on_signal() as stop:
            progress.say(computed(run.model))
            for number, stage in enumerate(stages):
                source = draw_from(run, stage, number, asked[number], queries[number])
                part = Part(run, stage, number, source, progress, stop)
                params = train_stage(part, params, queries[number])
    return params


@contextlib.contextmanager
def _owned_by_one_process(path: Path):
    """Processes of one training share a run; the first of them owns it."""
    first = jax.process_index() == 0
    with owned(path) if first else contextlib.nullcontext():
        agreement.agree_on_folder(path)
        yield


@dataclasses.dataclass(frozen=True)
class Part:
    """One stage of a run as it is trained: number `number` of its chain."""

    run: Run
    stage: Stage
    number: int
    source: Source
    progress: Progress
    stop: Callable[[], bool]


def train_stage(part: Part, params: Params, queries: Queries) -> Params:
    """Trains one stage from `params`, or from its own newest checkpoint; returns its parameters."""
    run, stage, progress = part.run, part.stage, part.progress
    state = partition.replicate(create_state(params, stage.schedule.optimizer))
    with contextlib.ExitStack() as cleanup:
        checkpoints = Checkpoints(directory.checkpoint_folder(run.path, stage.name))
        cleanup.callback(checkpoints.close)
        # Over a network each process may see another folder for a while: the first one says which it is.
        begin = int(partition.gather_rows(np.array([checkpoints.latest() or 0]))[0])
        if begin >= stage.schedule.steps:
            return partition.replicate(checkpoints.load(begin)["state"]["params"])
        stage, said = fitting.fitted(run.model, stage)
        part = dataclasses.replace(part, stage=stage)
        if said:
            progress.say(f"{stage.name}: {said}")
        for line in stage.task.describe(len(queries.rows)):
            progress.say(f"{stage.name}: {line}", queries.left_out)
            queries = dataclasses.replace(queries, left_out={})
        before = checkpoints.processes(begin) if begin else 0
        source = dataclasses.replace(part.source, before=before, say=progress.say)
        loader = stage.task.loader(source)
        cleanup.callback(loader.close)
        # Order of starting: the stage's own checkpoint, else the parameters handed over.
        if begin:
            tree = partition.replicate(checkpoints.restore(begin, _tree(state, loader)))
            state = state.replace(**tree["state"])
            loader.set_state(tree["loader"], begin)
        progress.begin(stage.name, stage.schedule.batch, stage.schedule.steps, begin)
        if not begin:
            progress.published(0, loader.start(state.params))
            _evaluate(part, state.params, 0)
        try:
            return loop_over(part, loader, checkpoints, state, begin)
        except NotFinite as error:
            checkpoints.wait()
            raise error.with_advice(checkpoints.latest()) from None


def loop_over(
    part: Part, loader: Loader, checkpoints: Checkpoints, state: TrainState, begin: int
) -> Params:
    """The steps of a stage from `begin` on.

    One turn of the loop, in order: the index is refreshed and the queries of the next batch are
      embedded, with the parameters before the step; the step is queued; while the device works, the
      metrics of the step before are read and its vectors written back, the search is waited for and the
      next batch is made. What has been logged is then evaluated and saved, in that order, so that a run
      that goes on from a checkpoint repeats neither.
    """
    stage, schedule, progress = part.stage, part.stage.schedule, part.progress
    loss = stage.task.loss(part.run.model, part.run.corpus)
    step = functools.partial(train_step, loss=loss, skip=schedule.skip_nonfinite > 0)
    step = progress.before_first(partition.parallelize(step))
    key = jax.random.fold_in(jax.random.key(part.run.seed), part.number)
    previous = None
    with contextlib.closing(DeviceIdle()) as idle:
        given, stale = loader.batch(begin), loader.staleness()
        batch = partition.shard(given)
        for now in range(begin, schedule.steps):
            # On a CPU nothing is gained by two steps in flight, which hold the activations of both.
            if jax.default_backend() == "cpu":
                jax.block_until_ready(state)
            with idle.activity("refresh"):
                progress.published(now + 1, loader.prefetch(state.params, now + 1))
            state, metrics = step(state, batch, key)
            idle.queued(metrics["loss"][0])
            # The step before is done by now, so that reading its metrics delays nothing.
            if previous is not None:
                observe(part, loader, now, previous, idle=idle)
            with idle.activity("retrieval"):
                loader.retrieve()
            previous, done = Seen(metrics, stale, metrics.pop(WRITTEN, ()), given), now + 1
            with idle.activity("batch"):
                given, stale = loader.batch(now + 1), loader.staleness()
                batch = partition.shard(given)
            stopped = told_to_stop(part, done)
            last = stopped or done == schedule.steps
            saving = last or done % schedule.checkpoint_every == 0
            if saving:
                observe(part, loader, done, previous, idle=idle, last=last)
                previous = None
            if done % schedule.eval_every == 0 or done == schedule.steps:
                with idle.activity(EVAL):
                    _evaluate(part, state.params, done)
            if saving:
                with idle.activity("checkpoint"):
                    checkpoints.save(done, _tree(state, loader), wait=last)
                loader.checkpointed()
            if stopped and done < schedule.steps:
                raise Stopped(f"stopped at step {done} of stage {stage.name}; it is saved")
    return state.params


class Seen(NamedTuple):
    """What a step has given beside its state, and how stale its candidates were."""

    metrics: Any
    staleness: dict[str, float]
    written: tuple  # rows [n], vectors [n,E]; or nothing
    batch: Any  # of this process, as the host made it


def observe(
    part: Part, loader: Loader, done: int, seen: Seen, *, idle: DeviceIdle, last: bool = False
) -> None:
    """Takes in what the step that made `done` has given, and logs in time.

    Raises NotFinite where it was not finite, unless so many may be.
    """
    wrong = part.progress.step(done, seen.metrics, seen.staleness)
    if wrong:
        not_finite(part, done, seen.batch, wrong)
    elif seen.written:
        loader.write_back(done - 1, *seen.written)
    if last or done % part.stage.schedule.log_every == 0:
        part.progress.log(done, idle.totals())


def not_finite(part: Part, done: int, batch: Any, what: str) -> None:
    """Keeps the batch of such a step. Raises NotFinite where no further one may be skipped."""
    drawn = drawn_rows(part.source, done - 1)[0]
    said = f"{what} became nan or infinite at step {done} of {part.stage.name} "
    said += save_batch(part.run.path, f"{part.stage.name}_{done}", batch, drawn)
    skipped, allowed = part.progress.skipped, part.stage.schedule.skip_nonfinite
    if skipped > allowed:
        raise NotFinite(said)
    part.progress.say(f"{said}: skipped, {skipped} of at most {allowed}")


def told_to_stop(part: Part, done: int) -> bool:
    """Whether a signal has come, to whichever process: all must stop after the same step.

    Asking the others blocks until the device is ready, so several processes ask only as often as they log.
    """
    if jax.process_count() > 1 and done % part.stage.schedule.log_every:
        return False
    return partition.any_process(part.stop())


def draw_from(run: Run, stage: Stage, number: int, asked: Corpus, queries: Queries) -> Source:
    """What the batches of a stage are drawn from; every stage draws its own examples."""
    return Source(
        run.corpus,
        asked,
        run.model,
        queries.rows,
        run.seed * 1000 + number,
        stage.schedule.batch,
        directory.index_folder(run.path, stage.name),
        (run.path, run.begun),
        indexed=run.path if run.indexed else None,
    )


def asked_corpus(run: Run, stage: Stage) -> Corpus:
    """Whose sentences a stage masks: X of REALM, section 4.2; retrieved is from the run's corpus, Z.

    Raises UserError: it is not there, it was tokenized with a different vocabulary, or the stage reads the
    query's own passage, which is not in Z.
    """
    if stage.asked is None:
        return run.corpus
    if getattr(stage.task, "own_passage", False):
        raise UserError(
            f"stage {stage.name}: it reads the query's own passage, which is not in another corpus; leave "
            "out `asked`"
        )
    opened = open_corpus(stage.asked)
    directory.check_same_vocabulary(run.corpus, opened)
    return opened


def _tree(state: TrainState, loader: Loader) -> dict:
    saved = {name: getattr(state, name) for name in ("step", "params", "opt_state")}
    return partition.shared({"state": saved, "loader": loader.get_state(state.params)})


def _evaluate(part: Part, params: Params, step: int) -> None:
    if part.run.evaluate is not None:
        begun = time.perf_counter()
        scalars = part.run.evaluate(part.run.model, params, part.stage.name, step)
        part.progress.evaluated(step, scalars, time.perf_counter() - begun)
