"""Where answers stand, against a plain search of every passage."""

from types import SimpleNamespace

import numpy as np
import pytest

from ralm_jax.batches import Lengths
from ralm_jax.examples import features, matching, question_batches
from ralm_jax.questions.question import Question

LENGTHS = Lengths(query=20, passage=56, joint=64, masked=4)


def questions(*answers):
    return [Question(str(i), "Who was it?", tuple(a), ()) for i, a in enumerate(answers)]


def body(corpus, row):
    title, length = (int(x) for x in corpus.lengths[row])
    return np.asarray(corpus.tokens[row, title : title + length]).tolist()


@pytest.fixture(scope="module")
def asked(tiny):
    return [
        Question(q["id"], q["question"], tuple(q["answers"]), ()) for q in tiny.almanac.questions
    ]


def test_every_place_of_an_answer_is_found(tiny, asked):
    corpus, tokenizer = tiny.corpus, tiny.corpus.tokenizer()
    answers, rows = matching.wordpieces(corpus, asked), np.arange(corpus.size)
    found = [answers.spans(number, rows) for number in range(len(asked))]
    assert sum(len(s.rows) for s in found) > len(asked)
    for question, spans in list(zip(asked, found, strict=True))[::7]:
        wanted = set()
        for answer in question.answers:
            ids = tokenizer.encode(answer, add_special_tokens=False).ids
            for row in range(corpus.size):
                text = body(corpus, row)
                for at in range(len(text) - len(ids) + 1):
                    if text[at : at + len(ids)] == ids:
                        wanted.add((row, at, at + len(ids) - 1))
        assert sorted(wanted) == list(zip(*(x.tolist() for x in spans), strict=True))
    for number, spans in enumerate(found):
        assert np.flatnonzero(answers.among(number, rows)).tolist() == sorted(
            {*spans.rows.tolist()}
        )


RULES = [matching.wordpieces, matching.substring]


@pytest.mark.parametrize("rule", RULES)
def test_a_beam_has_what_the_corpus_has(tiny, asked, rule):
    """In any order, a passage several times, and with places where none was found."""
    answers, rows = rule(tiny.corpus, asked), np.arange(tiny.corpus.size)
    rng = np.random.default_rng(0)
    for number in range(0, len(asked), 5):
        whole = answers.among(number, rows)
        beam = rng.choice(np.append(rows, [-1] * 9), 40)
        assert answers.among(number, beam).tolist() == [row >= 0 and whole[row] for row in beam]
    assert not answers.among(0, np.full(3, -1)).any()
    assert answers.among(0, np.empty(0, int)).tolist() == []


@pytest.mark.parametrize("rule", RULES)
def test_many_passages_are_searched_in_blocks(tiny, asked, monkeypatch, rule):
    """Each rule finds the answers that it has somewhere, and a pattern among them."""
    several = [*asked, *questions(["not there at all"], [])]
    several.append(Question("p", "Who?", (r"zzz|[A-Z]\w+ [A-Z]\w+",), (), patterns=True))
    several.append(Question("n", "What?", ("zzz+",), (), patterns=True))
    answers, rows = rule(tiny.corpus, several), np.arange(tiny.corpus.size)
    wanted = [bool(answers.among(number, rows).any()) for number in range(len(several))]
    assert wanted[-4:] == [False, False, True, False] and all(wanted[: len(asked)])
    assert answers.anywhere().tolist() == wanted
    monkeypatch.setattr(matching, "BLOCK", 7)
    assert tiny.corpus.size > 3 * matching.BLOCK
    assert rule(tiny.corpus, several).anywhere().tolist() == wanted


def test_no_more_is_read_where_every_question_is_answered(tiny, monkeypatch):
    read = []
    monkeypatch.setattr(matching, "BLOCK", 7)
    monkeypatch.setattr(matching.BodyIndex, "has", lambda self, wanted: read.append(wanted) or True)
    assert matching.wordpieces(tiny.corpus, questions(["a"], ["b"])).anywhere().all()
    assert len(read) == 2


