"""Readers of released models: tokenizers, configs, modules, tensors, and what lies beside them."""

import contextlib
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save
from tokenizers import (
    AddedToken,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    trainers,
)

from experiments.fuzzing.data_files import encoded
from experiments.fuzzing.outcome import Target
from ralm_jax.data import tokenizing
from ralm_jax.data.tokenizer import SPECIALS
from ralm_jax.data.tokenizer_settings import read_settings
from ralm_jax.errors import UserError
from ralm_jax.models.config import EncoderConfig
from ralm_jax.weights import block_records, families, seal, tensors, tokenizer_files
from ralm_jax.weights.architectures import known
from ralm_jax.weights.sentence_settings import check_case, prompts, with_lower_case
from ralm_jax.weights.sources import find

TEXTS = [
    "The river Elbe runs by the old mill.",
    "Über den Fluss. 東京は日本の首都です。",
    "def f(x): return x",
]
PIECES = [*SPECIALS, "the", "mill", "##s", ".", "ü", "東"]
SETTINGS = {
    "tokenizer_class": "BertTokenizer", "do_lower_case": True, "strip_accents": None,
    "tokenize_chinese_chars": True, "model_max_length": 512, "pad_token": "[PAD]", "unk_token": "[UNK]",
    "cls_token": "[CLS]", "sep_token": "[SEP]", "mask_token": {"content": "[MASK]"},
    "added_tokens_decoder": {"0": {"content": "[PAD]"}}, "auto_map": {},
}  # fmt: skip
SMALL = {
    "vocab_size": len(PIECES),
    "hidden": 4,
    "layers": 2,
    "heads": 2,
    "intermediate": 4,
    "positions": 8,
}
SENTENCES = "sentence_transformers.models."
MODULES = [
    {"idx": 0, "name": "0", "path": "", "type": f"{SENTENCES}Transformer"},
    {"idx": 1, "name": "1", "path": "1_Pooling", "type": f"{SENTENCES}Pooling"},
    {"idx": 2, "name": "2", "path": "2_Dense", "type": f"{SENTENCES}Dense"},
    {"idx": 3, "name": "3", "path": "3_LayerNorm", "type": f"{SENTENCES}LayerNorm"},
]
PROMPTS = {
    "similarity_fn_name": "dot",
    "prompts": {"query": "q: ", "passage": "p: "},
    "default_prompt_name": None,
}
ROWS = 320


def _wordpiece() -> str:
    made = Tokenizer(
        models.WordPiece({piece: i for i, piece in enumerate(PIECES)}, unk_token="[UNK]")
    )
    made.normalizer, made.pre_tokenizer = (
        normalizers.BertNormalizer(),
        pre_tokenizers.BertPreTokenizer(),
    )
    made.add_special_tokens(list(SPECIALS))
    return made.to_str()


def bytewise() -> str:
    made = Tokenizer(models.BPE())
    made.pre_tokenizer, made.decoder = (
        pre_tokenizers.ByteLevel(add_prefix_space=False),
        decoders.ByteLevel(),
    )
    letters = pre_tokenizers.ByteLevel.alphabet()
    kept = trainers.BpeTrainer(vocab_size=300, initial_alphabet=letters, show_progress=False)
    made.train_from_iterator(TEXTS, kept)
    made.add_special_tokens([AddedToken(token) for token in SPECIALS])
    return made.to_str()


def _unigram() -> str:
    made = Tokenizer(models.Unigram())
    made.pre_tokenizer = pre_tokenizers.Metaspace()
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    kept = trainers.UnigramTrainer(
        vocab_size=60, special_tokens=special, unk_token="<unk>", show_progress=False
    )
    made.train_from_iterator(TEXTS, kept)
    return made.to_str()


def _tokenizers() -> dict[str, bytes]:
    vocabulary = "".join(f"{piece}\n" for piece in PIECES)
    files: dict[str, Any] = {"vocab/vocab.txt": vocabulary, "vocab/tokenizer_config.json": SETTINGS}
    files |= {
        "vocab/added_tokens.json": {"<new>": len(PIECES)},
        "vocab/config.json": {"tokenizer_class": None},
    }
    for name, made in (("bert", _wordpiece()), ("bytes", bytewise()), ("unigram", _unigram())):
        files[f"{name}/tokenizer.json"] = made
    files["bytes/special_tokens_map.json"] = {
        "pad_token": "[PAD]",
        "cls_token": {"content": "[CLS]"},
    }
    files["bert/tokenizer_config.json"] = {**SETTINGS, "tokenizer_class": "BertTokenizerFast"}
    return encoded(files)


def _read_tokenizer(folder: Path, name: str) -> None:
    at = (folder / name).parent
    with contextlib.suppress(UserError):
        read_settings(at / "tokenizer_config.json")
    found = tokenizer_files.read(at, ROWS)
    assert found.file is not None or len(found.pieces) == ROWS
    opened = tokenizing.open_tokenizer(tokenizing.vocabulary_file(at))
    size = opened.vocabulary.size
    made = opened.encoder().encode(TEXTS)
    assert len(opened.texts) == size and (made.ids < size).all() and (made.ids >= 0).all()
    assert ((made.starts >= 0) & (made.stops <= len(made.joined))).all()


