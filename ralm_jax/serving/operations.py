"""What a batch asks of a run: questions, texts or ids in, a result for each out, as it goes to JSON.

Each is called on the thread of the devices, with at most `device.BATCH` items.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from ralm_jax.inference import answering, evidence
from ralm_jax.inference.embedding import embed_texts, search_with
from ralm_jax.inference.evidence import Beam
from ralm_jax.inference.given import embed_given, given_passages
from ralm_jax.inference.open_run import OpenRun
from ralm_jax.inference.records import as_record
from ralm_jax.inference.span_reading import rerank_pairs
from ralm_jax.serving.warming import DEPTH, depth, filled

# Passages that are read for a question, as `ralm ask` reads them.
READ = 5


class Page(NamedTuple):
    """A question, or the id of a passage, and which of the passages found for it are shown."""

    text: str
    offset: int
    limit: int


class Pair(NamedTuple):
    """A text to be scored for a query."""

    query: str
    text: str


class NoSuchPassage(Exception):
    """The corpus has no passage of that id."""


class Embedded(NamedTuple):
    """A text's vector, float32 [E], and how many wordpieces it was read as, special ones included."""

    vector: np.ndarray
    pieces: int


def embed_questions(opened: OpenRun, questions: list[str]) -> list[Embedded]:
    """As `OpenRun.search` embeds them."""
    asked = opened.encode(filled(questions))
    vectors = embed_texts(opened.model, opened.params, asked)
    counts = (asked.tokens != 0).sum(1).tolist()
    return [Embedded(*each) for each in zip(vectors, counts, strict=True)][: len(questions)]


def embed_passages(opened: OpenRun, passages: list[tuple[str, str]]) -> list[Embedded]:
    """Titles and bodies, as the corpus is embedded."""
    vectors = embed_given(opened, filled(passages))
    sizes = given_passages(opened, passages).lengths.astype(int).sum(1) + 3
    counts = np.minimum(sizes, opened.lengths.passage).tolist()
    return [Embedded(*each) for each in zip(vectors, counts, strict=False)]


def ask(opened: OpenRun, questions: list[str]) -> list[dict[str, Any]]:
    """Answers with what they rest on, as `bodies.Answer` has them."""
    asked = opened.encode(filled(questions))
    beam = evidence.find(opened, asked, DEPTH)
    # What fills the batch up is not read.
    asked, beam = _first(len(questions), asked), _first(len(questions), beam)
    if opened.rerank:
        beam = evidence.reranked(opened, asked, beam)
    out = []
    for b, (found, worths) in enumerate(evidence.weigh(opened, asked, beam, READ)):
        record = as_record(opened, found)
        passages = [_ranked(opened, beam, b, place) for place in range(len(worths))]
        for passage, worth in zip(passages, worths, strict=True):
            alone = worth.alone
            passage["reader"] = {
                "alone": alone and {"answer": alone.text, "probability": alone.probability},
                "answer_alone": worth.of_answer,
                "answer_without": worth.without,
            }
        about = {"cut": opened.cut(questions[b]), "corpus_version": opened.corpus.version.number}
        out.append({**record, "passages": passages, **about})
    return out


def search(opened: OpenRun, pages: list[Page]) -> list[dict[str, Any]]:
    """Passages in the order of the run, as `bodies.Found` has them."""
    beam = evidence.find(opened, opened.encode(filled([page.text for page in pages])), DEPTH)
    out = []
    for b, page in enumerate(pages):
        real = int((beam.rows[b] >= 0).sum())
        places = range(page.offset, min(page.offset + page.limit, real))
        passages = [_ranked(opened, beam, b, place) for place in places]
        out.append(_found(opened, passages, real, opened.cut(page.text)))
    return out


def neighbours(opened: OpenRun, pages: list[Page]) -> list[dict[str, Any] | Exception]:
    """Passages whose vectors have the greatest inner products with that of a passage, itself left out."""
    own = [_row(opened, page.text) for page in pages]
    vectors = opened.vectors[filled([max(row, 0) for row in own])]
    ranked = search_with(opened.searcher, vectors, depth(opened))
    out: list[dict[str, Any] | Exception] = []
    for row, page, rows, scores in zip(own, pages, ranked.rows, ranked.scores, strict=False):
        if row < 0:
            out.append(NoSuchPassage())
            continue
        others = [
            (int(r), float(s)) for r, s in zip(rows, scores, strict=True) if r not in (row, -1)
        ]
        shown = others[page.offset : page.offset + page.limit]
        passages = [{**passage_record(opened, r), "score": s} for r, s in shown]
        out.append(_found(opened, passages, len(others), False))
    return out


