"""One table for both directions: which tensor of a state dict is which part of our parameters.

PyTorch keeps a matrix as [out, in] and a layer under its number; here kernels are [in, out], heads are an
axis, layers but the last are stacked, key and value are one kernel (see `models.encoder.transformer`). Both
directions only transpose and reshape, so that a tensor comes back bit for bit.
"""

import difflib
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from ralm_jax.data.tokenizer_json import exchanged
from ralm_jax.errors import UserError
from ralm_jax.models.config import EncoderConfig
from ralm_jax.weights.tensors import Tensors


class Slot(NamedTuple):
    """A tensor of a state dict and its place in our parameters."""

    # Name and shape there, where a matrix is [out, in].
    name: str
    shape: tuple[int, ...]
    # Of our leaf; `part` is an index into it: the layer, key or value.
    path: tuple[str, ...]
    part: tuple = ()
    transposed: bool = False


def linear(name: str, path, out: int, into: int, parts: tuple[tuple, tuple] = ((), ())):
    """Weight [out, in] and bias [out] of a dense layer; `parts` of kernel and bias."""
    kernel, bias = parts
    yield Slot(f"{name}.weight", (out, into), (*path, "kernel"), kernel, transposed=True)
    yield Slot(f"{name}.bias", (out,), (*path, "bias"), bias)


def norm(name: str, path, width: int, part: tuple = ()):
    yield Slot(f"{name}.weight", (width,), (*path, "scale"), part)
    yield Slot(f"{name}.bias", (width,), (*path, "bias"), part)


def trunk(c: EncoderConfig, name: str, path: tuple[str, ...]) -> Iterable[Slot]:
    """BERT's embeddings and layers: names under `name` ("bert.", or nothing), leaves under `path`."""
    d, places = c.hidden, c.positions + c.position_offset
    for kind, count in (
        ("word", c.vocab_size),
        ("position", places),
        ("token_type", c.token_types),
    ):
        ours = kind.removeprefix("token_") + "_embeddings"
        theirs = f"{name}embeddings.{kind}_embeddings.weight"
        yield Slot(theirs, (count, d), (*path, ours, "embedding"))
    yield from norm(f"{name}embeddings.LayerNorm", (*path, "embedding_norm"), d)
    for i, at, n in stacked(c, path):
        yield from layer(c, f"{name}encoder.layer.{i}", at, n)


def stacked(c: EncoderConfig, path: tuple[str, ...]) -> Iterator[tuple[int, tuple, tuple]]:
    """Each layer's number, the leaves that it is in, and its place in them: all but the last are stacked."""
    for i in range(c.layers):
        last = i == c.layers - 1
        yield i, (*path, "last_layer" if last else "layers"), () if last else (i,)


def layer(c: EncoderConfig, name: str, path, n: tuple) -> Iterable[Slot]:
    """One layer; `n` is its index in the stack, or empty."""
    d, wide = c.hidden, c.intermediate
    attention = f"{name}.attention"
    yield from linear(f"{attention}.self.query", (*path, "query"), d, d, (n, n))
    for which, what in enumerate(("key", "value")):
        # Of [D,2,H,D/H] and [2,H,D/H].
        parts = ((*n, slice(None), which), (*n, which))
        yield from linear(f"{attention}.self.{what}", (*path, "key_value"), d, d, parts)
    yield from linear(f"{attention}.output.dense", (*path, "attention_output"), d, d, (n, n))
    yield from norm(f"{attention}.output.LayerNorm", (*path, "attention_norm"), d, n)
    yield from linear(f"{name}.intermediate.dense", (*path, "intermediate"), wide, d, (n, n))
    yield from linear(f"{name}.output.dense", (*path, "output"), d, wide, (n, n))
    yield from norm(f"{name}.output.LayerNorm", (*path, "output_norm"), d, n)


def mlm_head(c: EncoderConfig, path: tuple[str, ...]) -> Iterable[Slot]:
    """The masked-LM head; its decoder is the word embeddings."""
    name = "cls.predictions"
    yield from linear(f"{name}.transform.dense", (*path, "head"), c.hidden, c.hidden)
    yield from norm(f"{name}.transform.LayerNorm", (*path, "head_norm"), c.hidden)
    yield Slot(f"{name}.bias", (c.vocab_size,), (*path, "head_bias"))


def take(slots: Iterable[Slot], tensors: Tensors, params: Any, source: object) -> set[str]:
    """Writes tensors into `params` (nested dicts of numpy arrays) in place; returns the names used.

    Raises UserError as `check` does.
    """
    slots = list(slots)
    check(slots, tensors, source)
    for slot in slots:
        array = tensors[slot.name]
        leaf = _leaf(params, slot.path)
        part = leaf[slot.part]
        leaf[slot.part] = (array.T if slot.transposed else array).reshape(part.shape)
    return {slot.name for slot in slots}


def check(slots: Sequence[Slot], tensors: Tensors, source: object) -> None:
    """Raises UserError that names the tensor: one that is missing, of another shape, or of whole numbers."""
    used = {slot.name for slot in slots}
    for slot in slots:
        if slot.name not in tensors:
            unused = [name for name in tensors if name not in used]
            close = difflib.get_close_matches(slot.name, unused, n=1, cutoff=0.8)
            hint = f"; there is a {close[0]}" if close else ""
            raise UserError(f"{source}: the tensor {slot.name} {slot.shape} is missing{hint}")
        array = tensors[slot.name]
        if array.shape != slot.shape:
            raise UserError(
                f"{source}: the tensor {slot.name} has the shape {array.shape}; by its config it "
                f"should have {slot.shape}"
            )
        if array.dtype.kind != "f":
            raise UserError(f"{source}: the tensor {slot.name} holds {array.dtype}, not weights")


def give(slots: Iterable[Slot], params: Any) -> dict[str, np.ndarray]:
    """The tensors of a state dict, float32, from our parameters: the inverse of `take`."""
    found = {}
    for slot in slots:
        part = np.asarray(_leaf(params, slot.path))[slot.part]
        shape = slot.shape[::-1] if slot.transposed else slot.shape
        array = part.reshape(shape)
        found[slot.name] = np.ascontiguousarray(array.T if slot.transposed else array)
    return found


def exchange(params: dict, pad: int) -> dict:
    """Parameters with the rows of token 0 and of `pad` exchanged wherever there is a row for each token.

    Models here take id 0 for padding (see `tokenizer_json`): so on the way in, and again on the way out.
    """

    def one(path, leaf):
        by_token = path[-1].key == "head_bias" or "word_embeddings" in {part.key for part in path}
        return exchanged(np.asarray(leaf), pad) if by_token else leaf

    return jax.tree_util.tree_map_with_path(one, params) if pad else params


def _leaf(params: Any, path: tuple[str, ...]) -> np.ndarray:
    for key in path:
        params = params[key]
    return params
