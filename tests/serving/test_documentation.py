"""Every request that the documentation shows is answered, and what it says of endpoints and limits is so."""

import re
import shlex
from pathlib import Path

import pytest

from ralm_jax.serving import bodies, requests
from ralm_jax.serving.app import application

PAGE = (Path(__file__).parents[2] / "docs" / "serving.md").read_text("utf-8")
COMMANDS = re.findall(r"^curl .*$", PAGE, re.M)


@pytest.mark.parametrize("command", COMMANDS, ids=lambda c: shlex.split(c)[2].partition("/")[2])
def test_a_request_that_is_shown_is_answered(client, command):
    curl, silent, url, header, kind, data, body = shlex.split(command)
    assert (curl, silent, header, data) == ("curl", "-s", "-H", "-d")
    name, _, value = kind.partition(": ")
    path = url.removeprefix("localhost:8000")
    response = client.post(path, content=body.encode(), headers={name: value})
    assert response.status_code == 200, response.text


def test_every_route_and_limit_is_in_it(serving):
    assert len(COMMANDS) >= 7
    paths = {route.path for route in application(serving).routes} - {"/", "/page.css", "/page.js"}
    assert {path for path in paths if f"{path}`" not in PAGE} == set()
    limits = (requests.MOST, f"{bodies.BODY >> 20} MiB", f"{bodies.CHARACTERS:,} characters")
    for limit in (*limits, f"{bodies.TEXTS:,}", f"{requests.PATIENCE:.0f} s"):
        assert f"| {limit} |" in PAGE
    names = re.findall(r"^# TYPE (\w+)", serving.metrics.text().decode(), re.M)
    assert {n for n in names if not n.endswith("_created") and f"`{n}`" not in PAGE} == set()
