"""`ralm pretrain`: stages in a row, from random parameters or from the model of another run."""

from collections.abc import Sequence
from pathlib import Path

from ralm_jax import settings
from ralm_jax.data.corpus import Corpus, open_corpus
from ralm_jax.models.ralm import Ralm
from ralm_jax.settings import ShareBelowOne
from ralm_jax.training import initialize
from ralm_jax.training.loop import Eval, Run, train_chain
from ralm_jax.training.schedule import Stage


def pretrain(
    *,
    run: str | Path,
    corpus: str | Path | Corpus,
    stages: Sequence[Stage],
    model: Ralm | None = None,
    init: str | Path | None = None,
    seed: int = 0,
    held_out: ShareBelowOne = 0.01,
    scorer: bool = False,
    evaluate: Eval | None = None,
    config: str | None = None,
) -> tuple[Ralm, dict]:
    """Runs the stages in order; called again on the same directory, it goes on where it stopped.

    Args:
      run: directory of the run (see `runs.directory`).
      corpus: to retrieve from, or its directory.
      model: sizes; the vocabulary is taken from the corpus. Or instead
      init: a run, imported or trained, whose model and newest parameters this one starts from.
      held_out: share of the facts, where the corpus names them, else of the passages, that are never
        asked in training.
      scorer: adds a cross-encoder to a model that has none; it begins as the reader's encoder.
      evaluate: measures the model as training runs, as often as the schedules say; its scalars are logged.
      config: the configuration this was called with, resolved; kept in the run and compared on resuming.

    Returns:
      The model with its vocabulary, and the parameters after the last stage.

    Raises:
      UserError: before anything is made: a batch that does not divide over the devices, inputs longer than
        the positions of the model, nothing to ask in the corpus, a corpus tokenized with a different
        vocabulary than `init`, a directory of another run or one that is being trained. Later: a loss that
        is not finite, a full disk.
      Stopped: SIGINT or SIGTERM came; a checkpoint is written.
    """
    settings.check("held_out", held_out, ShareBelowOne)
    corpus = corpus if isinstance(corpus, Corpus) else open_corpus(corpus)
    model, params, started = initialize.starting_point(model, init, corpus, seed, scorer)
    begun = None if init is None else Path(init)
    shared = Run(Path(run), corpus, model, seed, held_out, evaluate, begun, started, config)
    return model, train_chain(shared, stages, params)
