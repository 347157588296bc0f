import dataclasses
import functools
import json
from types import SimpleNamespace

import numpy as np
import pytest

from ralm_jax.batches import ClozeBatch, Lengths, Text
from ralm_jax.data.corpus import open_corpus
from ralm_jax.data.prepare import prepare
from ralm_jax.errors import UserError
from ralm_jax.evaluation import cloze, retrieval
from ralm_jax.evaluation.evaluate import evaluate
from ralm_jax.examples import cloze_batches, masking
from ralm_jax.inference import embedding, open_run
from ralm_jax.inference.open_run import OpenRun
from ralm_jax.models import initial
from ralm_jax.models.config import EncoderConfig
from ralm_jax.models.ralm import Ralm
from ralm_jax.questions.read import read_questions
from ralm_jax.runs import directory
from ralm_jax.runs.checkpoint import Checkpoints

LENGTHS = Lengths(query=20, passage=56, joint=64, masked=4)
SMALL = EncoderConfig(hidden=8, layers=1, heads=2, intermediate=16, positions=64, init_stddev=0.2)


@pytest.fixture(autouse=True, scope="module")
def quick():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(embedding, "CHUNK", 32)
        yield


class Oracle:
    """A model that reads the answer in passage 7, and without it says 5 with more confidence."""

    def __init__(self, wanted):
        self.wanted = wanted

    def apply(self, variables, batch, method):
        seen = batch.candidates.tokens[:, :, 0] == 7  # [B,K]
        if method == "scores":
            return np.where(seen, 2.0, 0.0).astype(np.float32)
        logits = np.zeros((*seen.shape, 2, 10), np.float32)
        logits[..., 5] = 1.0
        logits[seen] = 0.0
        logits[seen, :, self.wanted] = 9.0
        return logits


def test_reading_by_hand():
    """Clozes of two tokens: the answer found, not found, found with one token unused, not valid."""
    first = np.array([[0, 7, 1], [0, 1, 1], [0, 1, 7], [0, 7, 7]], np.int32)
    none = np.zeros((4, 2), np.int32)
    batch = ClozeBatch(
        query=Text(none, none),
        candidates=Text(first[..., None], first[..., None]),
        joint=Text(first[..., None], first[..., None]),
        valid=np.array([[True] * 3, [True] * 3, [True] * 3, [True, False, False]]),
        positions=none,
        targets=np.array([[4, 4], [4, 4], [4, 0], [5, 5]], np.int32),
        weights=np.array([[1, 1], [1, 1], [1, 0], [1, 1]], np.float32),
    )
    plain = cloze.read.__wrapped__(Oracle(wanted=4), {}, batch)
    assert tuple(map(int, plain["span_accuracy"])) == (3, 4)  # the fourth reads null alone
    assert tuple(map(int, plain["span_accuracy_null"])) == (1, 4)
    assert plain["retrieval_utility"][0] > 0 and plain["retrieval_utility"][1] == 7
    unused = batch._replace(weights=batch.weights * np.array([[1], [0], [1], [0]], np.float32))
    few = cloze.read.__wrapped__(Oracle(wanted=4), {}, unused)
    assert tuple(map(int, few["span_accuracy"])) == (2, 2)


def test_the_likeliest_candidate_by_hand():
    """Three clozes of a span 4 5: beside null one passage holds it, both do, none does."""
    bodies = [[[9, 4, 5], [4, 9, 5]], [[4, 5, 9], [9, 4, 5]], [[5, 4, 9], [9, 9, 4]]]
    tokens = np.zeros((3, 3, 5), np.int32)
    tokens[:, :, :2] = [4, 5]  # in the query, which does not count
    tokens[:, 1:, 2:] = bodies
    types = np.zeros_like(tokens)
    types[:, 1:, 2:] = 1
    none = np.zeros((3, 2), np.int32)
    batch = ClozeBatch(
        Text(none, none), Text(tokens, types), Text(tokens, types), np.ones((3, 3), bool),
        none, np.tile(np.int32([4, 5]), (3, 1)), np.ones((3, 2), np.float32),
    )  # fmt: skip
    assert np.asarray(cloze.holds_span(batch)).tolist() == [
        [False, True, False],
        [False, True, True],
        [False, False, False],
    ]
    # One piece that counts: the second of the span is not asked for.
    one = batch._replace(weights=np.tile(np.float32([1, 0]), (3, 1)))
    assert np.asarray(cloze.holds_span(one))[:, 1:].all()

    class Model:
        def __init__(self, best):
            self.best = best

        def apply(self, variables, batch, method):
            if method == "scores":
                return np.zeros((3, 3), np.float32)
            logits = np.zeros((3, 3, 2, 10), np.float32)
            logits[:, self.best, 0, 4] = logits[:, self.best, 1, 5] = 2.0
            return logits

    for best, right in ((1, 1), (2, 0)):
        found = cloze.read.__wrapped__(Model(best), {}, batch)
        assert tuple(map(float, found["likeliest_holds"])) == (right, 1)
        assert tuple(map(float, found["holds_by_chance"])) == (0.5, 1)


