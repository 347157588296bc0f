"""What the command refuses before it listens, and how it ends."""

import json
import os
import signal
import socket
import subprocess
import sys

import httpx2 as httpx
import pytest

from ralm_jax import cli
from ralm_jax.errors import UserError
from ralm_jax.serving import serve as serving
from ralm_jax.serving.serve import KEY, serve
from tests.serving.conftest import until


def test_another_address_needs_a_key(tmp_path, monkeypatch):
    """Which is found before the run is looked for."""
    monkeypatch.delenv(KEY, raising=False)
    for host in ("0.0.0.0", "::", "192.0.2.1", "example.org"):
        with pytest.raises(UserError, match=f"set {KEY}, or give --api-key-file"):
            serve(run=tmp_path, host=host)
    empty = tmp_path / "key"
    empty.write_text("\nsecond line")
    with pytest.raises(UserError, match="is empty"):
        serve(run=tmp_path, api_key_file=empty)
    with pytest.raises(UserError, match="cannot be read"):
        serve(run=tmp_path, api_key_file=tmp_path / "none")
    empty.write_text("  a key \nof one line")
    monkeypatch.setenv(KEY, "another")
    assert serving._key(empty) == b"a key" and serving._key(None) == b"another"
    for host in ("127.0.0.1", "127.8.8.8", "::1", "localhost"):
        assert serving._is_local(host)


def test_an_address_that_is_taken(runs, capsys):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert cli.main(["serve", "--run", str(runs[0]), "--port", str(port)]) == 2
        assert f"cannot listen at 127.0.0.1, port {port}" in capsys.readouterr().err
    with pytest.raises(UserError, match="0 to 65535"):
        serve(run=runs[0], port=70_000)


def test_what_is_not_installed_is_named(runs, monkeypatch, capsys):
    monkeypatch.delitem(sys.modules, "ralm_jax.serving.serve")
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    assert cli.main(["serve", "--run", str(runs[0])]) == 2
    assert capsys.readouterr().err == "ralm: uvicorn is missing: pip install 'ralm_jax[serve]'\n"


def test_what_keeps_it_from_serving_is_said(runs, monkeypatch, capsys):
    """Found while it listens already, as where there is no room for the vectors of a corpus."""

    def full(opened, stopping):
        raise UserError("the disk is full")

    monkeypatch.setattr(serving, "warm", full)
    assert cli.main(["serve", "--run", str(runs[0]), "--port", "0"]) == 2
    assert capsys.readouterr().err.splitlines()[-1] == "ralm: the disk is full"


def test_a_run_is_not_beside_itself(runs, tmp_path):
    with pytest.raises(UserError, match="is the run itself"):
        serve(run=runs[0], beside=runs[0])
    (tmp_path / "answers").symlink_to(runs[1])
    names = list(serving._opened(runs[0], runs[1], None))
    assert names == ["answers", "before"]


def started(run):
    """The command, once it is ready, and its address."""
    command = [sys.executable, "-m", "ralm_jax.cli", "serve", "--port", "0", "--run", str(run)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    for line in process.stderr:
        if "ready after" in line:
            return process, line.split()[-1]
    raise AssertionError("it ended before it was ready")


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_ends_it_once_what_is_in_flight_is_answered(runs, number):
    process, address = started(runs[0])
    place = httpx.URL(address)
    with process:
        answer, said = asked_and_signalled(process, place, address, number)
    assert answer.startswith(b"HTTP/1.1 200") and answer.endswith(b"}")
    assert process.returncode == 0 and "Traceback" not in said
    # What was asked is nobody else's.
    assert "Ulmouth" not in said


def asked_and_signalled(process, place, address, number):
    """What comes of a long request with the signal in its middle, and what the server says then."""
    body = json.dumps({"input": ["Who was born in Ulmouth?"] * 1000}).encode()
    head = f"POST /v1/embeddings HTTP/1.1\r\nhost: localhost\r\ncontent-length: {len(body)}\r\n"
    with socket.create_connection((place.host, place.port)) as asking:
        asking.sendall(head.encode() + b"content-type: application/json\r\n\r\n" + body)
        begun = 'ralm_batch_items_count{operation="embed_questions"}'
        until(lambda: begun in httpx.get(f"{address}/metrics").text)
        os.kill(process.pid, number)
        answer = b"".join(iter(lambda: asking.recv(1 << 16), b""))
    return answer, process.stderr.read()
