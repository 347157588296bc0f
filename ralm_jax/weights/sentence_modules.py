"""What stands behind the encoder of a sentence-transformers model: pooling, projection, norm.

Read are those stacks that a tower here can be, and written is the one that a tower is:
  Pooling [, Dense with tanh behind [CLS]] [, Normalize]   head "unit", or "plain" where dot products compare
  Pooling [, Dense with tanh behind [CLS]], Dense, LayerNorm                               head "layer_norm"
The Dense with tanh is BERT's pooler: the pooling is "cls" with it, and "first" or "mean" without it.
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
from ralm_jax.weights import layout, sentence_settings
from ralm_jax.weights.layout import Slot
from ralm_jax.weights.model_folder import MODULES, is_count, modules, read_object
from ralm_jax.weights.sentence_settings import SETTINGS, similarity
from ralm_jax.weights.tensors import Tensors, read_tensors, write_tensors

PATH = ("retriever", "passage_tower")
PREFIX = "sentence_transformers.models."
# Its LayerNorm has no setting for it.
NORM_EPS = 1e-5
TANH, IDENTITY = "torch.nn.modules.activation.Tanh", "torch.nn.modules.linear.Identity"
LEGACY_MODES = {"pooling_mode_mean_tokens": "mean", "pooling_mode_cls_token": "cls"}


class Found(NamedTuple):
    """The retriever's settings, and its tensors beyond the encoder under our own names for them."""

    embedding: int
    pooling: str
    head: str
    norm_eps: float
    slots: list[Slot]
    tensors: dict[str, np.ndarray]
    notes: list[str]


def read(folder: Path, c: EncoderConfig) -> Found:
    """The modules of a sentence-transformers folder behind its encoder.

    Raises UserError that names the module which cannot be read.
    """
    # Dropout does nothing outside training.
    stack = [(kind, at) for kind, at in modules(folder) if kind != "Dropout"]
    kinds = [kind for kind, _ in stack]
    if kinds[:2] not in (["Transformer", "Pooling"], ["BERT", "Pooling"]):
        raise UserError(
            f"{folder / MODULES}: a model that begins with {' and '.join(kinds[:2])} cannot be read; "
            "one with Transformer and Pooling can"
        )
    pooling, behind = _pooling(stack[1][1] / "config.json"), stack[2:]
    normalized = bool(behind) and behind[-1][0] == "Normalize"
    parts = _parts(folder, behind[:-1] if normalized else behind, pooling, c)
    tensors = {f"{n}.{k}": x for n, at in parts.items() for k, x in _tensors(n, at).items()}
    pooling = "cls" if "pooler" in parts else pooling
    if "norm" not in parts:
        head = "unit" if _compares_by_cosine(folder, normalized) else "plain"
        return Found(c.hidden, pooling, head, 1e-12, _slots(c, pooling), tensors, [])
    if normalized:
        raise UserError(f"{folder / MODULES}: LayerNorm with Normalize behind it cannot be read")
    width = read_object(parts["projection"] / "config.json").get("out_features")
    if not is_count(width):
        raise UserError(f"{parts['projection'] / 'config.json'}: out_features must be a size")
    slots = _slots(c, pooling, width)
    notes = (
        [] if similarity(folder) == "dot" else [f"vectors of {folder} compare by dot product here"]
    )
    return Found(width, pooling, "layer_norm", NORM_EPS, slots, tensors, notes)


def _parts(folder: Path, behind: list, pooling: str, c: EncoderConfig) -> dict[str, Path]:
    """Folders of pooler, projection and norm: those that there are."""
    kinds = [kind for kind, _ in behind]
    names = {
        (): [],
        ("Dense",): ["pooler"],
        ("Dense", "LayerNorm"): ["projection", "norm"],
        ("Dense", "Dense", "LayerNorm"): ["pooler", "projection", "norm"],
    }.get(tuple(kinds))
    if names is None:
        raise UserError(
            f"{folder / MODULES}: {', '.join(kinds)} behind the pooling cannot be read; Normalize, and "
            "Dense with LayerNorm, can"
        )
    if names == ["pooler"] and pooling != "first":
        raise UserError(
            f"{folder / MODULES}: a Dense behind {pooling} pooling cannot be read without a LayerNorm "
            "behind it"
        )
    parts = dict(zip(names, (at for _, at in behind), strict=True))
    for name, activation in (("pooler", "Tanh"), ("projection", "Identity")):
        if name in parts:
            file = parts[name] / "config.json"
            options = read_object(file)
            if str(options.get("activation_function", TANH)).rsplit(".", 1)[-1] != activation:
                raise UserError(f"{file}: the activation of this Dense must be {activation}")
            square = options.get("in_features") == options.get("out_features") == c.hidden
            if name == "pooler" and not (square and pooling == "first"):
                raise UserError(
                    f"{file}: a Dense with tanh can be read behind the pooling of [CLS], from "
                    f"{c.hidden} to {c.hidden} features"
                )
    return parts


