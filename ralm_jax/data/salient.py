"""Salient spans: the dates, numbers, names and terms that a passage is worth reading for.

`fit_tagger` needs no model and no download. Dates and numbers are regular expressions; what a name
is is learnt from how the corpus writes its words: "The" is capitalised where a sentence begins,
"Chicago" everywhere. Where a script has no capitals, or a corpus does not use them, words that are
rare and come in bursts stand in.
"""

import re
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from ralm_jax import json_text


class Span(NamedTuple):
    """text[start:stop]; `kind` is "date", "number", "name", "term" or a tagger's own."""

    start: int
    stop: int
    kind: str


# The spans are in order, and none overlaps another.
Tagger = Callable[[str], list[Span]]

_UPPER = "".join(c for c in map(chr, range(0x2000)) if c.isupper())
# \w of the scripts that have capitals.
_W = r"[0-9A-Za-z_\u00aa-\u058f\u10a0-\u10ff\u1e00-\u1fff]"
_MONTH = (
    "(?:January|February|March|April|May|June|July|August|September|October|November|December"
    r"|(?:Jan|Feb|Mar|Apr|Jun|Jul|Aug|Sept?|Oct|Nov|Dec)\b\.?)"
)
_DAY = r"(?:[12]\d|3[01]|0?[1-9])(?:st|nd|rd|th)?"
_YEAR = r"(?:1\d{3}|20\d{2})"
# For example 3 March 1990; March 3, 1990; March 1990; and forms in digits.
_DATES = (
    rf"{_DAY}(?: of)?[ -]{_MONTH}(?:,?[ -]{_YEAR})?",
    rf"{_MONTH} {_DAY}(?!\d)(?:,? {_YEAR})?",
    rf"{_MONTH},? {_YEAR}",
    r"\d{4}-\d{2}-\d{2}|\d{1,2}/\d{1,2}/\d{4}",
    r"(?:\d{1,2}年)?\d{1,2}月\d{1,2}日|\d{3,4}年(?:\d{1,2}月(?:\d{1,2}日)?)?|\d{1,2}年\d{1,2}月",
    r"\d{1,4} (?:BCE?|AD|CE)\b",
    r"\d{1,2}(?:st|nd|rd|th)[ -]centur(?:y|ies)",
    rf"{_YEAR}s?(?!\w|[.,]\d)",
)
_NUMBER = (
    r"(?<!\[)[$€£¥]?\d+(?:[.,]\d+)*(?:%| ?(?:percent|per cent|thousand|million|billion|trillion)\b"
    r"|st\b|nd\b|rd\b|th\b)?"
)
# J. or U.S.
_INITIALS = rf"(?:[{_UPPER}]\.)+"
_CAPITALISED = rf"[{_UPPER}]{_W}*(?:[&'’-](?!s\b){_W}+)*"
_WORD_OF_NAME = rf"(?:{_INITIALS}|(?:St|Mt|Ft|Dr|Mr|Mrs|Ms|Prof)\.(?= )|{_CAPITALISED})"
_JOINT = r" (?:(?:of|of the|de|de la|del|du|des|di|da|von|van|van der|van den|der|le|la|al|bin) )?"
_NAME = rf"{_WORD_OF_NAME}(?:{_JOINT}{_WORD_OF_NAME})*"
# The lookahead lets most characters fail quickly.
_SALIENT = re.compile(
    rf"(?=[\d$€£¥{_UPPER}])(?<![0-9A-Za-z_])(?:"
    rf"(?P<date>{'|'.join(_DATES)})(?![0-9A-Za-z_])"
    rf"|(?P<number>{_NUMBER})(?![0-9A-Za-z_])"
    rf"|(?P<name>{_NAME}))"
)
# Code: snake_case, dotted.names, camelCase, calls(). The hint is there to pass over prose quickly.
_CODE_HINT = re.compile(r"[_.(A-Z](?:(?<=_)|(?<=[a-z][A-Z])|(?<=[a-z]\.)(?=[a-z_])|(?<=\()\))")
_CODE = re.compile(
    r"(?<![\w.])(?:(?=\w*[a-z])\w*_\w*(?:\.\w+)*|[A-Za-z]\w+(?:\.[a-z_]\w+)+"
    r"|[a-z]+[A-Z]\w*|[a-z]\w+(?=\(\)))"
    r"(?:\(\))?"
)
# Runs of letters without case: Hebrew, Arabic, Indic scripts, Hangul, katakana, ideographs.
_LETTER = r"[\u05d0-\u08ff\u0904-\u0dff\uac00-\ud7a3ァ-ヺー々㐀-䶿一-鿿]"
_CASELESS = re.compile(f"{_LETTER}{_LETTER}+")
_LETTERS = re.compile(r"[^\W\d_]+")
# The same, or a word, where the corpus has no capitals.
_TERM = re.compile(rf"{_LETTER}{_LETTER}+|(?<!\w){_W}{{4,}}")
# The word that begins a sentence. The second branch, which has no word, keeps the time in proportion
# to the length of the text: where a run of blank lines leads to no capital, it passes over the run up
# to its last line end, from which the first branch may still match.
_FIRST_WORD = re.compile(rf"[.!?:;…\n*•–-][\"'”’)\]]*+\s++[\"'“‘(\[]*+([{_UPPER}]\w*)|\n\s*(?=\n)")