def by_words(opened: OpenRun, pages: list[Page]) -> list[dict[str, Any]]:
    """Passages that share words with a text, by BM25: the best has 1."""
    asked = opened.encode([page.text for page in pages])
    out = []
    for tokens, page in zip(asked.tokens, pages, strict=True):
        scores = opened.lexical.scores(tokens)
        sharing = int((scores > 0).sum())
        most = min(page.offset + page.limit, sharing)
        best = np.argpartition(-scores, most - 1)[:most] if most else np.zeros(0, int)
        best = best[np.argsort(-scores[best], kind="stable")][page.offset :]
        passages = [
            {**passage_record(opened, int(row)), "score": float(scores[row])} for row in best
        ]
        out.append(_found(opened, passages, sharing, opened.cut(page.text)))
    return out


def passage(opened: OpenRun, ids: list[str]) -> list[dict[str, Any] | Exception]:
    """One passage by its id."""
    rows = [_row(opened, id) for id in ids]
    return [passage_record(opened, row) if row >= 0 else NoSuchPassage() for row in rows]


def score(opened: OpenRun, pairs: list[Pair]) -> list[float]:
    """What the run's scorer makes of each pair; without one, the scaled inner product of their vectors."""
    queries = list(dict.fromkeys(pair.query for pair in pairs))
    numbers = [queries.index(pair.query) for pair in pairs]
    asked, texts = opened.encode(filled(queries)), [("", pair.text) for pair in pairs]
    if "scorer" in opened.params:
        given = given_passages(opened, texts)
        places = np.stack([numbers, np.arange(len(pairs))], -1)
        scorer, length = opened.params["scorer"], opened.lengths.joint
        return rerank_pairs(opened.model, scorer, given, asked, places, length).tolist()
    vectors = embed_texts(opened.model, opened.params, asked)[numbers]
    passages = embed_given(opened, filled(texts))[: len(texts)]
    return (opened.model.score_scale * (vectors * passages).sum(1)).tolist()


def probabilities(opened: OpenRun, scores: Sequence[float]) -> np.ndarray:
    """Scores of texts for one query, as they are given where raw ones are not asked for.

    Of a scorer the logistic function, as text-embeddings-inference has it; of inner products, for which that
    is 1 nearly always, p(z|x) over the texts.
    """
    raw = np.asarray(scores, np.float64)
    return 1 / (1 + np.exp(-raw)) if "scorer" in opened.params else answering.softmax(raw)


def passage_record(opened: OpenRun, row: int) -> dict[str, Any]:
    """As `bodies.Passage` has it."""
    record = opened.texts[row]
    documents = [document.decode() for document in record["documents"]]
    text = {key: record[key].decode() for key in ("id", "title", "text")}
    return {**text, "documents": documents}


def _ranked(opened: OpenRun, beam: Beam, b: int, place: int) -> dict[str, Any]:
    parts = {"score": beam.scores, "probability": beam.probabilities}
    parts |= {"dense": beam.dense, "lexical": beam.lexical}
    record = passage_record(opened, int(beam.rows[b, place]))
    return {**record, "rank": place + 1, **{n: float(x[b, place]) for n, x in parts.items()}}


def _found(opened: OpenRun, passages: list, total: int, cut: bool) -> dict[str, Any]:
    version = opened.corpus.version.number
    return {"passages": passages, "total": total, "cut": cut, "corpus_version": version}


def _row(opened: OpenRun, id: str) -> int:
    """Of the passage with an id; -1 where there is none."""
    rows = np.flatnonzero(np.asarray(opened.corpus.ids) == id.encode())
    return int(rows[0]) if len(rows) else -1


def _first(n: int, arrays):
    return type(arrays)(*(array[:n] for array in arrays))
