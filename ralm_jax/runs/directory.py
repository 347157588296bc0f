"""The run directory: what is in it, and how a model comes back from it.

config.gin        the configuration, resolved          model.json   sizes of the model
run.json          corpus, its fingerprint, release     metrics.jsonl, tensorboard/
vocab.txt, tokenizer_config.json: its wordpieces       checkpoints/STAGE/STEP, index/STAGE/step_STEP
(or tokenizer.json, as it was released)
vectors/CORPUS/step_STEP: of a corpus it was measured on, where no index of a stage has the same
"""

import dataclasses
import zlib
from pathlib import Path
from typing import Any

import jax.numpy as jnp

from ralm_jax.batches import Lengths
from ralm_jax.data.corpus import Corpus, fingerprint
from ralm_jax.data.tokenizer import VOCABULARY
from ralm_jax.data.tokenizer_json import FILES
from ralm_jax.data.tokenizer_settings import BERT, SETTINGS, TokenizerSettings, read_settings
from ralm_jax.data.tokenizing import is_kept, same, vocabulary_file, write_tokenizer
from ralm_jax.errors import UserError
from ralm_jax.models.config import EncoderConfig
from ralm_jax.models.openqa import OpenQA
from ralm_jax.models.ralm import Ralm
from ralm_jax.names import beneath
from ralm_jax.release import VERSION
from ralm_jax.runs.files import damaged, read_json, write_json

MODEL, RUN = "model.json", "run.json"
# In run.json: checksums of the tokenizer, and the release that began the run. Early releases wrote neither.
TOKENIZER, MADE_WITH = "tokenizer", "ralm_jax"
# Beside the state of the best: is the scorer's order the better one, and how much BM25 weighs in a search.
RERANK, LEXICAL_WEIGHT = "rerank", "lexical_weight"
CONFIGS = ("retriever_config", "reader_config", "scorer_config")
BEST = "best"  # not a stage that is trained: the parameters that did best where that is measured


def sized(model: Ralm, vocab_size: int) -> Ralm:
    """The model with the vocabulary of a corpus: configurations leave that size open."""
    resize = lambda c: dataclasses.replace(c, vocab_size=vocab_size)  # noqa: E731
    return model.clone(
        retriever_config=resize(model.retriever_config), reader_config=resize(model.reader_config)
    )


def describe(run: Path, model: Ralm | OpenQA, corpus: Corpus, **parts) -> None:
    """Writes what a run is made of, or checks that a run resumed is still made of the same.

    `parts` are further JSON values: stages, lengths, held_out, seed.

    Raises UserError as `check_same`.
    """
    check_same(run, model, corpus, **parts)
    run.mkdir(parents=True, exist_ok=True)
    for name, record in _records(model, corpus, parts).items():
        if not (run / name).exists():
            write_tokenizer(run, vocabulary_file(corpus.path), corpus.tokenizer_settings)
            whole = {**record, TOKENIZER: tokenizer_checksums(run)} if name == RUN else record
            write_json(run / name, whole)


def check_same(run: Path, model: Ralm | OpenQA, corpus: Corpus, **parts) -> None:
    """Raises UserError if the directory has a run with another corpus, model or other stages."""
    check_place(run, corpus)
    for name, record in _records(model, corpus, parts).items():
        if not (run / name).exists():
            continue
        saved = read_json(run / name)
        if name == MODEL:
            # A run of an earlier release lacks what has been added since, and had it as the default is.
            saved = _with_defaults(saved, type(model))
        # A corpus may be moved, and so may the run it began from; the corpus's fingerprint may not change.
        # A later release may go on with a run.
        for key in record.keys() - {"corpus", "corpus_version", "began_from", TOKENIZER, MADE_WITH}:
            if key == "fingerprint" and saved.get(key) != record[key]:
                _check_version(run, corpus, saved)
            if saved.get(key) != record[key]:
                raise UserError(
                    f"{run} has a run of another configuration: {key} is {saved.get(key)} there and "
                    f"{record[key]} here; resume it as it was or choose another --run"
                )


def check_place(run: Path, corpus: Corpus) -> None:
    """Raises UserError where there can be no run: at a file, and in the corpus."""
    if run.exists() and not run.is_dir():
        raise UserError(f"{run} is a file; choose another folder for the run")
    if run.resolve() == corpus.path.resolve():
        raise UserError(f"{run} is the corpus; choose another folder for the run")


def _check_version(run: Path, corpus: Corpus, saved: dict[str, Any]) -> None:
    """Raises UserError where the corpus is a later version of that a run is trained on."""
    if any(about["fingerprint"] == saved.get("fingerprint") for about, _ in corpus.ancestors()):
        raise UserError(
            f"{run} is trained on version {saved.get('corpus_version', 0)} of the corpus {corpus.path}, "
            f"which has version {corpus.version.number} now: train another run on it, with --init {run}"
        )


def _records(model: Ralm | OpenQA, corpus: Corpus, parts: dict[str, Any]) -> dict[str, dict]:
    """What describes a run, by file; run.json last, by which others know that there is a run."""
    own: dict[str, Any] = {"corpus": str(corpus.path.resolve()), "fingerprint": corpus.fingerprint}
    own |= {"corpus_version": corpus.version.number, MADE_WITH: VERSION}
    return {MODEL: _model_record(model), RUN: {**own, **parts}}


def save_model(run: Path, model: Ralm | OpenQA) -> None:
    """Writes RUN/model.json."""
    write_json(run / MODEL, _model_record(model))


