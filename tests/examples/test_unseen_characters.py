"""Format characters and the two forms of an accent: training and evaluation must find the same answers."""

import json

import numpy as np
import pytest

from ralm_jax.data.corpus import open_corpus
from ralm_jax.data.prepare import prepare
from ralm_jax.data.tokenizer_settings import TokenizerSettings
from ralm_jax.examples import matching, question_batches
from ralm_jax.examples.pattern_matching import Patterns
from ralm_jax.metrics.plain_text import with_accents
from ralm_jax.questions.question import Question

TEXTS = [
    "Glass\u200bwork of Nor\xadford was founded by Ada\u200b Quill.",
    "The mill\0 of Orrin grinds rye and was built by Hob\ufeff Tarn.",
    "Rene\u0301 of Sa\u0303o Lui\u0301s wrote it down in 1533.",
    "Ren\u00e9 of S\u00e3o Lu\u00eds read it again in 1534.",
    "Nothing of the kind stands here, nor any of those names.",
]
# Answers as a person writes them, and the passages that have them.
ANSWERS = {
    "Glasswork of Norford": [0],
    "Glass\xadwork of Nor\u2060ford": [0],
    "Ada Quill": [0],
    "mill of Orrin": [1],
    "Hob Tarn": [1],
    "Ren\u00e9 of S\u00e3o Lu\u00eds": [2, 3],
    "Rene\u0301 of Sa\u0303o Lui\u0301s": [2, 3],
    "Lui\u0301s": [2, 3],
    "Ren\u00e9": [2, 3],
}
FORM_ONLY = "\u200b\xad"


@pytest.fixture(scope="module", params=[True, False], ids=["uncased", "cased"])
def corpus(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("unseen")
    records = [{"id": str(i), "title": "T", "text": text} for i, text in enumerate(TEXTS)]
    source = folder / "source.jsonl"
    source.write_text("".join(json.dumps(r) + "\n" for r in records), "utf-8")
    options = {"vocab_size": 400, "settings": TokenizerSettings(lowercase=request.param)}
    prepare(str(source), folder / "corpus", say=lambda line: None, **options)
    return open_corpus(folder / "corpus")


def asked(*answers, patterns=False):
    return [Question(a, "What?", (a,), patterns=patterns) for a in answers]


@pytest.mark.parametrize("rule", [matching.wordpieces, matching.substring])
def test_each_rule_finds_what_evaluation_finds(corpus, rule):
    answers, everywhere = rule(corpus, asked(*ANSWERS)), np.arange(corpus.size)
    texts = [corpus.texts()[row]["text"].decode() for row in range(corpus.size)]
    for number, (question, wanted) in enumerate(
        zip(asked(*ANSWERS), ANSWERS.values(), strict=True)
    ):
        rows = np.flatnonzero(answers.among(number, everywhere))
        assert rows.tolist() == wanted, question.answers
        assert [r for r, text in enumerate(texts) if question.answer_in(text)] == wanted
    assert not rule(corpus, asked(FORM_ONLY)).anywhere().any()


def test_a_span_that_training_reads_is_an_exact_match(corpus):
    tokenizer = corpus.tokenizer()
    questions = asked(*ANSWERS)
    annotated = question_batches.annotate(corpus, questions)
    for number, question in enumerate(questions):
        spans = annotated.places.spans(number, np.arange(corpus.size))
        for row, start, stop in zip(*spans, strict=True):
            text = corpus.texts()[int(row)]["text"].decode()
            offsets = tokenizer.encode(text, add_special_tokens=False).offsets
            read = text[offsets[start][0] : with_accents(text, offsets[stop][1])]
            assert question.answered_by(read) and question.f1(read) == 1


def test_patterns_are_matched_alike(corpus):
    tokenizer = corpus.tokenizer()
    patterns = {
        r"glasswork of \w+": [0],
        "Nor\xadford": [0],
        r"mill of \w+": [1],
        r"Ren\u00e9 of S.o Lu\u00eds\b": [2, 3],
        "Rene\u0301": [2, 3],
        "(zzz)?": [],
    }
    spans = Patterns(corpus).spans(list(patterns), np.arange(corpus.size))
    found = dict(zip(patterns, spans, strict=True))
    for pattern, wanted in patterns.items():
        (question,) = asked(pattern, patterns=True)
        texts = [corpus.texts()[row]["text"].decode() for row in range(corpus.size)]
        assert found[pattern].rows.tolist() == wanted, pattern
        assert [r for r, text in enumerate(texts) if question.answer_in(text)] == wanted
        for row, start, stop in zip(*found[pattern], strict=True):
            offsets = tokenizer.encode(texts[row], add_special_tokens=False).offsets
            end = with_accents(texts[row], offsets[stop][1])
            assert question.answered_by(texts[row][offsets[start][0] : end])
