"""Whoever opens a run changes nothing in it, also while it is being trained."""

import os
import shutil
import threading

import numpy as np
import pytest

from ralm_jax import cli, partition
from ralm_jax.batches import Lengths, Text
from ralm_jax.errors import UserError
from ralm_jax.evaluation.evaluate import evaluate
from ralm_jax.examples import features
from ralm_jax.inference import embedding
from ralm_jax.inference.open_run import OpenRun
from ralm_jax.models import initial
from ralm_jax.models.config import EncoderConfig
from ralm_jax.models.ralm import Ralm
from ralm_jax.runs import checkpoint, directory
from ralm_jax.runs.checkpoint import Checkpoints, newest
from ralm_jax.runs.files import read_json, write_json
from ralm_jax.weights.exporting import export_model

SMALL = EncoderConfig(hidden=8, layers=1, heads=2, intermediate=8, positions=64, dropout=0.0)
LENGTHS = Lengths(query=20, passage=56, joint=64, masked=4)


@pytest.fixture
def run(tiny, tmp_path, monkeypatch):
    """A run with one checkpoint, and one that its trainer is in the middle of saving."""
    monkeypatch.setattr(embedding, "CHUNK", 64)
    path = tmp_path / "run"
    model = directory.sized(Ralm(SMALL, SMALL, embedding=8), tiny.corpus.vocabulary.size)
    parts = {"stages": ["ict"], "lengths": vars(LENGTHS), "held_out": 0.1, "seed": 0}
    directory.describe(path, model, tiny.corpus, **parts)
    folder = directory.checkpoint_folder(path, "ict")
    checkpoints = Checkpoints(folder)
    checkpoints.save(1, {"state": {"params": initial.drawn_params(model, seed=0)}}, wait=True)
    checkpoints.close()
    saving = folder / "2.orbax-checkpoint-tmp"
    saving.mkdir()
    (saving / "data").write_text("half")
    return path


def contents(folder):
    return {p: (p.stat().st_mtime_ns, p.stat().st_size) for p in folder.rglob("*")}


@pytest.mark.parametrize("what", ["evaluate", "ask", "export", "init"])
def test_opening_a_run_leaves_a_save_in_progress_alone(run, tiny, tmp_path, capsys, what):
    before = contents(run)
    if what == "evaluate":
        evaluate(run, tiny.questions, clozes=0)
    elif what == "ask":
        assert cli.main(["ask", "Who?", "--run", str(run)]) == 2
    elif what == "export":
        export_model(run, "sentence-transformers", tmp_path / "out")
    else:
        assert OpenRun.open(run).step == 1
    assert contents(run) == before


def test_a_run_of_a_read_only_folder_is_measured(run, tiny):
    for folder, _, files in os.walk(run, topdown=False):
        for name in files:
            os.chmod(os.path.join(folder, name), 0o444)
        os.chmod(folder, 0o555)
    assert evaluate(run, tiny.questions, clozes=0)["step"] == 1


def test_a_checkpoint_that_its_owner_removes_gives_way_to_the_newer(run, monkeypatch):
    """As the trainer prunes: the older one is gone in the middle of being read."""
    folder = directory.checkpoint_folder(run, "ict")
    original = checkpoint._read

    def removed(where):
        if where.name == "2":
            shutil.rmtree(where)
            shutil.copytree(folder / "1", folder / "3")
        return original(where)

    shutil.copytree(folder / "1", folder / "2")
    monkeypatch.setattr(checkpoint, "_read", removed)
    step, tree = newest(folder)
    assert step == 3 and "params" in tree["state"]


# Orbax reads on a loop of its own, and where a file is gone in the middle it leaves callbacks behind to that.
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_trainer_saves_while_others_read(run, tiny):
    """Steps are saved and pruned as fast as may be; every reader finds a whole one."""
    folder = directory.checkpoint_folder(run, "ict")
    params = OpenRun.open(run).params
    checkpoints = Checkpoints(folder)
    done, found = threading.Event(), ([], [])

    def read(steps):
        while not done.is_set():
            steps.append(newest(folder)[0])

    readers = [threading.Thread(target=read, args=(steps,)) for steps in found]
    for reader in readers:
        reader.start()
    try:
        for step in range(2, 9):
            checkpoints.save(step, {"state": {"params": params}}, wait=True)
    finally:
        done.set()
        for reader in readers:
            reader.join()
        checkpoints.close()
    assert all(steps == sorted(steps) for steps in found) and len({*found[0], *found[1]}) > 1
    assert newest(folder)[0] == 8


