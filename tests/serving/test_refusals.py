"""What goes wrong has a documented answer, leaves the server as it was, and no text in its log."""

import dataclasses
import io
import logging
import socket
import threading

import httpx2 as httpx
import pytest
from starlette.testclient import TestClient

from ralm_jax.serving import bodies, operations, requests
from ralm_jax.serving.app import application
from ralm_jax.serving.metrics import LOG
from tests.serving.conftest import until

SECRET = "xyzzy plugh"


@pytest.fixture
def log():
    """What the server has logged."""
    text = io.StringIO()
    handler, level = logging.StreamHandler(text), LOG.level
    LOG.addHandler(handler)
    LOG.setLevel(logging.INFO)
    yield text.getvalue
    LOG.removeHandler(handler)
    LOG.setLevel(level)


def refused(response, status, kind):
    assert (response.status_code, response.json()["error_type"]) == (status, kind), response.text
    return response.json()["error"]


@pytest.mark.parametrize(
    "path, body, status, kind",
    [
        ("/ask", {"question": "x" * 100_000}, 413, "Validation"),
        ("/search", {"query": "x" * 100_000}, 413, "Validation"),
        ("/rerank", {"query": "x", "texts": ["x"] * 3000}, 413, "Validation"),
        ("/ask", {"question": ""}, 400, "Empty"),
        ("/ask", {"question": " \n"}, 400, "Empty"),
        ("/rerank", {"query": "x", "texts": []}, 400, "Empty"),
        ("/ask", {}, 422, "Validation"),
        ("/ask", {"question": 3}, 422, "Validation"),
        ("/ask", {"question": "x", "modle": "answers"}, 422, "Validation"),
        ("/search", {"query": "x", "limit": 1000}, 422, "Validation"),
        ("/search", {"query": "x", "offset": -1}, 422, "Validation"),
        ("/ask", {"question": "x", "model": "other"}, 404, "NotFound"),
        ("/nowhere", {}, 404, "NotFound"),
        ("/health", {}, 405, "Method"),
    ],
)
def test_what_cannot_be_meant(client, path, body, status, kind):
    said = refused(client.post(path, json=body), status, kind)
    assert said and len(said) < 200


@pytest.mark.parametrize("body", [b"", b"{", b'{"question": "\xff"}', b"[" * 100_000, b'"\\ud800"'])
def test_what_is_not_json(client, body):
    headers = {"content-type": "application/json"}
    assert client.post("/ask", content=body, headers=headers).status_code in (400, 422)


def test_a_form_of_another_site_is_refused(client):
    """A page may post text/plain to any server unasked, and JSON only to one that allows it."""
    headers = {"content-type": "text/plain"}
    said = client.post("/ask", content=b'{"question": "x"}', headers=headers)
    assert "application/json" in refused(said, 415, "Validation")


@pytest.mark.parametrize("question", ["<script>alert(1)</script>", "\0\u202e\ufeff", "é" * 3000])
def test_any_text_may_be_asked(client, question):
    assert client.post("/ask", json={"question": question}).status_code == 200


def test_nothing_of_a_text_is_logged(client, serving, log, monkeypatch):
    def fails(opened, items):
        raise RuntimeError(f"of {items}")

    monkeypatch.setattr(operations, "search", fails)
    client.post("/ask", json={"question": SECRET})
    client.post("/ask", json={"question": SECRET, SECRET: 1})
    client.post(f"/ask/{SECRET}", params={"q": SECRET})
    client.get(f"/passages/{SECRET}")
    refused(client.post("/search", json={"query": SECRET}), 500, "Backend")
    assert "RuntimeError in fails" in log()
    for part in (log(), client.get("/metrics").text):
        assert "/ask" in part and not any(word in part for word in SECRET.split())


def test_a_key_is_asked_for_where_there_is_one(serving):
    served = dataclasses.replace(serving, key="schlüssel".encode())
    with TestClient(application(served)) as client:
        serving.device.ready.wait()
        for headers in ({}, {"authorization": "Bearer other"}, {"authorization": "Basic x"}):
            for path in ("/runs", "/v1/models"):
                response = client.get(path, headers=headers)
                assert response.status_code == 401
                assert response.headers["www-authenticate"] == "Bearer"
        assert client.get("/v1/models").json()["error"]["code"] == "unauthorized"
        for headers in ({"authorization": "Bearer schlüssel"}, {"x-api-key": "schlüssel"}):
            raw = {name: value.encode() for name, value in headers.items()}
            assert client.get("/runs", headers=raw).status_code == 200
        for path in ("/", "/page.js", "/health", "/metrics", "/openapi.json"):
            assert client.get(path).status_code == 200


