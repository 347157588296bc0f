"""The run directory: what it holds, and how a model comes back from it.

config.gin        the configuration, resolved          model.json   sizes of the model
run.json          corpus and its fingerprint           metrics.jsonl, tensorboard/
vocab.txt, tokenizer_config.json: its wordpieces       checkpoints/STAGE/STEP, index/STAGE/step_STEP
vectors/CORPUS/step_STEP: of a corpus it was measured on, where no index of a stage has the same
"""

import dataclasses
import difflib
import json
import os
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from ralm_jax.checkpoint import Checkpoints
from ralm_jax.data.corpus import Corpus, open_corpus
from ralm_jax.data.tokenizer import VOCABULARY, pieces_of, read_vocabulary, write_vocabulary
from ralm_jax.data.tokenizer_settings import SETTINGS, TokenizerSettings, read_settings
from ralm_jax.errors import UserError
from ralm_jax.models.config import EncoderConfig
from ralm_jax.models.openqa import OpenQA
from ralm_jax.models.ralm import Ralm

MODEL, RUN, CONFIG = "model.json", "run.json", "config.gin"
RERANK = "rerank"  # beside the state of the best: is the scorer's order the better one?
BEST = "best"  # not a stage that is trained: the parameters that did best where that is measured


class Loaded(NamedTuple):
    """A model as a run left it; `params` is {"retriever": ..., "reader": ...} of float32 arrays."""

    model: Ralm | OpenQA
    params: dict
    stage: str
    step: int
    rerank: bool = False  # its scorer answered more of the development questions than its retriever


def sized(model: Ralm, vocab_size: int) -> Ralm:
    """The model with the vocabulary of a corpus: configurations leave that size open."""
    resize = lambda c: dataclasses.replace(c, vocab_size=vocab_size)  # noqa: E731
    return model.clone(
        retriever_config=resize(model.retriever_config), reader_config=resize(model.reader_config)
    )


def describe(run: Path, model: Ralm | OpenQA, corpus: Corpus, **parts) -> None:
    """Writes what a run is made of, or checks that a run resumed is still made of the same.

    `parts` are further JSON values: stages, lengths, held_out, seed.

    Raises UserError if the directory holds a run with another corpus, model or other stages.
    """
    run.mkdir(parents=True, exist_ok=True)
    record = {
        "corpus": str(corpus.path.resolve()),
        "fingerprint": corpus.fingerprint,
        **parts,
    }
    files = {RUN: record, MODEL: _model_record(model)}
    for name, wanted in files.items():
        held = _read(run / name) if (run / name).exists() else None
        if held is None:
            write_atomically(run / name, json.dumps(wanted, indent=1) + "\n")
            write_vocabulary(run, pieces_of(corpus.tokenizer()), corpus.tokenizer_settings)
            continue
        for key in wanted.keys() - {"corpus"}:  # a corpus may be moved; its fingerprint may not
            if held.get(key) != wanted[key]:
                raise UserError(
                    f"{run} holds a run of another configuration: {key} is {held.get(key)} there "
                    f"and {wanted[key]} here; resume it as it was or choose another --run"
                )


def keep_config(run: Path, resolved: str) -> None:
    """Writes RUN/config.gin, or checks that the run was made with the same.

    One that nothing was made with, since it was at fault, is replaced.

    Raises UserError where it was not, or the directory cannot be written.
    """
    file = run / CONFIG
    if run.exists() and not run.is_dir():
        raise UserError(f"{run} is a file; choose another --run")
    if file.exists() and any(other != file for other in run.iterdir()):
        held = file.read_text("utf-8")
        if held != resolved:
            lines = difflib.unified_diff(held.splitlines(), resolved.splitlines(), lineterm="", n=0)
            changed = [x for x in lines if x[:1] in "+-" and x[:3] not in ("+++", "---")][:2]
            raise UserError(
                f"{run} holds a run of another configuration ({' '.join(changed)}): resume it with its "
                "own, or choose another --run"
            )
        return
    try:
        run.mkdir(parents=True, exist_ok=True)
        write_atomically(file, resolved)
    except OSError as error:
        raise UserError(f"the run directory {run} cannot be written: {error.strerror}") from error


