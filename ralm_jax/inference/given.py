"""Passages given as texts, rather than as rows of the corpus: as the run reads them."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from ralm_jax.data.corpus import Corpus
from ralm_jax.examples import features
from ralm_jax.inference.embedding import embed_texts
from ralm_jax.inference.open_run import OpenRun


def given_passages(opened: OpenRun, passages: Sequence[tuple[str, str]]) -> Corpus:
    """Titles and bodies -> what stands in for the corpus, passage i in row i, cut to what the run reads.

    It has wordpieces and their lengths; of all else what the corpus has.
    """
    longest, room = opened.lengths.passage - 3, max(opened.lengths.passage, opened.lengths.joint)
    tokens = np.zeros((len(passages), room), np.int32)
    lengths = np.zeros((len(passages), 2), np.uint16)
    for kind, most in ((0, longest), (1, room)):
        encoded = opened.tokenizer.encode_batch(
            [passage[kind] for passage in passages], add_special_tokens=False
        )
        for row, pieces in enumerate(encoded):
            start = int(lengths[row, 0])
            ids = pieces.ids[: min(most, room - start)]
            tokens[row, start : start + len(ids)] = ids
            lengths[row, kind] = len(ids)
    return dataclasses.replace(opened.corpus, tokens=tokens, lengths=lengths)


def embed_given(opened: OpenRun, passages: Sequence[tuple[str, str]]) -> np.ndarray:
    """Titles and bodies, as the passage tower embeds those of the corpus: float32 [n,E]."""
    text = features.passage_text(
        given_passages(opened, passages), np.arange(len(passages)), opened.lengths.passage
    )
    return embed_texts(opened.model, opened.params, text, "passages")