def vocabulary(run: Path) -> tuple[Path, TokenizerSettings]:
    """The vocab.txt of a run, and the settings of its tokenizer; or its tokenizer.json, which has none.

    Raises UserError where they are not as they were written.
    """
    if (run / RUN).exists():
        # Runs of earlier releases have no checksums.
        there = tokenizer_checksums(run)
        for name, checksum in read_record(run).get(TOKENIZER, {}).items():
            if there.get(name) != checksum:
                raise damaged(run / name)
    file = vocabulary_file(run)
    return file, BERT if is_kept(file) else read_settings(run / SETTINGS)


def tokenizer_checksums(run: Path) -> dict[str, int]:
    """CRC-32 of each file of the tokenizer in a folder, for `run.json`."""
    there = [run / name for name in (VOCABULARY, *FILES) if (run / name).is_file()]
    return {file.name: zlib.crc32(file.read_bytes()) for file in there}


def check_vocabulary(run: Path, corpus: Corpus) -> None:
    """Raises UserError where a corpus was not tokenized as the run tokenizes."""
    _check_tokenized_alike(corpus, f"the run {run}", *vocabulary(run), run)


def check_same_vocabulary(corpus: Corpus, other: Corpus) -> None:
    """Raises UserError where two corpora were not tokenized alike."""
    file = vocabulary_file(corpus.path)
    _check_tokenized_alike(
        other, f"the corpus {corpus.path}", file, corpus.tokenizer_settings, file
    )


def _check_tokenized_alike(
    corpus: Corpus, than: str, file: Path, settings: TokenizerSettings, vocab: Path
) -> None:
    if not same(file, vocabulary_file(corpus.path)):
        raise UserError(
            f"the corpus {corpus.path} was tokenized with a different vocabulary than {than}: prepare it "
            f"with --vocab {vocab}"
        )
    if settings != corpus.tokenizer_settings:
        raise UserError(
            f"the corpus {corpus.path} was tokenized with other settings ({corpus.tokenizer_settings}) "
            f"than {than} ({settings}): prepare it with --vocab {vocab}"
        )


def own_corpus(run: Path) -> Path:
    """The corpus a run was trained on, wherever it lies now.

    Raises UserError: an imported run has none, or it is no longer where it was.
    """
    record = read_record(run)
    if record["corpus"] is None:
        raise UserError(f"the run {run} was imported and has no corpus of its own: give --corpus")
    recorded = Path(record["corpus"])
    # Runs and corpora are often copied together to another machine.
    places = [recorded, run.parent / recorded.name, run / recorded.name]
    for place in places:
        if fingerprint(place) == record["fingerprint"]:
            return place
    if recorded.is_dir():
        return recorded
    raise UserError(
        f"the corpus of {run} is not at {recorded} any more; if it was moved, say where with --corpus"
    )


def read_record(run: Path) -> dict[str, Any]:
    """What `describe` wrote: corpus (path), fingerprint, stages, lengths, held_out, seed."""
    if not (run / RUN).exists():
        raise UserError(f"there is no run at {run}; make one with: ralm pretrain --run {run} ...")
    record = read_json(run / RUN)
    try:
        Lengths(**record["lengths"])
        for stage in record["stages"]:
            beneath(run, stage, run)
        float(record["held_out"])
        Path(record["corpus"] or "")
    except (UserError, KeyError, TypeError, ValueError) as error:
        raise damaged(run / RUN, f"{type(error).__name__}: {error}") from None
    return record


def load_model(run: Path) -> Ralm | OpenQA:
    """The model of a run. Raises UserError where its record is missing or damaged."""
    record = read_json(run / MODEL)
    try:
        kind = {"Ralm": Ralm, "OpenQA": OpenQA}[record.pop("class", "Ralm")]
        for part in CONFIGS:
            if record.get(part):
                fields: dict[str, Any] = dict(record[part])
                fields["dtype"] = jnp.dtype(fields["dtype"]).type
                record[part] = EncoderConfig(**fields)
        # JSON has no tuples.
        return kind(**_with_tuples(record))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise damaged(run / MODEL, f"{type(error).__name__}: {error}") from None


def checkpoint_folder(run: Path, stage: str) -> Path:
    return run / "checkpoints" / stage


def index_folder(run: Path, stage: str) -> Path:
    """Of the versions that one process makes; of several, each has its own beside it (`hosts.slices`)."""
    return run / "index" / stage


def _with_defaults(record: dict[str, Any], kind: type[Ralm | OpenQA]) -> dict[str, Any]:
    defaults = {
        field.name: field.default
        for field in dataclasses.fields(kind)
        if field.default is not dataclasses.MISSING
    }
    whole = {**defaults, **record}
    for part in CONFIGS:
        if record.get(part):
            whole[part] = {**EncoderConfig().record(), **record[part]}
    return _with_tuples(whole)


def _with_tuples(record: dict[str, Any]) -> dict[str, Any]:
    return {name: tuple(x) if isinstance(x, list) else x for name, x in record.items()}


def _model_record(model: Ralm | OpenQA) -> dict[str, Any]:
    record: dict[str, Any] = {"class": type(model).__name__}
    record |= {
        field.name: getattr(model, field.name)
        for field in dataclasses.fields(model)
        if field.name not in ("parent", "name")
    }
    for part in CONFIGS:
        if record[part] is not None:
            record[part] = record[part].record()
    return record
