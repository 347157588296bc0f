"""Spans that recur in other passages: clozes that some other passage may help to fill in.

As Spider (Ram et al. 2022, section 3.1) chooses them: runs of whole words that stand in several passages, no
stop word at either end, no lone short number, and none inside of a longer one. A corpus without names has
them too, where its salient spans are bare numbers.
"""

import dataclasses
from typing import Annotated, NamedTuple

import numpy as np

from ralm_jax import settings
from ralm_jax.bm25s_without_jax import STOPWORDS_EN_PLUS
from ralm_jax.data.corpus import Corpus
from ralm_jax.errors import UserError
from ralm_jax.examples import cloze_batches
from ralm_jax.settings import Count, From

STOPS = frozenset(STOPWORDS_EN_PLUS)
# Words in more than this share of the passages count as stop words too, in whatever language.
FREQUENT = 0.3
# A single word is a span from so many characters on: letters of a word, digits of a number.
CHARACTERS = 4


class Found(NamedTuple):
    """A corpus whose spans are those that recur; and how many runs of words were left out, by reason."""

    corpus: Corpus
    left_out: dict[str, int]


@dataclasses.dataclass(frozen=True)
class Recurring:
    """Spans of at most `longest` words, each in 2 to `most` passages."""

    most: Annotated[int, From(2)] = 20
    longest: Count = 5

    def __post_init__(self):
        settings.check_fields(self)

    def __call__(self, corpus: Corpus) -> Found:
        """The corpus with these spans in place of its own. A fact is a passage: that is what is held out.

        They are counted in memory, in about 100 bytes a wordpiece.
        """
        words = Words.of(corpus)
        left_out = {"in one passage alone": 0, f"in more than {self.most} passages": 0}
        found = [np.empty((0, 3), np.int64)]
        # How far the spans reach that begin at a word or before it: whatever ends there is inside of one.
        reach = np.zeros(len(words.begins), np.int64)
        for n in range(self.longest, 0, -1):
            first = words.runs(n)
            passages = words.passages_with(first, n)
            left_out["in one passage alone"] += int((passages < 2).sum())
            left_out[f"in more than {self.most} passages"] += int((passages > self.most).sum())
            first = first[(passages >= 2) & (passages <= self.most)]
            first = first[reach[first] < first + n]
            np.maximum.at(reach, first, first + n)
            reach = np.maximum.accumulate(reach)
            found.append(words.spans(corpus, first, n))
        spans = np.concatenate(found)
        spans = spans[np.lexsort((spans[:, 1], spans[:, 0]))]
        kinds = np.zeros((len(spans), 1), np.int64)
        passages = corpus.sentences[spans[:, 0], 0]
        groups = np.array([int(name[:16], 16) for name in corpus.ids[passages].tolist()], np.uint64)
        table = np.concatenate([spans, kinds], axis=1).astype(np.int32)
        changed = {"spans": table, "span_groups": groups, "kinds": ("recurring",)}
        return Found(dataclasses.replace(corpus, **changed), left_out)

    def queries(self, corpus: Corpus, held_out: float, query_length: int) -> cloze_batches.Queries:
        """Sentences with such a span. Raises UserError where there is none."""
        changed, left_out = self(corpus)
        if not len(changed.spans):
            reasons = "; ".join(f"{count:,} {reason}" for reason, count in left_out.items())
            raise UserError(
                f"no run of words recurs in 2 to {self.most} passages of {corpus.path}, so that no passage "
                f"can help to fill in another ({reasons}): give more text, or mask salient spans"
            )
        reason = "no recurring span within the query length"
        fits = {reason: cloze_batches.with_span(changed, query_length)}
        asked = cloze_batches.queries(changed, held_out, fits)
        runs = {f"runs of words {reason}": count for reason, count in left_out.items()}
        return cloze_batches.Queries(asked.rows, asked.left_out | runs)


def queries(
    recurring: Recurring | None, corpus: Corpus, held_out: float, query_length: int
) -> cloze_batches.Queries:
    """Sentences with a span to mask: one that recurs, or a salient one of the corpus.

    Raises UserError where there is none.
    """
    if recurring is not None:
        return recurring.queries(corpus, held_out, query_length)
    reason = "no salient span within the query length"
    fits = cloze_batches.with_span(corpus, query_length)
    return cloze_batches.queries(corpus, held_out, {reason: fits})