@pytest.fixture(scope="module")
def ran(tiny, tmp_path_factory):
    """A run as two steps of training leave one, of random parameters."""
    run = tmp_path_factory.mktemp("evaluated")
    model = Ralm(SMALL, SMALL, embedding=8, pooling="mean")
    model = directory.sized(model, tiny.corpus.vocabulary.size)
    parts = {"stages": ["ict"], "lengths": vars(LENGTHS), "held_out": 0.3, "seed": 0}
    directory.describe(run, model, tiny.corpus, **parts)
    checkpoints = Checkpoints(directory.checkpoint_folder(run, "ict"))
    checkpoints.save(2, {"state": {"params": initial.drawn_params(model, seed=0)}}, wait=True)
    checkpoints.close()
    return run


@pytest.fixture(scope="module")
def report(ran, tiny):
    return retrieval.evaluate_retrieval(
        OpenRun.open(ran), read_questions(tiny.questions), clozes=20
    )


def test_a_run_is_measured_beside_bm25(ran, report, tiny):
    assert (report["stage"], report["step"]) == ("ict", 2)
    assert report["passages"] == tiny.corpus.size
    assert report["questions"] == len(tiny.almanac.questions)
    for system in ("retriever", "bm25"):
        for rule in ("holds_answer", "gold_passage"):
            recall = report[system][rule]["recall"]
            assert list(recall) == ["1", "5", "20", "100"]
            assert 0 <= recall["1"] <= recall["5"] <= recall["20"] <= recall["100"] <= 1
            assert 0 < report[system][rule]["mrr"] < 1
            assert report[system][rule]["questions"] == len(tiny.almanac.questions)
    # Questions share names and words with their passages; random parameters know nothing.
    bm25, ours = (report[s]["gold_passage"]["recall"]["5"] for s in ("bm25", "retriever"))
    assert bm25 > 0.5 > 0.3 > ours
    assert json.loads(json.dumps(report)) == report
    for figure in (f"{bm25:.1%}", f"{ours:.1%}", "20 held-out sentences"):
        assert figure in retrieval.table(report)


def test_questions_that_are_cut_are_said_so(ran, tiny, tmp_path):
    given = json.loads(tiny.questions.read_text("utf-8").splitlines()[0])
    longer = {**given, "id": "long", "question": "and so on " * 9 + given["question"]}
    file = tmp_path / "q.jsonl"
    file.write_text(f"{json.dumps(given)}\n{json.dumps(longer)}\n", "utf-8")
    report = retrieval.evaluate_retrieval(OpenRun.open(ran), read_questions(file), clozes=0)
    assert report["notes"] == {"cut to 18 wordpieces": 1} and not report["left_out"]
    assert "1 question: cut to 18 wordpieces" in retrieval.table(report)


def test_held_out_clozes_are_measured(report):
    clozes = report["clozes"]
    assert clozes["sentences"] == 20
    assert {"span_accuracy", "span_accuracy_null", "retrieval_utility"} < clozes.keys()
    assert clozes["cloze_recall"].keys() == {"1", "5", "20", "100"}


def test_perfect_vectors_find_the_other_statement_of_a_fact(ran, tiny, monkeypatch):
    """Were a query the vector of the passage that states its fact too, recall would be 1 at once."""
    corpus = tiny.corpus
    loaded = OpenRun.open(ran)
    usable = cloze_batches.held_out_sentences(corpus, 0.3) & cloze_batches.with_span(corpus, 20)
    rows = np.flatnonzero(usable)
    clozes = cloze_batches.clozes(corpus, rows, rows, masking.salient_span, LENGTHS, seed=0)
    gold = cloze.same_fact(corpus, rows, clozes.positions[:, 0] - 1)
    own = corpus.sentences[rows, 0]
    assert all(len(g) == 1 for g in gold)
    assert not any(int(o) in g for o, g in zip(own, gold, strict=True))
    vectors = np.eye(corpus.size, dtype=np.float32)
    other = np.array([next(iter(g)) for g in gold])
    queries = vectors[other] + 2 * vectors[own]  # its own passage scores best, and is excluded
    monkeypatch.setattr(open_run, "embed_texts", lambda *_: queries)
    read = []
    monkeypatch.setattr(cloze, "_read_all", lambda *given: read.append(given[4]) or {})
    opened = dataclasses.replace(loaded, embedded=vectors)
    found = cloze.measure_clozes(opened, candidates=2)
    assert found["sentences"] == len(rows) and set(found["cloze_recall"].values()) == {1.0}
    np.testing.assert_array_equal(read[0], np.stack([np.full(len(rows), -1), other], axis=1))


