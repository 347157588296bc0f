"""Salient spans: the dates, numbers and names that a passage is worth reading for."""

import re
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import NamedTuple


class Span(NamedTuple):
    """Characters text[start:stop] of a text, of a kind: "date", "number", "name" or the tagger's own."""

    start: int
    stop: int
    kind: str


Tagger = Callable[[str], list[Span]]

_WORD = re.compile(r"[^\W\d_]+")
_NUMBER = re.compile(r"\d[\d,.]*\d|\d")
_NAME = re.compile(r"[A-Z]\w+(?: [A-Z]\w+)*")


@dataclass(frozen=True)
class CorpusTagger:
    common: frozenset[str]

    def __call__(self, text: str) -> list[Span]:
        spans = [Span(m.start(), m.end(), "number") for m in _NUMBER.finditer(text)]
        for m in _NAME.finditer(text):
            if m[0].lower() not in self.common:
                spans.append(Span(m.start(), m.end(), "name"))
        return sorted(spans)


def fit_tagger(texts: Iterable[str]) -> CorpusTagger:
    counts = Counter()
    for text in texts:
        counts.update(_WORD.findall(text))
    return CorpusTagger(frozenset(w for w in counts if w.islower() and len(w) > 1))


def no_spans(text: str) -> list[Span]:
    """The tagger that finds nothing."""
    return []