def state(family: str) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """config.json and tensors of a small encoder."""
    c = EncoderConfig(**SMALL, family=family, dropout=0.0, gelu_approximate=False)  # pyrefly: ignore
    kind = known.of(c)
    slots = kind.trunk(c, "", ("reader", "encoder"))
    config = {**kind.record(c), "model_type": family, "architectures": [kind.encoder]}
    return config, {slot.name: np.full(slot.shape, 0.5, np.float32) for slot in slots}


def _realm(config: dict[str, Any]) -> dict[str, Any]:
    """RealmForOpenQA."""
    c = EncoderConfig(**SMALL, gelu_approximate=False)
    slots = [
        *families.embedder(c, families.TOWER, "embedder.", 3),
        *families.span_reader(c, "reader.", 5),
    ]
    sizes = {**families.REALM_SIZES, "retriever_proj_size": 3, "span_hidden_size": 5}
    about = {
        "model_type": "realm",
        "architectures": ["RealmForOpenQA"],
        "reader_layer_norm_eps": 1e-3,
    }
    tensors = {slot.name: np.full(slot.shape, 0.5, np.float32) for slot in slots}
    return {"config.json": {**config, **sizes, **about}, "model.safetensors": save(tensors)}


def _models() -> dict[str, bytes]:
    files: dict[str, Any] = {}
    for each in known.KNOWN:
        config, found = state(each.family)
        files[f"{each.family}/config.json"] = config
        files[f"{each.family}/model.safetensors"] = save(found)
    config, found = state("bert")
    files |= {f"realm/{name}": content for name, content in _realm(config).items()}
    dense = {"linear.weight": np.ones((3, 4), np.float32), "linear.bias": np.ones(3, np.float32)}
    norm = {"norm.weight": np.ones(3, np.float32), "norm.bias": np.ones(3, np.float32)}
    shape = {"in_features": 4, "out_features": 3, "bias": True}
    sentences = {
        "config.json": config,
        "model.safetensors": save(found),
        "modules.json": MODULES,
        "1_Pooling/config.json": {"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": False},
        "2_Dense/config.json": {**shape, "activation_function": "torch.nn.modules.linear.Identity"},
        "2_Dense/model.safetensors": save(dense),
        "3_LayerNorm/config.json": {"dimension": 3},
        "3_LayerNorm/model.safetensors": save(norm),
        "config_sentence_transformers.json": PROMPTS,
        "sentence_bert_config.json": {"max_seq_length": 8, "do_lower_case": True},
        "tokenizer_config.json": SETTINGS,
        "tokenizer.json": bytewise(),
    }  # fmt: skip
    files |= {f"sentences/{name}": content for name, content in sentences.items()}
    return encoded(files)


def _read_model(folder: Path, name: str) -> None:
    place = find(str(folder / name.partition("/")[0]))
    families.read(place)
    if place.name == "sentences":
        prompts(place)
        with_lower_case(place, tokenizing.BERT)
        check_case(place, place / "tokenizer.json")


def npy(array: np.ndarray) -> bytes:
    made = io.BytesIO()
    np.save(made, array, allow_pickle=False)
    return made.getvalue()


def _pickled_texts() -> bytes:
    """An array of two byte strings as numpy pickles it, opcode by opcode, for nothing here pickles."""
    header = "{'descr': '|O', 'fortran_order': False, 'shape': (2,), }".ljust(117) + "\n"
    start = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header.encode()
    made = b"\x80\x03cnumpy.core.multiarray\n_reconstruct\nq\x00cnumpy\nndarray\nq\x01K\x00\x85q\x02C\x01b"
    made += (
        b"q\x03\x87q\x04Rq\x05(K\x01K\x02\x85q\x06cnumpy\ndtype\nq\x07X\x02\x00\x00\x00O8q\x08\x89"
    )
    made += b"\x88\x87q\tRq\n(K\x03X\x01\x00\x00\x00|q\x0bNNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK?tq\x0cb\x89"
    return start + made + b"]q\r(C\x03oneq\x0eC\x03twoq\x0fetq\x10b."


def _weights() -> dict[str, bytes]:
    _, found = state("bert")
    found = {name: array for name, array in found.items() if "layer.1" not in name}
    half = dict(list(found.items())[:3])
    index = {"metadata": {}, "weight_map": dict.fromkeys(half, "model-1.safetensors")}
    files = {"whole/model.safetensors": save(found), "torch/pytorch_model.bin": b"PK\x03\x04"}
    files |= {"shards/model.safetensors.index.json": json.dumps(index).encode(),
              "shards/model-1.safetensors": save(half)}  # fmt: skip
    sums = {"model.safetensors": 1, "crc32": 2}
    texts = {
        "plain.npy": npy(np.array([b"one", b"two"])),
        "wide.npy": npy(np.array(["one", "two"])),
    }
    sealed = {"sealed/ralm_checksums.json": sums, "sealed/model.safetensors": save(half)}
    return encoded({**files, **texts, **sealed, "pickled.npy": _pickled_texts()})


def _read_weights(folder: Path, name: str) -> None:
    if name.endswith(".npy"):
        for text in block_records.read(folder / name):
            text.encode()
    elif name.startswith("sealed"):
        seal.check(folder / "sealed")
    else:
        found = tensors.read_tensors((folder / name).parent)
        assert all(np.isfinite(x).all() for x in found.values() if x.dtype.kind == "f")


TARGETS = {
    "tokenizers": Target(_tokenizers, _read_tokenizer),
    "models": Target(_models, _read_model),
    "weights": Target(_weights, _read_weights),
}
