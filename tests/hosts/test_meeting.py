"""Processes that meet, as threads: who is missing, there twice or unlike is said on all, in one line."""

import concurrent.futures
import contextlib
import socket
import time

import pytest

from ralm_jax.errors import UserError
from ralm_jax.hosts import meeting
from ralm_jax.hosts.meeting import Address, Place, address, meet

VERSIONS = {"jax": "1", "ralm_jax": "2"}


@pytest.fixture
def at():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return Address("127.0.0.1", free.getsockname()[1])


def together(at, *places, versions=None, patience=5.0):
    """What each of the processes gets: whom it has met, or the line by which it ends."""

    def one(number, place):
        own = (versions or {}).get(number, VERSIONS)
        try:
            return meet(at, Place(*place), own, patience)
        except UserError as error:
            return str(error)

    with concurrent.futures.ThreadPoolExecutor(len(places)) as threads:
        return [x.result() for x in [threads.submit(one, *x) for x in enumerate(places)]]


@pytest.mark.parametrize("count", [2, 4])
def test_all_meet_and_know_each_other(at, count):
    met = together(at, *((number, count) for number in reversed(range(count))))
    assert all(list(one.names) == list(range(count)) for one in met)
    assert len({tuple(one.names.values()) for one in met}) == 1
    assert all(f"process {i} on " in name for i, name in met[0].names.items())
    links = {one.place.process: set(one.links) for one in met}
    assert links == {0: set(range(1, count)), **{i: {0} for i in range(1, count)}}
    # Once all have met the port is free for JAX.
    with socket.create_server(at):
        pass
    for one in met:
        for link in one.links.values():
            link.close()


@pytest.mark.parametrize(
    ("places", "versions", "said"),
    [
        ([(0, 3), (1, 3), (1, 3)], None, "process 1 was started twice, as process 1 on"),
        ([(0, 2), (1, 3)], None, "was started as one of 3 processes, and process 0 on"),
        ([(0, 2), (1, 2)], {1: {**VERSIONS, "jax": "3"}}, "jax is 3, not 1"),
    ],
    ids=["twice", "counts", "versions"],
)
def test_what_is_wrong_is_said_to_all(at, places, versions, said):
    lines = together(at, *places, versions=versions)
    assert len(set(lines)) == 1 and said in lines[0] and "\n" not in lines[0]


def test_whoever_does_not_come_is_named(at):
    begun = time.monotonic()
    lines = together(at, (0, 4), (2, 4), patience=0.5)
    assert set(lines) == {
        f"process 1, 3 of 4 did not come to {at} within 0.5 s: start it, or see what it says"
    }
    assert time.monotonic() - begun < 5


def test_without_process_0_there_is_an_end(at):
    (line,) = together(at, (1, 2), patience=0.3)
    assert line.startswith(f"process 0 does not answer at {at} (Connection refused) after 0.3 s")


def test_a_port_that_is_taken_is_said(at):
    with socket.create_server(at):
        (line,) = together(at, (0, 2))
    assert line.startswith(f"process 0 cannot listen at {at} (Address already in use)")


def test_process_0_elsewhere_is_said():
    (line,) = together(Address("192.0.2.1", 4567), (0, 2))
    assert "give the address of its own machine" in line


def test_a_stranger_at_the_port_is_said(at, monkeypatch):
    monkeypatch.setattr(meeting, "PROMPT", 0.1)
    with socket.create_server(at) as other:
        with concurrent.futures.ThreadPoolExecutor(1) as threads:

            def answer():
                link, _ = other.accept()
                with link:
                    link.sendall(b"SSH-2.0-OpenSSH\r\n")

            threads.submit(answer)
            (line,) = together(at, (1, 2), patience=0.5)
    assert line.startswith(f"what listens at {at} does not answer as process 0")


def test_a_stranger_who_calls_is_left_alone(at):
    with concurrent.futures.ThreadPoolExecutor(1) as threads:
        first = threads.submit(together, at, (0, 2))
        while True:
            with contextlib.suppress(OSError), socket.create_connection(at) as stranger:
                stranger.sendall(b"GET / HTTP/1.1\r\n\r\n")
                break
        (second,) = together(at, (1, 2))
        (met,) = first.result()
    assert met.names == second.names
    met.links[1].close(), second.links[0].close()


@pytest.mark.parametrize("text", ["host", "host:", ":80", "host:0", "host:65536", "host:http", ""])
def test_an_address_is_a_host_and_a_port(text):
    with pytest.raises(UserError, match="write HOST:PORT"):
        address(text)


def test_addresses_come_back_as_they_were_given():
    for text in "localhost:80", "[::1]:4567", "10.0.0.1:65535":
        assert str(address(text)) == text
