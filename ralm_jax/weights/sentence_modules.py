"""What stands behind the encoder of a sentence-transformers model: pooling, projection, norm.

Read are those stacks that a tower here can be, and written is the one that a tower is:
  Pooling, Normalize                              head "unit"
  Pooling                                         "plain", or "unit" where vectors are compared by cosine
  Pooling [, Dense with tanh], Dense, LayerNorm   head "layer_norm" [and pooling "cls"]
"""

import json
import math
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ralm_jax.errors import UserError
from ralm_jax.models.config import EncoderConfig
from ralm_jax.models.openqa import OpenQA
from ralm_jax.models.ralm import Ralm
from ralm_jax.weights import layout, sources
from ralm_jax.weights.layout import Slot
from ralm_jax.weights.tensors import Tensors, read_tensors, write_tensors

PATH = ("retriever", "passage_tower")
PREFIX = "sentence_transformers.models."
NORM_EPS = 1e-5  # of its LayerNorm, which has no setting for it
TANH, IDENTITY = "torch.nn.modules.activation.Tanh", "torch.nn.modules.linear.Identity"
SETTINGS = "config_sentence_transformers.json"
LEGACY_MODES = {"pooling_mode_mean_tokens": "mean", "pooling_mode_cls_token": "cls"}


class Found(NamedTuple):
    """The retriever's settings, and its tensors beyond the encoder under our own names for them."""

    embedding: int
    pooling: str
    head: str
    norm_eps: float
    length: int  # wordpieces a text
    slots: list[Slot]
    tensors: dict[str, np.ndarray]


def read(folder: Path, c: EncoderConfig) -> Found:
    """The modules of a sentence-transformers folder behind its encoder.

    Raises UserError that names the module which is not read.
    """
    file = folder / "modules.json"
    modules = [(m["type"].rsplit(".", 1)[-1], folder / m["path"]) for m in sources.read_json(file)]
    kinds = [kind for kind, _ in modules]
    settings = folder / "sentence_bert_config.json"
    held = sources.read_json(settings) if settings.is_file() else {}
    length = min(held.get("max_seq_length") or c.positions, c.positions)
    if kinds[:2] != ["Transformer", "Pooling"]:
        raise UserError(
            f"{file}: {' and '.join(kinds[:2])} come first; read is Transformer, Pooling"
        )
    pooling = _pooling(modules[1][1] / "config.json")
    if kinds[2:] in ([], ["Normalize"]):
        unit = bool(kinds[2:]) or _by_cosine(folder)
        return Found(c.hidden, pooling, "unit" if unit else "plain", 1e-12, length, [], {})
    dense = [(kind, at) for kind, at in modules[2:] if kind == "Dense"]
    if kinds[2:] not in (["Dense", "LayerNorm"], ["Dense", "Dense", "LayerNorm"]):
        raise UserError(f"{file}: {', '.join(kinds[2:])} behind the pooling cannot be read")
    wanted = [TANH, IDENTITY][-len(dense) :]
    for (_, at), activation in zip(dense, wanted, strict=True):
        if sources.read_json(at / "config.json").get("activation_function") != activation:
            raise UserError(f"{at / 'config.json'}: the activation must be {activation}")
    if len(dense) == 2 and pooling != "first":
        raise UserError(f"{file}: two Dense modules are read behind the pooling of [CLS] only")
    embedding = sources.read_json(dense[-1][1] / "config.json")["out_features"]
    names = ["pooler", "projection"][-len(dense) :]
    parts = [*zip(names, (at for _, at in dense), strict=True), ("norm", modules[-1][1])]
    tensors = {f"{n}.{k}": x for n, at in parts for k, x in read_tensors(at).items()}
    pooling = "cls" if len(dense) == 2 else pooling
    slots = _slots(c, pooling, embedding)
    return Found(embedding, pooling, "layer_norm", NORM_EPS, length, slots, tensors)


