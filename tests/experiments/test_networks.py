"""Two networks with a link between them, where this user may make any; nothing of them is left behind."""

import subprocess
import sys

import pytest

from experiments import networks

LISTEN = """
import socket
server = socket.create_server(("{0}", 9))
print("up", flush=True)
server.accept()[0].sendall(b"x")
"""
PIPES = {"stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
ASK = "import socket; print(socket.create_connection(('{0}', 9), 2).recv(1))"


def made() -> list[str]:
    return networks._said(["ip", "netns", "list"]).split()


@pytest.fixture
def link():
    try:
        with networks.joined("50mbit") as link:
            yield link
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("this user may not make networks here")
    assert not set(link.networks) & set(made())


def inside(network, program):
    words = [
        "ip",
        "netns",
        "exec",
        network,
        sys.executable,
        "-c",
        program.format(networks.ADDRESSES[0]),
    ]
    return subprocess.Popen(words, text=True, **PIPES)


@pytest.mark.parametrize("fault", [None, "link down", "packets vanish"])
def test_one_reaches_the_other_unless_there_is_a_fault(link, fault):
    with inside(link.networks[0], LISTEN) as first:
        assert first.stdout.readline() == "up\n"
        if fault:
            networks.faults(link)[fault]([])
        before = link.sent()
        told = inside(link.networks[1], ASK).communicate()[0]
        first.kill()
    assert told == ("" if fault else "b'x'\n")
    assert fault or link.sent() > before


def test_every_fault_is_of_the_second_host():
    link = networks.Link(("a", "b"), ("to_b", "to_a"))
    assert list(networks.faults(link)) == ["killed", "stopped", "link down", "packets vanish"]
