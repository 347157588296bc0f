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
    found = matching.spans(corpus, asked)
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
    for rows, spans in zip(matching.wordpieces(corpus, asked), found, strict=True):
        assert rows.tolist() == sorted(set(spans.rows.tolist()))


def test_many_passages_are_searched_in_blocks(tiny, asked, monkeypatch):
    rules = (matching.spans, matching.wordpieces, matching.substring)
    whole = [rule(tiny.corpus, asked) for rule in rules]
    monkeypatch.setattr(matching, "BLOCK", 7)
    assert tiny.corpus.size > 3 * matching.BLOCK
    for rule, wanted in zip(rules, whole, strict=True):
        for found, at_once in zip(rule(tiny.corpus, asked), wanted, strict=True):
            np.testing.assert_array_equal(found, at_once)


def test_an_answer_does_not_run_from_one_passage_into_the_next(tiny):
    corpus, tokenizer = tiny.corpus, tiny.corpus.tokenizer()
    ends = [body(corpus, 0)[-1], body(corpus, 1)[0]]
    words = tokenizer.decode(ends)
    assert tokenizer.encode(words, add_special_tokens=False).ids == ends
    (found,) = matching.spans(corpus, questions([words]))
    assert (0, len(body(corpus, 0)) - 1) not in zip(found.rows, found.starts, strict=True)


def test_the_two_rules(tiny):
    corpus = tiny.corpus
    texts = [corpus.texts()[row]["text"].decode() for row in range(corpus.size)]
    word = next(w for w in texts[3].split() if w.isalpha() and len(w) > 5 and w[0].isupper())
    asked = questions([word], [word[1:-1]], [word.lower()], [], ["", word], ["not there at all"])
    raw = matching.substring(corpus, asked)
    for question, rows in zip(asked, raw, strict=True):
        wanted = [r for r, t in enumerate(texts) if any(a and a in t for a in question.answers)]
        assert rows.tolist() == wanted
    pieces = matching.wordpieces(corpus, asked)
    assert 3 in raw[0] and 3 in raw[1] and 3 in pieces[0] and 3 in pieces[2]
    assert 3 not in pieces[1]  # in the middle of a word
    assert len(pieces[3]) == len(pieces[5]) == 0


def test_gold_spans_are_the_answers_in_what_is_read(tiny, asked):
    corpus = tiny.corpus
    annotated = question_batches.annotate(corpus, asked)
    numbers = np.flatnonzero(annotated.answerable)[:12]
    given = question_batches.ask(corpus, annotated, numbers, LENGTHS)
    found = np.stack([[annotated.has_answer[n][0], 0, -1] for n in numbers]).astype(np.int32)
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
        assert batch.has_answer[b].tolist() == [
            r in annotated.has_answer[n] and r >= 0 for r in found[b]
        ]
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
    rows = np.array([[annotated.has_answer[n][-1]] for n in numbers])
    for length in (24, 40, 64):
        joint, within = question_batches.joint_text(corpus, given.query, rows, length)
        assert (joint.tokens[within] != 3).all()
        gold = question_batches.gold_spans(annotated, given, rows, within, 3)
        for b, k, start, wide in np.argwhere(gold):
            assert wide < 3 and within[b, k, start : start + wide + 1].all()