def _slots(c: EncoderConfig, pooling: str, embedding: int) -> list[Slot]:
    d = c.hidden
    slots = [*layout.linear("pooler.linear", (*PATH, "pooler"), d, d)] if pooling == "cls" else []
    slots += layout.linear("projection.linear", (*PATH, "projection"), embedding, d)
    return [*slots, *layout.norm("norm.norm", (*PATH, "norm"), embedding)]


def _pooling(file: Path) -> str:
    held = sources.read_json(file)
    modes = [mode for key, mode in LEGACY_MODES.items() if held.get(key)]
    others = [k for k, v in held.items() if k.startswith("pooling_mode_") and v is True]
    mode = held.get("pooling_mode", modes[0] if len(modes) == len(others) == 1 else others)
    if mode not in ("mean", "cls"):
        raise UserError(f"{file}: the pooling {mode} cannot be read; mean and cls can")
    return "first" if mode == "cls" else mode


def _by_cosine(folder: Path) -> bool:
    file = folder / SETTINGS
    said = sources.read_json(file).get("similarity_fn_name") if file.is_file() else None
    return said in (None, "cosine")


def write(folder: Path, model: Ralm | OpenQA, params: Any, length: int) -> None:
    """Writes the modules of `read` for one tower, found in `params` under the passage tower's name."""
    c = model.retriever_config
    names = ["Transformer", "Pooling"]
    mode = "mean" if model.pooling == "mean" else "cls"
    _json(folder / "1_Pooling" / "config.json", _pooling_record(c.hidden, mode))
    if model.head == "unit":
        names.append("Normalize")
        (folder / "2_Normalize").mkdir()
    if model.head == "layer_norm":
        # LN with eps (of x scaled by s) is LN with eps / s^2: s brings 1e-5 near ours. A power of two
        # changes no digit of the weights.
        scale = 2.0 ** round(math.log2(math.sqrt(NORM_EPS / model.norm_eps)))
        tensors = layout.give(_slots(c, model.pooling, model.embedding), params)
        for key in ("projection.linear.weight", "projection.linear.bias"):
            tensors[key] = tensors[key] * np.float32(scale)
        if model.pooling == "cls":
            _dense(folder / f"{len(names)}_Dense", tensors, "pooler", TANH)
            names.append("Dense")
        _dense(folder / f"{len(names)}_Dense", tensors, "projection", IDENTITY)
        norm = folder / f"{len(names) + 1}_LayerNorm"
        names += ["Dense", "LayerNorm"]
        _json(norm / "config.json", {"dimension": model.embedding})
        write_tensors(_under(tensors, "norm"), norm / "model.safetensors")
    paths = [f"{n}_{name}" if n else "" for n, name in enumerate(names)]
    modules = [
        {"idx": n, "name": str(n), "path": path, "type": PREFIX + name}
        for n, (name, path) in enumerate(zip(names, paths, strict=True))
    ]
    _json(folder / "modules.json", modules)
    _json(folder / "sentence_bert_config.json", {"max_seq_length": length, "do_lower_case": False})
    similarity = "cosine" if model.head == "unit" else "dot"
    _json(folder / SETTINGS, {"similarity_fn_name": similarity, "prompts": {}})


def _pooling_record(width: int, mode: str) -> dict[str, Any]:
    modes = {key: LEGACY_MODES[key] == mode for key in LEGACY_MODES}
    return {"word_embedding_dimension": width, **modes}


def _dense(folder: Path, tensors: Tensors, name: str, activation: str) -> None:
    own = _under(tensors, name)
    out, into = own["linear.weight"].shape
    config = {"in_features": into, "out_features": out, "bias": True}
    _json(folder / "config.json", {**config, "activation_function": activation})
    write_tensors(own, folder / "model.safetensors")


def _under(tensors: Tensors, name: str) -> dict[str, np.ndarray]:
    return {k.removeprefix(f"{name}."): x for k, x in tensors.items() if k.startswith(f"{name}.")}


def _json(file: Path, record: Any) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(record, indent=1) + "\n", "utf-8")