_SPACY_NUMBERS = ("CARDINAL", "MONEY", "ORDINAL", "PERCENT", "QUANTITY")

# Words that are capitalised less often than this are names only beside other names.
_SELDOM = 0.05
# If they are also more frequent than this, they neither begin nor end a name.
_FREQUENT = 1 / 500
# A corpus with a smaller share of capitalised words does not use capitals.
_UNCASED = 0.002
# Terms occur in at most this share of the texts.
_RARE = 0.01
# They occur in at least this many: a term of one text can be learnt from nowhere else.
_MIN_TEXTS = 2
# They occur this often in each text that has them: a text repeats the words for its subject.
_BURST = 1.5


@dataclass(frozen=True)
class CorpusTagger:
    """A tagger fitted to a corpus; plain data, so that it can be sent to another process."""

    # Lower-cased words that are capitalised within sentences too.
    names: frozenset[str]
    # Lower-cased words that are hardly ever capitalised there.
    ordinary: frozenset[str]
    # The most frequent of the ordinary words.
    frequent: frozenset[str]
    # Rare words, for text in which capitals say nothing.
    terms: frozenset[str]
    # Whether the corpus uses capitals.
    cased: bool

    def record(self) -> dict[str, Any]:
        """As JSON; `CorpusTagger.of` takes it back."""
        return {
            name: sorted(value) if isinstance(value, frozenset) else value
            for name, value in vars(self).items()
        }

    @classmethod
    def of(cls, record: dict[str, Any]) -> "CorpusTagger":
        words = {n: frozenset(found) for n, found in record.items() if n != "cased"}
        return cls(**words, cased=bool(record["cased"]))

    @classmethod
    def read(cls, file: Path) -> "CorpusTagger":
        """The tagger whose record a file holds."""
        return cls.of(json_text.parse(file.read_text("utf-8")))

    def __call__(self, text: str) -> list[Span]:
        first = {m.start(1) for m in _FIRST_WORD.finditer(text) if m[1]}
        first.add(len(text) - len(text.lstrip(" \n\"'“‘([")))
        spans = []
        for match in _SALIENT.finditer(text):
            kind = match.lastgroup or ""
            start, stop = match.span()
            if kind == "name":
                start, stop = self._trim(match[0], start, start in first)
            if start < stop:
                spans.append(Span(start, stop, kind))
        terms = [Span(*found.span(), "term") for found in self._rare(text)]
        if _CODE_HINT.search(text):
            terms += [Span(*found.span(), "term") for found in _CODE.finditer(text)]
        return _without_overlap(terms + spans) if terms else spans

    def _rare(self, text: str) -> Iterator[re.Match[str]]:
        if self.terms:
            pattern = _CASELESS if self.cased else _TERM
            return (found for found in pattern.finditer(text) if found[0] in self.terms)
        return iter(())

    def _trim(self, words: str, start: int, begins_sentence: bool) -> tuple[int, int]:
        """(start, stop) of what is a name in a run of capitalised words; empty if nothing is."""
        stop = start + len(words)
        # A queue, since a run may be as long as the text.
        run = deque(words.split(" "))
        if begins_sentence and not self._capitalised_anyway(run[0]):
            start += len(run.popleft()) + 1
        while run and (run[0][0].islower() or run[0].lower() in self.frequent):
            start += len(run.popleft()) + 1
        while run and (run[-1][0].islower() or run[-1].lower() in self.frequent):
            stop -= len(run.pop()) + 1
        if len(run) > 1 or (run and self._names_alone(run[0].lower())):
            return start, stop
        return start, start

    def _capitalised_anyway(self, word: str) -> bool:
        """Whether a word that begins a sentence would be capitalised elsewhere."""
        key = word.lower()
        return key in self.names or (key not in self.ordinary and not word[1:].islower())

    def _names_alone(self, word: str) -> bool:
        return len(word) > 2 and word not in self.ordinary and word[:2] not in ("i'", "i’")


