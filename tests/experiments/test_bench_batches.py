"""The synthetic corpora that batches are timed on are of the form of a prepared one."""

import numpy as np

from experiments.bench import batches
from ralm_jax.data.corpus import ARRAYS
from ralm_jax.examples import cloze_batches


def test_the_tables_are_those_of_a_corpus(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(batches, "BLOCK", 7)
    corpus = batches.synthetic(tmp_path / "c", 20)
    for name in ARRAYS:
        made, real = getattr(corpus, name), getattr(tiny.corpus, name)
        assert isinstance(made, np.memmap) and made.dtype == real.dtype and made.ndim == real.ndim
        assert made.shape[1:] == real.shape[1:] or name == "tokens"
    assert corpus.sentences[:, 0].tolist() == np.repeat(np.arange(20), 4).tolist()
    assert corpus.tokens[:, : batches.TITLE + 4 * batches.SENTENCE].all()
    for row in range(80):
        ((start, stop),) = cloze_batches.sentence_spans(corpus, row, batches.LENGTHS.query)
        assert 0 <= start < stop <= batches.SENTENCE


def test_what_is_measured_of_small_ones():
    report = batches.measure([20, 40], repeats=3)
    for size in ("20 passages", "40 passages"):
        assert report[size]["milliseconds_per_query"] > 0
        assert set(report[size]["by_part"]) == set(batches.PARTS)
    assert report["ratio"] > 0
