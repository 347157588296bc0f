"""`ralm embed`: vectors in the order of the corpus, in every file alike; a kill loses one part at most."""

import shutil

import numpy as np
import pytest
import random_runs
from pyarrow import parquet

from ralm_jax import cli
from ralm_jax.batches import Lengths
from ralm_jax.check import check
from ralm_jax.engines import embed as module
from ralm_jax.engines import vector_files
from ralm_jax.engines.embed import embed
from ralm_jax.engines.parts import staged
from ralm_jax.errors import UserError
from ralm_jax.inference.open_run import OpenRun
from ralm_jax.models.config import EncoderConfig
from ralm_jax.models.ralm import Ralm

LENGTHS = Lengths(query=20, passage=56, joint=64, masked=4)
SMALL = EncoderConfig(hidden=8, layers=1, heads=2, intermediate=8, positions=64, dropout=0.0)


@pytest.fixture
def run(tiny, tmp_path, monkeypatch):
    """A run of random parameters; parts and shards are so small that there are several."""
    monkeypatch.setattr(module, "PART", 32)
    monkeypatch.setattr(vector_files, "SHARD", 48)
    monkeypatch.setattr(vector_files, "_GROUP", 16)
    monkeypatch.setenv("RALM_CACHE", str(tmp_path / "cache"))
    return random_runs.saved(
        tmp_path / "run", Ralm(SMALL, SMALL, embedding=8), tiny.corpus, LENGTHS
    )


def names(folder):
    return sorted(file.name for file in folder.iterdir())


def test_all_files_hold_the_vectors_in_the_order_of_the_corpus(run, tiny, tmp_path):
    out, corpus = tmp_path / "out", tiny.corpus
    counts = embed(run, out, say=len)
    assert counts == {"passages": corpus.size, "dimensions": 8, "embedded": corpus.size}
    vectors, ids = np.load(out / "vectors.npy"), np.load(out / "ids.npy")
    np.testing.assert_allclose(vectors, OpenRun.open(run).vectors, rtol=1e-5, atol=1e-6)
    assert ids.tolist() == [id.decode() for id in corpus.ids.tolist()]
    files = sorted(out.glob("*.parquet"))
    assert len(files) == -(-corpus.size // 48) > 1
    rows = [row for file in files for row in parquet.read_table(file).to_pylist()]
    np.testing.assert_array_equal(np.array([row["vector"] for row in rows], np.float32), vectors)
    for row, record in zip(rows, corpus.texts(), strict=True):
        assert [row[n] for n in ("id", "title", "text")] == [
            record[n].decode() for n in ("id", "title", "text")
        ]
    assert names(tmp_path) == ["cache", "out", "run"]


def test_what_was_interrupted_goes_on_and_ends_the_same(run, tiny, tmp_path, monkeypatch):
    embed(run, tmp_path / "whole", say=len)
    made, original = [], module.embed_part

    def stopping(opened, number, done):
        if len(made) == 2:
            raise KeyboardInterrupt
        made.append(number)
        return original(opened, number, done)

    monkeypatch.setattr(module, "embed_part", stopping)
    with pytest.raises(KeyboardInterrupt):
        embed(run, tmp_path / "out", say=len)
    assert made == [0, 1] and not (tmp_path / "out").exists()
    # A part that was damaged meanwhile is embedded again.
    (part,) = (tmp_path / ".out.parts").glob("00000000-*.npy")
    part.write_bytes(part.read_bytes()[:-1] + b"\0")
    made.clear()
    monkeypatch.setattr(module, "embed_part", lambda *a: made.append(a[1]) or original(*a))
    counts = embed(run, tmp_path / "out", say=len)
    assert made[:2] == [0, 2] and counts["embedded"] == tiny.corpus.size - 32
    assert names(tmp_path / "out") == names(tmp_path / "whole")
    for name in names(tmp_path / "out"):
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    assert not (tmp_path / ".out.parts").exists()


def test_parts_of_another_run_are_not_taken(run, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        with staged(tmp_path / "out", {"encoder": "another"}) as parts:
            parts.write(0, np.zeros((32, 8), "f"))
            raise KeyboardInterrupt
    embed(run, tmp_path / "out", say=len)
    assert np.abs(np.load(tmp_path / "out" / "vectors.npy")[:32]).min() > 0


def test_one_process_makes_a_folder(run, tmp_path):
    with staged(tmp_path / "out", {}), pytest.raises(UserError, match="another process makes"):
        embed(run, tmp_path / "out", say=len)
    assert names(tmp_path) == ["run"]


def test_vectors_that_are_known_are_taken(run, tiny, tmp_path, monkeypatch):
    vectors = OpenRun.open(run).vectors
    monkeypatch.setattr(module, "embed_part", None)
    assert embed(run, tmp_path / "out", say=len)["embedded"] == 0
    np.testing.assert_array_equal(np.load(tmp_path / "out" / "vectors.npy"), vectors)


def test_check_finds_what_has_changed(run, tmp_path):
    out = tmp_path / "out"
    embed(run, out, say=len)
    assert [part.problem for part in check(out)] == [""]
    data = bytearray((out / "vectors.npy").read_bytes())
    data[-1] ^= 1
    (out / "vectors.npy").write_bytes(data)
    assert "vectors.npy has changed" in check(out)[0].problem
    (out / "ids.npy").unlink()
    assert "ids.npy is missing" in check(out)[0].problem


def test_mistakes_are_one_line_and_leave_nothing(run, tmp_path, capsys):
    def fails(*more):
        before = names(tmp_path)
        assert cli.main(["embed", "--run", str(run), *map(str, more)]) == 2
        assert names(tmp_path) == before
        (line,) = capsys.readouterr().err.splitlines()
        return line

    assert f"{run} exists" in fails("--out", run)
    (tmp_path / "file").write_text("")
    assert "cannot be written: Not a directory" in fails("--out", tmp_path / "file" / "out")
    assert "no corpus at" in fails("--out", tmp_path / "out", "--corpus", tmp_path / "none")


def test_vectors_that_are_not_finite_are_refused(run, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "embed_part", lambda o, n, d: np.full((32, 8), np.nan, "f"))
    with pytest.raises(UserError, match="not finite"):
        embed(run, tmp_path / "out", say=len)
    assert not (tmp_path / "out").exists()
    shutil.rmtree(tmp_path / ".out.parts")
