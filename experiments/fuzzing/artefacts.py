"""Readers of what ralm_jax writes, of configurations, of messages between processes, and of requests."""

import functools
import hashlib
import json
import multiprocessing
import os
import struct
import tempfile
import zlib
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from experiments.fuzzing.data_files import ALMANAC, encoded, jsonl
from experiments.fuzzing.outcome import Target
from experiments.fuzzing.released import PIECES, SETTINGS, SMALL, npy
from ralm_jax import gin_config, messages
from ralm_jax.arguments.shared import configs
from ralm_jax.batches import Lengths
from ralm_jax.data.corpus import open_corpus
from ralm_jax.data.prepare import prepare
from ralm_jax.errors import UserError
from ralm_jax.living import merging
from ralm_jax.models.config import EncoderConfig
from ralm_jax.models.ralm import Ralm
from ralm_jax.retrieval import imported, index
from ralm_jax.runs import config_record, directory, writers
from ralm_jax.serving import bodies, requests

STEP, MANIFEST = 3, "manifest.json"
VERSION = f"run/index/import/step_{STEP:08}"
LENGTHS = Lengths(query=20, passage=56, joint=64, masked=4)


@functools.cache
def _prepared() -> dict[str, bytes]:
    """The files of a small corpus, its manifest without the checksum that a stranger would make anew."""
    with tempfile.TemporaryDirectory() as folder:
        source, out = Path(folder, "almanac.jsonl"), Path(folder, "corpus")
        source.write_text(jsonl(ALMANAC.documents), "utf-8")
        prepare(str(source), out, vocab_size=300, say=str)
        files = {str(file.relative_to(out)): file for file in out.rglob("*") if file.is_file()}
        found = {name: file.read_bytes() for name, file in files.items()}
    manifest = json.loads(found[MANIFEST])
    del manifest["crc32"]
    return found | {MANIFEST: json.dumps(manifest).encode()}


def _read_corpus(folder: Path, name: str) -> None:
    """As of a stranger: with the digest and the size of the file that is another."""
    file, sound = folder / MANIFEST, (folder / MANIFEST).read_bytes()
    if name != MANIFEST:
        manifest, data = json.loads(sound), (folder / name).read_bytes()
        manifest["files"][name] = hashlib.sha256(data).hexdigest()
        manifest["sizes"][name] = len(data)
        file.write_text(json.dumps(manifest))
    try:
        found = open_corpus(folder)
        list(found.texts()), list(merging.documents(found)), found.tokenizer()
    finally:
        file.write_bytes(sound)


def _runs() -> dict[str, bytes]:
    model = Ralm(EncoderConfig(**SMALL), EncoderConfig(**SMALL), embedding=4)
    record: dict[str, Any] = {
        "class": "Ralm",
        "embedding": 4,
        "pooling": "cls",
        "head": "layer_norm",
    }
    record |= {"retriever_config": model.retriever_config.record(), "scorer_config": None}
    record |= {
        "reader_config": model.reader_config.record(),
        "share_towers": True,
        "score_scale": 1.0,
    }
    about = {"corpus": None, "fingerprint": "f", "stages": ["ict"], "lengths": vars(LENGTHS)}
    about |= {"held_out": 0.1, "seed": 0, "ralm_jax": "0", "corpus_version": 0}
    metrics = [
        {"stage": "ict", "step": n, "loss": 1 / (n + 1), "probe/recall": None} for n in range(3)
    ]
    version = {
        "format": 1,
        "step": STEP,
        "N": 2,
        "E": 4,
        "crc32": 0,
        "fingerprint": imported.FINGERPRINT,
    }
    passages = [{"title": "T", "text": f"Kiln {n}."} for n in range(2)]
    files = {"run/run.json": about, "run/model.json": record, "run/metrics.jsonl": jsonl(metrics)}
    files |= {"run/config.gin": f"{config_record.HEADER}\nrealm/Realm.a = @x.Y()\nB = \\\n  3\n"}
    files |= {
        f"{VERSION}/{MANIFEST}": version,
        f"{VERSION}/vectors.npy": npy(np.ones((2, 4), np.float32)),
    }
    files |= {"run/vocab.txt": "\n".join(PIECES), "run/tokenizer_config.json": SETTINGS}
    return encoded({**files, "run/passages.jsonl": jsonl(passages)})


