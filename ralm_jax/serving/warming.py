"""Shapes that the devices see while serving: few, and all of them compiled before anything is asked."""

from collections.abc import Callable, Sequence

import numpy as np

from ralm_jax.inference import evidence, span_reading
from ralm_jax.inference.embedding import search_with
from ralm_jax.inference.given import embed_given
from ralm_jax.inference.open_run import OpenRun

# Texts of a batch are filled up to one of these: each is a program for each length.
SIZES = (1, 8, 32)
# Passages ranked for a question. Rankings are cut from it, so that one program searches.
DEPTH = 100


def filled(items: Sequence) -> list:
    """With the last item again until there is a size of so many."""
    size = next(size for size in SIZES if size >= len(items))
    return [*items, *[items[-1]] * (size - len(items))]


def warm(opened: OpenRun, stopping: Callable[[], bool]) -> None:
    """Embeds the corpus where it is not, and compiles what serving runs; soon over once it is stopping."""
    bodies = np.asarray(opened.corpus.lengths)[:, 1].astype(int)
    _ = opened.searcher, opened.lexical, opened.texts
    for size in SIZES:
        if stopping():
            return
        asked = opened.encode(["?"] * size)
        evidence.find(opened, asked, DEPTH)
        search_with(opened.searcher, opened.vectors[np.zeros(size, int)], depth(opened))
        embed_given(opened, [("", "?")] * size)
    if stopping():
        return
    length = opened.lengths.joint
    shortest, longest = int(bodies.min()) + 3, int(bodies.max()) + opened.lengths.query + 1
    # A scorer also reads passages that come with a request, of any length.
    span = (1, length) if "scorer" in opened.params else (shortest, longest)
    span_reading.compile_ahead(opened.model, opened.params, length, *span)


def depth(opened: OpenRun) -> int:
    """How many passages a search finds."""
    return min(DEPTH, opened.corpus.size)