def _tensors(name: str, folder: Path) -> dict[str, np.ndarray]:
    """Those of a module; a Dense that was made without a bias has a bias of zeros."""
    tensors = read_tensors(folder)
    if name != "norm" and read_object(folder / "config.json").get("bias") is False:
        weight = tensors.get("linear.weight", np.zeros((0, 0), np.float32))
        tensors.setdefault("linear.bias", np.zeros(len(weight), np.float32))
    return tensors


def _slots(c: EncoderConfig, pooling: str, projection: int | None = None) -> list[Slot]:
    """Of pooler and head; `projection` is the width E of a head "layer_norm"."""
    d = c.hidden
    slots = [*layout.linear("pooler.linear", (*PATH, "pooler"), d, d)] if pooling == "cls" else []
    if projection is None:
        return slots
    slots += layout.linear("projection.linear", (*PATH, "projection"), projection, d)
    return [*slots, *layout.norm("norm.norm", (*PATH, "norm"), projection)]


def _pooling(file: Path) -> str:
    options = read_object(file)
    modes = [mode for key, mode in LEGACY_MODES.items() if options.get(key)]
    others = [k for k, v in options.items() if k.startswith("pooling_mode_") and v is True]
    mode = options.get("pooling_mode", modes[0] if len(modes) == len(others) == 1 else others)
    if mode not in ("mean", "cls"):
        raise UserError(f"{file}: the pooling {mode} cannot be read; mean and cls can")
    return "first" if mode == "cls" else mode


def _compares_by_cosine(folder: Path, normalized: bool) -> bool:
    """Of vectors of length 1, cosines, dot products and Euclidean distances give the same order."""
    compared = similarity(folder)
    same = ("cosine", "dot", "euclidean") if normalized else ("cosine",)
    if compared not in (*same, "dot"):
        raise UserError(
            f"{folder / SETTINGS}: the similarity {compared} cannot be read; cosine and dot can"
        )
    return compared in same


def pools_prompts(folder: Path) -> bool:
    """Whether the mean is taken over the prompt too."""
    pooling = [path for kind, path in modules(folder) if kind == "Pooling"]
    return all(read_object(path / "config.json").get("include_prompt", True) for path in pooling)


def write(
    folder: Path, model: Ralm | OpenQA, params: Any, length: int, prompts: tuple[str, str]
) -> None:
    """Writes the modules of `read` for one tower, found in `params` under the passage tower's name.

    prompts: of queries and of passages; empty where there is none.
    """
    c = model.retriever_config
    names = ["Transformer", "Pooling"]
    mode = "mean" if model.pooling == "mean" else "cls"
    _json(folder / "1_Pooling" / "config.json", _pooling_record(c.hidden, mode))
    width = model.embedding if model.head == "layer_norm" else None
    tensors = layout.give(_slots(c, model.pooling, width), params)
    if model.pooling == "cls":
        _dense(folder / f"{len(names)}_Dense", tensors, "pooler", TANH)
        names.append("Dense")
    if model.head == "unit":
        (folder / f"{len(names)}_Normalize").mkdir()
        names.append("Normalize")
    if model.head == "layer_norm":
        # LN with eps (of x scaled by s) is LN with eps / s^2: s brings 1e-5 near ours. A power of two
        # changes no digit of the weights.
        scale = 2.0 ** round(math.log2(math.sqrt(NORM_EPS / model.norm_eps)))
        for key in ("projection.linear.weight", "projection.linear.bias"):
            tensors[key] = tensors[key] * np.float32(scale)
        _dense(folder / f"{len(names)}_Dense", tensors, "projection", IDENTITY)
        norm = folder / f"{len(names) + 1}_LayerNorm"
        names += ["Dense", "LayerNorm"]
        _json(norm / "config.json", {"dimension": model.embedding})
        write_tensors(_under(tensors, "norm"), norm / "model.safetensors")
    paths = [f"{n}_{name}" if n else "" for n, name in enumerate(names)]
    listed = [
        {"idx": n, "name": str(n), "path": path, "type": PREFIX + name}
        for n, (name, path) in enumerate(zip(names, paths, strict=True))
    ]
    _json(folder / MODULES, listed)
    _json(folder / "sentence_bert_config.json", {"max_seq_length": length, "do_lower_case": False})
    compared = "cosine" if model.head == "unit" else "dot"
    sentence_settings.write(folder, compared, *prompts)


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
