"""What is damaged is found and named, whatever was damaged; what is sound is left as it was."""

import json
import shutil

import numpy as np
import pytest

from ralm_jax import check, cli
from ralm_jax.batches import Lengths
from ralm_jax.data.corpus import open_corpus
from ralm_jax.errors import UserError
from ralm_jax.living.update import update
from ralm_jax.models import initial
from ralm_jax.models.config import EncoderConfig
from ralm_jax.models.ralm import Ralm
from ralm_jax.retrieval import index
from ralm_jax.runs import checkpoint, directory
from ralm_jax.runs.checkpoint import Checkpoints

SMALL = EncoderConfig(hidden=8, layers=1, heads=2, intermediate=8, positions=64, dropout=0.0)
LENGTHS = Lengths(query=20, passage=56, joint=64, masked=4)


@pytest.fixture(scope="module")
def made(tiny, tmp_path_factory):
    """A corpus of two versions, and a run with a checkpoint and an index."""
    folder = tmp_path_factory.mktemp("checked")
    corpus, run = shutil.copytree(tiny.corpus.path, folder / "corpus"), folder / "run"
    (folder / "more.jsonl").write_text(
        '{"id": "more", "text": "One more kiln was built in 1712."}\n'
    )
    update(corpus, str(folder / "more.jsonl"), processes=1, say=str)
    opened = open_corpus(corpus)
    model = directory.sized(Ralm(SMALL, SMALL, embedding=8), opened.vocabulary.size)
    parts = {"stages": ["ict"], "lengths": vars(LENGTHS), "held_out": 0.1, "seed": 0}
    directory.describe(run, model, opened, **parts)
    checkpoints = Checkpoints(directory.checkpoint_folder(run, "ict"))
    checkpoints.save(1, {"state": {"params": initial.drawn_params(model, seed=0)}}, wait=True)
    checkpoints.close()
    vectors = np.ones((opened.size, 8), np.float32)
    root = directory.index_folder(run, "ict")
    writer = index.create(root, 1, vectors.shape, opened.fingerprint, "some encoder")
    writer.write(0, vectors)
    writer.commit()
    return folder


def files(folder):
    return {f: f.stat().st_mtime_ns for f in sorted(folder.rglob("*")) if f.is_file()}


def test_what_is_sound(made, capsys):
    before = files(made)
    versions = check.check(made / "corpus")
    assert [(part.kind, part.version, part.problem) for part in versions] == [
        ("corpus", "0", ""),
        ("corpus", "1", ""),
    ]
    parts = check.check(made / "run")
    assert [(part.kind, part.version) for part in parts] == [
        ("run", "1"),
        ("checkpoint", "step 1"),
        ("index", "step 1"),
    ]
    assert cli.main(["check", str(made / "run"), "--json", "-"]) == 0
    found, said = capsys.readouterr()
    assert [part["version"] for part in json.loads(found)] == ["1", "step 1", "step 1"]
    assert "checkpoint checkpoints/ict/1" in said and said.count("sound") == 3
    assert json.loads(found)[1]["size"] > 1000 and files(made) == before


@pytest.mark.parametrize("harm", ["flip", "cut"])
@pytest.mark.parametrize(
    "part", ["corpus/versions", "run/checkpoints", "run/index", "run/model.json"]
)
def test_any_file_that_is_damaged_is_named(made, tmp_path, part, harm, capsys):
    whole = made / part
    rng = np.random.default_rng(0)
    for file in [whole] if whole.is_file() else files(whole):
        if file.name.startswith(".") or file.stat().st_size == 0 or file.parent == made / "corpus":
            continue
        folder = shutil.copytree(made, tmp_path / "copy")
        copy = folder / file.relative_to(made)
        data = bytearray(copy.read_bytes())
        place = int(rng.integers(len(data)))
        if harm == "cut" or part == "run/model.json":
            data = data[:place]
        else:
            data[place] ^= 1 << int(rng.integers(8))
        copy.unlink()
        copy.write_bytes(bytes(data))
        parts = check.check(folder / part.partition("/")[0])
        problems = [one.problem for one in parts if one.problem]
        # A bit of a manifest may say the same in other letters of white space, or name another step.
        assert problems or file.name.endswith(".json"), file
        if problems:
            with pytest.raises(
                UserError, match=rf"1 of {len(parts)} parts are damaged; the first: "
            ):
                check.require_sound(parts)
            assert cli.main(["check", str(folder / part.partition("/")[0])]) == 2
            assert capsys.readouterr().err.count("\n") == 1
        shutil.rmtree(folder)


def test_a_checkpoint_that_its_owner_removes_meanwhile_is_left_out(made, tmp_path, monkeypatch):
    run = shutil.copytree(made, tmp_path / "copy") / "run"

    def half_removed(where):
        (where / checkpoint._SEAL).unlink()
        raise FileNotFoundError(2, "No such file or directory")

    monkeypatch.setattr(checkpoint, "verify", half_removed)
    assert [part.kind for part in check.check(run)] == ["run", "index"]


def test_a_folder_of_something_else(tmp_path):
    with pytest.raises(UserError, match="is neither a corpus nor a run; give the folder of one"):
        check.check(tmp_path)
