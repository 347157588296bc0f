"""A batch of documents into passages, as the arrays of a corpus: tokens, sentences, salient spans."""

import hashlib
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from ralm_jax.data import passages
from ralm_jax.data.salient import Tagger
from ralm_jax.data.sources import Document, GivenSpan
from ralm_jax.data.tokenizer import Encoder, Vocabulary, Wordpieces

SPECIAL_TOKENS = 3  # [CLS] title [SEP] body [SEP]


class Passages(NamedTuple):
    """The passages of a batch of documents; rows count from 0 within the batch. Shapes as in `corpus`."""

    ids: list[str]  # content ids
    documents: list[str]  # the id of the document each comes from
    texts: list[tuple[str, str]]  # title, text
    tokens: np.ndarray  # [n, T] uint16 or uint32
    lengths: np.ndarray  # [n, 2] uint16
    sentences: np.ndarray  # [m, 3] int32: passage, start, stop
    spans: np.ndarray  # [s, 4] int32: sentence, start, stop, kind
    span_groups: np.ndarray  # [s] uint64
    kinds: list[str]
    counts: Counter[str]  # what happened, and what was rejected ("rejected: reason")


class Cutter:
    """Cuts documents into passages of at most `width` wordpieces (T), title and body together."""

    def __init__(self, encoder: Encoder, vocabulary: Vocabulary, width: int, tagger: Tagger):
        self._encoder, self._vocabulary, self._tagger, self._width = (
            encoder,
            vocabulary,
            tagger,
            width,
        )

    def __call__(self, documents: Sequence[Document]) -> Passages:
        """The passages of `documents`, in order."""
        titles = list(dict.fromkeys(document.title for document in documents))
        title_ids = dict(zip(titles, (w.ids for w in self._encoder.encode(titles)), strict=True))
        batch = _Batch(self._width, tokens_dtype(self._vocabulary.size))
        for document, pieces in zip(
            documents, self._encoder.encode([document.text for document in documents]), strict=True
        ):
            self._cut(batch, document, title_ids[document.title], pieces)
        return batch.passages()

    def _cut(
        self, batch: "_Batch", document: Document, title: np.ndarray, pieces: Wordpieces
    ) -> None:
        counts, text = batch.counts, document.text
        if len(title) > self._width // 2:
            counts["titles cut"] += 1
            title = title[: self._width // 2]
        counts["documents"] += 1
        counts["unknown wordpieces"] += int(np.count_nonzero(pieces.ids == self._vocabulary.unk))
        room = self._width - len(title)
        characters = np.array(passages.split_sentences(text), np.int32).reshape(-1, 2)
        bounds = np.searchsorted(pieces.starts, characters).astype(np.int32)  # [m, 2] wordpieces
        bounds = bounds[bounds[:, 1] > bounds[:, 0]]
        bounds, cut = passages.cut_long(bounds, room, self._vocabulary.continuation[pieces.ids])
        counts["sentences cut"] += cut
        if not len(bounds):
            counts["rejected: document without wordpieces"] += 1
            return
        given = document.spans
        if given is None:
            given = [GivenSpan(*span) for span in self._tagger(text)]
        spans, facts = locate(given, pieces, bounds, counts, batch.kinds)
        ranges = passages.pack((bounds[:, 1] - bounds[:, 0]).tolist(), room)
        batch.add(document, title, pieces, bounds, ranges, spans, facts)


def locate(
    given: Sequence[GivenSpan],
    pieces: Wordpieces,
    bounds: np.ndarray,
    counts: Counter[str],
    kinds: dict[str, int],
) -> tuple[np.ndarray, list[str | None]]:
    """Character spans to wordpiece spans, keeping those inside one sentence that cover whole wordpieces.

    Args:
      given: spans by characters; bounds: [m, 2] wordpiece offsets of the sentences, in order.
      counts, kinds: what was rejected is counted there by reason; kinds not seen before get the next index.
    Returns:
      ([s, 4] int32: sentence, start, stop (wordpieces of the document), kind, in order; the fact of each).
    """
    if not given:
        return np.zeros((0, 4), np.int32), []
    characters = np.array([span[:2] for span in given], np.int32)
    start, stop = np.searchsorted(pieces.starts, characters).T
    sentence = np.searchsorted(bounds[:, 0], start, "right") - 1
    before, last = np.maximum(start - 1, 0), np.maximum(stop - 1, 0)
    inside = (sentence >= 0) & (stop <= bounds[sentence, 1])
    verdicts = {
        "span without wordpieces": start >= stop,
        "span cuts a wordpiece": ((start > 0) & (pieces.stops[before] > characters[:, 0]))
        | (pieces.stops[last] > characters[:, 1]),
        "span crosses sentences": ~inside,
        "span is the whole sentence": inside
        & (start == bounds[sentence, 0])
        & (stop == bounds[sentence, 1]),
    }
    kept = np.ones(len(given), bool)
    for reason, rejected in verdicts.items():
        counts[f"rejected: {reason}"] += int(np.count_nonzero(kept & rejected))
        kept &= ~rejected
    kind = np.array([kinds.setdefault(span.kind, len(kinds)) for span in given])
    table = np.stack([sentence, start, stop, kind], 1).astype(np.int32)[kept]
    table, first = np.unique(table, axis=0, return_index=True)
    counts["rejected: span given twice"] += int(np.count_nonzero(kept)) - len(table)
    which = np.flatnonzero(kept)[first]
    return table, [given[i].fact for i in which.tolist()]


class _Batch:
    """Passages under construction."""

    def __init__(self, width: int, dtype: np.dtype):
        self.width, self.dtype = width, dtype
        self.kinds: dict[str, int] = {}
        self.counts: Counter[str] = Counter()
        self.ids: list[str] = []
        self.documents: list[str] = []
        self.texts: list[tuple[str, str]] = []
        self.bodies: list[tuple[np.ndarray, np.ndarray]] = []
        self.sentences: list[np.ndarray] = []
        self.spans: list[np.ndarray] = []
        self.groups: list[int] = []
        self.num_sentences = 0

    def add(
        self,
        document: Document,
        title: np.ndarray,
        pieces: Wordpieces,
        bounds: np.ndarray,
        ranges: list[tuple[int, int]],
        spans: np.ndarray,
        facts: list[str | None],
    ) -> None:
        """Adds the passages `ranges` of a document; bounds [m, 2] and spans [s, 4] are by its wordpieces."""
        text, row = document.text, len(self.ids)
        for first, last in ranges:
            start, stop = bounds[first, 0], bounds[last - 1, 1]
            end = pieces.starts[stop] if stop < len(pieces.starts) else len(text)
            body = text[pieces.starts[start] : end].rstrip()
            self.ids.append(passages.content_id(document.title, body))
            self.documents.append(document.id)
            self.texts.append((document.title, body))
            self.bodies.append((title, pieces.ids[start:stop]))
        sizes = [last - first for first, last in ranges]
        passage = np.repeat(np.arange(row, len(self.ids), dtype=np.int32), sizes)  # [m]
        origin = np.repeat(bounds[[first for first, _ in ranges], 0], sizes)  # [m]
        self.sentences.append(np.column_stack((passage, bounds - origin[:, None])))
        sentence = spans[:, 0]
        self.groups.extend(
            fact_group(fact) if fact is not None else int(self.ids[at][:16], 16)
            for fact, at in zip(facts, passage[sentence].tolist(), strict=True)
        )
        spans[:, 1:3] -= origin[sentence, None]
        spans[:, 0] += self.num_sentences
        self.spans.append(spans)
        self.num_sentences += len(bounds)

    def passages(self) -> Passages:
        tokens = np.zeros((len(self.ids), self.width), self.dtype)
        lengths = np.array(
            [(len(title), len(body)) for title, body in self.bodies], np.uint16
        ).reshape(-1, 2)
        for row, (title, body) in zip(tokens, self.bodies, strict=True):
            row[: len(title)] = title
            row[len(title) : len(title) + len(body)] = body
        return Passages(
            ids=self.ids,
            documents=self.documents,
            texts=self.texts,
            tokens=tokens,
            lengths=lengths,
            sentences=np.concatenate([np.zeros((0, 3), np.int32), *self.sentences]),
            spans=np.concatenate([np.zeros((0, 4), np.int32), *self.spans]),
            span_groups=np.array(self.groups, np.uint64),
            kinds=list(self.kinds),
            counts=self.counts,
        )


def tokens_dtype(vocabulary_size: int) -> np.dtype:
    """The smallest unsigned type that holds every id."""
    return np.dtype(np.uint16 if vocabulary_size <= 1 << 16 else np.uint32)


def fact_group(fact: str) -> int:
    """The 64-bit group of the spans that state `fact`."""
    return int.from_bytes(hashlib.blake2b(fact.encode(), digest_size=8).digest(), "big")
