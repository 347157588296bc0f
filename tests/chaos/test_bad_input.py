"""Whatever a user gets wrong: one line that says what, where and what to do; exit code 2; nothing changed."""

import re
import shlex
import shutil

import pytest
from bad_input import snapshot
from bad_input.corpora import ROWS as CORPORA
from bad_input.environment import ROWS as ENVIRONMENT
from bad_input.flags import ROWS as FLAGS
from bad_input.left_out import ROWS as LEFT_OUT
from bad_input.prepared import ROWS as PREPARED
from bad_input.questions import ROWS as QUESTIONS
from bad_input.weights import ROWS as WEIGHTS
from state_dicts import trunk, write_model

from ralm_jax import cli
from ralm_jax.batches import Lengths
from ralm_jax.data.corpus import open_corpus
from ralm_jax.models import initial
from ralm_jax.models.config import EncoderConfig
from ralm_jax.models.ralm import Ralm
from ralm_jax.runs import directory
from ralm_jax.runs.checkpoint import Checkpoints
from ralm_jax.training import loop

ROWS = [*CORPORA, *QUESTIONS, *FLAGS, *WEIGHTS, *PREPARED, *ENVIRONMENT]
SMALL = EncoderConfig(hidden=8, layers=1, heads=2, intermediate=8, positions=64, dropout=0.0)
LENGTHS = Lengths(query=20, passage=56, joint=64, masked=4)


@pytest.fixture(scope="module")
def whole(tiny, tmp_path_factory):
    """A corpus, a run with a checkpoint of drawn parameters, and a released encoder: all sound."""
    folder = tmp_path_factory.mktemp("whole")
    shutil.copytree(tiny.corpus.path, folder / "corpus")
    opened, run = open_corpus(folder / "corpus"), folder / "run"
    model = directory.sized(Ralm(SMALL, SMALL, embedding=8), opened.vocabulary.size)
    parts = {"stages": ["ict"], "lengths": vars(LENGTHS), "held_out": 0.1, "seed": 0}
    directory.describe(run, model, opened, **parts)
    checkpoints = Checkpoints(directory.checkpoint_folder(run, "ict"))
    checkpoints.save(1, {"state": {"params": initial.drawn_params(model, seed=0)}}, wait=True)
    checkpoints.close()
    write_model(folder / "bert", trunk())
    return folder


def arrange(row, whole, folder, monkeypatch):
    """The present folder, with what the row needs and is at fault in it."""
    for name in row.needs.split():
        shutil.copytree(whole / name, folder / name)
    row.make(folder)
    monkeypatch.chdir(folder)


@pytest.mark.parametrize("row", ROWS, ids=[row.name for row in ROWS])
def test_a_mistake_is_one_line_and_changes_nothing(row, whole, tmp_path, monkeypatch, capsys):
    arrange(row, whole, tmp_path, monkeypatch)
    monkeypatch.setenv("JAX_NUM_CPU_DEVICES", "8")
    # What is wrong is known before anything is trained.
    monkeypatch.setattr(loop, "train_stage", None)
    before = snapshot(tmp_path)
    with monkeypatch.context() as patch:
        row.patch(patch)
        code = cli.main(shlex.split(row.command))
    said = capsys.readouterr().err
    assert said.startswith("ralm: ") and said.count("\n") == 1 and len(said) < 800, said
    assert re.search(row.said, said), said
    assert code == row.code
    assert snapshot(tmp_path) == before


@pytest.mark.parametrize("row", LEFT_OUT, ids=[row.name for row in LEFT_OUT])
def test_what_is_left_out_is_counted(row, whole, tmp_path, monkeypatch, capsys):
    arrange(row, whole, tmp_path, monkeypatch)
    assert cli.main(shlex.split(row.command)) == 0
    said = capsys.readouterr()
    assert re.search(row.said, said.out) and not said.err
    assert "secret" not in (tmp_path / "out" / "vocab.txt").read_text()


def test_there_are_a_hundred_of_them_and_no_two_alike():
    assert len({row.name for row in (*ROWS, *LEFT_OUT)}) == len(ROWS) + len(LEFT_OUT) > 100
