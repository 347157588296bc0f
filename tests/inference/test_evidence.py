"""What a passage is worth: a ranking and an answer without it, as if it had never been found."""

import dataclasses

import numpy as np
import pytest

from ralm_jax.batches import Lengths
from ralm_jax.inference import answering, ask, evidence, inspect
from ralm_jax.inference.embedding import Ranking, embed_texts
from ralm_jax.inference.open_run import OpenRun
from ralm_jax.metrics.qa import normalise
from ralm_jax.models import initial
from ralm_jax.models.config import EncoderConfig
from ralm_jax.models.openqa import OpenQA
from ralm_jax.runs import directory

SMALL = EncoderConfig(
    hidden=8, layers=1, heads=2, intermediate=8, positions=64, dropout=0.0, init_stddev=0.5
)
LENGTHS = Lengths(query=20, passage=56, joint=64, masked=4)


@pytest.fixture(scope="module")
def opened(tiny):
    model = OpenQA(SMALL, SMALL, embedding=8, score_scale=0.5, span_width=2)
    sized = directory.sized(model, tiny.corpus.vocabulary.size)
    return OpenRun(sized, initial.drawn_params(sized, seed=0), LENGTHS, source=tiny.corpus)


def test_a_passage_left_out_is_as_if_it_had_not_been_found(opened, tiny):
    asked = opened.encode([q["question"] for q in tiny.almanac.questions[:3]])
    beam = evidence.find(opened, asked, 10)
    # In the units of `answering.read`, which scales.
    ranked = Ranking(beam.rows, beam.scores / 0.5)
    (whole,) = answering.read(opened, asked, [ranked], 4)
    weighed = evidence.weigh(opened, asked, beam, 4)
    for b, (found, worths) in enumerate(weighed):
        assert found.answers == whole[b].answers
        np.testing.assert_allclose(found.probabilities, whole[b].probabilities, rtol=1e-5)
        name = normalise(found.answers[0].text)
        for k, worth in enumerate(worths):
            others = [place for place in range(4) if place != k]
            for rows, value in (([k], worth.of_answer), (others, worth.without)):
                part = Ranking(ranked.rows[b : b + 1, rows], ranked.scores[b : b + 1, rows])
                one = asked._replace(tokens=asked.tokens[b : b + 1], types=asked.types[b : b + 1])
                ((again,),) = answering.read(opened, one, [part], 4)
                said = {normalise(a.text): a.probability for a in again.answers}
                assert value == pytest.approx(said.get(name, 0.0), rel=1e-4)
                if rows == [k]:
                    assert worth.alone is not None and worth.alone.text == again.answers[0].text
    parts = [part for _, worths in weighed for worth in worths for part in worth[1:]]
    assert len(parts) == 24 and 0 < sum(part > 0 for part in parts)


def test_the_dense_part_is_the_whole_where_no_words_count(opened, tiny):
    asked = opened.encode([q["question"] for q in tiny.almanac.questions[:3]])
    beam, ranked = evidence.find(opened, asked, 7), opened.search(asked, 7)
    np.testing.assert_array_equal(beam.rows, ranked.rows)
    np.testing.assert_allclose(beam.dense, 0.5 * ranked.scores, rtol=1e-5)
    assert not beam.lexical.any()


def test_a_mixed_score_is_scaled_once_whoever_shows_it(opened, tiny):
    """p(z|x) is the softmax of scale * dense + weight * lexical: in `ask`, in answers, in notebooks."""
    mixed = dataclasses.replace(opened, lexical_weight=3.0)
    questions = [q["question"] for q in tiny.almanac.questions[:2]]
    asked = mixed.encode(questions)
    queries = embed_texts(mixed.model, mixed.params, asked)
    lexical = np.stack([mixed.lexical.scores(tokens) for tokens in asked.tokens])
    logits = 0.5 * queries @ mixed.vectors.T + 3.0 * lexical
    beam = evidence.find(mixed, asked, 10)
    wanted = answering.softmax(-np.sort(-logits, axis=1)[:, :10])
    np.testing.assert_allclose(beam.probabilities, wanted, rtol=1e-3)
    np.testing.assert_allclose(
        beam.lexical, 3.0 * np.take_along_axis(lexical, beam.rows, 1), atol=1e-5
    )
    for b, found in enumerate(mixed.answer(questions, beam=10)):
        np.testing.assert_allclose(found.probabilities, wanted[b], rtol=1e-3)
        said, _ = ask.timed_answer(mixed, questions[b], beam=10)
        assert [a.text for a in said.answers] == [a.text for a in found.answers]
        assert (said.rows == beam.rows[b]).all()
        (((_, p), *_),) = inspect.retrieve(mixed, [questions[b]], 10)
        assert p == pytest.approx(wanted[b, 0], rel=1e-3)
