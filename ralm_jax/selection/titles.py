"""Titles as questions: each is to find its own passages, which are read without it.

A title says in few words what a passage is about, as a question does, and its words need not stand in the
passage. Windows of a passage do stand in it: by them, whatever matches words looks better than it is. A title
of many passages asks for a document instead: on stories it fell where questions about passages rose.
"""

import numpy as np

from ralm_jax.batches import Lengths, Text
from ralm_jax.data.corpus import Corpus
from ralm_jax.examples import features
from ralm_jax.examples.windows import SHARED, SHORTEST_TITLE
from ralm_jax.selection.interpolation import Probe

# Fewer titles than this tell nothing apart.
FEWEST, MOST = 100, 1000


def probe(corpus: Corpus, lengths: Lengths, size: int) -> Probe | None:
    """Up to MOST titles, to be found among `size` passages.

    None where the corpus has too few titles, or most of them are of more than SHARED passages.
    """
    rng = np.random.default_rng(0)
    titled = np.asarray(corpus.lengths)[:, 0].astype(int)
    rows: dict[tuple[int, ...], list[int]] = {}
    for row in rng.permutation(np.flatnonzero(titled >= SHORTEST_TITLE)):
        title = tuple(np.asarray(corpus.tokens[row, : titled[row]]).tolist())
        rows.setdefault(title, []).append(int(row))
    if len(rows) < FEWEST or np.median([len(each) for each in rows.values()]) > SHARED:
        return None
    # One passage of each first, so that every title that is asked has one in the pool.
    asked = list(rows)[: min(MOST, size)]
    first = [rows[title][0] for title in asked]
    others = rng.permutation(np.setdiff1d(np.arange(corpus.size), first))
    pool = np.concatenate([first, others[: size - len(first)]]).astype(int)
    known = set(pool.tolist())
    gold = [known & set(rows[title]) for title in asked]
    text = features.query_text(corpus, [np.array(title) for title in asked], lengths.query)
    bodies = [_body(corpus, row) for row in pool]
    return Probe(
        text,
        gold,
        pool,
        "titles",
        weighs=True,
        bodies=_text(corpus, bodies, lengths.passage),
        pieces=bodies,
    )


def _body(corpus: Corpus, row: int) -> list[int]:
    title, body = (int(n) for n in corpus.lengths[row])
    return np.asarray(corpus.tokens[row, title : title + body]).tolist()


def _text(corpus: Corpus, bodies: list[list[int]], length: int) -> Text:
    """Bodies as passages without a title, [m,P]."""
    v = corpus.vocabulary
    whole = [np.r_[v.cls, v.sep, body[: length - 3], v.sep] for body in bodies]
    tokens = features.pad(whole, length)
    types = (np.arange(length)[None] > 1) & (tokens != 0)
    return Text(tokens, types.astype(np.int32))
