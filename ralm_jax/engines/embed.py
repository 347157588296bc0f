"""`ralm embed`: a corpus by the passage tower of a run, as files that vector databases load.

The corpus is embedded part by part, and the parts are kept until all are there: after a kill the same
command goes on with those that are missing.
"""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ralm_jax import terminal
from ralm_jax.data.corpus import Corpus
from ralm_jax.engines import vector_files
from ralm_jax.engines.parts import Parts, staged
from ralm_jax.errors import UserError
from ralm_jax.inference import vector_cache
from ralm_jax.inference.embedding import embed_rows
from ralm_jax.inference.open_run import OpenRun
from ralm_jax.publishing import published

# Passages of a part: little is lost with one, and 13 million of them are 3,260 parts.
PART = 1 << 12


class Missing(NamedTuple):
    """Parts of a corpus that are still to be embedded, and the run that embeds them."""

    opened: OpenRun
    parts: Parts
    numbers: list[int]


def embed(
    run: str | Path,
    out: str | Path,
    corpus: str | Path | None = None,
    *,
    by: Callable[[Missing], None] | None = None,
    say: Callable[[str], object] = terminal.say,
) -> dict[str, int]:
    """Embeds a corpus with the newest checkpoint of a run, and writes the folder `out` (see `vector_files`).

    Vectors that the run or the cache has of this corpus by this tower are taken from there.

    Args:
      corpus: in place of the run's own.
      by: who makes the parts that are missing, if not this machine (see `beam_embed`).
    Returns:
      Passages, the width of their vectors, and how many of them were embedded now.
    Raises:
      UserError: no run, no corpus or one that was tokenized otherwise, or `out` exists or cannot be
        written; a vector is not finite. Nothing is left of `out` then, but of work that was begun and
        interrupted the parts that were made.
    """
    out = Path(out)
    if out.exists():
        raise UserError(f"{out} exists; remove it or give another --out")
    opened = OpenRun.open(run, corpus)
    given = (opened.model, opened.params, opened.corpus, opened.lengths)
    encoder, known = vector_cache.known([opened.path], *given)
    size, width = opened.corpus.size, opened.model.embedding
    if known is not None:
        say(f"The vectors of {size:,} passages are known already")
        _publish(out, opened, encoder, known())
        return {"passages": size, "dimensions": width, "embedded": 0}
    about = {
        "encoder": encoder,
        "corpus": opened.corpus.fingerprint,
        "part": PART,
        "shape": [size, width],
    }
    with staged(out, about) as parts:
        numbers = _missing(parts, size)
        left = sum(len(rows_of(opened.corpus, number)) for number in numbers)
        if left < size:
            say(f"Going on: {size - left:,} of {size:,} passages are embedded")
        (by or _embed_here)(Missing(opened, parts, numbers))
        _publish(out, opened, encoder, parts.rows())
    return {"passages": size, "dimensions": width, "embedded": left}


def rows_of(corpus: Corpus, number: int) -> np.ndarray:
    """The rows [n] of a part."""
    return np.arange(number * PART, min(corpus.size, (number + 1) * PART))


def embed_part(opened: OpenRun, number: int, done: Callable[[int], object]) -> np.ndarray:
    """The vectors [n, E] of a part: the same, to the bit, whoever embeds it on the same hardware."""
    rows = rows_of(opened.corpus, number)
    return embed_rows(opened.model, opened.params, opened.corpus, opened.lengths, rows, done)


def _missing(parts: Parts, size: int) -> list[int]:
    there = parts.sound()
    return [number for number in range(-(-size // PART)) if number not in there]


def _embed_here(missing: Missing) -> None:
    corpus = missing.opened.corpus
    with terminal.bar("embedding the corpus", corpus.size) as shown:
        shown.update(corpus.size - sum(len(rows_of(corpus, n)) for n in missing.numbers))
        for number in missing.numbers:
            missing.parts.write(number, embed_part(missing.opened, number, shown.update))


def _publish(out: Path, opened: OpenRun, encoder: str, vectors: Iterable[np.ndarray]) -> None:
    about = {
        "similarity": "inner product",
        "encoder": encoder,
        "corpus": opened.corpus.fingerprint,
        "stage": opened.stage,
        "step": opened.step,
    }
    with published(out) as folder:
        vector_files.write(folder, opened.corpus, vectors, opened.model.embedding, about)
