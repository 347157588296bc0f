"""Where a run starts: from random parameters, or from the models of other runs."""

from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp

from ralm_jax.data.corpus import Corpus
from ralm_jax.errors import UserError
from ralm_jax.inference.open_run import OpenRun
from ralm_jax.models import initial
from ralm_jax.models.config import Compute
from ralm_jax.models.openqa import OpenQA
from ralm_jax.models.ralm import Ralm
from ralm_jax.runs import directory

M = TypeVar("M", Ralm, OpenQA)
# What of a model is its retriever's.
RETRIEVER = (
    "retriever_config",
    "embedding",
    "pooling",
    "share_towers",
    "score_scale",
    "head",
    "norm_eps",
    "query_prompt",
    "passage_prompt",
)


class Runs(NamedTuple):
    """The runs, imported or trained, whose models and newest parameters are started from.

    One for all of it, and others for parts of it. A retriever and a reader together do without the first;
    a reranker may join any start.
    """

    whole: str | Path | None = None
    retriever: str | Path | None = None
    reader: str | Path | None = None
    reranker: str | Path | None = None

    @property
    def begun(self) -> Path | None:
        """The one whose retriever is started from: it may have vectors, and is what ours is compared with."""
        path = self.retriever or self.whole
        return None if path is None else Path(path)


def starting_point(
    model: Ralm | None,
    runs: Runs,
    corpus: Corpus,
    seed: int,
    *,
    scorer: bool = False,
    copies: bool = False,
    query_tower: bool = False,
    compute: Compute | None = None,
) -> tuple[Ralm, dict, dict | None]:
    """Model and parameters to start from, with those parts added that are wanted; and a note of their runs.

    Raises UserError: too little or too much to start from, or a run of another kind or vocabulary.
    """
    found, params, note = _start(model, runs, corpus, seed)
    if runs.reader is not None:
        other = _opened(runs.reader, corpus, "--init-reader")
        found, params = _with_reader(found, params, other)
        note = {**(note or {}), "reader": other.note}
    if runs.reranker is not None:
        other = _opened(runs.reranker, corpus, "--init-reranker")
        found, params = _with_reranker(found, params, other)
        note = {**(note or {}), "reranker": other.note}
    if scorer:
        found, params = with_scorer(found, params, seed)
    if copies:
        found, params = with_pointer(found, params, seed)
    if query_tower:
        found, params = with_query_tower(found, params)
    if compute is not None:
        found = computing(found, compute, has_cudnn(compute))
    return found, params, note


def _start(
    model: Ralm | None, runs: Runs, corpus: Corpus, seed: int
) -> tuple[Ralm, dict, dict | None]:
    """The model before a reader or a reranker of other runs joins it."""
    if model is not None:
        if any((runs.whole, runs.retriever, runs.reader)):
            raise UserError(
                "the configuration has a model of its own and --init brings another: take one, such as "
                "--config runs/warm.gin with --init"
            )
        model = directory.sized(model, corpus.vocabulary.size)
        return model, initial.initial_params(model, jax.random.key(seed)), None
    first = runs.whole or (runs.reader and runs.retriever)
    if not first:
        raise UserError(
            "the configuration names no model: give --init RUN to start from one, or both "
            "--init-retriever and --init-reader"
        )
    found, params, note = _opened(first, corpus)
    if runs.whole is None or runs.retriever is None:
        return found, params, note
    other = _opened(runs.retriever, corpus)
    found = found.clone(**{name: getattr(other.model, name) for name in RETRIEVER})
    params = {**params, "retriever": other.params["retriever"]}
    return found, params, {**note, "retriever": other.note}


class Opened(NamedTuple):
    """The model of a run, its newest parameters, and a note of which they are."""

    model: Ralm
    params: dict
    note: dict


def _opened(path: str | Path, corpus: Corpus, option: str | None = None) -> Opened:
    """option: of the command line, where the run gives a part that the corpus was not prepared for."""
    opened = OpenRun.open(path)
    if not isinstance(opened.model, Ralm):
        raise UserError(f"{path} answers questions (OpenQA); pretraining starts from a Ralm")
    # A tokenizer that is damaged is no other tokenizer.
    directory.vocabulary(Path(path))
    try:
        directory.check_vocabulary(Path(path), corpus)
    except UserError as error:
        if option is None:
            raise
        raise UserError(
            f"{option} {path}: all parts of a model read the same wordpieces, and these are not those of "
            f"{corpus.path}: choose a run with the vocabulary of the corpus"
        ) from error
    return Opened(opened.model, opened.params, {"stage": opened.stage, "step": opened.step})


def _with_reader(model: Ralm, params: dict, other: Opened) -> tuple[Ralm, dict]:
    """The model with the reader of another; a scorer keeps its sizes."""
    sizes = (model.scorer_config or model.reader_config) if model.with_scorer else None
    theirs = {"reader_config": other.model.reader_config, "copies": other.model.copies}
    model = model.clone(scorer_config=sizes, **theirs)
    return model, {**params, "reader": other.params["reader"]}


def _with_reranker(model: Ralm, params: dict, other: Opened) -> tuple[Ralm, dict]:
    """The model with the scorer of another."""
    theirs = other.model
    if not theirs.with_scorer:
        raise UserError(
            "--init-reranker: that run has no scorer to start from; import a cross-encoder or train one"
        )
    sizes = theirs.scorer_config or theirs.reader_config
    model = model.clone(with_scorer=True, scorer_config=sizes, scorer_pooler=theirs.scorer_pooler)
    return model, {**params, "scorer": other.params["scorer"]}


def with_pointer(model: Ralm, params: dict, seed: int) -> tuple[Ralm, dict]:
    """Lets a reader copy that does not yet: its pointer begins as the identity."""
    if model.copies:
        return model, params
    model = model.clone(copies=True)
    pointer = initial.drawn_params(model, seed)["reader"]["pointer"]
    return model, {**params, "reader": {**params["reader"], "pointer": pointer}}


def has_cudnn(compute: Compute) -> bool:
    """Whether this machine's devices attend by cuDNN: NVIDIA's, from Ampere (8.0) on.

    Raises UserError where that is asked for and they do not.
    """
    device = jax.local_devices()[0]
    ours = device.device_kind.startswith("NVIDIA")
    ours = ours and float(getattr(device, "compute_capability", 0)) >= 8
    if compute.attention == "cudnn" and not ours:
        raise UserError(
            "Compute.attention is 'cudnn', which NVIDIA's GPUs have from A100 on, and this machine computes "
            f"on {device.device_kind}: set it to 'auto'"
        )
    return ours


def computing(model: Ralm, compute: Compute, cuda: bool) -> Ralm:
    """The model, computed otherwise; cuda: on NVIDIA's GPUs."""
    names = ("retriever_config", "reader_config", "scorer_config")
    given = {name: getattr(model, name) for name in names}
    changed: Any = {name: compute.of(config, cuda) for name, config in given.items() if config}
    return model.clone(**changed)


def with_query_tower(model: M, params: dict) -> tuple[M, dict]:
    """Gives queries a tower of their own, a copy, so that passage vectors may stay while it learns."""
    if not model.share_towers:
        return model, params
    towers = params["retriever"]
    copied = jax.tree.map(jnp.copy, towers["passage_tower"])
    retriever = {**towers, "query_tower": copied}
    return model.clone(share_towers=False), {**params, "retriever": retriever}


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
