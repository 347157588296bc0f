"""`ralm import`: a model the world has released becomes a run, whole or not at all."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from ralm_jax import terminal
from ralm_jax.data.tokenizer_settings import TokenizerSettings
from ralm_jax.data.tokenizing import is_kept, open_tokenizer
from ralm_jax.errors import UserError
from ralm_jax.models.config import EncoderConfig
from ralm_jax.publishing import published
from ralm_jax.release import VERSION
from ralm_jax.retrieval import imported, index
from ralm_jax.retrieval.imported import PASSAGES
from ralm_jax.runs import directory
from ralm_jax.runs.checkpoint import Checkpoints
from ralm_jax.runs.files import write_json
from ralm_jax.terminal import watched
from ralm_jax.weights import (
    block_records,
    families,
    layout,
    model_folder,
    seal,
    sentence_modules,
    sentence_settings,
    sources,
    tokenizer_files,
)
from ralm_jax.weights.sentence_settings import Prompts
from ralm_jax.weights.tensors import write_tensors

STAGE = "import"
RECORDS = "block_records.npy"
# What nothing here reads of the source; an export gives it back.
UNUSED = "unused.safetensors"


def import_model(
    source: str,
    out: str | Path,
    say: Callable[[str], object] = terminal.say,
    prompts: tuple[str | None, str | None] = (None, None),
) -> dict[str, Any]:
    """Makes the run `out` of a model: directory, `package:NAME` or id of the hub.

    The released open-QA models bring passage vectors, kept as the run's index of step 0, and texts, kept
    as passages.jsonl, a line for each vector in the same order. A corpus of these passages is searched by
    these vectors, for the tower that made them does not come along.

    Args:
      prompts: put before every question and every passage, "" for nothing; by default what the source says,
        or what the card of a known model says whose files do not.
    Returns:
      What was imported: source, class, parameters, what was drawn since the source lacks it, and notes on
      whatever of the source is not used.

    Raises:
      UserError: there is no such source, a kind of model or tokenizer that cannot be read, a damaged file,
        or `out` exists. Nothing is left of `out` then.
    """
    out = Path(out)
    with published(out) as partial:
        folder = sources.find(source, say)
        seal.check(folder)
        read = families.read(folder)
        tokenizer = _tokenizer(folder, read.model.reader_config)
        most = model_folder.length_limit(
            model_folder.encoder_folder(folder), read.model.reader_config
        )
        tokenizer.write(partial, most)
        read = read._replace(params=layout.exchange(read.params, tokenizer.pad))
        found = _prompts(source, folder, prompts)
        read = _with_prompts(read, folder, directory.vocabulary(partial), found)
        _write(partial, read, source)
        passages = _save_passages(partial, folder, read)
    sizes = {part: _size(tree) for part, tree in read.params.items()}
    notes = [
        *read.notes,
        *tokenizer.notes,
        *_about_passages(out, passages, read),
    ]
    say(f"{out}: {', '.join(f'{part} {size:,} parameters' for part, size in sizes.items())}")
    for part in read.drawn:
        say(f"drawn at random, for {source} has none: {part}")
    for note in notes:
        say(note)
    return {
        "source": source,
        "model": type(read.model).__name__,
        "parameters": sizes,
        "vocabulary": len(tokenizer.pieces),
        "drawn": read.drawn,
        "notes": notes,
        **passages,
    }


def _tokenizer(folder: Path, c: EncoderConfig) -> tokenizer_files.Found:
    found = tokenizer_files.read(model_folder.encoder_folder(folder), c.vocab_size)
    if c.position_offset and found.pad != c.position_offset - 1:
        raise UserError(
            f"{folder}: the tokenizer has {found.pad} for padding, and positions of {c.family} begin behind "
            f"{c.position_offset - 1}; give the tokenizer.json that the model was trained with"
        )
    if not model_folder.modules(folder):
        return found
    if found.file is not None:
        sentence_settings.check_case(folder, found.file)
        return found
    return found._replace(settings=sentence_settings.with_lower_case(folder, found.settings))


def _prompts(source: str, folder: Path, given: tuple[str | None, str | None]) -> Prompts:
    """Those given, or else those that the files of a model name, or else those of its card."""
    found = sentence_settings.prompts(folder)
    if not found.texts:
        file = model_folder.encoder_folder(folder) / model_folder.CONFIG
        named = model_folder.read_object(file).get("_name_or_path") if file.is_file() else None
        known = (sentence_settings.of_card(name) for name in (source, str(named or "")))
        found = next((one for one in known if one is not None), found)
    if given == (None, None):
        return found
    texts = (found.texts.get(name or "", "") for name in (found.query, found.passage))
    pairs = zip(given, texts, strict=True)
    return sentence_settings.of_texts(*(text if ours is None else ours for ours, text in pairs))


def _with_prompts(
    read: families.Read,
    folder: Path,
    vocabulary: tuple[Path, TokenizerSettings],
    prompts: Prompts,
) -> families.Read:
    """The model with the prompts it was trained with, and texts shorter by as much."""
    if not prompts.texts:
        return read
    if not sentence_modules.pools_prompts(folder):
        names = ", ".join(prompts.texts)
        note = f"prompts {names} are not used, since the model leaves them out of its mean"
        return read._replace(notes=(*read.notes, note))
    tokenizer = open_tokenizer(*vocabulary).tokenizer

    def cut(text: str) -> tuple[int, ...]:
        return tuple(tokenizer.encode(text, add_special_tokens=False).ids)

    def pieces(name: str | None) -> tuple[int, ...]:
        text = prompts.texts[name] if name else ""
        # The blank at its end belongs to the text that follows, which has pieces of its own.
        return cut(text.rstrip() if is_kept(vocabulary[0]) else text)

    query, passage = pieces(prompts.query), pieces(prompts.passage)
    positions = read.model.retriever_config.positions
    longest = (positions, positions)
    if model_folder.modules(folder):
        longest = sentence_settings.text_lengths(folder, read.model.retriever_config)
    lengths = dataclasses.replace(
        read.lengths,
        query=min(read.lengths.query, longest[0] - len(query)),
        passage=min(read.lengths.passage, longest[1] - len(passage)),
    )
    model = read.model.clone(query_prompt=query, passage_prompt=passage)
    used = [(prompts.query, "questions"), (prompts.passage, "passages")]
    notes = [f"prompt {name} is put before {texts}" for name, texts in used if name]
    notes += [prompts.said] if prompts.said else []
    if any(cut(f"{prompts.texts[n]}a") != (*pieces(n), *cut("a")) for n, _ in used if n):
        notes.append("behind a prompt the first word of a text is cut as it is without one")
    if unused := ", ".join(prompts.texts.keys() - {prompts.query, prompts.passage}):
        notes.append(f"prompts {unused} are not used")
    return read._replace(model=model, lengths=lengths, notes=(*read.notes, *notes))


def _about_passages(out: Path, passages: dict[str, int], read: families.Read) -> list[str]:
    """How a model with passage vectors is to be searched."""
    if not passages:
        return []
    if not passages["passages"]:
        return ["passage vectors came without their texts and cannot be searched"]
    return [
        "the tower that made the passage vectors did not come along; make the corpus they are of with: "
        f"ralm prepare {out / PASSAGES} --vocab {out} --passage-tokens {read.lengths.joint} --out CORPUS"
    ]


def _write(run: Path, read: families.Read, source: str) -> None:
    record = {
        directory.MADE_WITH: VERSION,
        "corpus": None,
        "fingerprint": None,
        "source": source,
        "stages": [STAGE],
        "lengths": dataclasses.asdict(read.lengths),
        "held_out": 0.01,
        "seed": 0,
        "drawn": read.drawn,
        "class": read.kind,
    }
    record[directory.TOKENIZER] = directory.tokenizer_checksums(run)
    write_json(run / directory.RUN, record)
    directory.save_model(run, read.model)
    unused = {name: x for name, x in read.unused.items() if name != families.BLOCKS}
    if unused:
        write_tensors(unused, run / UNUSED)
    checkpoints = Checkpoints(directory.checkpoint_folder(run, STAGE))
    try:
        checkpoints.save(0, {"state": {"params": read.params}}, wait=True)
    finally:
        checkpoints.close()


def _save_passages(run: Path, folder: Path, read: families.Read) -> dict[str, Any]:
    """Vectors and texts of an open-QA model, where it has them."""
    vectors = read.unused.get(families.BLOCKS)
    if vectors is None:
        return {}
    if vectors.ndim != 2 or vectors.shape[1] != read.model.embedding:
        raise UserError(
            f"{folder}: the tensor {families.BLOCKS} has the shape {vectors.shape}; by its config it should "
            f"have (passages, {read.model.embedding})"
        )
    came_with = imported.encoder_hash(read.params["retriever"]["passage_tower"])
    root = directory.index_folder(run, STAGE)
    writer = index.create(root, 0, vectors.shape, imported.FINGERPRINT, came_with)
    writer.write(0, np.asarray(vectors, np.float32))
    writer.commit()
    texts = folder / RECORDS
    if not texts.is_file():
        return {"vectors": len(vectors), "passages": 0}
    count = 0
    with (run / PASSAGES).open("w", encoding="utf-8") as file:
        for text in watched(block_records.read(texts), "reading passages", len(vectors)):
            file.write(json.dumps({"id": str(count), "title": "", "text": text}) + "\n")
            count += 1
    if count != len(vectors):
        raise UserError(f"{texts} has {count:,} texts for {len(vectors):,} vectors")
    return {"vectors": len(vectors), "passages": count}


def _size(tree: Any) -> int:
    if isinstance(tree, dict):
        return sum(_size(branch) for branch in tree.values())
    return int(tree.size)
