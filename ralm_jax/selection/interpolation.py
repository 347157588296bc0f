"""Never worse than the start: weights between a start and what training made of it.

Weights half-way from a released encoder keep what it knew (WiSE-FT, Wortsman et al. 2022; LM-Cocktail,
Xiao et al. 2023). Which of them is kept is decided by windows of passages that training never saw; and the
start is kept unless something is better by more than chance.
"""

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Sequence, Set
from pathlib import Path
from typing import Any

import jax
import numpy as np

from ralm_jax import settings, terminal
from ralm_jax.batches import Lengths, Text
from ralm_jax.data.corpus import Corpus
from ralm_jax.errors import UserError
from ralm_jax.examples import windows
from ralm_jax.inference import vector_cache
from ralm_jax.inference.embedding import embed_rows, embed_texts
from ralm_jax.inference.open_run import OpenRun
from ralm_jax.lexical.index import LexicalIndex
from ralm_jax.runs import directory, selection
from ralm_jax.runs.checkpoint import Checkpoints
from ralm_jax.runs.selection import Choice
from ralm_jax.settings import Count, Rate
from ralm_jax.terminal import bar

# Of the way from the start; no more than half, since beyond it windows go on to rise where questions fall.
SHARES = (0.0, 0.25, 0.5)
# Where the start and BM25 taught, questions did not fall anywhere on the way (experiments/README.md).
TAUGHT_SHARES = (0.0, 0.5, 1.0)
# Labelled questions can be trusted all the way, and with what BM25 weighs.
LABELLED_SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)
WEIGHTS = (0.0, 2.0, 3.5, 5.0, 7.5, 10.0, 15.0, 20.0, 30.0)


@dataclasses.dataclass(frozen=True)
class Probe:
    """What weights are chosen by.

    Attributes:
      query, gold: queries [n,L], and of each the rows of its passages.
      pool: rows of the passages that are ranked, [m].
      labelled: whether they are questions of a person, which can be trusted all the way.
      weighs: whether they may choose what BM25 weighs.
      bodies, pieces: the pool as it is read, [m,P], and its wordpieces, where it is not as it is served.
    """

    query: Text
    gold: Sequence[Set[int]]
    pool: np.ndarray
    name: str
    labelled: bool = False
    weighs: bool = False
    bodies: Text | None = None
    pieces: Sequence[Sequence[int]] | None = None


