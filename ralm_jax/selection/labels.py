"""Questions with gold passages, where somebody has some: half of them are learnt from, half choose."""

import dataclasses
import hashlib
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ralm_jax.batches import Lengths
from ralm_jax.data.corpus import Corpus
from ralm_jax.errors import UserError
from ralm_jax.evaluation.retrieval import Relevance
from ralm_jax.examples import features
from ralm_jax.examples.windows import Labelled
from ralm_jax.questions.read import read_questions
from ralm_jax.selection.interpolation import Probe

# A batch has at most this share of questions, and each is asked about this often in all: few questions
# asked over and over are learnt by heart.
LARGEST_SHARE, TIMES = 0.25, 10


class Labels(NamedTuple):
    """Questions as wordpieces, int [n] each, and the rows of the passages that answer them."""

    pieces: list[np.ndarray]
    gold: list[frozenset[int]]


@dataclasses.dataclass(frozen=True, eq=False)
class Halves:
    """Labels to learn from and labels to choose by; and a digest of both."""

    learnt: Labels
    choosing: Labels
    digest: str


def read(source: str | Path, corpus: Corpus) -> Halves:
    """The questions of a source that have a gold passage in the corpus, in two halves.

    Which half one is in follows from its words, whatever the order of the file.

    Raises UserError where fewer than two have one, and as `read_questions`.
    """
    questions = read_questions(source).asked
    gold = Relevance(corpus, questions).gold
    known = [(q, frozenset(g)) for q, g in zip(questions, gold, strict=True) if g]
    if len(known) < 2:
        raise UserError(
            f"{source}: {len(known)} of {len(questions)} questions have a gold passage in {corpus.path}; to "
            "learn from some and choose by others takes two: give gold_ids that are ids of its documents"
        )
    known.sort(key=lambda each: hashlib.sha256(each[0].question.encode()).digest())
    encoded = corpus.tokenizer().encode_batch(
        [q.question for q, _ in known], add_special_tokens=False
    )
    pieces = [np.array(each.ids, np.int32) for each in encoded]
    rows = [each for _, each in known]
    asked = [(q.question, q.gold_ids) for q, _ in known]
    digest = hashlib.sha256(repr(asked).encode()).hexdigest()
    return Halves(
        Labels(pieces[::2], rows[::2]),
        Labels(pieces[1::2], rows[1::2]),
        digest,
    )


def labelled(learnt: Labels, queries: int) -> Labelled:
    """What is learnt from beside so many queries in all."""
    share = min(LARGEST_SHARE, TIMES * len(learnt.pieces) / queries)
    return Labelled(learnt.pieces, learnt.gold, share)


def probe(choosing: Labels, corpus: Corpus, lengths: Lengths, size: int) -> Probe:
    """The questions, to be found among their passages and others: at most `size`, or all that are gold."""
    text = features.query_text(corpus, choosing.pieces, lengths.query)
    gold = np.array(sorted(frozenset().union(*choosing.gold)))
    others = np.random.default_rng(0).permutation(np.setdiff1d(np.arange(corpus.size), gold))
    pool = np.concatenate([gold, others[: max(0, size - len(gold))]])
    return Probe(text, choosing.gold, pool, "labelled questions", labelled=True, weighs=True)