def test_search_is_by_the_greatest_inner_products(run, tiny):
    opened = OpenRun.open(run)
    asked = [q["question"] for q in tiny.almanac.questions[:5]]
    ranked = opened.search(asked, 7)
    queries = embedding.embed_texts(opened.model, opened.params, opened.encode(asked))
    scores = queries @ opened.vectors.T
    np.testing.assert_allclose(
        ranked.scores, -np.sort(-scores, axis=1)[:, :7], rtol=1e-5, atol=1e-6
    )
    of_rows = np.take_along_axis(scores, ranked.rows, axis=1)
    np.testing.assert_allclose(ranked.scores, of_rows, rtol=1e-5, atol=1e-6)
    assert opened.search(asked, 10**6).rows.shape == (5, tiny.corpus.size)


def test_a_run_that_does_not_answer_says_what_would(run):
    with pytest.raises(UserError, match=r"was not fine-tuned: ralm finetune --run"):
        OpenRun.open(run).answer(["Who?"])


@pytest.mark.parametrize("where", ["beside", "inside", "given"])
def test_a_run_and_its_corpus_may_be_moved_together(run, tiny, tmp_path, where):
    shutil.copytree(tiny.corpus.path, tmp_path / "old" / "corpus")
    home = tmp_path / "elsewhere"
    shutil.copytree(run, home / "run")
    record = home / "run" / "run.json"
    write_json(record, {**read_json(record), "corpus": str(tmp_path / "old" / "corpus")})
    place = {"beside": home / "corpus", "inside": home / "run" / "corpus", "given": home / "c"}[
        where
    ]
    shutil.move(tmp_path / "old" / "corpus", place)
    given = place if where == "given" else None
    assert OpenRun.open(home / "run", given).corpus.fingerprint == tiny.corpus.fingerprint


def test_a_corpus_that_was_moved_elsewhere_is_asked_for(run, tiny, tmp_path):
    record = run / "run.json"
    write_json(record, {**read_json(record), "corpus": "/gone/corpus"})
    with pytest.raises(UserError, match=r"is not at /gone/corpus any more.*--corpus") as error:
        _ = OpenRun.open(run).corpus
    assert "prepare" not in str(error.value) and "\n" not in str(error.value)


def widths(opened, method, monkeypatch):
    """How wide texts are embedded from now on, each time; and what embeds them as usual."""
    seen = []
    usual = embedding._embedder(opened.model, method)

    def noted(params, given):
        seen.append(given.tokens.shape[-1])
        return usual(params, given)

    monkeypatch.setattr(embedding, "_embedder", lambda *_: noted)
    return seen, usual


def test_passages_given_as_texts_are_embedded_no_wider_than_they_are(run, tiny, monkeypatch):
    """As the index embeds them, and short ones in fewer wordpieces."""
    opened, length = OpenRun.open(run), LENGTHS.passage
    monkeypatch.setattr(embedding, "CHUNK", 8)
    whole = features.passage_text(tiny.corpus, np.arange(24), length)
    short = whole.tokens.copy()
    short[::2, 12:] = 0
    text = Text(short, whole.types * (short != 0))
    seen, usual = widths(opened, "passages", monkeypatch)
    found = embedding.embed_texts(opened.model, opened.params, text, "passages")
    assert min(seen) == length // 4 and max(seen) <= length
    flat = partition.replicate(opened.params["retriever"])
    wanted = usual(flat, partition.shard(text))
    np.testing.assert_allclose(found, np.asarray(wanted), atol=1e-5)


def test_many_queries_are_read_no_wider_than_they_are_and_few_by_one_program(run, monkeypatch):
    opened, length = OpenRun.open(run), LENGTHS.query
    monkeypatch.setattr(embedding, "CHUNK", 8)
    text = opened.encode(["who", "who built the old mill of Norford then", "x " * 30, "when"] * 20)
    seen, usual = widths(opened, "queries", monkeypatch)
    found = embedding.embed_texts(opened.model, opened.params, text)
    assert min(seen) == length // 4 and max(seen) == length
    flat = partition.replicate(opened.params["retriever"])
    whole = np.asarray(usual(flat, partition.shard(text)))
    np.testing.assert_allclose(found, whole, atol=1e-5)
    seen.clear()
    few = Text(text.tokens[: embedding.FEW], text.types[: embedding.FEW])
    embedding.embed_texts(opened.model, opened.params, few)
    assert {*seen} == {length}
