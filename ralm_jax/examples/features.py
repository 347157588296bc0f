"""From rows of the token table to model inputs: pure numpy, whole batches at a time.

Layouts as released with REALM: query `[CLS] sentence [SEP]`, types 0; passage
`[CLS] title [SEP] body [SEP]`, types 0 up to the first [SEP] and 1 behind it; joint
`[CLS] sentence [SEP] body [SEP]` likewise, the title left out. Row NULL is the null passage, whose title
and body are empty. Padding is 0 in tokens and types.
"""

import numpy as np

from ralm_jax.batches import Text
from ralm_jax.data.corpus import Corpus

NULL = -1


def pad(rows: list[np.ndarray], length: int) -> np.ndarray:
    """Ragged ids -> int32 [len(rows), length], zero padded; longer rows are cut."""
    out = np.zeros((len(rows), length), np.int32)
    for i, row in enumerate(rows):
        out[i, : len(row)] = row[:length]
    return out


def query_text(corpus: Corpus, sentences: list[np.ndarray], length: int) -> Text:
    """Sentence token ids -> `[CLS] sentence [SEP]` [B,L], cut to L - 2 pieces."""
    v = corpus.vocabulary
    tokens = pad([np.r_[v.cls, s[: length - 2], v.sep] for s in sentences], length)
    return Text(tokens, np.zeros_like(tokens))


def _fields(corpus: Corpus, rows: np.ndarray):
    """rows [n] -> tokens [n,T], title lengths [n,1], body lengths [n,1]; NULL rows are empty."""
    corpus.require_whole()
    tokens = corpus.tokens[rows]
    lengths = corpus.lengths[rows].astype(np.int32)
    lengths[rows == NULL] = 0
    return tokens, lengths[:, :1], lengths[:, 1:]


def _take(tokens: np.ndarray, columns: np.ndarray) -> np.ndarray:
    return np.take_along_axis(tokens, np.clip(columns, 0, tokens.shape[1] - 1), axis=1)


def passage_text(corpus: Corpus, rows: np.ndarray, length: int, cut=None, part=None) -> Text:
    """Passage rows [n] -> [n,P]: as much of the title as fits, then of the body.

    cut: optional int [n,2], body tokens [start, stop) to leave out (inverse cloze).
    part: optional int [n,2], body tokens [start, stop) to take alone; a cut lies within it.
    """
    v = corpus.vocabulary
    tokens, title, body = _fields(corpus, rows)
    # Where the body begins, less [CLS] and [SEP].
    offset = np.minimum(title, length - 3)
    column = np.arange(length, dtype=np.int32)[None, :]
    in_body = column - 2 - offset
    source = in_body
    if part is not None:
        body = part[:, 1:] - part[:, :1]
        source = in_body + part[:, :1]
    if cut is not None:
        start, gap = cut[:, :1], cut[:, 1:] - cut[:, :1]
        body = body - gap
        source = source + np.where(source >= start, gap, 0)
    # Where the last [SEP] stands.
    end = np.minimum(offset + 2 + body, length - 1)
    out = np.where(column <= offset, _take(tokens, column - 1), _take(tokens, title + source))
    out = np.where(column == 0, v.cls, out)
    out = np.where((column == offset + 1) | (column == end), v.sep, out)
    out = np.where(column <= end, out, 0).astype(np.int32)
    return Text(out, ((column > offset + 1) & (column <= end)).astype(np.int32))


def joint_text(corpus: Corpus, query: Text, rows: np.ndarray, length: int) -> Text:
    """Query [B,L] and passage rows [B,K] -> [B,K,S]: the body is cut to what the query leaves."""
    v = corpus.vocabulary
    b, k = rows.shape
    tokens, title, body = _fields(corpus, rows.reshape(-1))
    # [B*K,1]
    front = np.repeat((query.tokens != 0).sum(1, keepdims=True), k, axis=0)
    column = np.arange(length, dtype=np.int32)[None, :]
    end = np.minimum(front + body, length - 1)
    asked = _take(np.repeat(query.tokens, k, axis=0), np.broadcast_to(column, (b * k, length)))
    out = np.where(column < front, asked, _take(tokens, title + column - front))
    out = np.where(column == end, v.sep, out)
    out = np.where(column <= end, out, 0).astype(np.int32).reshape(b, k, length)
    types = ((column >= front) & (column <= end)).astype(np.int32).reshape(b, k, length)
    return Text(out, types)
