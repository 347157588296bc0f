"""`ralm serve` under load: many clients against one, and what a server must survive.

    python -m experiments.bench.serve RUN QUESTIONS --out FILE [--clients 64] [--minutes 5]

The command itself is started. One client, then many, ask questions and embed them, each waiting for its
answer before it asks again; every answer is compared with that of the single client. Memory is that of the
server's process. The clients share the machine's cores with it. Then 1,000 connections are held open, of
which half have begun a request, and a body of 50 MB is sent; last the server is told to stop. Writes FILE.
"""

import argparse
import asyncio
import contextlib
import itertools
import os
import re
import signal
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx2 as httpx

from experiments.saved import result
from ralm_jax.questions.read import read_questions

HELD, LARGE = 1000, 50 << 20
# Seconds of one client; and of many, after a minute of them, between two looks at memory.
ALONE, LOOK = 30.0, 5.0
PATHS = {"/ask": "question", "/v1/embeddings": "input"}


class Server:
    """The command, from ready to stopped, and the lines that it logs."""

    def __init__(self, run: Path):
        command = [sys.executable, "-m", "ralm_jax.cli", "serve", "--port", "0", "--run", str(run)]
        began = time.perf_counter()
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        assert self.process.stderr is not None
        self.log: list[str] = []
        for line in self.process.stderr:
            self.log.append(line)
            if found := re.search(r"ready after .*(http://\S+)", line):
                self.ready, self.address = time.perf_counter() - began, found[1]
                break
        self._reading = threading.Thread(target=lambda: self.log.extend(self.process.stderr or ()))
        self._reading.start()

    def memory(self) -> float:
        """MB that are resident."""
        text = Path(f"/proc/{self.process.pid}/status").read_text()
        return round(int(re.findall(r"VmRSS:\s+(\d+)", text)[0]) / 1024, 1)

    def stop(self) -> int:
        """Its exit code after SIGTERM."""
        self.process.send_signal(signal.SIGTERM)
        self._reading.join()
        return self.process.wait()


def said(path: str, answer: Any) -> Any:
    """What is the same whoever asks, and whoever asks beside."""
    if path == "/ask":
        return answer["answer"], [passage["id"] for passage in answer["passages"]]
    return [round(x, 3) for x in answer["data"][0]["embedding"]]


def differ(one: Any, other: Any) -> bool:
    """Vectors may differ in what rounding makes of them."""
    if isinstance(one, list):
        return any(abs(a - b) > 2e-3 for a, b in zip(one, other, strict=True))
    return one != other


async def load(
    client: httpx.AsyncClient, path: str, questions: list[str], clients: int, seconds: float, known
) -> dict[str, Any]:
    """Questions in turn until the time is up: latencies in milliseconds, throughput, what was lost."""
    numbers, took, lost, other = itertools.count(), [], [], 0
    begun = time.perf_counter()

    async def ask() -> None:
        nonlocal other
        while time.perf_counter() - begun < seconds:
            question = questions[next(numbers) % len(questions)]
            start = time.perf_counter()
            try:
                response = await client.post(path, json={PATHS[path]: question})
            except httpx.HTTPError as error:
                lost.append(type(error).__name__)
                continue
            if response.status_code != 200:
                lost.append(response.status_code)
                continue
            took.append(1000 * (time.perf_counter() - start))
            answer = said(path, response.json())
            other += differ(known.setdefault((path, question), answer), answer)

    await asyncio.gather(*(ask() for _ in range(clients)))
    wall = time.perf_counter() - begun
    cuts = statistics.quantiles(took, n=100)
    parts = {"p50_ms": cuts[49], "p99_ms": cuts[98], "most_ms": max(took)}
    about = {"clients": clients, "seconds": round(wall, 1), "answered": len(took)}
    rounded = {name: round(value, 1) for name, value in parts.items()}
    return {
        **about,
        "lost": len(lost),
        "other_answers": other,
        "a_second": round(len(took) / wall, 1),
        **rounded,
    }