def test_another_name_for_this_machine_is_refused(serving):
    served = dataclasses.replace(serving, hosts=frozenset(("localhost", "127.0.0.1", "[::1]")))
    with TestClient(application(served)) as client:
        serving.device.ready.wait()
        for host in ("localhost", "localhost:8000", "127.0.0.1:80", "[::1]", "[::1]:8000"):
            assert client.get("/runs", headers={"host": host}).status_code == 200
        for host in ("rebound.example:8000", "127.0.0.1.example", "", "localhost:8000:1"):
            refused(client.get("/runs", headers={"host": host}), 421, "Host")


def test_nobody_is_served_before_it_is_ready(opened, serving):
    app = application(serving)
    serving.device.start = lambda: None
    with TestClient(app) as client:
        for path, body in (("/ask", {"question": "x"}), ("/embed", {"inputs": "x"})):
            response = client.post(path, json=body)
            refused(response, 503, "Unhealthy")
            assert response.headers["retry-after"] == "1"
        assert client.get("/health").status_code == 503
        assert client.get("/").status_code == 200


def test_a_full_queue_says_when_to_come_again(client, serving, monkeypatch):
    monkeypatch.setattr(requests, "MOST", 2)
    serving.admitted = 2
    response = client.post("/ask", json={"question": "x"})
    refused(response, 429, "Overloaded")
    assert response.headers["retry-after"] == "1"
    assert client.get("/passages/x").status_code == 429
    error = client.post("/v1/embeddings", json={"input": "x"}).json()["error"]
    assert error["code"] == "overloaded"
    serving.admitted = 1
    assert client.post("/ask", json={"question": "x"}).status_code == 200
    assert serving.admitted == 1


def chunks(size):
    for _ in range(size // (1 << 16)):
        yield b" " * (1 << 16)


@pytest.mark.parametrize("announced", [True, False])
def test_a_body_of_50_megabytes(address, announced):
    size = 50 << 20
    headers = {"content-type": "application/json"}
    headers |= {"content-length": str(size)} if announced else {}
    url = f"http://{address.host}:{address.port}"
    response = httpx.post(f"{url}/ask", content=chunks(size), headers=headers)
    assert str(f"{bodies.BODY:,}") in refused(response, 413, "Validation")
    assert httpx.get(f"{url}/health").status_code == 200


def sent(address, *parts):
    """A request of which no more comes; the connection."""
    connection = socket.create_connection((address.host, address.port))
    for part in parts:
        connection.sendall(part)
    return connection


HEAD = b"POST /ask HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"


def test_a_request_that_is_cut_and_one_that_never_comes(address, serving, log, monkeypatch):
    monkeypatch.setattr(requests, "PATIENCE", 0.2)
    body = b'{"question": "xyz'
    sent(address, HEAD, b"content-length: 400\r\n\r\n", body).close()
    with sent(address, HEAD, b"content-length: 400\r\n\r\n", body) as waiting:
        assert b"408" in waiting.recv(1000).splitlines()[0]
    with sent(address, b"GARBAGE\r\n\r\n") as wrong:
        assert b"400" in wrong.recv(1000).splitlines()[0]
    until(lambda: " 499 " in log())
    assert serving.admitted == 0 and "Traceback" not in log()


def test_a_client_that_leaves_costs_nothing_further(address, serving, log, monkeypatch):
    begun, free, asked = threading.Event(), threading.Event(), []

    def slow(opened, questions):
        asked.extend(questions)
        begun.set()
        free.wait()
        return [{} for _ in questions]

    monkeypatch.setattr(operations, "ask", slow)

    def ask(question):
        body = b'{"question": "%s"}' % question
        return sent(address, HEAD, b"content-length: %d\r\n\r\n" % len(body), body)

    with ask(b"first"):
        begun.wait()
        ask(b"second").close()
        until(lambda: " 499 " in log())
        assert serving.admitted == 1
        free.set()
        until(lambda: " 200 " in log())
    assert asked == ["first"]