class Words(NamedTuple):
    """The words of all sentences, one after the other; arrays [w].

    Attributes:
      digest: uint64, by which words are told apart.
      begins, ends: of each, in pieces; sentence, passage: rows; offset: where its sentence begins, in pieces.
      plain: of letters and digits alone; stops: may not stand at an edge; short: may not stand alone.
    """

    digest: np.ndarray
    begins: np.ndarray
    ends: np.ndarray
    sentence: np.ndarray
    passage: np.ndarray
    offset: np.ndarray
    plain: np.ndarray
    stops: np.ndarray
    short: np.ndarray

    @classmethod
    def of(cls, corpus: Corpus) -> "Words":
        rows, start, stop = (x.astype(np.int64) for x in np.asarray(corpus.sentences).T)
        sizes, offsets = stop - start, np.cumsum(stop - start) - (stop - start)
        sentence = np.repeat(np.arange(len(rows)), sizes)
        column = np.arange(int(sizes.sum())) - offsets[sentence]
        column += (start + np.asarray(corpus.lengths)[rows, 0])[sentence]
        pieces = corpus.tokens[rows[sentence], column].astype(np.int64)
        begins = corpus.vocabulary.begins(pieces)
        begins[offsets[sizes > 0]] = True
        begins = np.flatnonzero(begins)
        ends = np.append(begins[1:], len(pieces))[: len(begins)]
        word = np.repeat(np.arange(len(begins)), ends - begins)
        texts = corpus.tokenizing().texts
        summed = lambda values: np.add.reduceat(values, begins) if len(begins) else values  # noqa: E731
        rough = np.array([not text.isalnum() for text in texts], np.int64)
        characters = np.array([len(text) for text in texts])
        passage = rows[sentence[begins]]
        alone = ends - begins == 1
        stopping = np.array([t in STOPS for t in texts])
        common = np.unique(np.stack([pieces[begins[alone]], passage[alone]], 1), axis=0)[:, 0]
        stopping |= np.bincount(common, minlength=len(texts)) > max(2, FREQUENT * corpus.size)
        return cls(
            summed(scattered(pieces + len(texts) * (np.arange(len(pieces)) - begins[word]))),
            begins,
            ends,
            sentence[begins],
            passage,
            offsets[sentence[begins]],
            summed(rough[pieces]) == 0,
            alone & stopping[pieces[begins]],
            summed(characters[pieces]) < CHARACTERS,
        )

    def runs(self, n: int) -> np.ndarray:
        """The first words of all runs of n words that may be spans."""
        first = np.arange(len(self.begins) - n + 1)
        last = first + n - 1
        rough = np.append(0, np.cumsum(~self.plain))
        good = (self.sentence[first] == self.sentence[last]) & (rough[last + 1] == rough[first])
        good &= ~self.stops[first] & ~self.stops[last]
        return first[good & ~self.short[first]] if n == 1 else first[good]

    def passages_with(self, first: np.ndarray, n: int) -> np.ndarray:
        """In how many passages each run of n words stands, int [runs]."""
        digest = np.zeros(len(first), np.uint64)
        for place in range(n):
            digest += scattered(self.digest[first + place] + np.uint64(place))
        order = np.lexsort((self.passage[first], digest))
        digest, passage = digest[order], self.passage[first][order]
        new, other = np.ones((2, len(order)), bool)
        new[1:] = digest[1:] != digest[:-1]
        other[1:] = new[1:] | (passage[1:] != passage[:-1])
        run = np.cumsum(new) - 1
        counts = np.empty(len(first), np.int64)
        counts[order] = np.bincount(run, other).astype(np.int64)[run]
        return counts

    def spans(self, corpus: Corpus, first: np.ndarray, n: int) -> np.ndarray:
        """Runs of n words as [sentence row, start, stop] in wordpieces of the body, int [runs,3]."""
        sentence = self.sentence[first]
        shift = np.asarray(corpus.sentences)[sentence, 1].astype(np.int64) - self.offset[first]
        return np.stack(
            [sentence, self.begins[first] + shift, self.ends[first + n - 1] + shift], axis=1
        )


def scattered(numbers: np.ndarray) -> np.ndarray:
    """Whole numbers to uint64 that look drawn at random, the same for the same number (splitmix64)."""
    x = (numbers.astype(np.uint64) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
