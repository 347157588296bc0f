"""Where a run starts: from random parameters, or from the model of another run."""

from pathlib import Path
from typing import TypeVar

import jax
import jax.numpy as jnp

from ralm_jax.data.corpus import Corpus
from ralm_jax.errors import UserError
from ralm_jax.inference.open_run import OpenRun
from ralm_jax.models import initial
from ralm_jax.models.openqa import OpenQA
from ralm_jax.models.ralm import Ralm
from ralm_jax.runs import directory

M = TypeVar("M", Ralm, OpenQA)


def starting_point(
    model: Ralm | None,
    init: str | Path | None,
    corpus: Corpus,
    seed: int,
    *,
    scorer: bool = False,
    copies: bool = False,
) -> tuple[Ralm, dict, dict | None]:
    """Model and parameters to start from, with a scorer and a pointer if wanted; and a note of their run."""
    found, params, note = _start(model, init, corpus, seed)
    if scorer:
        found, params = with_scorer(found, params, seed)
    if copies:
        found, params = with_pointer(found, params, seed)
    return found, params, note


def _start(
    model: Ralm | None, init: str | Path | None, corpus: Corpus, seed: int
) -> tuple[Ralm, dict, dict | None]:
    if init is None:
        if model is None:
            raise UserError("the configuration names no model: give --init RUN to start from one")
        model = directory.sized(model, corpus.vocabulary.size)
        return model, initial.initial_params(model, jax.random.key(seed)), None
    if model is not None:
        raise UserError(
            f"the configuration has a model of its own and --init {init} brings another: take one, such "
            "as --config runs/warm.gin with --init"
        )
    opened = OpenRun.open(init)
    if not isinstance(opened.model, Ralm):
        raise UserError(f"{init} answers questions (OpenQA); pretraining starts from a Ralm")
    directory.check_vocabulary(Path(init), corpus)
    return opened.model, opened.params, {"stage": opened.stage, "step": opened.step}


def with_pointer(model: Ralm, params: dict, seed: int) -> tuple[Ralm, dict]:
    """Lets a reader copy that does not yet: its pointer begins as the identity."""
    if model.copies:
        return model, params
    model = model.clone(copies=True)
    pointer = initial.drawn_params(model, seed)["reader"]["pointer"]
    return model, {**params, "reader": {**params["reader"], "pointer": pointer}}


def with_scorer(model: M, params: dict, seed: int) -> tuple[M, dict]:
    """Adds a scorer where there is none: the reader's encoder, which already reads both, and a new score."""
    if model.with_scorer:
        return model, params
    model = model.clone(with_scorer=True)
    encoder = jax.tree.map(jnp.copy, params["reader"]["encoder"])
    return model, {
        **params,
        "scorer": {**initial.drawn_params(model, seed)["scorer"], "encoder": encoder},
    }
