"""A row of a table, and the training that it needs."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ralm_jax.models.ralm import Ralm


class Training(NamedTuple):
    """A pretraining run. Rows share it: it is trained once, whatever needs it.

    Attributes:
      verb: of the command line: "pretrain", or "quickstart", which makes its own corpus; `corpus` is then
        one of the same size.
      start: the run whose parameters it begins with.
      changes: to the configuration, as `--set` takes them.
      questions: with gold passages, to learn from and to choose by.
      reader, reranker: the runs whose reader or scorer it begins with, where it is not that of `start`.
    """

    run: Path
    config: str
    corpus: Path
    start: Path | None = None
    changes: Sequence[str] = ()
    verb: str = "pretrain"
    questions: Path | None = None
    reader: Path | None = None
    reranker: Path | None = None


class Finetuning(NamedTuple):
    """A configuration of fine-tuning, and the changes to it."""

    config: str
    changes: Sequence[str] = ()


class Row(NamedTuple):
    """One result to be made.

    Attributes:
      name: of its file.
      label: for a person.
      model: that all its runs train.
      trainings: the runs it needs, in the order in which they are trained.
      finetuning: None where pretraining alone is measured.
      make: does whatever has not been done yet, and returns the figures: JSON values, among them "seed",
        and "seconds" of each run by its name.
    """

    name: str
    label: str
    model: Ralm
    trainings: Sequence[Training]
    finetuning: Finetuning | None
    make: Callable[[], dict[str, Any]]
