"""Scores of spans: which spans there are, and what a span is scored by."""

import jax
import numpy as np
import pytest

from ralm_jax.batches import Lengths
from ralm_jax.inference.open_run import OpenRun
from ralm_jax.models import initial
from ralm_jax.models.config import EncoderConfig
from ralm_jax.models.openqa import OpenQA
from ralm_jax.models.ralm import Ralm
from ralm_jax.models.span_reader import SpanReader
from ralm_jax.training import finetune

SMALL = EncoderConfig(
    hidden=8, layers=1, heads=2, intermediate=8, positions=32, vocab_size=50, dropout=0.0
)


@pytest.mark.slow
@pytest.mark.parametrize("length, width", [(12, 4), (12, 1), (5, 10), (3, 3)])
def test_spans_are_those_within(length, width):
    """Also where spans may be wider than the text is long."""
    rng = np.random.default_rng(length)
    tokens, within = rng.integers(5, 50, (2, length)), rng.random((2, length)) < 0.7
    reader = SpanReader(SMALL, span_width=width, span_hidden=8)
    given = tokens, np.zeros_like(tokens), within
    scores, _ = reader.init_with_output(jax.random.key(0), *given)
    assert scores.shape == (2, length, width)
    for b, s, w in np.ndindex(*scores.shape):
        real = s + w < length and within[b, s : s + w + 1][[0, -1]].all()
        assert (scores[b, s, w] > -1e30) == real


def test_a_question_answerer_of_the_default_width_is_drawn():
    model = Ralm(SMALL, SMALL, embedding=8)
    opened = OpenRun(model, initial.drawn_params(model, 0), Lengths())
    answerer, params = finetune.question_answerer(opened, span_width=10, seed=0)
    assert isinstance(answerer, OpenQA) and set(params["reader"]) >= {"encoder", "span_score"}
