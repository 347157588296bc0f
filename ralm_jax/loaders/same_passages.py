"""Which passages two corpora share, by their content ids."""

import numpy as np

from ralm_jax.data.corpus import Corpus
from ralm_jax.examples.features import NULL


def same_passages(asked: Corpus, corpus: Corpus) -> np.ndarray:
    """int32 [size of `asked`]: the row in `corpus` of each passage of `asked`, NULL where it is absent.

    A content id covers title and text. So passages that merely overlap, such as those of one
    document that was cut to two lengths, count as different.
    """
    ids, numbers = np.unique(np.concatenate([corpus.ids, asked.ids]), return_inverse=True)
    row = np.full(len(ids), NULL, np.int32)
    row[numbers[: corpus.size]] = np.arange(corpus.size, dtype=np.int32)
    return row[numbers[corpus.size :]]
