"""Strict settings for every test: eight CPU devices, no silent broadcasting.

Warnings are errors too, see filterwarnings in pyproject.toml. The plain suite needs no network and
no accelerator.
"""

import functools
import gc
import json
import os
import signal
from importlib.metadata import version
from types import SimpleNamespace

# Before jax is imported, and in the environment so that the processes a test starts inherit it.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
# Tests compile for longer than they compute. XLA dies of a flag it does not know, hence the version.
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
if version("jaxlib").startswith("0.10."):
    sooner = "--xla_cpu_use_fusion_emitters=false --xla_llvm_disable_expensive_passes=true"
    os.environ.setdefault("XLA_FLAGS", f"{sooner} --xla_cpu_parallel_codegen_split_count=1")

import compiling
import jax
import numpy as np
import pytest

from ralm_jax import cache, partition
from ralm_jax.data.corpus import open_corpus
from ralm_jax.data.prepare import prepare
from ralm_jax.inference import embedding
from ralm_jax.losses import microbatch
from ralm_jax.sources import almanac
from ralm_jax.training import optim

jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_numpy_rank_promotion", "raise")

WIDTHS = microbatch.widths

# A shell that runs the tests in its background has them ignore Ctrl-C, and nohup a terminal that closes; some
# tests send both.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)

# Tracing makes many small objects and little garbage: to look for it as often as Python does by default
# is a tenth of the time. What is there once the tests are collected stays.
gc.set_threshold(200_000, 20, 20)


def pytest_collection_finish():
    gc.freeze()


@pytest.fixture(autouse=True, scope="session")
def no_cache_of_the_user(tmp_path_factory):
    """Vectors are cached in a folder of the tests, compiled programs nowhere."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RALM_CACHE", str(tmp_path_factory.mktemp("cache")))
        patch.setenv(cache.PROGRAMS, "")
        yield


@pytest.fixture(autouse=True, scope="session")
def compiled_once():
    """Steps alike are traced and compiled once, whichever test takes them.

    Optimizers that are made alike are the same one, or a step would be compiled for each. Passages are
    embedded in small chunks, as corpora are small here, and read at one width, for each is a program.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(microbatch, "widths", lambda needed, passages, longest: (longest,))
        patch.setattr(embedding, "CHUNK", 64)
        patch.setattr(partition, "parallelize", compiling.once(partition.parallelize))
        for name in ("warmup_linear", "adamw", "by_part", "towers", "head_only", "frozen"):
            patch.setattr(optim, name, functools.cache(getattr(optim, name)))
        yield


@pytest.fixture
def usual_widths(monkeypatch):
    """Groups of queries are read at several widths, as in a run outside of tests."""
    monkeypatch.setattr(microbatch, "widths", WIDTHS)


@pytest.fixture(scope="session")
def drawn():
    """(module, *inputs, method=None) -> variables drawn by numpy, for `init` takes long to compile."""

    def draw(module, *inputs, method=None):
        rng = np.random.default_rng(0)

        def one(path, leaf):
            name = path[-1].key
            middle, spread = (1, 0.1) if name == "scale" else (0, 0.1 if "bias" in name else 0.5)
            return rng.normal(middle, spread, leaf.shape).astype(leaf.dtype)

        def init(key):
            return module.init(key, *inputs, method=method)

        return jax.tree_util.tree_map_with_path(one, jax.eval_shape(init, jax.random.key(0)))

    return draw


@pytest.fixture(scope="session")
def tiny(tmp_path_factory):
    """A small almanac: what was generated, its corpus as prepared, and its questions in a file."""
    folder = tmp_path_factory.mktemp("tiny")
    made = almanac.generate(almanac.World(people=30, names=10), seed=0)
    for name, records in (("almanac", made.documents), ("questions", made.questions)):
        lines = "".join(json.dumps(record) + "\n" for record in records)
        (folder / f"{name}.jsonl").write_text(lines, "utf-8")
    prepare(str(folder / "almanac.jsonl"), folder / "corpus", vocab_size=800, say=lambda line: None)
    return SimpleNamespace(
        almanac=made, corpus=open_corpus(folder / "corpus"), questions=folder / "questions.jsonl"
    )


@pytest.fixture(scope="session")
def tiny_settings():
    """The overrides that make a configuration fit the small almanac and a few seconds."""
    sizes = {
        "HIDDEN": 8, "LAYERS": 1, "RETRIEVER_LAYERS": 1, "HEADS": 2, "INTERMEDIATE": 16,
        "POSITIONS": 64, "EMBEDDING": 8, "QUERY_LENGTH": 20, "PASSAGE_LENGTH": 56,
        "JOINT_LENGTH": 64, "DROPOUT": 0.0, "MASKED": 4, "HELD_OUT": 0.2,
        "LOG_EVERY": 1, "CHECKPOINT_EVERY": 2,
        "ICT_STEPS": 3, "ICT_BATCH": 16, "WARMUP_STEPS": 2, "WARMUP_BATCH": 8, "REALM_STEPS": 12,
        "REALM_BATCH": 8, "CANDIDATES": 3, "REFRESH_EVERY": 4, "REFRESH_LAG": 3,
    }  # fmt: skip
    return [word for name, size in sizes.items() for word in ("--set", f"{name} = {size}")]


@pytest.fixture
def dataset(tmp_path, monkeypatch):
    """make(features, rows) -> the name of a dataset that has been prepared in TFDS_DATA_DIR."""
    # Imported here, for it takes half a second and most tests have no use for it.
    import tensorflow_datasets as tfds
    import tfds_datasets

    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    monkeypatch.setattr(tfds.core.constants, "DATA_DIR", str(tmp_path))
    return functools.partial(tfds_datasets.prepared, tmp_path)
