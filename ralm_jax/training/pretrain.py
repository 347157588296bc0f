"""`ralm pretrain`: stages in a row, from random parameters or from the model of another run."""

import contextlib
import dataclasses
from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np

from ralm_jax import settings
from ralm_jax.data.corpus import Corpus, open_corpus
from ralm_jax.errors import UserError
from ralm_jax.inference.open_run import OpenRun
from ralm_jax.models.config import Compute
from ralm_jax.models.ralm import Ralm
from ralm_jax.runs import directory
from ralm_jax.selection import labels, titles
from ralm_jax.selection.interpolation import Interpolation, Probe, keep
from ralm_jax.settings import Seed, ShareBelowOne
from ralm_jax.training import initialize
from ralm_jax.training.loop import Eval, Run, train_chain
from ralm_jax.training.passage_windows import PassageWindows
from ralm_jax.training.schedule import Stage

UNUSED = (
    "this configuration neither learns from questions nor chooses by them; runs/domain.gin does"
)


def pretrain(
    *,
    run: str | Path,
    corpus: str | Path | Corpus,
    stages: Sequence[Stage],
    model: Ralm | None = None,
    init: str | Path | None = None,
    init_retriever: str | Path | None = None,
    init_reader: str | Path | None = None,
    init_reranker: str | Path | None = None,
    seed: Seed = 0,
    held_out: ShareBelowOne = 0.01,
    scorer: bool = False,
    copies: bool = False,
    compute: Compute | None = None,
    evaluate: Eval | None = None,
    questions: str | Path | None = None,
    select: Interpolation | None = None,
    config: str | None = None,
    index_job: bool = False,
) -> tuple[Ralm, dict]:
    """Runs the stages in order; called again on the same directory, it goes on where it stopped.

    Args:
      run, corpus: directories of the run (see `runs.directory`) and of the passages, or these themselves.
      model: sizes; the vocabulary is taken from the corpus. Or instead
      init, init_retriever, init_reader, init_reranker: runs that it starts from; see `initialize.Runs`.
      held_out: share of the facts, where the corpus names them, else of the passages, never asked.
      scorer, copies, compute: see `initialize.with_scorer`, `with_pointer` and `computing`.
      evaluate: measures the model as training runs, as often as the schedules say; its scalars are logged.
      questions: with gold passages, to learn from and to choose by; see `selection.labels`.
      select: chooses, once training has ended, how much of the way from the start to keep as its best.
      config: the configuration this was called with, resolved; kept in the run and compared on resuming.
      index_job: `ralm index` embeds what an index is refreshed with, on devices of its own.
    Returns:
      The model with its vocabulary, and the parameters that were selected, or those after the last stage.
    Raises:
      UserError: before anything is made: a batch that does not divide over the devices, inputs too long for
        the model, nothing to ask, a corpus of another vocabulary than `init`, a directory of another run or
        one that is being trained. Later: a loss that is not finite, a full disk.
      Stopped: SIGINT or SIGTERM came; a checkpoint is written.
    """
    settings.check("held_out", held_out, ShareBelowOne)
    _check_used(questions, select)
    corpus = corpus if isinstance(corpus, Corpus) else open_corpus(corpus)
    directory.check_place(Path(run), corpus)
    runs = initialize.Runs(init, init_retriever, init_reader, init_reranker)
    tower = passages_stay(stages)
    parts = {"scorer": scorer, "copies": copies, "compute": compute, "query_tower": tower}
    model, params, started = initialize.starting_point(model, runs, corpus, seed, **parts)
    shared = Run(
        Path(run), corpus, model, seed, held_out, evaluate, runs.begun, started, config, index_job
    )
    if select is None:
        return model, train_chain(shared, stages, params)
    shared, stages, probes = _chosen_by(shared, stages, select, questions)
    # A copy: the first step takes the buffers of what it is given.
    start = jax.tree.map(np.array, params)
    train_chain(shared, stages, params)
    return model, _kept(shared, stages[-1], start, (probes, select.lexical_weight))


def _kept(shared: Run, last: Stage, start: dict, chosen: tuple[Sequence[Probe], float]) -> dict:
    """The parameters that probes choose between the start and those after the last stage."""
    ended = dataclasses.replace(OpenRun.open(shared.path, stage=last.name), source=shared.corpus)
    taught = getattr(last.task, "teaches", False)
    return keep(shared.path, ended, start, *chosen, taught=taught)


def _check_used(questions: str | Path | None, select: Interpolation | None) -> None:
    if select is None and questions is not None:
        raise UserError(f"--questions: {UNUSED}")


def passages_stay(stages: Sequence[Stage]) -> bool:
    """Whether queries learn alone in some stage, and so by a tower of their own."""
    return not all(getattr(stage.task, "train_passages", True) for stage in stages)


def _chosen_by(
    shared: Run, stages: Sequence[Stage], select: Interpolation, questions: str | Path | None
) -> tuple[Run, Sequence[Stage], list[Probe]]:
    """The run and its stages, and what chooses its weights: found before anything is made.

    Raises UserError where there is no passage to choose by, and no question.
    """
    lengths = stages[-1].task.lengths
    probes = []
    # A small corpus may have none to hold out, and questions alone choose.
    with contextlib.nullcontext() if questions is None else contextlib.suppress(UserError):
        probe = titles.probe(shared.corpus, lengths, select.pool)
        probes.append(probe or select.probe(shared.corpus, lengths, shared.held_out))
    if questions is None:
        return shared, stages, probes
    halves = labels.read(questions, shared.corpus)
    note = {**(shared.started or {}), "questions": halves.digest}
    stages = [_taught(stage, halves) for stage in stages]
    probes.append(labels.probe(halves.choosing, shared.corpus, lengths, select.pool))
    return dataclasses.replace(shared, started=note), stages, probes


def _taught(stage: Stage, halves: labels.Halves) -> Stage:
    """The stage with questions to learn from beside its own queries, where it can."""
    if not isinstance(stage.task, PassageWindows):
        return stage
    given = labels.labelled(halves.learnt, stage.schedule.steps * stage.schedule.batch)
    return dataclasses.replace(stage, task=dataclasses.replace(stage.task, labelled=given))
