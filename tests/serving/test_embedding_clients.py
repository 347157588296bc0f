"""Vectors and scores are those of the run, whichever client asks for them."""

import base64

import numpy as np
import pytest

from ralm_jax.inference.embedding import embed_texts

TEXTS = ["Where was Edda Marrow born?", "Who?", "<b>&amp;</b> \u2603", "When did the siege end?"]


@pytest.fixture(scope="module")
def wanted(opened):
    return embed_texts(opened.model, opened.params, opened.encode(TEXTS))


@pytest.mark.parametrize("form", ["float", "base64"])
def test_openai_vectors_are_those_of_the_run(client, wanted, opened, form):
    body = {"input": TEXTS, "model": "answers", "encoding_format": form}
    found = client.post("/v1/embeddings", json=body).json()
    vectors = [each["embedding"] for each in found["data"]]
    if form == "base64":
        vectors = [np.frombuffer(base64.b64decode(vector), "<f4") for vector in vectors]
    np.testing.assert_allclose(vectors, wanted, atol=1e-5)
    assert [each["index"] for each in found["data"]] == [0, 1, 2, 3]
    pieces = int((opened.encode(TEXTS).tokens != 0).sum())
    assert found["usage"] == {"prompt_tokens": pieces, "total_tokens": pieces}
    assert (found["object"], found["model"]) == ("list", "answers")
    one = client.post("/v1/embeddings", json={"input": TEXTS[0]}).json()["data"]
    np.testing.assert_allclose(one[0]["embedding"], wanted[0], atol=1e-5)


def test_passages_are_embedded_as_the_corpus_is(client, opened):
    records = [opened.texts[row] for row in range(40)]
    pairs = [[record["title"].decode(), record["text"].decode()] for record in records]
    found = client.post("/embed", json={"inputs": pairs, "prompt_name": "passage"}).json()
    np.testing.assert_allclose(found, opened.vectors[:40], atol=1e-5)
    given = {"input": pairs[0][1], "prompt_name": "document"}
    bare = client.post("/v1/embeddings", json=given).json()["data"][0]["embedding"]
    alone = client.post("/embed", json={"inputs": [["", pairs[0][1]]], "prompt_name": "passage"})
    np.testing.assert_allclose(bare, alone.json()[0], atol=1e-5)
    also = client.post("/v1/embeddings", json={"input": pairs[0][1], "is_query": False}).json()
    assert also["data"][0]["embedding"] == bare
    assert client.post("/embed", json={"inputs": pairs}).status_code == 422


def test_embed_answers_as_text_embeddings_inference(client, wanted):
    many = TEXTS * 20
    found = client.post("/embed", json={"inputs": many}).json()
    np.testing.assert_allclose(found, np.tile(wanted, (20, 1)), atol=1e-5)
    (unit,) = client.post("/embed", json={"inputs": TEXTS[0], "normalize": True}).json()
    np.testing.assert_allclose(unit, wanted[0] / np.linalg.norm(wanted[0]), atol=1e-5)
    long = {"inputs": "who " * 100, "truncate": False}
    assert client.post("/embed", json=long).status_code == 413
    assert client.post("/embed", json=long | {"truncate": True}).status_code == 200


def test_rerank_orders_texts_by_the_products_of_vectors(client, opened):
    texts = [opened.texts[row]["text"].decode() for row in range(40)]
    body = {"query": TEXTS[0], "texts": texts, "raw_scores": True, "return_text": True}
    found = client.post("/rerank", json=body).json()
    pairs = {"inputs": texts, "prompt_name": "passage"}
    passages = np.array(client.post("/embed", json=pairs).json())
    (query,) = client.post("/embed", json={"inputs": TEXTS[0]}).json()
    scores = passages @ np.array(query) * opened.model.score_scale
    assert [each["index"] for each in found] == np.argsort(-scores, kind="stable").tolist()
    np.testing.assert_allclose([each["score"] for each in found], -np.sort(-scores), atol=1e-5)
    assert all(each["text"] == texts[each["index"]] for each in found)
    shares = client.post("/rerank", json=body | {"raw_scores": False}).json()
    assert sum(each["score"] for each in shares) == pytest.approx(1)
    assert [each["index"] for each in shares] == [each["index"] for each in found]


def test_what_openai_takes_and_this_server_does_not(client):
    def refused(status, **body):
        response = client.post("/v1/embeddings", json=body)
        assert response.status_code == status
        error = response.json()["error"]
        assert set(error) == {"message", "type", "param", "code"}
        return error["message"]

    assert "have 8" in refused(422, input="x", dimensions=4)
    assert client.post("/v1/embeddings", json={"input": "x", "dimensions": 8}).status_code == 200
    assert "check_embedding_ctx_length=False" in refused(422, input=[[1, 2]])
    assert "answers, before" in refused(404, input="x", model="text-embedding-3-small")
    refused(400, input="")
    refused(400, input=[])
    refused(413, input=["x"] * 2049)
    refused(413, input="x" * 40_000)
    refused(422, input="x", encoding_format="int8")
    listed = client.get("/v1/models").json()
    assert [model["id"] for model in listed["data"]] == ["answers", "before"]
