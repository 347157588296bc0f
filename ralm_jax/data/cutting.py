"""Cuts a batch of documents into passages: tokens, sentences and salient spans as arrays."""

import hashlib
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from ralm_jax.data import passages
from ralm_jax.data.salient import Tagger
from ralm_jax.data.tokenizer import Encoder, Vocabulary, Wordpieces
from ralm_jax.data.tokenizer_json import TextEncoder
from ralm_jax.sources.documents import Document

# [CLS] title [SEP] body [SEP]
SPECIAL_TOKENS = 3
# Pieces that a passage has room for beyond those it has within a text: alone its first word may have more.
SPARE = 2


class Passages(NamedTuple):
    """The n passages of a batch of documents; rows count from 0 within the batch.

    The arrays are those of a corpus (see `corpus`). `counts` says what was found and what was rejected.
    """

    # Content ids, ids of the documents that the passages come from, and (title, text).
    ids: list[str]
    documents: list[str]
    texts: list[tuple[str, str]]
    # [n, T] uint16 or uint32, and [n, 2] uint16.
    tokens: np.ndarray
    lengths: np.ndarray
    # [m, 3] int32: passage, start, stop.
    sentences: np.ndarray
    # [s, 4] int32: sentence, start, stop, kind; and [s] uint64.
    spans: np.ndarray
    span_groups: np.ndarray
    kinds: list[str]
    counts: Counter[str]
    # Id and digest of every document of the batch, of those without a passage too.
    sources: list[tuple[str, str]]
    # Characters of the batch that are in wordpieces, and in unknown ones.
    characters: int
    unknown_characters: int


class CharacterSpans(NamedTuple):
    """Salient spans of a batch, by characters of its joined text, as they were given."""

    starts: list[int]
    stops: list[int]
    kinds: list[str]
    facts: list[str | None]


