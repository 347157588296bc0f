"""Labelled questions beside windows: halves, what is learnt from them, and what they choose."""

import dataclasses
import json

import numpy as np
import pytest

from ralm_jax import cli
from ralm_jax.batches import Lengths
from ralm_jax.errors import UserError
from ralm_jax.examples import windows
from ralm_jax.questions.read import read_questions
from ralm_jax.selection import interpolation, labels
from ralm_jax.training.passage_windows import PassageWindows

LENGTHS = Lengths(query=20, passage=56, joint=64, masked=4)


@pytest.fixture
def asked(tiny, tmp_path):
    """Writes some of the questions; (how many, gold_ids or those they have) -> the file."""

    def write(many, gold=None, order=1):
        each = read_questions(tiny.questions).asked[:many][::order]
        lines = [
            {"question": q.question, "answers": [], "gold_ids": list(gold or q.gold_ids)}
            for q in each
        ]
        file = tmp_path / f"questions{len(list(tmp_path.iterdir()))}.jsonl"
        file.write_text("".join(json.dumps(line) + "\n" for line in lines), "utf-8")
        return file

    return write


def test_half_of_the_questions_are_learnt_from(tiny, asked):
    found = labels.read(asked(21), tiny.corpus)
    assert (len(found.learnt.pieces), len(found.choosing.pieces)) == (11, 10)
    both = [tuple(row.tolist()) for half in (found.learnt, found.choosing) for row in half.pieces]
    assert len(set(both)) == 21
    # Whatever the order of the file.
    again = labels.read(asked(21, order=-1), tiny.corpus)
    assert again.digest == found.digest
    for one, other in zip(again.learnt.pieces, found.learnt.pieces, strict=True):
        np.testing.assert_array_equal(one, other)


def test_questions_without_passages_of_the_corpus(tiny, asked):
    with pytest.raises(UserError, match=r"0 of 5 questions have a gold passage in .*give gold_ids"):
        labels.read(asked(5, gold=["nowhere"]), tiny.corpus)


def test_the_share_of_questions_in_a_batch(tiny, asked):
    learnt = labels.read(asked(20), tiny.corpus).learnt
    assert labels.labelled(learnt, 1000).share == 0.1
    assert labels.labelled(learnt, 200).share == labels.LARGEST_SHARE


def test_some_windows_become_questions(tiny, asked):
    corpus, half = tiny.corpus, labels.read(asked(20), tiny.corpus).learnt
    given = windows.Labelled(half.pieces, half.gold, 0.25)
    task = PassageWindows(LENGTHS, shortest=4, longest=9, labelled=given)
    plain = dataclasses.replace(task, labelled=None)
    rows, positions = np.arange(400) % corpus.size, np.arange(400)
    drawn, before = (t.ask(corpus, rows, positions, 3) for t in (task, plain))
    known = {
        tuple(pieces.tolist()): gold for pieces, gold in zip(half.pieces, half.gold, strict=True)
    }
    questions = 0
    for i, row in enumerate(drawn.query.tokens):
        pieces = tuple(row[row != 0][1:-1].tolist())
        if drawn.spans[i, 1]:
            width = before.query.tokens.shape[1]
            np.testing.assert_array_equal(row[:width], before.query.tokens[i])
            assert drawn.passages[i] == rows[i] and drawn.relevant[i] == {rows[i]}
        else:
            assert drawn.relevant[i] == known[pieces] and drawn.passages[i] in known[pieces]
            questions += 1
    assert 70 < questions < 130
    # No passage that answers a question is a negative of it.
    found = np.tile(np.arange(corpus.size, dtype=np.int32), (400, 1))
    batch = task.batch(corpus, drawn, found, None)
    for i, gold in enumerate(drawn.relevant):
        assert not gold & set(batch.rows[i, 1:].tolist())


def test_a_weight_is_kept_unless_another_is_better_by_more_than_chance():
    flat = lambda mean: np.full(400, mean)  # noqa: E731
    assert interpolation.weigh(15.0, lambda w: flat(0.5 + 0.1 * (w == 5))) == 5
    assert interpolation.weigh(15.0, lambda w: flat(0.5)) == 15
    # Better by one standard error of the paired difference, 0.1 / 20: no more than chance.
    uneven = 0.5 + np.resize([0.105, -0.095], 400)
    assert interpolation.weigh(15.0, lambda w: uneven if w == 5 else flat(0.5)) == 15


def test_a_configuration_that_cannot_use_them(tiny, asked, tmp_path, capsys):
    words = ["pretrain", "--config", "runs/small.gin", "--corpus", tiny.corpus.path]
    words += ["--run", tmp_path / "run", "--questions", asked(4)]
    assert cli.main([str(word) for word in words]) == 2
    assert "neither learns from questions nor chooses by them" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
