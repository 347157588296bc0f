"""What a load counts as lost, as another answer, and as a text in the log."""

import asyncio

import httpx2 as httpx

from experiments.bench import serve


def answered(request):
    """Refuses "b", fails at "c", and has another answer to "d" each time."""
    question = request.content.decode()
    answered.count += 1
    if '"b"' in question:
        return httpx.Response(429)
    if '"c"' in question:
        raise httpx.ReadError("gone")
    answer = str(answered.count) if '"d"' in question else "same"
    return httpx.Response(200, json={"answer": answer, "passages": [{"id": "1"}]})


def test_what_is_lost_and_what_differs_is_counted(monkeypatch):
    answered.count = 0
    monkeypatch.setattr(serve.time, "perf_counter", lambda: answered.count / 100)

    async def measured():
        transport = httpx.MockTransport(answered)
        async with httpx.AsyncClient(transport=transport, base_url="http://x") as client:
            return await serve.load(client, "/ask", ["a", "b", "c", "d"], 4, 0.4, {})

    report = asyncio.run(measured())
    assert (report["clients"], report["answered"]) == (4, answered.count // 2)
    assert report["lost"] == answered.count // 2
    assert report["other_answers"] == answered.count // 4 - 1


def test_vectors_differ_by_more_than_rounding():
    assert not serve.differ([0.1, 0.2], [0.101, 0.2]) and serve.differ([0.1, 0.2], [0.1, 0.3])
    assert serve.differ(("a", ["1"]), ("a", ["2"]))


def test_memory_is_looked_at_once_it_has_settled():
    looks = [float(n) for n in range(12)] + [50.0, 40.0, 60.0, 45.0, *[50.0] * 10]
    found = serve._flat(looks)
    assert found == {"first": 0, "settled": 50, "last": 50, "least": 40, "most": 60}


def test_a_question_in_the_log_is_found():
    log = ["10:00 /ask 200 4 ms\n", "10:01 failed at Who was born in Ulmouth?\n"]
    assert list(serve._quoted(log, ["Who was born in Ulmouth?", "Who?"])) == log[1:]
