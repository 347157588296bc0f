"""What every text goes through: sentences, spans, wordpieces, passages, answers, and words for a terminal."""

import functools
from pathlib import Path

import numpy as np

from experiments.fuzzing.outcome import Target
from experiments.fuzzing.released import PIECES, bytewise
from ralm_jax import terminal
from ralm_jax.data import passages, tokenizer, tokenizing
from ralm_jax.data.cutting import Cutter
from ralm_jax.data.salient import Span, fit_tagger
from ralm_jax.metrics import qa
from ralm_jax.sources.documents import Document

WIDTH = 24
ENGLISH = """Dr. J. R. Ashford (born 3 March 1712) sold 1,200 bricks to the St. Mary Mill for $3.50... "Why?"

1. The kiln at os.path.join() is not U.S. property; see fig. 3.  It burned in the 18th century!
"""
OTHERS = (
    "東京は日本の首都です。1998年3月4日に建てられた。「はい」と言った。\n\n"
    "Über den Fluß führt e\u0301ine Brücke… \u200b\u202e\0\x1b[2J\ufeff"
)


def _texts() -> dict[str, bytes]:
    return {"english": ENGLISH.encode(), "others": OTHERS.encode()}


@functools.cache
def _tokenizings(folder: Path) -> list[tokenizing.Tokenizing]:
    """One of BERT's kind, and a byte-level one that is taken as it is."""
    (folder / "vocab.txt").write_text("".join(f"{piece}\n" for piece in PIECES), "utf-8")
    (folder / "tokenizer.json").write_text(bytewise(), "utf-8")
    return [tokenizing.open_tokenizer(folder / name) for name in ("vocab.txt", "tokenizer.json")]


def _check_spans(spans: list[tuple[int, int]] | list[Span], text: str) -> None:
    """In order, within the text, not empty, and none over another."""
    end = 0
    for start, stop, *_ in spans:
        assert end <= start < stop <= len(text), f"a span at {start}:{stop}"
        end = stop


def _read_text(folder: Path, name: str) -> None:
    text = (folder / name).read_bytes().decode("utf-8", "replace")
    sentences = passages.split_sentences(text)
    _check_spans(sentences, text)
    outside = set(range(len(text))).difference(*(range(a, b) for a, b in sentences))
    assert not "".join(text[i] for i in outside).strip(), "a sentence lost text"
    assert all(text[a:b] == text[a:b].strip() for a, b in sentences), "blanks around a sentence"
    tagger = fit_tagger([text, ENGLISH])
    _check_spans(tagger(text), text)
    assert len(terminal.printable(text)) == len(text)
    normal = qa.normalise(text)
    assert qa.normalise(normal) is not None and qa.f1(text, [text]) in (0.0, 1.0)
    qa.has_answer(text, [text[:20]]), qa.words(text)
    title = text[-20:]
    for opened in _tokenizings(folder):
        cutter = Cutter(opened.encoder(), opened.vocabulary, WIDTH, tagger)
        found = cutter([Document("1", title, text), Document("2", "", ENGLISH)])
        _check_passages(found, {"1": text, "2": ENGLISH})
    if len(text) < 5000:
        learnt = tokenizer.train_vocabulary([text], 60)
        assert learnt[:5] == list(tokenizer.SPECIALS) and len(set(learnt)) == len(learnt)


def _check_passages(found, texts: dict[str, str]) -> None:
    count = len(found.ids)
    assert len(found.documents) == len(found.texts) == len(found.tokens) == count
    assert (found.lengths.sum(1) <= WIDTH).all(), "a passage longer than there is room"
    assert (found.lengths[:, 1] > 0).all(), "an empty passage"
    for document, (_, body) in zip(found.documents, found.texts, strict=True):
        assert body in texts[document], "a passage is no part of its document"
    lengths = found.lengths[:, 1].astype(int)
    sentences, spans = found.sentences, found.spans
    inside = (sentences[:, 1] < sentences[:, 2]) & (sentences[:, 2] <= lengths[sentences[:, 0]])
    assert inside.all() and (sentences[:, 1] >= 0).all(), "a sentence outside of its passage"
    of = sentences[spans[:, 0]]
    assert (of[:, 1] <= spans[:, 1]).all() and (spans[:, 2] <= of[:, 2]).all(), "a span outside"
    assert (spans[:, 1] < spans[:, 2]).all() and len(found.span_groups) == len(spans)
    assert (np.diff(sentences[:, 0]) >= 0).all(), "sentences out of order"


TARGETS = {"texts": Target(_texts, _read_text)}
