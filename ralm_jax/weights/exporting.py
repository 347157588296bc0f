"""`ralm export`: what was trained here, in the layouts that other libraries load."""

import functools
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file

from ralm_jax import json_text
from ralm_jax.data.tokenizer import load_tokenizer, pieces_of
from ralm_jax.data.tokenizer_json import roles
from ralm_jax.data.tokenizer_settings import SETTINGS
from ralm_jax.data.tokenizing import is_kept, open_tokenizer, write_tokenizer
from ralm_jax.errors import UserError
from ralm_jax.inference.open_run import OpenRun
from ralm_jax.inference.vector_cache import folders
from ralm_jax.models.config import EncoderConfig
from ralm_jax.models.openqa import OpenQA
from ralm_jax.publishing import published
from ralm_jax.retrieval import imported, index
from ralm_jax.retrieval.imported import PASSAGES
from ralm_jax.runs import directory
from ralm_jax.sharing.card import About, write_card
from ralm_jax.terminal import watched
from ralm_jax.weights import families, layout, seal, sentence_modules
from ralm_jax.weights.architectures import known
from ralm_jax.weights.importing import RECORDS, UNUSED
from ralm_jax.weights.model_folder import read_object
from ralm_jax.weights.tensors import WHOLE, Tensors, write_tensors

ABOUT_NOTHING = About()
FORMATS = ("sentence-transformers", "transformers", "realm", "vectors")


def export_model(
    run: str | Path,
    to: str,
    out: str | Path,
    corpus: str | Path | None = None,
    *,
    about: About = ABOUT_NOTHING,
) -> list[Path]:
    """Writes the newest checkpoint of a run in another library's layout.

    Args:
      to: "sentence-transformers": the retriever (one folder each where towers differ; of an imported open-QA
        model the question tower alone, for it has no other).
        "transformers": the reader, a BertForMaskedLM, or a RealmReader (transformers 4) if it answers
        questions. "realm": all of it in the classes of transformers 4. "vectors": vectors.npy [N,E]
        float32, ids.npy [N], passages.jsonl, the same order in all.
      corpus: whose passages are embedded for "vectors", and for "realm" where the run answers questions;
        the run's own by default.
      about: what the card of "sentence-transformers" says beside what the run itself tells.

    Returns:
      The files written, sorted.

    Raises:
      UserError: no run, no corpus or one that was tokenized otherwise, `out` exists, or a model that the
        layout has no place for; a report of other parameters. Nothing is left of `out` then.
    """
    run, out = Path(run), Path(out)
    if to not in FORMATS:
        raise UserError(f"--to must be one of {', '.join(FORMATS)}, not {to!r}")
    write: Callable[..., None] = {
        "sentence-transformers": functools.partial(_sentence_transformers, about=about),
        "transformers": _transformers,
        "realm": _realm,
        "vectors": _vectors,
    }[to]
    if about != ABOUT_NOTHING and to != "sentence-transformers":
        raise UserError(f"--report and --license are for the card, which --to {to} has none of")
    with published(out) as partial:
        write(partial, OpenRun.open(run, corpus))
        seal.write(partial)
    return sorted(file for file in out.rglob("*") if file.is_file())


def _sentence_transformers(out: Path, opened: OpenRun, about: About) -> None:
    model, retriever = opened.model, _as_released(opened)["retriever"]
    prompts = [_text(opened.folder, ids) for ids in (model.query_prompt, model.passage_prompt)]
    query = opened.lengths.query + len(model.query_prompt)
    passage = opened.lengths.passage + len(model.passage_prompt)
    towers = {"": "passage_tower"}
    if not model.share_towers:
        towers = {"passage": "passage_tower", "query": "query_tower"}
    own = opened.params["retriever"]["passage_tower"]
    if imported.find(folders(opened.folder), own) is not None:
        towers = {"query": "passage_tower" if model.share_towers else "query_tower"}
    for folder, tower in towers.items():
        target = out / folder
        params = {"retriever": {"passage_tower": retriever[tower]}}
        c = model.retriever_config
        slots = families.tower(c, families.TOWER, "", pooler=False)
        _write(target, opened.folder, known.of(c).encoder, c, {}, layout.give(slots, params))
        sentence_modules.write(target, model, params, max(query, passage), (prompts[0], prompts[1]))
    write_card(out, opened, about, list(towers))


