"""Where regular expressions match, against a search passage by passage."""

import dataclasses
import re

import numpy as np
import pytest

from ralm_jax.examples import matching, question_batches
from ralm_jax.examples.pattern_matching import Patterns
from ralm_jax.questions.question import Question

PATTERNS = [
    r"[A-Z]\w+(er|or)\b",
    r"1[0-9]{3}",
    r"the \w+ of|founded",
    r"^\w+ ",
    r"\w+\.$",
    r"(zzz)?",
]


def places(corpus, pattern):
    """All of a pattern, in passages that are asked for backwards."""
    (found,) = Patterns(corpus).spans([pattern], np.arange(corpus.size)[::-1])
    return found


def texts(corpus):
    return [corpus.texts()[row]["text"].decode() for row in range(corpus.size)]


@pytest.mark.parametrize("pattern", PATTERNS)
def test_every_match_is_found(tiny, pattern):
    corpus, tokenizer = tiny.corpus, tiny.corpus.tokenizer()
    spans = places(corpus, pattern)
    wanted = set()
    for row, text in enumerate(texts(corpus)):
        offsets = tokenizer.encode(text, add_special_tokens=False).offsets
        for match in re.finditer(pattern, text, re.IGNORECASE | re.MULTILINE):
            touched = [
                i for i, (s, e) in enumerate(offsets) if s < match.end() and match.start() < e
            ]
            if touched and match.end() > match.start():
                wanted.add((row, touched[0], touched[-1]))
    assert set(zip(*(x.tolist() for x in spans), strict=True)) == wanted
    assert bool(wanted) == (pattern != "(zzz)?")


def test_what_a_cut_passage_has_lost_is_not_found(tiny):
    corpus = tiny.corpus
    text = texts(corpus)[4]
    last = re.escape(text.split()[-1])
    assert 4 in places(corpus, last).rows
    lengths = np.array(corpus.lengths)
    lengths[4, 1] -= 2  # of its wordpieces only those before the last two are kept
    short = dataclasses.replace(corpus, lengths=lengths)
    assert 4 not in places(short, last).rows


def test_patterns_teach_as_answers_do(tiny):
    corpus = tiny.corpus
    year = re.search(r"1[0-9]{3}", " ".join(texts(corpus))).group()
    plain = Question("a", "When?", (year,))
    pattern = Question("b", "When was it?", (f"{year[:2]}[0-9]{{2}}|no such thing",), patterns=True)
    everywhere = np.arange(corpus.size)
    assert matching.substring(corpus, [pattern]).among(0, everywhere).tolist() == [
        pattern.answer_in(text) for text in texts(corpus)
    ]
    known = question_batches.annotate(corpus, [plain, pattern])
    assert known.answerable.all()
    found = [known.places.spans(number, everywhere) for number in range(2)]
    plain_places, pattern_places = (
        set(zip(*(x.tolist() for x in spans), strict=True)) for spans in found
    )
    assert plain_places <= pattern_places