class Cutter:
    """Cuts documents into passages of at most `width` wordpieces (T), title and body together."""

    def __init__(
        self, encoder: Encoder | TextEncoder, vocabulary: Vocabulary, width: int, tagger: Tagger
    ):
        self._encoder, self._vocabulary = encoder, vocabulary
        self._width, self._tagger = width, tagger

    def __call__(self, documents: Sequence[Document]) -> Passages:
        """The passages of `documents`, in order."""
        pieces = self._encoder.encode([document.text for document in documents])
        counts = Counter({"documents": len(documents)})
        counts["wordpieces"] = len(pieces.ids)
        unknown = pieces.ids == self._vocabulary.unk
        counts["unknown wordpieces"] = int(unknown.sum())
        characters = pieces.stops - pieces.starts
        titles = self._titles(documents, counts)
        whole = self._width - np.array([len(title) for title in titles])
        room = whole - SPARE if self._encoder.in_context else whole
        bounds, owner = self._sentences(documents, pieces, room, counts)
        if self._encoder.in_context:
            first = pack_with_blanks(bounds, owner, room)
        else:
            sizes = (bounds[:, 1] - bounds[:, 0]).tolist()
            first = passages.pack(sizes, owner.tolist(), room.tolist())
        # [n], the document of each passage.
        owner = owner[first]
        last = np.append(first, len(bounds))[1:] - 1
        start, stop = bounds[first, 0], bounds[last, 1]
        texts = _texts(documents, pieces, owner, start, stop)
        ids = [passages.content_id(*text) for text in texts]
        # [m], the passage of each sentence.
        passage = np.repeat(np.arange(len(ids)), last + 1 - first)
        if self._encoder.in_context:
            places = pieces.starts[start], [text for _, text in texts], whole[owner]
            pieces, again, passage = self._by_itself(pieces, bounds, passage, *places)
            bounds, start, stop = again
        tokens, lengths = self._table([titles[i] for i in owner.tolist()], pieces.ids, start, stop)
        given = self._spans(documents, pieces.begins)
        spans, which = locate(given, pieces, bounds, counts)
        spans[:, 1:3] -= start[passage[spans[:, 0]], None]
        kinds = sorted({given.kinds[i] for i in which})
        number = {kind: i for i, kind in enumerate(kinds)}
        spans[:, 3] = [number[given.kinds[i]] for i in which]
        groups = [
            int(ids[row][:16], 16) if (fact := given.facts[i]) is None else fact_group(fact)
            for i, row in zip(which, passage[spans[:, 0]].tolist(), strict=True)
        ]
        return Passages(
            ids=ids,
            documents=[documents[i].id for i in owner.tolist()],
            texts=texts,
            tokens=tokens,
            lengths=lengths,
            sentences=np.column_stack((passage, bounds - start[passage, None])).astype(np.int32),
            spans=spans.astype(np.int32),
            span_groups=np.array(groups, np.uint64),
            kinds=kinds,
            counts=counts,
            sources=[(document.id, document.digest()) for document in documents],
            characters=int(characters.sum()),
            unknown_characters=int(characters[unknown].sum()),
        )

    def _titles(self, documents: Sequence[Document], counts: Counter[str]) -> list[np.ndarray]:
        """The ids of each document's title, which may take up half of a passage and no more."""
        distinct = list(dict.fromkeys(document.title for document in documents))
        pieces = self._encoder.encode(distinct)
        cuts = np.searchsorted(pieces.starts, pieces.begins)
        ids = dict(zip(distinct, np.split(pieces.ids, cuts[1:-1]), strict=True))
        titles = [ids[document.title][: self._width // 2] for document in documents]
        counts["titles cut"] = sum(
            len(ids[document.title]) > self._width // 2 for document in documents
        )
        return titles

    def _sentences(
        self,
        documents: Sequence[Document],
        pieces: Wordpieces,
        room: np.ndarray,
        counts: Counter[str],
    ) -> tuple[np.ndarray, np.ndarray]:
        """([m, 2] wordpiece offsets of sentences that fit a passage, [m] the document of each)."""
        found = [passages.split_sentences(document.text) for document in documents]
        owner = np.repeat(np.arange(len(documents)), [len(sentences) for sentences in found])
        flat = [offsets for sentences in found for offsets in sentences]
        characters = np.array(flat, np.int64).reshape(-1, 2) + pieces.begins[owner, None]
        bounds = np.searchsorted(pieces.starts, characters)
        # Sentences of nothing but characters that the tokenizer drops.
        empty = bounds[:, 0] == bounds[:, 1]
        bounds, owner = bounds[~empty], owner[~empty]
        counts["rejected: document without wordpieces"] = len(documents) - len(np.unique(owner))
        goes_on = ~self._vocabulary.begins(pieces.ids)
        bounds, source = passages.cut_long(bounds, room[owner], goes_on)
        counts["sentences cut"] = int((np.bincount(source) > 1).sum())
        # Of a sentence with a long run of blanks, parts that are nothing else: no passage is made of one. A
        # character whose bytes are pieces of two parts is in the text of the second.
        seen = np.cumsum(np.append(0, pieces.stops > pieces.starts))
        following = np.append(pieces.starts, len(pieces.joined))[bounds[:, 1]]
        some = seen[np.searchsorted(pieces.starts, following)] > seen[bounds[:, 0]]
        return bounds[some], owner[source[some]]

    def _by_itself(
        self,
        pieces: Wordpieces,
        bounds: np.ndarray,
        passage: np.ndarray,
        begins: np.ndarray,
        texts: list[str],
        room: np.ndarray,
    ) -> tuple[Wordpieces, tuple[np.ndarray, np.ndarray, np.ndarray], np.ndarray]:
        """The pieces that n passages have when each is tokenized by itself, as any other library does.

        Args:
          bounds: [m, 2] of sentences in the pieces given; passage: [m] that each is in.
          begins: [n] the character where each begins; room: [n] the most pieces of each.
        Returns:
          (the pieces, at the same characters; [m', 2] sentences, [n] starts and [n] stops of passages in
          them; [m'] the passage of each sentence). Sentences of which nothing is left are left out.
        """
        found = self._encoder.encode(texts)
        owner = np.searchsorted(found.begins, found.starts, "right") - 1
        number = np.arange(len(found.ids)) - np.searchsorted(owner, owner)
        kept = number < room[owner]
        owner, shift = owner[kept], (begins - found.begins[:-1])[owner[kept]]
        starts, stops = found.starts[kept] + shift, found.stops[kept] + shift
        first, end = (
            np.searchsorted(owner, np.arange(len(texts)), side) for side in ("left", "right")
        )
        characters = pieces.starts[bounds[:, 0]], pieces.stops[bounds[:, 1] - 1]
        again = np.stack([np.searchsorted(starts, each) for each in characters], axis=1)
        again = np.clip(again, first[passage][:, None], end[passage][:, None])
        some = again[:, 0] < again[:, 1]
        made = Wordpieces(pieces.joined, pieces.begins, found.ids[kept], starts, stops)
        return made, (again[some], first, end), passage[some]

    def _spans(self, documents: Sequence[Document], begins: np.ndarray) -> CharacterSpans:
        """Every document's own spans, or the tagger's where it has none of its own."""
        spans = CharacterSpans([], [], [], [])
        for document, begin in zip(documents, begins.tolist(), strict=False):
            if document.spans is None:
                for start, stop, kind in self._tagger(document.text):
                    spans.starts.append(begin + start)
                    spans.stops.append(begin + stop)
                    spans.kinds.append(kind)
                    spans.facts.append(None)
            else:
                for start, stop, kind, fact in document.spans:
                    spans.starts.append(begin + start)
                    spans.stops.append(begin + stop)
                    spans.kinds.append(kind)
                    spans.facts.append(fact)
        return spans

    def _table(
        self, titles: list[np.ndarray], ids: np.ndarray, start: np.ndarray, stop: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Tokens [n, T] and lengths [n, 2] of passages with bodies ids[start:stop]."""
        tokens = np.zeros((len(titles), self._width), tokens_dtype(self._vocabulary.size))
        for row, title, a, b in zip(tokens, titles, start.tolist(), stop.tolist(), strict=True):
            row[: len(title)] = title
            row[len(title) : len(title) + b - a] = ids[a:b]
        lengths = np.column_stack(([len(title) for title in titles], stop - start))
        return tokens, lengths.astype(np.uint16)


def pack_with_blanks(bounds: np.ndarray, owner: np.ndarray, room: np.ndarray) -> np.ndarray:
    """`passages.pack` for sentences [m,2] between which pieces of blanks may stand, -> [n]."""
    sizes = bounds[:, 1] - bounds[:, 0]
    following = np.append(bounds[1:, 0], bounds[-1:, 1])
    inside = np.append(owner[1:] == owner[:-1], False)[: len(owner)]
    sizes = np.where(inside, following - bounds[:, 0], sizes)
    return passages.pack(sizes.tolist(), owner.tolist(), room.tolist())


def locate(
    given: CharacterSpans, pieces: Wordpieces, bounds: np.ndarray, counts: Counter[str]
) -> tuple[np.ndarray, list[int]]:
    """Character spans to wordpiece spans: those inside one sentence that cover whole wordpieces.

    Args:
      bounds: [m, 2] wordpiece offsets of the sentences, in order.
      counts: what is rejected is counted there, by reason.
    Returns:
      ([s, 4] int64: sentence, start, stop (wordpieces of the batch) and a column to fill, in order
      and none twice; the s indices into `given`).
    """
    begin, end = np.array(given.starts, np.int64), np.array(given.stops, np.int64)
    start, stop = np.searchsorted(pieces.starts, begin), np.searchsorted(pieces.starts, end)
    # The zero makes stops[-1] lie before everything.
    stops = np.append(pieces.stops, 0)
    sentence = np.searchsorted(bounds[:, 0], start, "right") - 1
    # [s, 2], the bounds of the sentence that each begins in.
    whole = np.append(bounds, [[0, 0]], axis=0)[sentence]
    inside = (start >= whole[:, 0]) & (stop <= whole[:, 1])
    rejections = {
        "span cuts a wordpiece": (stops[start - 1] > begin) | (stops[stop - 1] > end),
        "span without wordpieces": start >= stop,
        "span crosses sentences": ~inside,
        "span is the whole sentence": inside & (start == whole[:, 0]) & (stop == whole[:, 1]),
    }
    kept = np.ones(len(begin), bool)
    for reason, rejected in rejections.items():
        counts[f"rejected: {reason}"] = int((kept & rejected).sum())
        kept &= ~rejected
    which = np.flatnonzero(kept)
    which = which[np.lexsort((stop[which], start[which]))]
    table = np.column_stack((sentence, start, stop, sentence))[which]
    new = np.append(True, (table[1:, :3] != table[:-1, :3]).any(1))[: len(table)]
    counts["rejected: span given twice"] = int((~new).sum())
    return table[new], which[new].tolist()


def _texts(
    documents: Sequence[Document],
    pieces: Wordpieces,
    owner: np.ndarray,
    start: np.ndarray,
    stop: np.ndarray,
) -> list[tuple[str, str]]:
    """Title and text of the passages with the wordpieces from `start` to `stop`, [n] each."""
    # Up to the next wordpiece, since marks that the tokenizer strips may follow the last one.
    following = np.append(pieces.starts, len(pieces.joined))[stop]
    end = np.minimum(following, pieces.begins[owner + 1])
    return [
        (documents[i].title, pieces.joined[a:b].rstrip())
        for i, a, b in zip(owner.tolist(), pieces.starts[start].tolist(), end.tolist(), strict=True)
    ]


def tokens_dtype(vocabulary_size: int) -> np.dtype:
    """The smallest unsigned type that has room for every id."""
    return np.dtype(np.uint16 if vocabulary_size <= 1 << 16 else np.uint32)


def fact_group(fact: str) -> int:
    """The 64-bit group of the spans that state `fact`."""
    return int.from_bytes(hashlib.blake2b(fact.encode(), digest_size=8).digest(), "big")
