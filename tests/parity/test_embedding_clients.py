"""The official client of OpenAI's API gets the vectors that the run has, from a running server."""

import base64

import numpy as np
import pytest

from ralm_jax.inference.embedding import embed_texts
from ralm_jax.serving import requests
from tests.serving.conftest import address, before, one_size, opened, runs, serving

# Warnings of theirs on their own code.
pytestmark = [pytest.mark.parity, pytest.mark.filterwarnings("ignore")]
__all__ = ["address", "before", "one_size", "opened", "runs", "serving"]  # fixtures

TEXTS = ["Where was Edda Marrow born?", "Who?", "<b>&amp;</b> \u2603"] * 15


@pytest.fixture
def openai(address):
    library = pytest.importorskip("openai", reason="see requirements-sentence-transformers.txt")
    url = f"http://{address.host}:{address.port}/v1"
    with library.OpenAI(base_url=url, api_key="any", max_retries=1) as client:
        yield library, client


@pytest.mark.parametrize("form", [None, "float", "base64"])
def test_vectors_are_those_of_the_run(openai, opened, form):
    _, client = openai
    given = {} if form is None else {"encoding_format": form}
    found = client.embeddings.create(model="answers", input=TEXTS, **given)
    wanted = embed_texts(opened.model, opened.params, opened.encode(TEXTS))
    vectors = [each.embedding for each in found.data]
    if form == "base64":
        # Given as it came, since it was asked for.
        vectors = [np.frombuffer(base64.b64decode(vector), "<f4") for vector in vectors]
    np.testing.assert_allclose(vectors, wanted, atol=1e-5)
    assert found.usage.prompt_tokens == int((opened.encode(TEXTS).tokens != 0).sum())


def test_passages_and_the_vectors_of_the_corpus(openai, opened):
    _, client = openai
    rows = range(10)
    pairs = [[opened.texts[row][key].decode() for key in ("title", "text")] for row in rows]
    more = {"prompt_name": "passage"}
    found = client.embeddings.create(model="answers", input=pairs, extra_body=more)
    np.testing.assert_allclose([e.embedding for e in found.data], opened.vectors[:10], atol=1e-5)


def test_errors_are_those_that_the_client_knows(openai, serving, monkeypatch):
    library, client = openai
    assert [model.id for model in client.models.list()] == ["answers", "before"]
    with pytest.raises(library.NotFoundError, match="answers, before"):
        client.embeddings.create(model="text-embedding-3-small", input="x")
    with pytest.raises(library.UnprocessableEntityError, match="have 8"):
        client.embeddings.create(model="answers", input="x", dimensions=4)
    monkeypatch.setattr(requests, "MOST", 0)
    with pytest.raises(library.RateLimitError):
        client.embeddings.create(model="answers", input="x")
    serving.key = b"another"
    with pytest.raises(library.AuthenticationError):
        client.embeddings.create(model="answers", input="x")