def fit_tagger(texts: Sequence[str]) -> CorpusTagger:
    """Learns from `texts` which words are names, and the rare terms where capitals do not tell."""
    words: Counter[str] = Counter()
    initial: Counter[str] = Counter()
    for text in texts:
        words.update(_LETTERS.findall(text))
        initial.update(filter(None, _FIRST_WORD.findall(f"\n\n{text}")))
    # Capitalised within sentences, by the lower-cased word.
    upper: Counter[str] = Counter()
    for word, count in words.items():
        if word[0].isupper():
            upper[word.lower()] += count - initial[word]
    total = words.total()
    letters = sum(n for word, n in words.items() if word.lower() != word.upper())
    cased = sum(n for word, n in words.items() if word[0].isupper()) >= _UNCASED * letters
    keys = [word for word in {*words, *upper} if word.islower()]
    share = {word: upper[word] / max(1, upper[word] + words[word]) for word in keys}
    ordinary = frozenset(word for word in keys if words[word] and share[word] < _SELDOM)
    return CorpusTagger(
        names=frozenset(word for word in keys if share[word] >= 0.5),
        ordinary=ordinary,
        frequent=frozenset(word for word in ordinary if words[word] > _FREQUENT * total),
        terms=_rare_terms(texts, _CASELESS if cased else _TERM),
        cased=cased,
    )


def _rare_terms(texts: Sequence[str], pattern: re.Pattern[str]) -> frozenset[str]:
    occurrences: Counter[str] = Counter()
    # The number of texts that each term occurs in.
    texts_with: Counter[str] = Counter()
    for text in texts:
        if not text.isascii() or pattern is _TERM:
            found = pattern.findall(text)
            occurrences.update(found)
            texts_with.update(set(found))
    most = max(_MIN_TEXTS, _RARE * len(texts))
    return frozenset(
        term
        for term, count in texts_with.items()
        if _MIN_TEXTS <= count <= most and occurrences[term] >= _BURST * count
    )


def _without_overlap(spans: list[Span]) -> list[Span]:
    """Spans in order; of those that overlap the first, or the longest of those."""
    kept, stop = [], 0
    for span in sorted(spans, key=lambda span: (span.start, -span.stop)):
        if span.start >= stop:
            kept.append(span)
            stop = span.stop
    return kept


def spacy_tagger(nlp: Callable[[str], Any]) -> Tagger:
    """The entities of a spaCy pipeline: spacy_tagger(spacy.load("en_core_web_sm"))."""

    def tag(text: str) -> list[Span]:
        kinds = {"DATE": "date", "TIME": "date"} | dict.fromkeys(_SPACY_NUMBERS, "number")
        return [
            Span(entity.start_char, entity.end_char, kinds.get(entity.label_, "name"))
            for entity in nlp(text).ents
        ]

    return tag


def no_spans(text: str) -> list[Span]:
    """The tagger that finds nothing."""
    return []