def _text(run: Path, ids: Sequence[int]) -> str:
    """A text that has these wordpieces, and a space at its end unless it is empty."""
    file, settings = directory.vocabulary(run)
    if is_kept(file):
        words = open_tokenizer(file).tokenizer.decode(list(ids), skip_special_tokens=False).strip()
    else:
        pieces = pieces_of(load_tokenizer(file, settings))
        words = " ".join(pieces[i] for i in ids).replace(" ##", "")
    return f"{words} " if words else ""


def _transformers(out: Path, opened: OpenRun) -> None:
    c, params = opened.model.reader_config, _as_released(opened)
    if isinstance(opened.model, OpenQA):
        _realm_reader(out, opened)
        return
    kind = known.of(c)
    slots = [*kind.trunk(c, kind.prefix, (*families.READER, "encoder"))]
    slots += kind.head(c, families.READER)
    _write(out, opened.folder, kind.masked, c, {}, layout.give(slots, params))


def _as_released(opened: OpenRun) -> dict:
    """The parameters with a row for each token in the order of the tokenizer's own file."""
    return layout.exchange(opened.params, _special_ids(opened.folder)["pad_token_id"])


def _special_ids(run: Path) -> dict[str, int]:
    """What config.json says of tokens: their ids in the tokenizer's own file."""
    file, _ = directory.vocabulary(run)
    if not is_kept(file):
        return {"pad_token_id": 0}
    ids = roles(file).ids
    named = {"pad": "pad", "bos": "cls", "eos": "sep"}
    return {f"{theirs}_token_id": ids[ours] for theirs, ours in named.items()}


def _realm(out: Path, opened: OpenRun) -> None:
    model, params = opened.model, opened.params
    is_bert = {model.retriever_config.family, model.reader_config.family} == {"bert"}
    if not is_bert or is_kept(directory.vocabulary(opened.folder)[0]):
        raise UserError(
            f"REALM's layout has BERT with its tokenizer, and {opened.folder} has another: export --to "
            "sentence-transformers or --to transformers"
        )
    if model.head != "layer_norm" or model.pooling != "cls":
        raise UserError(
            f"REALM's layout has CLS pooling and a projection with LayerNorm, and {opened.folder} has "
            f"{model.pooling} pooling and the head {model.head}: export --to sentence-transformers or "
            "--to transformers"
        )
    if isinstance(model, OpenQA):
        _open_qa(out, opened)
        return
    c, settings = model.retriever_config, {"retriever_proj_size": model.embedding}
    query = families.TOWER if model.share_towers else families.QUERY_TOWER
    passages, queries, reader = (
        layout.give(slots, params)
        for slots in (
            families.embedder(c, families.TOWER, "", model.embedding),
            families.embedder(c, query, "", model.embedding),
            families.encoder(model.reader_config),
        )
    )
    scorer = {f"embedder.{name}": x for name, x in passages.items()}
    scorer |= {f"query_embedder.{name}": x for name, x in queries.items()}
    for folder, kind, config, tensors in (
        ("embedder", "RealmEmbedder", c, passages),
        ("scorer", "RealmScorer", c, scorer),
        ("encoder", "RealmKnowledgeAugEncoder", model.reader_config, reader),
    ):
        _write(out / folder, opened.folder, kind, config, settings, tensors)


def _reader_settings(model: OpenQA) -> dict[str, Any]:
    return {
        "retriever_proj_size": model.embedding,
        "span_hidden_size": model.span_hidden,
        "max_span_width": model.span_width,
        "reader_layer_norm_eps": model.span_norm_eps,
    }


def _realm_reader(out: Path, opened: OpenRun) -> None:
    model = opened.model
    assert isinstance(model, OpenQA)
    slots = families.span_reader(model.reader_config, "", model.span_hidden)
    tensors = layout.give(slots, opened.params)
    _write(out, opened.folder, "RealmReader", model.reader_config, _reader_settings(model), tensors)