def keep_model(run: Path, model: Ralm | OpenQA) -> None:
    """Writes RUN/model.json."""
    write_atomically(run / MODEL, json.dumps(_model_record(model), indent=1) + "\n")


def vocabulary(run: Path) -> tuple[Path, TokenizerSettings]:
    """The vocab.txt of a run, and the settings of its tokenizer."""
    return run / VOCABULARY, read_settings(run / SETTINGS)


def check_vocabulary(run: Path, corpus: Corpus) -> None:
    """Raises UserError where a corpus was not tokenized as the run tokenizes."""
    file, settings = vocabulary(run)
    if read_vocabulary(file) != read_vocabulary(corpus.path / VOCABULARY):
        raise UserError(
            f"the corpus {corpus.path} was tokenized with a different vocabulary than the run {run}: "
            f"prepare it with --vocab {run}"
        )
    if settings != corpus.tokenizer_settings:
        raise UserError(
            f"the corpus {corpus.path} was tokenized with other settings ({corpus.tokenizer_settings}) "
            f"than the run {run} ({settings}): prepare it with --vocab {run}"
        )


def open_its_corpus(run: Path, corpus: str | Path | None) -> Corpus:
    """The corpus given, else the run's own. Raises UserError: neither is there, or other wordpieces."""
    own = read_record(run)["corpus"]
    if corpus is None and own is None:
        raise UserError(f"the run {run} was imported and has no corpus of its own: give --corpus")
    opened = open_corpus(corpus or own)
    check_vocabulary(run, opened)
    return opened


def read_record(run: Path) -> dict[str, Any]:
    """What `describe` wrote: corpus (path), fingerprint, stages, lengths, held_out, seed."""
    if not (run / RUN).exists():
        raise UserError(f"there is no run at {run}; make one with: ralm pretrain --run {run} ...")
    return _read(run / RUN)


def load(run: Path, stage: str | None = None) -> Loaded:
    """The best checkpoint of a run where it was selected, else the newest; or the newest of a stage.

    Raises UserError where there is no run, no such stage or no checkpoint yet.
    """
    stages = [*read_record(run)["stages"], BEST]
    if stage is not None and stage not in stages:
        raise UserError(f"{run} has no stage {stage!r}; it has {', '.join(stages[:-1])}")
    for name in [stage] if stage else reversed(stages):
        folder = checkpoint_folder(run, name)
        if not folder.is_dir():
            continue
        checkpoints = Checkpoints(folder)
        try:
            step = checkpoints.latest()
            if step is not None:
                tree = checkpoints.load(step)
                params = jax.tree.map(jnp.asarray, tree["state"]["params"])
                return Loaded(load_model(run), params, name, step, bool(tree.get(RERANK)))
        finally:
            checkpoints.close()
    raise UserError(f"{run} has no checkpoint yet; let ralm pretrain run on")


def load_model(run: Path) -> Ralm | OpenQA:
    record = _read(run / MODEL)
    kind = {"Ralm": Ralm, "OpenQA": OpenQA}[record.pop("class", "Ralm")]
    for part in ("retriever_config", "reader_config"):
        fields = dict(record[part])
        fields["dtype"] = jnp.dtype(fields["dtype"]).type
        record[part] = EncoderConfig(**fields)
    return kind(**record)


def checkpoint_folder(run: Path, stage: str) -> Path:
    return run / "checkpoints" / stage


def index_folder(run: Path, stage: str) -> Path:
    """Of this process: with several, each keeps its own copy of the vectors."""
    suffix = f"-{jax.process_index()}" if jax.process_count() > 1 else ""
    return run / "index" / (stage + suffix)


def write_atomically(path: Path, text: str) -> None:
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")  # processes may write alike
    partial.write_text(text, "utf-8")
    os.replace(partial, path)


def _model_record(model: Ralm | OpenQA) -> dict[str, Any]:
    record: dict[str, Any] = {"class": type(model).__name__}
    record |= {
        field.name: getattr(model, field.name)
        for field in dataclasses.fields(model)
        if field.name not in ("parent", "name")
    }
    for part in ("retriever_config", "reader_config"):
        fields = dataclasses.asdict(record[part])
        record[part] = {**fields, "dtype": jnp.dtype(fields["dtype"]).name}
    return record


def _read(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read ({error}); is it the folder of a run?") from error