def test_an_answer_does_not_run_from_one_passage_into_the_next(tiny):
    corpus, tokenizer = tiny.corpus, tiny.corpus.tokenizer()
    ends = [body(corpus, 0)[-1], body(corpus, 1)[0]]
    words = tokenizer.decode(ends)
    assert tokenizer.encode(words, add_special_tokens=False).ids == ends
    answers = matching.wordpieces(corpus, questions([words]))
    found = answers.spans(0, np.arange(corpus.size))
    assert (0, len(body(corpus, 0)) - 1) not in zip(found.rows, found.starts, strict=True)


def test_the_two_rules(tiny):
    corpus = tiny.corpus
    texts = [corpus.texts()[row]["text"].decode() for row in range(corpus.size)]
    word = next(w for w in texts[3].split() if w.isalpha() and len(w) > 5 and w[0].isupper())
    asked = questions([word], [word[1:-1]], [word.lower()], [], ["", word], ["not there at all"])
    everywhere = np.arange(corpus.size)
    by_text, by_pieces = (rule(corpus, asked) for rule in (matching.substring, matching.wordpieces))
    raw = [by_text.among(number, everywhere) for number in range(len(asked))]
    for question, has in zip(asked, raw, strict=True):
        assert has.tolist() == [any(a and a in t for a in question.answers) for t in texts]
    pieces = [by_pieces.among(number, everywhere) for number in range(len(asked))]
    assert raw[0][3] and raw[1][3] and pieces[0][3] and pieces[2][3]
    assert not pieces[1][3]  # in the middle of a word
    assert not pieces[3].any() and not pieces[5].any()


def test_gold_spans_are_the_answers_in_what_is_read(tiny, asked):
    corpus = tiny.corpus
    annotated = question_batches.annotate(corpus, asked)
    numbers = np.flatnonzero(annotated.answerable)[:12]
    given = question_batches.ask(corpus, annotated, numbers, LENGTHS)
    everywhere = np.arange(corpus.size)
    holding = {n: np.flatnonzero(annotated.answers.among(n, everywhere)) for n in numbers.tolist()}
    found = np.stack([[rows[0], 0, -1] for rows in holding.values()]).astype(np.int32)
    vectors = np.random.default_rng(0).normal(size=(corpus.size, 4)).astype("f")
    reading = SimpleNamespace(lengths=LENGTHS, candidates=2, span_width=6, train_passages=True)
    batch = question_batches.batch(corpus, reading, annotated, given, found, vectors)
    tokenizer = corpus.tokenizer()
    for b, n in enumerate(numbers):
        wanted = [tokenizer.encode(a, add_special_tokens=False).ids for a in asked[n].answers]
        places = np.argwhere(batch.gold[b])
        assert len(places) and batch.gold[b, 0].any()
        for k, start, wide in places:
            ids = batch.joint.tokens[b, k, start : start + wide + 1].tolist()
            assert ids in wanted and batch.within[b, k, start : start + wide + 1].all()
        assert batch.has_answer[b].tolist() == [r in holding[n] for r in found[b]]
        np.testing.assert_array_equal(batch.beam[b, 0], vectors[found[b, 0]])
        assert not batch.found[b, 2] and not batch.beam[b, 2].any()
    np.testing.assert_array_equal(
        batch.candidates.tokens[:, 0],
        features.passage_text(corpus, found[:, 0], LENGTHS.passage).tokens,
    )


def test_spans_that_are_cut_off_or_too_wide_are_not_gold(tiny, asked):
    corpus = tiny.corpus
    annotated = question_batches.annotate(corpus, asked)
    numbers = np.flatnonzero(annotated.answerable)[:20]
    given = question_batches.ask(corpus, annotated, numbers, LENGTHS)
    everywhere = np.arange(corpus.size)
    has = [annotated.answers.among(n, everywhere) for n in numbers.tolist()]
    rows = np.array([np.flatnonzero(each)[-1:] for each in has])
    for length in (24, 40, 64):
        joint, within = question_batches.joint_text(corpus, given.query, rows, length)
        assert (joint.tokens[within] != 3).all()
        gold = question_batches.gold_spans(annotated, given, rows, within, 3)
        for b, k, start, wide in np.argwhere(gold):
            assert wide < 3 and within[b, k, start : start + wide + 1].all()
