"""The API gives what the run gives, in the form that its document says."""

import dataclasses

import msgspec
import numpy as np
import pytest

from ralm_jax.inference.embedding import search_with
from ralm_jax.serving import operations
from ralm_jax.serving.app import ENDPOINTS

QUESTION = "Where was Edda Marrow born?"


def called(client, path, status=200, **body):
    """The answer, which has the form that the document promises."""
    response = client.post(path, json=body)
    assert response.status_code == status, response.text
    if status == 200:
        (gives,) = [e.gives for e in ENDPOINTS if (e.method, e.path) == ("POST", path)]
        msgspec.convert(response.json(), gives, strict=True)
    return response.json()


def test_an_answer_is_that_of_the_run_with_what_it_rests_on(client, opened):
    found = called(client, "/ask", question=QUESTION)
    (wanted,) = opened.answer([QUESTION])
    best = wanted.answers[0]
    assert found["answer"] == best.text
    assert found["probability"] == pytest.approx(best.probability, rel=1e-4)
    evidence = found["evidence"]
    assert evidence["text"][evidence["start"] : evidence["stop"]] == found["answer"]
    shown = found["passages"]
    ids = [opened.texts[row]["id"].decode() for row in wanted.rows[:5]]
    assert [p["id"] for p in shown] == ids and [p["rank"] for p in shown] == [1, 2, 3, 4, 5]
    p = [p["probability"] for p in shown]
    np.testing.assert_allclose(p, wanted.probabilities[:5], rtol=1e-3)
    assert all(p["score"] == p["dense"] and p["lexical"] == 0 for p in shown)
    assert not found["cut"] and found["corpus_version"] == 0
    assert called(client, "/ask", question="Who? " * 40)["cut"]


def test_a_run_that_was_not_fine_tuned_searches_and_says_that_it_does_not_answer(client):
    found = called(client, "/ask", status=409, question=QUESTION, model="before")
    assert found["error_type"] == "CannotAnswer" and "ralm finetune" in found["error"]
    assert len(called(client, "/search", query=QUESTION, model="before")["passages"]) == 10
    served = client.get("/runs").json()["runs"]
    assert [(run["name"], run["answers"]) for run in served] == [
        ("answers", True),
        ("before", False),
    ]


def test_search_is_that_of_the_run_page_by_page(client, opened):
    ranked = opened.search([QUESTION], 12)
    pages = [called(client, "/search", query=QUESTION, limit=6, offset=o) for o in (0, 6)]
    shown = [passage for page in pages for passage in page["passages"]]
    ids = [opened.texts[row]["id"].decode() for row in ranked.rows[0]]
    assert [p["id"] for p in shown] == ids and [p["rank"] for p in shown] == list(range(1, 13))
    np.testing.assert_allclose([p["score"] for p in shown], ranked.scores[0], rtol=1e-4)
    assert called(client, "/search", query=QUESTION, limit=5, offset=99)["passages"][1:] == []


def test_both_parts_of_a_mixed_score_are_shown(opened):
    mixed = dataclasses.replace(opened, lexical_weight=3.0)
    (found,) = operations.search(mixed, [operations.Page(QUESTION, 0, 20)])
    ranked = mixed.search([QUESTION], 20)
    lexical = mixed.lexical.scores(mixed.encode([QUESTION]).tokens[0])[ranked.rows[0]]
    shown = found["passages"]
    np.testing.assert_allclose([p["lexical"] for p in shown], 3 * lexical, atol=1e-5)
    # The scale of this model is 1.
    np.testing.assert_allclose([p["score"] for p in shown], ranked.scores[0], rtol=1e-5)
    parts = [p["dense"] + p["lexical"] for p in shown]
    np.testing.assert_allclose(parts, ranked.scores[0], rtol=1e-5)
    assert max(lexical) > 0


def test_neighbours_are_the_nearest_others(client, opened):
    row = 7
    id = opened.texts[row]["id"].decode()
    ranked = search_with(opened.searcher, opened.vectors[[row]], 6)
    found = called(client, "/neighbours", id=id, limit=5)
    ids = [opened.texts[r]["id"].decode() for r in ranked.rows[0] if r != row][:5]
    assert [p["id"] for p in found["passages"]] == ids and id not in ids
    assert called(client, "/neighbours", status=404, id="none")["error_type"] == "NotFound"


def test_the_corpus_is_browsed_by_words_and_by_id(client, opened, tiny):
    record = opened.texts[3]
    title, text = record["title"].decode(), record["text"].decode()
    found = called(client, "/passages", text=text, limit=3)
    assert found["passages"][0]["text"] == text and found["passages"][0]["score"] == 1
    scores = [p["score"] for p in found["passages"]]
    assert scores == sorted(scores, reverse=True) and 3 <= found["total"] <= tiny.corpus.size
    rest = called(client, "/passages", text=text, limit=2, offset=1)
    assert rest["passages"] == found["passages"][1:]
    assert called(client, "/passages", text="\u2603")["passages"] == []
    given = client.get(f"/passages/{record['id'].decode()}", params={"model": "before"}).json()
    assert (given["title"], given["text"]) == (title, text)
    assert client.get("/passages/none").status_code == 404


def test_the_document_describes_every_endpoint(client):
    document = client.get("/openapi.json").json()
    for endpoint in ENDPOINTS:
        about = document["paths"][endpoint.path][endpoint.method.lower()]
        assert about["summary"] and {"200", "401", "413", "429"} <= set(about["responses"])
        assert ("requestBody" in about) == (endpoint.takes is not None)
    schemas = document["components"]["schemas"]

    def references(node):
        children = (
            node.values() if isinstance(node, dict) else node if isinstance(node, list) else ()
        )
        if isinstance(node, dict) and "$ref" in node:
            yield node["$ref"]
        for child in children:
            yield from references(child)

    found = set(references(document))
    assert found and {name.rpartition("/")[2] for name in found} <= set(schemas)
    assert schemas["Ask"]["required"] == ["question"]
