"""`ralm pretrain`: stages in a row, from random parameters or from the model of another run."""

from collections.abc import Sequence
from pathlib import Path

from ralm_jax.data.corpus import Corpus
from ralm_jax.errors import UserError
from ralm_jax.models.ralm import Ralm
from ralm_jax.training import initialize
from ralm_jax.training.loop import Probe, Run, train_chain
from ralm_jax.training.schedule import Stage


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
    model, params, started = initialize.starting_point(model, init, corpus, seed, scorer)
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
