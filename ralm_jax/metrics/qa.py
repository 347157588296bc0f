"""Comparing answers with each other and finding them in passages, as the papers did.

A prediction is compared with the answers after the normalisation of SQuAD, as ORQA and REALM were
scored. A passage is searched for an answer word by word, as DPR and its successors reported recall.
Everything is compared as `plain_text.plain` gives it.
"""

import functools
import re
import string
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence

from ralm_jax.metrics.plain_text import blank, plain

_PUNCTUATION = str.maketrans("", "", string.punctuation)
_ARTICLES = re.compile(r"\b(a|an|the)\b")
# Kana and Chinese characters, which no spaces separate: each is a word.
_UNSPACED = "\u3041-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
_WORD = re.compile(rf"[{_UNSPACED}]|[^\W_{_UNSPACED}]+|\S")


def normalise(text: str) -> str:
    """NFD, lower case, no ASCII punctuation, no articles, single spaces.

    NFD splits an accent from its letter and does not drop it. Source: the evaluation of ORQA
    (Lee et al., 2019), itself that of SQuAD 1.1 with NFD before it. Where nothing would be left,
    the articles stay, and if that is not enough the punctuation stays too: otherwise the answers
    "A" and "The The" would equal each other and a prediction of nothing.

    >>> normalise("The  Prime-Minister's  an\\nAide.")
    'primeministers aide'
    >>> normalise("The The"), normalise("A."), normalise("!!!")
    ('the the', 'a', '!!!')
    """
    text = unicodedata.normalize("NFD", plain(text)).lower()
    bare = text.translate(_PUNCTUATION)
    forms = (" ".join(form.split()) for form in (_ARTICLES.sub(" ", bare), bare, text))
    return next((form for form in forms if form), "")


def exact_match(prediction: str, answers: Iterable[str]) -> bool:
    """Whether the prediction equals one of the answers, both normalised. An empty one never does."""
    found = normalise(prediction)
    return bool(found) and any(found == normalise(answer) for answer in answers)


def regex_match(prediction: str, patterns: Iterable[str]) -> bool:
    """Whether one of the patterns matches at the start of the prediction, in either case.

    The scoring of CuratedTREC, whose answers are patterns. One that is no regular expression
    matches nothing, as there. An empty prediction is never right.
    """
    if blank(prediction):
        return False
    return any(compiled.match(plain(prediction)) for compiled in _compiled(patterns))


def f1(prediction: str, answers: Iterable[str]) -> float:
    """The best overlap with an answer: harmonic mean of precision and recall of the words."""
    found = normalise(prediction).split()
    return max((_overlap(found, normalise(answer).split()) for answer in answers), default=0.0)


def words(text: str) -> list[str]:
    """Lower-cased runs of letters and digits, and every other character but spaces by itself.

    Source: the SimpleTokenizer of DPR (Karpukhin et al., 2020), with Japanese and Chinese added.

    >>> words("Vera's 2nd, 東京")
    ['vera', "'", 's', '2nd', ',', '東', '京']
    """
    return _WORD.findall(plain(text).lower())


def has_answer(text: str, answers: Iterable[str]) -> bool:
    """Whether the `words` of an answer stand in the text one after the other.

    So "ten" is not found in "often", and "Vera" is found in "Vera's". An empty answer is nowhere.
    """
    there = spaced(text)
    # Of an answer without words two blanks are left.
    return any(wanted in there for wanted in map(spaced, answers) if len(wanted) > 2)


# The same passages are found for many questions, and by every row of a table.
@functools.lru_cache(maxsize=1 << 14)
def spaced(text: str) -> str:
    """The `words` of a text with a blank before and after each."""
    return f" {' '.join(words(text))} "


def has_match(text: str, patterns: Iterable[str]) -> bool:
    """Whether one of the patterns matches some of the text, in either case; empty matches do not count."""
    text = plain(text)
    return any(
        m.end() > m.start() for compiled in _compiled(patterns) for m in compiled.finditer(text)
    )


def compile_pattern(pattern: str) -> re.Pattern[str]:
    """A pattern as it is matched with plain text. Raises re.error for what is no regular expression."""
    try:
        return re.compile(plain(pattern), re.IGNORECASE | re.MULTILINE)
    except (RecursionError, OverflowError):
        raise re.error("it is nested too deeply, or repeats too often") from None


def _overlap(found: Sequence[str], wanted: Sequence[str]) -> float:
    if not found or not wanted:
        return 0.0
    shared = sum((Counter(found) & Counter(wanted)).values())
    return 2 * shared / (len(found) + len(wanted))


def _compiled(patterns: Iterable[str]) -> Iterable[re.Pattern[str]]:
    for pattern in patterns:
        try:
            yield compile_pattern(pattern)
        except re.error:
            continue
