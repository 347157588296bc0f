"""A mapped file that is cut short while it is in use: said, where reading it would be a bus error."""

import dataclasses
import os
import shutil

import numpy as np
import pytest

from ralm_jax import arrays
from ralm_jax.data.corpus import ARRAYS, open_corpus
from ralm_jax.errors import UserError
from ralm_jax.examples import features
from ralm_jax.loaders.loader import Source, drawn_rows
from ralm_jax.retrieval import index
from ralm_jax.retrieval.exact import Rounded


@pytest.fixture
def table(tmp_path):
    np.save(tmp_path / "a.npy", np.arange(4096, dtype=np.int32))
    return tmp_path / "a.npy"


@pytest.mark.parametrize("left", [0, 130, 4096, 16511])
def test_a_file_cut_short_is_named(table, left):
    mapped = arrays.mapped(table)
    arrays.require_whole(mapped)
    os.truncate(table, left)
    with pytest.raises(UserError, match=r"a\.npy was cut short while it was in use; restore"):
        arrays.require_whole(np.arange(3), mapped)


def test_what_is_in_memory_or_grows_or_is_removed_is_whole(table):
    mapped = arrays.mapped(table)
    with open(table, "ab") as file:
        file.write(b"more")
    table.unlink()
    arrays.require_whole(np.arange(3), mapped, mapped[:0])
    assert mapped[-1] == 4095


@pytest.mark.parametrize("name", ARRAYS)
def test_no_batch_is_read_from_a_corpus_cut_short(tiny, tmp_path, name):
    opened = open_corpus(shutil.copytree(tiny.corpus.path, tmp_path / "corpus"))
    source = Source(opened, opened, None, np.arange(9), 0, 8, tmp_path)
    features.passage_text(opened, np.arange(3), 32)
    drawn_rows(source, 0)
    os.truncate(tmp_path / "corpus" / f"{name}.npy", 130)
    for read in (
        lambda: features.passage_text(opened, np.arange(3), 32),
        lambda: drawn_rows(dataclasses.replace(source, corpus=tiny.corpus), 0),
    ):
        with pytest.raises(UserError, match=rf"corpus/{name}\.npy was cut short"):
            read()


def test_no_search_reads_an_index_cut_short(tmp_path):
    writer = index.create(tmp_path, 5, (9000, 4), "corpus")
    writer.write(0, np.random.default_rng(0).normal(size=(9000, 4)).astype(np.float32))
    version, searcher = writer.commit(), Rounded(k=2)
    searcher.build(version)
    searcher.publish()
    os.truncate(version.path / index.VECTORS, 4096)
    with pytest.raises(UserError, match=r"step_00000005/vectors\.npy was cut short"):
        searcher.search(np.ones((1, 4), np.float32), 2)()
    with pytest.raises(UserError, match=r"step_00000005: damaged"):
        index.mapped(tmp_path, 5)