def _read_run(folder: Path, name: str) -> None:
    run, file = folder / "run", folder / name
    root = (folder / VERSION).parent
    if file.name in ("run.json", "vocab.txt", "tokenizer_config.json"):
        directory.read_record(run), directory.vocabulary(run)
    elif file.name == "model.json":
        repr(directory.load_model(run))
    elif file.name == "metrics.jsonl":
        writers.read_metrics(file)
    elif file.name == "config.gin":
        config_record.check_config(run, f"{config_record.HEADER}\nB = 3\n")
    elif file.name == MANIFEST:
        imported.find([root], {"a": np.ones(2)})
        index.open_version(root, STEP, imported.FINGERPRINT)
    else:
        version = index.open_version(root, STEP, imported.FINGERPRINT, verify=False)
        found = imported.Imported("x", run, version)
        imported.in_order(found, np.zeros(2, "S32"))


def _gins() -> dict[str, bytes]:
    whole = (configs() / "runs/pretrain.gin").read_text("utf-8")
    given = "include 'runs/small.gin'\n\nHIDDEN = 64\nBETA2 = 0.9\nCANDIDATES = %HEADS\n"
    return encoded(
        {"own.gin": given, "whole.gin": whole, "changes": "HIDDEN = 64\nPOOLING = 'mean'\n"}
    )


def _read_gin(folder: Path, name: str) -> None:
    file, changes = folder / "own.gin", []
    if name == "changes":
        changes = (folder / name).read_text("utf-8", "replace").splitlines()
    elif name == "whole.gin":
        file = folder / name
    gin_config.configure("pretrain.pretrain", str(file), changes)


def _messages() -> dict[str, bytes]:
    array = np.ones((2, 3), np.float32).tobytes()
    header = {"do": "search", "k": 3, "arrays": [["<f4", [2, 3], zlib.crc32(array)]]}
    text = json.dumps(header).encode()
    sealed = struct.pack("<I", zlib.crc32(text)) + text
    raw = struct.pack("!i", len(sealed)) + sealed + struct.pack("!i", len(array)) + array
    files: dict[str, Any] = {"header": header, "array": array, "raw": raw}
    asked = {"model": None, "limit": 3, "offset": 0}
    files |= {"Ask": {"question": "Who?"}, "Search": {"query": "Who?", **asked}}
    files |= {"Neighbours": {"id": "0" * 32, **asked}, "Passages": {"text": "kiln", **asked}}
    files |= {
        "Rerank": {"query": "Who?", "texts": ["a", "b"], "raw_scores": True, "return_text": True}
    }
    options = {"prompt_name": "query", "dimensions": 3}
    files |= {
        "Embed": {"inputs": ["a", ["b", "c"]], "truncate": True, "normalize": False, **options}
    }
    files |= {"Embeddings": {"input": ["a", 1, [2, "x"]], "encoding_format": "float", **options}}
    return encoded(files)


def _read_message(folder: Path, name: str) -> None:
    data = (folder / name).read_bytes()
    if name[0].isupper():
        found = requests.decoded(data, getattr(bodies, name))
        # What came in has to go into a log or an answer.
        msgspec.json.encode(found)
        return
    # What does not fit would wait for a reader.
    data, sound = data[: 1 << 16], {n: (folder / n).read_bytes() for n in ("header", "array")}
    ours, theirs = multiprocessing.Pipe()
    with ours, theirs:
        if name == "raw":
            os.write(theirs.fileno(), data)
        else:
            header = data if name == "header" else sound["header"]
            theirs.send_bytes(struct.pack("<I", zlib.crc32(header)) + header)
            theirs.send_bytes(data if name == "array" else sound["array"])
        theirs.close()
        messages.receive(ours)


TARGETS = {
    "corpus": Target(_prepared, _read_corpus),
    "runs": Target(_runs, _read_run),
    "configurations": Target(_gins, _read_gin),
    "messages": Target(_messages, _read_message, (UserError, OSError, EOFError, requests.Refused)),
}
