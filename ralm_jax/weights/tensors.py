"""Tensors in the files people have: safetensors, and PyTorch's own where PyTorch is there to read them.

Nothing here runs what a file says: safetensors hold numbers only, and PyTorch reads with
`weights_only`. Whatever is wrong with a file is one line that names the tensor.
"""

import errno
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from ralm_jax import json_text
from ralm_jax.errors import UserError
from ralm_jax.formats.lines import begins_with
from ralm_jax.names import beneath
from ralm_jax.terminal import watched

WHOLE, SHARDS = "model.safetensors", "model.safetensors.index.json"
TORCH, TORCH_SHARDS = "pytorch_model.bin", "pytorch_model.bin.index.json"
# TensorFlow's names for what LayerNorm learns, which old files keep.
OLD_ENDINGS = {".gamma": ".weight", ".beta": ".bias"}

Tensors = Mapping[str, np.ndarray]


def read_tensors(folder: Path) -> dict[str, np.ndarray]:
    """Every tensor of a model's folder by name; floating ones as float32.

    Raises UserError: no file, one that is cut off, a shard or a tensor of it missing, a value not finite.
    """
    found: dict[str, np.ndarray] = {}
    for file, names in _files(folder):
        if file.is_file():
            # A pointer of Git LFS is said to be one.
            begins_with(file)
        tensors = dict(_safetensors(file) if file.suffix == ".safetensors" else _torch(file))
        for name in names or ():
            if name not in tensors:
                raise UserError(f"{file} has no tensor {name}, which its index lists")
        for name, array in watched(tensors.items(), "checking", len(tensors), " tensors"):
            found[_modern(name)] = _sound(array, name, file)
    return found


def _files(folder: Path) -> list[tuple[Path, list[str] | None]]:
    """Files to read, and the tensors that an index promises of each."""
    for whole, index in ((WHOLE, SHARDS), (TORCH, TORCH_SHARDS)):
        if (folder / whole).is_file():
            return [(folder / whole, None)]
        if (folder / index).is_file():
            try:
                places = json_text.parse((folder / index).read_text("utf-8"))["weight_map"]
                named: dict[str, list[str]] = {}
                for name, shard in places.items():
                    named.setdefault(shard, []).append(name)
                return [(beneath(folder, s, folder / index), named[s]) for s in sorted(named)]
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                raise UserError(f"{folder / index} cannot be read: {error!r}") from None
    raise UserError(f"{folder} contains no weights: neither {WHOLE} nor {TORCH}")


def _safetensors(file: Path) -> Iterator[tuple[str, np.ndarray]]:
    try:
        with safe_open(file, framework="np") as tensors:
            for name in watched(list(tensors.keys()), "reading", len(tensors.keys()), " tensors"):
                yield name, tensors.get_tensor(name)
    except OSError as error:
        raise UserError(f"{file} cannot be read: {error.strerror or error}") from None
    except SafetensorError as error:
        raise UserError(f"{file} is damaged: {_cut_off(file) or error}; fetch it again") from None


def _cut_off(file: Path) -> str | None:
    """Which tensor a file ends in, where it is shorter than its header says."""
    try:
        data = file.read_bytes()
        size = int.from_bytes(data[:8], "little")
        header = json_text.parse(data[8 : 8 + size])
        ends = sorted(
            (at["data_offsets"][1], name) for name, at in header.items() if name != "__metadata__"
        )
        last = next(name for end, name in ends if 8 + size + end > len(data))
        return f"it is cut off in {last}, at {len(data):,} of {8 + size + ends[-1][0]:,} bytes"
    except (OSError, ValueError, LookupError, TypeError, AttributeError, StopIteration):
        return None


def _torch(file: Path) -> Iterator[tuple[str, np.ndarray]]:
    try:
        import torch
    except ImportError:
        raise UserError(
            f"{file} is PyTorch's, and reading it needs torch: pip install 'ralm_jax[torch]'"
        ) from None
    try:
        tensors = torch.load(file, map_location="cpu", weights_only=True)
        for name, tensor in tensors.items():
            yield name, (tensor.float() if tensor.is_floating_point() else tensor).numpy()
    except Exception as error:
        # torch raises whatever its reader meets; nothing of the file is run.
        said = " ".join(str(error).split())[:200]
        raise UserError(f"{file} cannot be read as weights alone: {said}") from None


def _modern(name: str) -> str:
    for old, new in OLD_ENDINGS.items():
        if name.endswith(old):
            return name.removesuffix(old) + new
    return name


def _sound(array: np.ndarray, name: str, file: Path) -> np.ndarray:
    if array.dtype.kind in "iub":
        return array
    array = array.astype(np.float32, copy=False)
    if not np.isfinite(array).all():
        raise UserError(f"{file} is damaged: {name} has values that are not finite")
    return array


def write_tensors(tensors: Tensors, file: Path) -> None:
    """Writes float32 tensors as safetensors that transformers and sentence-transformers load.

    Raises OSError where they cannot be written.
    """
    whole = {name: np.ascontiguousarray(array) for name, array in tensors.items()}
    try:
        save_file(whole, file, metadata={"format": "pt"})
    except SafetensorError as error:
        # The library has an error of its own for a full disk.
        raise OSError(errno.EIO, " ".join(str(error).split()), str(file)) from error
