"""The loop: stages in a row, each resumable, with an index that stays fresh while training runs."""

import contextlib
import dataclasses
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import optax

from ralm_jax import kept_vectors, partition, runs, starting, state, tasks
from ralm_jax.checkpoint import Checkpoints
from ralm_jax.data.corpus import Corpus, open_corpus
from ralm_jax.errors import UserError
from ralm_jax.models.openqa import OpenQA
from ralm_jax.models.ralm import Ralm
from ralm_jax.progress import PROBE, Progress
from ralm_jax.stopping import stop_on_signal
from ralm_jax.supply import ClozeSupply, Params, RetrievalSupply, Supply
from ralm_jax.waits import DeviceWaits

# (model, params, stage, step) -> scalars to log: learning curves, measured as training runs
Probe = Callable[[Any, dict, str, int], dict[str, float]]


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


@dataclasses.dataclass(frozen=True)
class Run:
    """What all stages of a run share; see `pretrain`."""

    path: Path
    corpus: Corpus
    model: Ralm | OpenQA
    seed: int
    held_out: float
    log_every: int
    checkpoint_every: int
    probe: Probe | None
    probe_every: int
    begun: Path | None = None  # the run whose parameters are the first


class Stopped(Exception):
    """A signal ended the run; its checkpoint is written."""


def pretrain(
    *,
    run: str | Path,
    corpus: Corpus,
    stages: Sequence[Stage],
    model: Ralm | None = None,
    init: str | Path | None = None,
    seed: int = 0,
    held_out: float = 0.01,
    log_every: int = 20,
    checkpoint_every: int = 500,
    probe: Probe | None = None,
    probe_every: int = 500,
    scorer: bool = False,
) -> tuple[Ralm, dict]:
    """Runs the stages in order; called again on the same directory, it goes on where it stopped.

    Args:
      run: directory of the run (see `runs`).
      model: sizes; the vocabulary is taken from the corpus. Or instead
      init: a run, imported or trained, whose model and newest parameters this one starts from.
      held_out: share of the facts, where the corpus names them, else of the passages, that are never
        asked in training.
      log_every, checkpoint_every, probe_every: in steps.
      probe: measures the model as training runs; its scalars are logged.
      scorer: adds a cross-encoder to a model that has none; it begins as the reader's encoder.

    Returns:
      The model with its vocabulary, and the parameters after the last stage.

    Raises:
      UserError: a batch that does not divide over the devices, inputs longer than the positions of
        the model, a directory of another run, a corpus of other wordpieces than `init`, a loss that is
        not finite, a full disk.
      Stopped: SIGINT or SIGTERM came; a checkpoint is written.
    """
    model, params, started = starting.starting_point(model, init, corpus, seed, scorer)
    if not 0 <= held_out < 1:
        raise UserError(f"held_out is a share of the facts, from 0 to less than 1, not {held_out}")
    shared = Run(
        Path(run),
        corpus,
        model,
        seed,
        held_out,
        log_every,
        checkpoint_every,
        probe,
        probe_every,
        None if init is None else Path(init),
    )
    return model, train_chain(shared, stages, params, started)


def train_chain(run: Run, stages: Sequence[Stage], params: Params, started: dict | None) -> Params:
    """The stages in order, from `params` on; `started` notes the run that those come from."""
    for stage in stages:
        check(stage, run.model)
    runs.describe(
        run.path,
        run.model,
        run.corpus,
        stages=[stage.name for stage in stages],
        lengths=dataclasses.asdict(stages[-1].task.lengths),
        held_out=run.held_out,
        seed=run.seed,
        init=started,
    )
    with contextlib.closing(Progress(run.path, params)) as progress, stop_on_signal() as stop:
        for number, stage in enumerate(stages):
            params = train_stage(run, stage, number, params, progress, stop)
    return params


def check(stage: Stage, model: Ralm | OpenQA) -> None:
    """Raises UserError where a stage does not go with the devices or the model."""
    partition.check_batch(stage.batch)
    if getattr(stage.task, "needs_scorer", False) and not model.with_scorer:
        raise UserError(
            f"stage {stage.name}: its objective wants a scorer, which the model lacks: SCORER = True adds one"
        )
    asked, retriever = stage.task.lengths, model.retriever_config.positions
    for name, length, most in (
        ("query", asked.query, retriever),
        ("passage", asked.passage, retriever),
        ("joint", asked.joint, model.reader_config.positions),
    ):
        if length > most:
            raise UserError(
                f"stage {stage.name}: {name} length {length} exceeds {most} positions of the model: "
                "shorten the one or raise the other"
            )


def train_stage(
    run: Run, stage: Stage, number: int, params: Params, progress: Progress, stop
) -> Params:
    """Trains one stage from `params`, or from its own newest checkpoint; returns its parameters."""
    train_state = partition.replicate(state.create(run.model, params, stage.optimizer))
    with contextlib.ExitStack() as cleanup:
        checkpoints = Checkpoints(runs.checkpoint_folder(run.path, stage.name))
        cleanup.callback(checkpoints.close)
        begin = checkpoints.latest() or 0
        if begin >= stage.steps:  # finished before
            return partition.replicate(checkpoints.load(begin)["state"]["params"])
        supply = open_supply(run, stage, number, progress)
        cleanup.callback(supply.close)
        # Order of starting: the stage's own checkpoint, else the parameters handed over.
        if begin:
            tree = partition.replicate(checkpoints.restore(begin, _tree(train_state, supply)))
            train_state = train_state.replace(**tree["state"])
            supply.restore(tree["supply"], begin)
        progress.begin(stage, begin)
        if not begin:
            progress.published(0, supply.start(train_state.params))
            _probe(run, stage, train_state.params, 0, progress)
        loop = Loop(run, stage, supply, checkpoints, progress, stop)
        return loop_over(
            loop, train_state, begin, jax.random.fold_in(jax.random.key(run.seed), number)
        )


