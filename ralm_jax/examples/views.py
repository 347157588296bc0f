"""What of a cloze the retriever sees. The reader sees the sentence with [MASK] in place of its span.

An encoder that was trained on questions has never seen a [MASK], and finds less for each of them; so the
retriever may see other words. The sentence without its span is Spider's prefix, a stretch as long as a
question its window (Ram et al. 2022, section 3).
"""

import dataclasses
from collections.abc import Callable

import numpy as np

from ralm_jax import settings
from ralm_jax.data.tokenizer import Vocabulary
from ralm_jax.errors import UserError
from ralm_jax.examples.masking import word_starts
from ralm_jax.settings import Count, Share

# (tokens [n] int, hidden [n] bool, vocabulary, generator) -> the wordpieces that are seen, [m] int.
View = Callable[[np.ndarray, np.ndarray, Vocabulary, np.random.Generator], np.ndarray]


def masked(
    tokens: np.ndarray, hidden: np.ndarray, vocabulary: Vocabulary, generator: np.random.Generator
) -> np.ndarray:
    """What the reader sees, as in REALM."""
    return np.where(hidden, vocabulary.mask, tokens)


def dropped(
    tokens: np.ndarray, hidden: np.ndarray, vocabulary: Vocabulary, generator: np.random.Generator
) -> np.ndarray:
    """The sentence without what is hidden; what the reader sees, where that is all of it."""
    return masked(tokens, hidden, vocabulary, generator) if hidden.all() else tokens[~hidden]


@dataclasses.dataclass(frozen=True)
class Mixed:
    """Some sentences without their span, and of the others a window around it, which may have kept it.

    Attributes:
      windows: share of the views that are windows.
      kept: share of the windows that have the span.
      shortest, longest: wordpieces of a window, about; it begins and ends with a word.
    """

    windows: Share = 0.5
    kept: Share = 0.5
    shortest: Count = 8
    longest: Count = 20

    def __post_init__(self):
        settings.check_fields(self)
        if self.shortest > self.longest:
            raise UserError(
                f"Mixed: windows of {self.shortest} to {self.longest} wordpieces: `shortest` is above "
                "`longest`"
            )

    def __call__(self, tokens, hidden, vocabulary, generator) -> np.ndarray:
        """As a View."""
        window, kept = generator.random() < self.windows, generator.random() < self.kept
        if not window or not hidden.any():
            return dropped(tokens, hidden, vocabulary, generator)
        start, stop = self._window(tokens, hidden, vocabulary, generator)
        part, gone = tokens[start:stop], hidden[start:stop]
        return part if kept else dropped(part, gone, vocabulary, generator)

    def _window(self, tokens, hidden, vocabulary, generator) -> tuple[int, int]:
        """[start, stop) of whole words with all that is hidden, and as many more pieces as were drawn."""
        first, last = np.flatnonzero(hidden)[[0, -1]]
        size = max(generator.integers(self.shortest, self.longest + 1), last + 1 - first)
        begins = word_starts(tokens, vocabulary)
        least = max(0, last + 1 - size)
        room = begins[(begins >= least) & (begins <= first)]
        start = generator.choice(room) if len(room) else begins[begins <= first][-1]
        ends = np.append(begins[1:], len(tokens))
        fitting = ends[(ends > last) & (ends <= max(start + size, last + 1))]
        return int(start), int(fitting[-1]) if len(fitting) else int(last + 1)
