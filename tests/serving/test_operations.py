"""A run with a scorer, which reads passages and texts that come with a request alike."""

import numpy as np
import pytest

from ralm_jax.inference.open_run import OpenRun
from ralm_jax.inference.span_reading import rerank_pairs
from ralm_jax.models import initial
from ralm_jax.models.openqa import OpenQA
from ralm_jax.runs import directory
from ralm_jax.serving import operations
from ralm_jax.serving.operations import Pair
from tests.serving.conftest import LENGTHS, SMALL

QUESTIONS = ["Where was Edda Marrow born?", "Who sat for a portrait?"]


@pytest.fixture(scope="module")
def scoring(tiny):
    model = OpenQA(SMALL, SMALL, embedding=8, score_scale=2.0, with_scorer=True)
    sized = directory.sized(model, tiny.corpus.vocabulary.size)
    params = initial.drawn_params(sized, seed=3)
    return OpenRun(sized, params, LENGTHS, rerank=True, source=tiny.corpus)


def test_texts_are_scored_as_passages_are(scoring, tiny):
    asked, pairs = scoring.encode(QUESTIONS), np.array([[0, 4], [1, 4], [1, 9]])
    given = (scoring.model, scoring.params["scorer"], tiny.corpus, asked, pairs)
    wanted = rerank_pairs(*given, LENGTHS.joint)
    texts = [scoring.texts[row]["text"].decode() for row in pairs[:, 1]]
    found = operations.score(
        scoring, [Pair(QUESTIONS[p[0]], t) for p, t in zip(pairs, texts, strict=True)]
    )
    np.testing.assert_allclose(found, wanted, atol=1e-5)
    shares = operations.probabilities(scoring, found)
    np.testing.assert_allclose(np.log(shares / (1 - shares)), wanted, atol=1e-4)


def test_passages_are_ranked_by_the_scorer_and_keep_their_other_scores(scoring):
    for question, found in zip(QUESTIONS, operations.ask(scoring, QUESTIONS), strict=True):
        (wanted,) = scoring.answer([question])
        assert [p["id"] for p in found["passages"]] == [
            scoring.texts[row]["id"].decode() for row in wanted.rows[:5]
        ]
        assert found["answer"] == wanted.answers[0].text
        shares = [p["probability"] for p in found["passages"]]
        np.testing.assert_allclose(shares, wanted.probabilities[:5], rtol=1e-3)
        (query,) = operations.embed_questions(scoring, [question])
        dense = 2.0 * scoring.vectors[wanted.rows[:5]] @ query.vector
        np.testing.assert_allclose([p["dense"] for p in found["passages"]], dense, rtol=1e-4)