@dataclasses.dataclass(frozen=True)
class Loop:
    """What the steps of a stage share."""

    run: Run
    stage: Stage
    supply: Supply
    checkpoints: Checkpoints
    progress: Progress
    stop: Callable[[], bool]


def loop_over(loop: Loop, train_state: state.TrainState, begin: int, key: jax.Array) -> Params:
    """The steps of a stage from `begin` on: queue the step, then fetch the next batch meanwhile."""
    stage, supply, progress = loop.stage, loop.supply, loop.progress
    step = partition.parallelize(stage.task.step)
    previous = None
    with contextlib.closing(DeviceWaits()) as waits:
        batch = partition.shard(supply.batch(begin))
        for now in range(begin, stage.steps):
            with waits.activity("refresh"):
                progress.published(now + 1, supply.ahead(train_state.params, now + 1))
            train_state, metrics = step(train_state, batch, key)
            waits.queued(metrics["loss"][0])
            if previous is not None:  # done by now, so that reading it holds nothing up
                observe(loop, now, previous, waits)
            with waits.activity("retrieval"):
                supply.retrieve()
            with waits.activity("batch"):
                batch = partition.shard(supply.batch(now + 1))
            previous, done = metrics, now + 1
            stopped = told_to_stop(loop, done)
            last = stopped or done == stage.steps
            saving = last or done % loop.run.checkpoint_every == 0
            if saving:
                observe(loop, done, metrics, waits, last=last)  # what is saved has been logged
                previous = None
            # Before the checkpoint: a run that goes on from there does not measure that step again.
            if done % loop.run.probe_every == 0 or done == stage.steps:
                with waits.activity(PROBE):
                    _probe(loop.run, stage, train_state.params, done, progress)
            if saving:
                with waits.activity("checkpoint"):
                    loop.checkpoints.save(done, _tree(train_state, supply), wait=last)
                supply.checkpointed()
            if stopped and done < stage.steps:
                raise Stopped(f"stopped at step {done} of stage {stage.name}; it is saved")
    return train_state.params


def observe(loop: Loop, done: int, metrics, waits: DeviceWaits, *, last: bool = False) -> None:
    """Takes in the metrics of the step that made `done`; a line of the log when it is time."""
    loop.progress.step(done, metrics, loop.supply.staleness(done - 1))
    if last or done % loop.run.log_every == 0:
        loop.progress.log(done, waits.totals())


def told_to_stop(loop: Loop, done: int) -> bool:
    """Whether a signal has come, to whichever process: all must stop after the same step.

    Asking the others waits for the device, so several processes ask only as often as they log.
    """
    if jax.process_count() > 1 and done % loop.run.log_every:
        return False
    return partition.any_process(loop.stop())


def open_supply(run: Run, stage: Stage, number: int, progress: Progress) -> Supply:
    """The batches of a stage; says which sentences may be asked, and why the others may not."""
    asked = asked_corpus(run, stage)
    queries = stage.task.queries(asked, run.held_out)
    what = "questions" if isinstance(stage.task, tasks.OpenQuestions) else "sentences"
    progress.say(f"{stage.name}: {len(queries.rows):,} {what} to ask", queries.left_out)
    if caution := getattr(stage.task, "caution", ""):
        progress.say(f"{stage.name}: {caution}")
    seed = run.seed * 1000 + number  # every stage draws its own examples
    if isinstance(stage.task, tasks.InverseCloze):
        return ClozeSupply(stage.task, asked, queries.rows, seed, stage.batch)
    return RetrievalSupply(
        stage.task,
        run.corpus,
        run.model,
        queries.rows,
        seed=seed,
        batch=stage.batch,
        index_root=runs.index_folder(run.path, stage.name),
        asked=asked,
        known=list(kept_vectors.folders(run.path, run.begun)),
    )


def asked_corpus(run: Run, stage: Stage) -> Corpus:
    """Whose sentences a stage masks: X of REALM, section 4.2; retrieved is from the run's corpus, Z.

    Raises UserError: it is not there, has other wordpieces, or the stage wants the own passage in Z.
    """
    if stage.asked is None:
        return run.corpus
    if isinstance(stage.task, tasks.OpenQuestions) or getattr(stage.task, "own_passage", False):
        raise UserError(
            f"stage {stage.name}: what is asked must be of the corpus it reads; leave out `asked`"
        )
    opened = open_corpus(stage.asked)
    runs.check_vocabulary(run.path, opened)
    return opened


def _tree(train_state: state.TrainState, supply: Supply) -> dict:
    held = {name: getattr(train_state, name) for name in ("step", "params", "opt_state")}
    return partition.shared({"state": held, "supply": supply.saved(train_state.params)})


def _probe(run: Run, stage: Stage, params: Params, step: int, progress: Progress) -> None:
    if run.probe is not None:
        begun = time.perf_counter()
        scalars = run.probe(run.model, params, stage.name, step)
        progress.probed(step, scalars, time.perf_counter() - begun)