async def watched(server: Server, working) -> tuple[dict[str, Any], list[float]]:
    """What is measured, and the server's memory meanwhile."""
    memory, task = [], asyncio.ensure_future(working)
    while not task.done():
        memory.append(server.memory())
        await asyncio.wait({task}, timeout=LOOK)
    return await task, memory


@contextlib.asynccontextmanager
async def held(address: str) -> AsyncGenerator[None]:
    """Connections that stay open; every other one has sent the half of a request."""
    url, writers = httpx.URL(address), []
    half = b"POST /ask HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
    for number in range(HELD):
        _, writer = await asyncio.open_connection(url.host, url.port)
        writer.write(half if number % 2 else b"")
        await writer.drain()
        writers.append(writer)
    yield
    for writer in writers:
        writer.close()


async def large() -> AsyncIterator[bytes]:
    for _ in range(LARGE >> 16):
        yield b" " * (1 << 16)


async def measure(
    server: Server, questions: list[str], clients: int, minutes: float
) -> dict[str, Any]:
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
    report: dict[str, Any] = {"ready_seconds": round(server.ready, 1)}
    known: dict[Any, Any] = {}
    options: dict[str, Any] = {"base_url": server.address, "limits": limits, "timeout": 60}
    async with httpx.AsyncClient(**options) as client:
        for path in PATHS:
            await load(client, path, questions, 1, 2.0, known)
            alone = await load(client, path, questions, 1, ALONE, known)
            share = minutes if path == "/ask" else minutes / 5
            working = load(client, path, questions, clients, 60 * share, known)
            many, memory = await watched(server, working)
            report[path] = {"one": alone, "many": many, "memory_mb": _flat(memory)}
        before = server.memory()
        async with held(server.address):
            beside = await load(client, "/ask", questions, 1, 5.0, known)
            open_ = {"connections": HELD, "one": beside, "memory_mb": [before, server.memory()]}
        report["held_open"] = open_
        before = server.memory()
        head = {"content-type": "application/json"}
        response = await client.post("/ask", content=large(), headers=head)
        health = (await client.get("/health")).status_code
        about = {"status": response.status_code, "health_after": health}
        report["body_of_50_MB"] = {**about, "memory_mb": [before, server.memory()]}
    return report


def _flat(memory: list[float]) -> dict[str, float]:
    """Of looks in order, the first minute of which is the server's to grow in."""
    settled = memory[min(len(memory) // 2, int(60 / LOOK)) :]
    return {
        "first": memory[0],
        "settled": settled[0],
        "last": memory[-1],
        "least": min(settled),
        "most": max(settled),
    }


def _quoted(log: list[str], questions: list[str]) -> Iterator[str]:
    """Lines of the log that hold a question."""
    asked = {question for question in questions if len(question) > 8}
    return (line for line in log if any(question in line for question in asked))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("run", type=Path)
    parser.add_argument("questions", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--minutes", type=float, default=5.0)
    given = parser.parse_args()
    questions = [q.question for q in read_questions(given.questions).asked]
    busy = round(os.getloadavg()[0], 2)
    server = Server(given.run)
    try:
        report = asyncio.run(measure(server, questions, given.clients, given.minutes))
    finally:
        code = server.stop()
    sizes = f"--clients {given.clients} --minutes {given.minutes:g}"
    command = f"python -m experiments.bench.serve RUN QUESTIONS --out FILE {sizes}"
    quoted = len(list(_quoted(server.log, questions)))
    end = {"exit_code": code, "log_lines": len(server.log), "log_lines_with_a_question": quoted}
    text = result(command, load_average_at_start=busy, **report, **end)
    given.out.parent.mkdir(parents=True, exist_ok=True)
    given.out.write_text(text, "utf-8")
    print(text, end="")


if __name__ == "__main__":
    main()
