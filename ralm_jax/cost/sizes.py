"""What a configuration is to be estimated for: its model, its corpus, and what a run of it took."""

from pathlib import Path
from typing import Any

import numpy as np

from ralm_jax.data.corpus import Corpus, open_corpus
from ralm_jax.errors import UserError
from ralm_jax.inference.open_run import OpenRun
from ralm_jax.models.ralm import Ralm
from ralm_jax.runs.writers import metrics_file, read_metrics
from ralm_jax.training.pretrain import passages_stay


def model(given: dict[str, Any], init: str | Path | None) -> Ralm:
    """The model that a configuration trains, with the parts it adds.

    Raises UserError where neither the configuration nor a run says which it is.
    """
    found = given.get("model")
    if found is None:
        if init is None:
            raise UserError(
                "the configuration names no model: give --init RUN, the run it starts from"
            )
        found = OpenRun.open(init).model
        if not isinstance(found, Ralm):
            raise UserError(f"{init} answers questions (OpenQA); pretraining starts from a Ralm")
    parts = {"copies": given.get("copies"), "with_scorer": given.get("scorer")}
    parts: dict[str, Any] = {name: True for name, wanted in parts.items() if wanted}
    if passages_stay(given["stages"]):
        parts["share_towers"] = False
    return found.clone(**parts)


def corpus(given: str | None, run: str | None) -> Corpus | None:
    """The corpus that is named, or that of a run; None where neither is."""
    if given is not None:
        return open_corpus(given)
    return None if run is None else OpenRun.open(run).corpus


def passages(count: int | None, found: Corpus | None) -> int:
    """How many there are. Raises UserError where nothing says so."""
    if count is not None:
        if count < 1:
            raise UserError(f"--passages {count}: a corpus has at least one")
        return count
    if found is None:
        raise UserError("say how large the corpus is: --passages N, or --corpus CORPUS")
    return found.size


def logged(run: Path) -> list[dict[str, Any]]:
    """The metrics of a run; none of one that was imported. Raises UserError where they are damaged."""
    return read_metrics(metrics_file(run)) if metrics_file(run).exists() else []


def add_measured(report: dict[str, Any], lines: list[dict[str, Any]]) -> None:
    """The median seconds of a step of each stage, of the metrics of its run."""
    for stage in report["stages"]:
        seconds = [x["step_seconds"] for x in lines if x["stage"] == stage["name"] and "loss" in x]
        # The first steps compile.
        if seconds:
            stage["seconds_a_step_measured"] = float(np.median(seconds[1:] or seconds))