@dataclasses.dataclass(frozen=True)
class Interpolation:
    """How the weights to keep are chosen once training has ended.

    Attributes:
      shortest, longest: wordpieces of a window of a held-out passage.
      size: windows asked.
      pool: passages that each is to be found among.
      lexical_weight: of BM25 beside the dense score, in the searches of the run.
    """

    shortest: Count = 8
    longest: Count = 20
    size: Count = 2000
    pool: Count = 1000
    lexical_weight: Rate = 15.0

    def __post_init__(self):
        settings.check_fields(self)

    def probe(self, corpus: Corpus, lengths: Lengths, held_out: float) -> Probe:
        """Windows of held-out passages, to be found among at most `pool` passages.

        Raises UserError where no passage is held out: a window of one that was trained on proves nothing.
        """
        rng = np.random.default_rng(0)
        long = np.asarray(corpus.lengths)[:, 1] > self.shortest
        held = np.flatnonzero(windows.held_out_passages(corpus, held_out) & long)
        if not len(held):
            raise UserError(
                f"{corpus.path} has {corpus.size:,} passages, and none of more than {self.shortest} "
                "wordpieces is held out to choose weights by: give more text, or raise HELD_OUT "
                f"(now {held_out})"
            )
        held = rng.permutation(held)[: max(1, self.pool // 2)]
        others = rng.permutation(np.setdiff1d(np.arange(corpus.size), held))
        rows = np.resize(held, self.size)
        sizes = {"shortest": self.shortest, "longest": self.longest}
        asked = windows.windows(corpus, rows, np.arange(self.size), lengths, 0, **sizes)
        pool = np.concatenate([held, others[: self.pool - len(held)]])
        return Probe(
            asked.query, [{int(row)} for row in rows], pool, "windows of held-out passages"
        )


def between(start: Any, end: Any, share: float) -> Any:
    """start + share * (end - start), leaf by leaf.

    What has not changed keeps its bits, -0 too, which + 0 would not leave: vectors are known by them.
    """

    def leaf(a, b):
        return np.where(a == b, a, a + np.float32(share) * (b - a))

    return jax.tree.map(leaf, start, end)


def kept(start: dict, end: dict, share: float) -> dict:
    """The start or the end as it was; or a retriever between both, and whatever else training has made."""
    if share in (0, 1):
        return end if share else start
    return {**end, "retriever": between(start["retriever"], end["retriever"], share)}


def choose(
    shares: Sequence[float], measure: Callable[[float], np.ndarray], base: float = 0.0
) -> Choice:
    """The best share by the mean of the probe; `base` unless its gain over that is significant.

    Args:
      shares: 0, the start, and others, `base` among them.
      measure: share -> reciprocal ranks [n] of the probe.
    """
    values = {share: measure(share) for share in shares}
    figures = {share: float(each.mean()) for share, each in values.items()}
    best = max(shares, key=lambda share: figures[share])
    if not exceeds(values[best], values[base], errors=2):
        best = base
    return Choice(best, figures, base=base)


def exceeds(ours: np.ndarray, theirs: np.ndarray, errors: float) -> bool:
    """Whether the mean of paired differences is more than so many of its standard errors above 0."""
    gained = ours - theirs
    return bool(gained.mean() > errors * gained.std() / np.sqrt(len(gained)))


def weigh(default: float, measure: Callable[[float], np.ndarray]) -> float:
    """What BM25 weighs: the best of a few weights where it is significantly better than the default.

    measure: weight -> reciprocal ranks [n] of the probe.
    """
    values = {weight: measure(weight) for weight in (default, *WEIGHTS)}
    best = max(values, key=lambda weight: values[weight].mean())
    return best if exceeds(values[best], values[default], errors=2) else default


def similarities(opened: OpenRun, probe: Probe) -> np.ndarray:
    """The dense scores of the pool for each query, float [n,m], as they are mixed with BM25."""
    model, params = opened.model, opened.params
    if probe.bodies is None:
        vectors = _pool_vectors(opened, probe.pool)
    else:
        vectors = embed_texts(model, params, probe.bodies, "passages")
    return model.score_scale * (embed_texts(model, params, probe.query) @ vectors.T)


def lexical_scores(opened: OpenRun, probe: Probe) -> np.ndarray:
    """BM25 of the pool for each query, over the query's best in the whole corpus: float [n,m]."""
    if probe.pieces is not None:
        index = LexicalIndex(opened.corpus, probe.pieces)
        return np.stack([index.scores(tokens) for tokens in probe.query.tokens])
    return np.stack([opened.lexical.scores(tokens)[probe.pool] for tokens in probe.query.tokens])


def reciprocal_ranks(scores: np.ndarray, probe: Probe) -> np.ndarray:
    """Scores of the pool [n,m] -> 1 / rank of the first gold passage of each query, float [n]."""
    place = {int(row): i for i, row in enumerate(probe.pool)}
    best = [
        row[[place[g] for g in gold]].max() for row, gold in zip(scores, probe.gold, strict=True)
    ]
    return 1 / (1 + (scores > np.array(best)[:, None]).sum(1))


def _pool_vectors(opened: OpenRun, rows: np.ndarray) -> np.ndarray:
    """Vectors [m,E] of the passages that are ranked; those of a start were cached as training began."""
    model, params, lengths = opened.model, opened.params, opened.lengths
    if opened.path is not None:
        about = (model, params["retriever"], opened.corpus, lengths.passage)
        if (found := vector_cache.find([], *about).vectors) is not None:
            return found[rows]
    return embed_rows(model, params, opened.corpus, lengths, rows)


def _scores(ended: OpenRun, start: dict, end: dict, probe: Probe) -> Callable[[float], np.ndarray]:
    """share -> the dense scores of a probe by the weights there, computed once."""

    @functools.cache
    def scores(share: float) -> np.ndarray:
        with bar(f"{probe.name}: {share:.0%} of the way", 1) as shown:
            found = similarities(dataclasses.replace(ended, params=kept(start, end, share)), probe)
            shown.update()
        return found

    return scores


def _ranks(scores, probe: Probe, share: float, lexical=0.0, weight: float = 0.0) -> np.ndarray:
    """Reciprocal ranks [n] of a probe by the weights at a share, with so much of BM25 [n,m]."""
    return reciprocal_ranks(scores(share) + weight * lexical, probe)


def keep(
    run: Path, ended: OpenRun, start: Any, probes: Sequence[Probe], weight: float, *, taught: bool
) -> Any:
    """Chooses between `start` and a run as it has ended, once; saves the choice as its best, and why.

    probes: each may better the choice of the one before, by more than chance: few questions of a person do
      not undo what thousands of windows have found.
    weight: of BM25 beside the dense score, unless a probe chooses another.
    taught: whether the start and BM25 taught it, so that it may be trusted beyond half of the way.
    """
    checkpoints = Checkpoints(directory.checkpoint_folder(run, directory.BEST))
    with contextlib.closing(checkpoints):
        if (chosen_at := checkpoints.latest()) is not None:
            return checkpoints.load(chosen_at)["state"]["params"]
        end, choices = jax.tree.map(np.asarray, ended.params), []
        for probe in probes:
            scores = _scores(ended, start, end, probe)
            shares = LABELLED_SHARES if probe.labelled else TAUGHT_SHARES if taught else SHARES
            ranks = functools.partial(_ranks, scores, probe)
            chosen = choose(shares, ranks, choices[-1].share if choices else 0.0)
            choices.append(chosen._replace(by=(len(probe.gold), probe.name)))
            if probe.weighs:
                lexical = lexical_scores(ended, probe)
                weight = weigh(weight, functools.partial(ranks, chosen.share, lexical))
        params = kept(start, end, choices[-1].share)
        tree = {
            "state": {"params": params},
            directory.LEXICAL_WEIGHT: np.array(weight, np.float32),
        }
        selection.save(run, choices, weight)
        checkpoints.save(ended.step, tree, wait=True)
        for line in selection.said(run):
            terminal.say(line)
    return params
