"""State dicts under the names of transformers, written out; what tests of weights share."""

import json

import numpy as np
from safetensors.numpy import save_file

from ralm_jax.data.tokenizer import SPECIALS

SIZES = {
    "vocab_size": 40, "hidden_size": 8, "num_hidden_layers": 3, "num_attention_heads": 2,
    "intermediate_size": 12, "max_position_embeddings": 24, "hidden_act": "gelu",
    "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0, "layer_norm_eps": 1e-12,
    "type_vocab_size": 2, "initializer_range": 0.02,
}  # fmt: skip
LETTERS = "abcdefghijklmnopqrstuvwxyz"
PIECES = [*SPECIALS, "##a", "##e", *LETTERS, "the", "of", "in", "was", "born", "city", "year"]


def draw(rng, names):
    """{name: shape} -> float32 tensors; those of a LayerNorm are near 1."""
    return {
        name: (rng.normal(1 if "Norm" in name and "weight" in name else 0, 0.3, shape)).astype("f")
        for name, shape in names.items()
    }


def write_model(path, names, **config):
    """A folder with config, vocabulary and weights; names with shapes are drawn."""
    path.mkdir()
    tensors = names
    if not isinstance(next(iter(names.values())), np.ndarray):
        tensors = draw(np.random.default_rng(0), names)
    record = {**SIZES, "model_type": "bert", **config}
    (path / "config.json").write_text(json.dumps(record))
    (path / "vocab.txt").write_text("".join(f"{piece}\n" for piece in PIECES))
    (path / "tokenizer_config.json").write_text('{"do_lower_case": true}')
    save_file(tensors, path / "model.safetensors")
    return path


def trunk(prefix="", pooler=True, d=8, wide=12):
    """Names and shapes of BertModel, written out (transformers 4 and 5)."""
    e, layers = f"{prefix}embeddings.", f"{prefix}encoder.layer."
    names = {
        f"{e}word_embeddings.weight": (40, d),
        f"{e}position_embeddings.weight": (24, d),
        f"{e}token_type_embeddings.weight": (2, d),
        f"{e}LayerNorm.weight": (d,),
        f"{e}LayerNorm.bias": (d,),
    }
    for n in range(3):
        for name, out, into in (
            ("attention.self.query", d, d),
            ("attention.self.key", d, d),
            ("attention.self.value", d, d),
            ("attention.output.dense", d, d),
            ("intermediate.dense", wide, d),
            ("output.dense", d, wide),
        ):
            names |= {f"{layers}{n}.{name}.weight": (out, into), f"{layers}{n}.{name}.bias": (out,)}
        for name in ("attention.output.LayerNorm", "output.LayerNorm"):
            names |= {f"{layers}{n}.{name}.weight": (d,), f"{layers}{n}.{name}.bias": (d,)}
    if pooler:
        names |= {f"{prefix}pooler.dense.weight": (d, d), f"{prefix}pooler.dense.bias": (d,)}
    return names


def mlm(prefix="cls.predictions.", d=8):
    return {
        f"{prefix}transform.dense.weight": (d, d),
        f"{prefix}transform.dense.bias": (d,),
        f"{prefix}transform.LayerNorm.weight": (d,),
        f"{prefix}transform.LayerNorm.bias": (d,),
        f"{prefix}bias": (40,),
    }


def embedder(prefix=""):
    """RealmEmbedder, its unused masked-LM head included."""
    return {
        **trunk(f"{prefix}realm."),
        **mlm(f"{prefix}cls.predictions."),
        f"{prefix}cls.predictions.decoder.weight": (40, 8),
        f"{prefix}cls.dense.weight": (4, 8),
        f"{prefix}cls.dense.bias": (4,),
        f"{prefix}cls.LayerNorm.weight": (4,),
        f"{prefix}cls.LayerNorm.bias": (4,),
    }


def reader(prefix=""):
    """RealmReader."""
    q = f"{prefix}qa_outputs."
    return {
        **trunk(f"{prefix}realm."),
        **mlm(f"{prefix}cls.predictions."),
        f"{q}dense_intermediate.weight": (12, 8),
        f"{q}dense_intermediate.bias": (12,),
        f"{q}dense_output.weight": (1, 6),
        f"{q}dense_output.bias": (1,),
        f"{q}layer_normalization.weight": (6,),
        f"{q}layer_normalization.bias": (6,),
    }


REALM = {
    "model_type": "realm", "retriever_proj_size": 4, "span_hidden_size": 6, "max_span_width": 3,
    "reader_layer_norm_eps": 1e-3, "hidden_act": "gelu_new", "reader_seq_len": 20,
}  # fmt: skip
