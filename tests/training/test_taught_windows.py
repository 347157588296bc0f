"""A teacher in place of labels: the start ranks other passages with BM25, and the student follows."""

import contextlib
import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ralm_jax.batches import Lengths
from ralm_jax.errors import UserError
from ralm_jax.examples import windows
from ralm_jax.loaders.loader import Source
from ralm_jax.losses import marginal
from ralm_jax.models import initial
from ralm_jax.models.config import EncoderConfig
from ralm_jax.models.ralm import Ralm
from ralm_jax.retrieval import index
from ralm_jax.runs import directory
from ralm_jax.training.passage_windows import PassageWindows, taught

LENGTHS = Lengths(query=20, passage=56, joint=64, masked=4)
SMALL = EncoderConfig(hidden=8, layers=1, heads=2, intermediate=16, positions=64)
LEAST = np.finfo(np.float32).min / 2


def test_a_teacher_by_hand():
    dense = np.float32([[1.0, 2.0, 3.0]])
    lexical = np.float32([[1.0, 0.2, 0.4]])
    out = np.array([[True, False, False]])
    # The own passage is left out, and the best of the others has all of the weight.
    np.testing.assert_allclose(
        taught(dense, lexical, out, 5.0), np.float32([[LEAST, 2 + 2.5, 3 + 5]])
    )
    np.testing.assert_allclose(taught(dense, 0 * lexical, out, 5.0), np.float32([[LEAST, 2, 3]]))


def test_a_teacher_needs_bm25():
    with pytest.raises(UserError, match="raise `lexical_weight`"):
        PassageWindows(LENGTHS, shortest=4, longest=9, teaches=True, lexical_weight=0.0)


def test_titles_need_a_teacher():
    """Without one the passage is read with the title that asks for it."""
    with pytest.raises(UserError, match="set `titles` to 0, or `teaches` to True"):
        PassageWindows(LENGTHS, shortest=4, longest=9, titles=0.5)


def test_listwise_by_hand():
    teacher = jnp.array([[LEAST, 0.0, jnp.log(3.0)], [0.0, 0.0, LEAST]], jnp.float32)
    scores = jnp.array([[9.0, 0.0, 0.0], [1.0, 1.0, 5.0]], jnp.float32)
    (total, count), right = marginal.listwise(scores, teacher)
    wanted = 0.25 * np.log(0.25 / 0.5) + 0.75 * np.log(0.75 / 0.5)
    assert float(total) == pytest.approx(wanted, abs=1e-6) and float(count) == 2
    # Ties go to the first, for both.
    assert float(right) == 1


def test_the_gradient_is_what_the_student_has_too_much():
    """d KL / d score = p - teacher; and nothing for what is left out."""
    rng = np.random.default_rng(0)
    scores, teacher = rng.normal(size=(2, 3, 7)).astype("f")
    teacher[:, 2] = LEAST
    found = jax.grad(lambda s: marginal.listwise(s, jnp.array(teacher))[0][0])(jnp.array(scores))
    p = jax.nn.softmax(np.where(teacher <= LEAST, LEAST, scores))
    np.testing.assert_allclose(found, p - jax.nn.softmax(teacher), atol=1e-6)
    assert (np.asarray(found)[:, 2] == 0).all()


def test_the_own_passage_is_not_among_the_candidates(tiny):
    corpus = tiny.corpus
    task = PassageWindows(LENGTHS, shortest=4, longest=9, teaches=True)
    plain = dataclasses.replace(task, teaches=False)
    asked = plain.ask(corpus, np.arange(8), np.arange(8), 3)
    found = np.tile(np.arange(12, dtype=np.int32), (8, 1))
    batch = windows.with_others(corpus, asked, found, LENGTHS.passage, 3)
    for i, rows in enumerate(batch.rows.tolist()):
        assert i not in rows and len(set(rows)) == 3
        # The best of the others is always there.
        assert rows[0] == (1 if i == 0 else 0)
    none = windows.with_others(corpus, asked, np.full((8, 4), -1, np.int32), LENGTHS.passage, 2)
    assert none.rows.tolist() == [[i, i] for i in range(8)]
    out = windows.left_out(asked, batch.rows.reshape(-1))
    assert out.shape == (8, 24)
    np.testing.assert_array_equal(out, batch.rows.reshape(-1)[None] == np.arange(8)[:, None])


class Known:
    """What a loader serves: a vector for each passage, and no BM25."""

    class mix:
        scale = 20.0

        class lexical:
            scores = staticmethod(lambda tokens: np.zeros(200, np.float32))

    vectors = staticmethod(lambda: np.eye(200, 8, dtype=np.float32))
    queries = np.ones((8, 8), np.float32)


def test_a_labelled_question_has_its_own_passage_first(tiny):
    rows = frozenset({3, 5})
    given = windows.Labelled([np.array([7, 9], np.int32)], [rows], share=1.0)
    task = PassageWindows(LENGTHS, shortest=4, longest=9, negatives=2, teaches=True, labelled=given)
    asked = task.ask(tiny.corpus, np.arange(8), np.arange(8), 3)
    assert asked.questions.all() and set(asked.passages.tolist()) == rows
    found = np.tile(np.arange(12, dtype=np.int32), (8, 1))
    batch = task.batch(tiny.corpus, asked, found, Known)
    for own, listed, teacher in zip(asked.passages, batch.rows, batch.teacher, strict=True):
        assert listed[0] == own and not rows & set(listed[1:].tolist())
        flat = batch.rows.reshape(-1)
        # The other that answers it is left out, and all the rest is wrong.
        (other,) = rows - {int(own)}
        np.testing.assert_array_equal(teacher <= LEAST / 2, flat == other)
        p = np.asarray(jax.nn.softmax(teacher))
        np.testing.assert_allclose(p[flat == own].sum(), 1, atol=1e-6)


@pytest.mark.slow
def test_a_loader_that_is_resumed_gives_the_same_batch(tiny, tmp_path):
    """The teacher is kept: it goes on asking and teaching as the retriever was when the stage began."""
    model = directory.sized(Ralm(SMALL, SMALL, embedding=8), tiny.corpus.vocabulary.size)
    begun, later = (jax.device_put(initial.drawn_params(model, seed)) for seed in (0, 1))
    task = PassageWindows(LENGTHS, shortest=4, longest=9, neighbours=8, teaches=True)
    corpus, rows = tiny.corpus, np.arange(40)
    source = Source(corpus, corpus, model, rows, 0, 8, tmp_path / "index")
    with contextlib.closing(task.loader(source)) as loader:
        loader.start(begun)
        first = loader.batch(0)
        loader.prefetch(later, 1)
        state = loader.get_state(later)
        wanted = loader.batch(1)
    assert first.teacher.shape == (8, 8 * 2)
    # Ranked by the start, whatever the retriever has become.
    queries = model.apply({"params": begun}, wanted.query, method="queries")
    passages = np.asarray(index.open_version(tmp_path / "index", 0, corpus.fingerprint).vectors)
    dense = np.asarray(queries) @ passages[wanted.rows.reshape(-1)].T
    only = wanted.teacher - dense
    kept = wanted.teacher > LEAST / 2
    assert (only[kept] >= -1e-4).all() and (only[kept] <= task.teacher_weight + 1e-4).all()
    with contextlib.closing(task.loader(source)) as loader:
        loader.set_state(jax.device_put(state), 1)
        again = loader.batch(1)
    jax.tree.map(np.testing.assert_array_equal, again, wanted)