def test_the_fact_of_a_sentence_is_that_of_the_span_that_was_masked():
    corpus = SimpleNamespace(
        sentences=np.array([[0, 0, 9], [1, 0, 5], [1, 5, 9], [2, 0, 9]]),
        spans=np.array([[0, 1, 2], [0, 4, 6], [2, 5, 7], [2, 8, 9], [3, 3, 4]]),
        span_groups=np.array([70, 80, 80, 70, 90], np.uint64),
    )
    rows, starts = np.array([0, 0, 2, 2, 3]), np.array([1, 4, 0, 3, 3])
    assert cloze.same_fact(corpus, rows, starts) == [{1}, {1}, {0}, {0}, set()]
    corpus.span_groups[3] = 90
    assert cloze.same_fact(corpus, rows, starts) == [set(), {1}, {0}, {2}, {1}]


def test_nothing_held_out_is_nothing_to_measure(ran, tiny):
    loaded = OpenRun.open(ran)
    found = cloze.measure_clozes(dataclasses.replace(loaded, held_out=0.0))
    assert found == {"sentences": 0}


def test_embeddings_do_not_depend_on_the_chunk(ran, tiny, monkeypatch):
    loaded = OpenRun.open(ran)
    whole = embedding.embed_corpus(loaded.model, loaded.params, tiny.corpus, LENGTHS)
    assert whole.shape == (tiny.corpus.size, 8)
    rows = np.arange(tiny.corpus.size)
    width = functools.partial(embedding._by_width, loaded.model, tiny.corpus)
    one = [x for _, x in width(rows, LENGTHS.passage)]
    assert len(one) > 1 and sorted(np.concatenate(one)) == list(range(tiny.corpus.size))
    monkeypatch.setattr(embedding, "CHUNK", 1024)  # all of them in one, at full length
    assert [w for w, _ in width(rows, LENGTHS.passage)] == [56]
    again = embedding.embed_corpus(loaded.model, loaded.params, tiny.corpus, LENGTHS)
    np.testing.assert_allclose(whole, again, atol=1e-5)
    some = np.array([7, 3, 11])
    few = embedding.embed_rows(loaded.model, loaded.params, tiny.corpus, LENGTHS, some)
    np.testing.assert_allclose(few, whole[some], atol=1e-5)


@pytest.mark.parametrize(
    ("sizes", "length", "rows"),
    [
        ({"hidden": 64, "heads": 4, "intermediate": 256}, 64, 1024),
        ({"hidden": 384, "heads": 12, "intermediate": 1536}, 256, 16),
        ({"hidden": 768, "heads": 12, "intermediate": 3072}, 288, 16),
        ({"hidden": 768, "heads": 12, "intermediate": 3072}, 512, 8),
        ({"hidden": 8192, "heads": 64, "intermediate": 1 << 20}, 512, 8),  # one a device, at least
    ],
)
def test_large_models_embed_fewer_texts_at_a_time(sizes, length, rows, monkeypatch):
    monkeypatch.setattr(embedding, "CHUNK", 1024)
    config = EncoderConfig(**sizes)
    assert embedding.chunk_rows(Ralm(config, config), length) == rows


def test_another_vocabulary_is_refused(ran, tiny, tmp_path):
    source = tmp_path / "source.jsonl"
    source.write_text(json.dumps({"id": "1", "title": "T", "text": "One. Two of 1999. Three."}))
    prepare(str(source), tmp_path / "corpus", vocab_size=100, say=lambda line: None)
    assert open_corpus(tmp_path / "corpus").vocabulary.size < 100
    with pytest.raises(UserError, match=r"prepare it with --vocab .*evaluated"):
        evaluate(ran, tiny.questions, tmp_path / "corpus")