def _open_qa(out: Path, opened: OpenRun) -> None:
    model = opened.model
    assert isinstance(model, OpenQA)
    passages, vectors = _passages(opened)
    lengths = opened.lengths
    settings = _reader_settings(model) | {
        "num_block_records": len(vectors),
        "reader_seq_len": lengths.joint,
        "searcher_seq_len": lengths.query,
    }
    c = model.retriever_config
    # The embedder of this class embeds questions; passages are there as vectors.
    questions = families.TOWER if model.share_towers else families.QUERY_TOWER
    slots = [*families.embedder(c, questions, "embedder.", model.embedding)]
    slots += families.span_reader(model.reader_config, "reader.", model.span_hidden)
    tensors = {**layout.give(slots, opened.params), families.BLOCKS: vectors}
    _write(out, opened.folder, "RealmForOpenQA", model.reader_config, settings, tensors)
    # Strings of one width: numpy and transformers read them without unpickling anything.
    np.save(out / RECORDS, np.array([p["text"].encode() for p in passages]), allow_pickle=False)


def _vectors(out: Path, opened: OpenRun) -> None:
    passages, vectors = _passages(opened)
    np.save(out / "vectors.npy", vectors, allow_pickle=False)
    np.save(out / "ids.npy", np.array([p["id"] for p in passages]), allow_pickle=False)
    lines = (json.dumps(p, ensure_ascii=False) + "\n" for p in passages)
    (out / PASSAGES).write_text("".join(lines), "utf-8")


def _passages(opened: OpenRun) -> tuple[list[dict], np.ndarray]:
    """Passages (id, title, text, documents) and their vectors [N,E], in one order.

    Those that an import brought along, unless a corpus is given.
    """
    run = opened.folder
    if opened.source is None and directory.read_record(run)["corpus"] is None:
        folder = directory.index_folder(run, opened.stage)
        if not index.versions(folder) or not (run / PASSAGES).is_file():
            raise UserError(f"the run {run} was imported and has no passages: give --corpus")
        vectors = index.open_version(folder, 0, imported.FINGERPRINT).vectors
        with (run / PASSAGES).open(encoding="utf-8") as file:
            return [json_text.parse(line) for line in file], vectors
    vectors, rows = opened.vectors, range(opened.corpus.size)
    passages = [_record(opened.texts[row]) for row in watched(rows, "reading texts", len(rows))]
    return passages, vectors


def _record(passage: dict) -> dict[str, Any]:
    documents = [document.decode() for document in passage["documents"]]
    names = ("id", "title", "text")
    return {name: passage[name].decode() for name in names} | {"documents": documents}


def _write(
    out: Path, run: Path, kind: str, c: EncoderConfig, settings: dict[str, Any], tensors: Tensors
) -> None:
    """The folder of a model of transformers: config.json, weights, tokenizer.

    What an import had no use for is given back where the class is the one it came from.
    """
    out.mkdir(parents=True, exist_ok=True)
    config = {
        "architectures": [kind],
        "model_type": known.REALM if kind.startswith("Realm") else c.family,
        **known.of(c).record(c),
        **_special_ids(run),
        **settings,
    }
    (out / "config.json").write_text(json.dumps(config, indent=1) + "\n", "utf-8")
    if (run / UNUSED).is_file() and directory.read_record(run).get("class") == kind:
        tensors = {**load_file(run / UNUSED), **tensors}
    elif kind == known.of(c).encoder and known.of(c).pooler:
        # It has a pooler, which the pooling here does not use.
        pooler = {"weight": np.zeros((c.hidden, c.hidden), "f"), "bias": np.zeros(c.hidden, "f")}
        tensors = {f"pooler.dense.{name}": x for name, x in pooler.items()} | {**tensors}
    write_tensors(tensors, out / WHOLE)
    vocab, tokenizing = directory.vocabulary(run)
    # A tokenizer.json that is taken as it is may stand alone.
    said = read_object(run / SETTINGS) if (run / SETTINGS).is_file() else {}
    most = min(c.positions, said.get("model_max_length", 512))
    write_tokenizer(out, vocab, tokenizing, most)
