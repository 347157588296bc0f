"""The processes of a training meet at process 0 before JAX starts, over plain sockets.

JAX ends a process with a signal where nobody listens at the address, where the port is taken or where a
number is given twice, and does not notice that processes count differently. Here each of these is one line.
The sockets stay open: `watch` learns by them when a process is lost.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import socket
import time
from collections.abc import Mapping
from typing import Any, NamedTuple

from ralm_jax.errors import UserError

# Bytes of a message: it holds a configuration at most.
LONGEST = 1 << 20
# Seconds in which whoever has connected to process 0 must say who it is.
PROMPT = 5.0


class Address(NamedTuple):
    """Where process 0 listens: the name or number of its machine, and a port of it."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class Place(NamedTuple):
    """This process among those of a training."""

    process: int
    processes: int


class Met(NamedTuple):
    """Who has met: names by process, and sockets to the others: of process 0 to all, of all to process 0."""

    place: Place
    names: Mapping[int, str]
    links: Mapping[int, socket.socket]


def address(text: str) -> Address:
    """HOST:PORT. Raises UserError where it is not that."""
    host, colon, port = text.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not (colon and host and port.isdecimal() and 0 < int(port) < 1 << 16):
        raise UserError(
            f"the coordinator is given as {text!r}; write HOST:PORT, the machine of process 0 and a free port"
        )
    return Address(host, int(port))


def meet(
    at: Address,
    place: Place,
    versions: Mapping[str, str],
    patience: float,
    bind: str | None = None,
) -> Met:
    """Waits until all processes are there.

    Args:
      versions: by name, of what must be the same everywhere.
      patience: seconds to wait.
      bind: where process 0 listens, unless at its address; "" for all addresses of its machine.

    Raises UserError on every process that can be told: somebody is missing, there twice, or unlike.
    """
    hello = {"ralm": 1, **place._asdict(), "versions": dict(versions)}
    hello |= {"host": platform.node() or "?", "pid": os.getpid()}
    return _gather(at, hello, patience, bind) if place.process == 0 else _join(at, hello, patience)


def send(link: socket.socket, message: Mapping[str, Any]) -> None:
    """One message. Raises OSError where the other side is gone."""
    link.sendall(json.dumps(message).encode() + b"\n")


def receive(link: socket.socket, seconds: float) -> dict[str, Any]:
    """One message, byte for byte, so that the next one stays where it is.

    Raises OSError where none comes in time, or what comes is none.
    """
    until, data = time.monotonic() + seconds, bytearray()
    while not data.endswith(b"\n"):
        link.settimeout(max(until - time.monotonic(), 0.001))
        part = link.recv(1)
        if not part or len(data) > LONGEST:
            raise ConnectionError("no message")
        data += part
    link.settimeout(None)
    return parsed(data)


def parsed(line: bytes | bytearray) -> dict[str, Any]:
    """A message of a line. Raises ConnectionError where it is none."""
    try:
        message = json.loads(line)
    except (ValueError, RecursionError):
        message = None
    if not isinstance(message, dict):
        raise ConnectionError("no message")
    return message


def _gather(at: Address, hello: dict[str, Any], patience: float, bind: str | None) -> Met:
    """Process 0: takes in the others, and tells them all whether it can begin."""
    until, links = time.monotonic() + patience, {}
    hellos = {0: hello}
    with contextlib.ExitStack() as undone:
        listener = undone.enter_context(_listener(at, bind))
        try:
            while missing := sorted(set(range(hello["processes"])) - hellos.keys()):
                link = _accepted(listener, until)
                if link is None:
                    those = ", ".join(map(str, missing))
                    raise UserError(
                        f"process {those} of {hello['processes']} did not come to {at} within "
                        f"{patience:g} s: start it, or see what it says"
                    )
                undone.callback(link.close)
                with contextlib.suppress(OSError):
                    said = receive(link, min(PROMPT, max(until - time.monotonic(), 0.1)))
                    _take_in(said, link, hellos, links)
                if link not in links.values():
                    link.close()
        except UserError as error:
            for link in links.values():
                with contextlib.suppress(OSError):
                    send(link, {"refused": str(error)})
            raise
        names = {process: _name(one) for process, one in sorted(hellos.items())}
        for link in links.values():
            send(link, {"names": list(names.values())})
        listener.close()
        undone.pop_all()
    return Met(Place(0, hello["processes"]), names, links)


def _take_in(said: dict, link: socket.socket, hellos: dict, links: dict) -> None:
    """Raises UserError where who has come does not belong to the others; a stranger is left alone."""
    kinds = {"process": int, "processes": int, "versions": dict}
    if said.get("ralm") != 1 or not all(isinstance(said.get(k), t) for k, t in kinds.items()):
        return
    own, process = hellos[0], said["process"]
    links[len(links) + own["processes"] if process in links else process] = link
    if process in hellos:
        raise UserError(
            f"process {process} was started twice, as {_name(hellos[process])} and as {_name(said)}: give "
            "each process a number of its own"
        )
    if said["processes"] != own["processes"]:
        raise UserError(
            f"{_name(said)} was started as one of {said['processes']} processes, and {_name(own)} as one of "
            f"{own['processes']}: give all the same number"
        )
    if unlike := differences(own["versions"], said["versions"]):
        raise UserError(f"{_name(said)} runs other code than {_name(own)}: {unlike}")
    hellos[process] = said


def differences(here: Mapping[str, str], there: Mapping[str, str], most: int = 2) -> str:
    """What two records differ in, the second's first; "" for nothing.

    >>> differences({"jax": "0.10", "LR": "1"}, {"jax": "0.10", "LR": "2"})
    'LR is 2, not 1'
    """
    names = [name for name in sorted({*here, *there}) if here.get(name) != there.get(name)]
    said = (
        f"{name} is {there.get(name, 'absent')}, not {here.get(name, 'absent')}" for name in names
    )
    return "; ".join(list(said)[:most])


def _join(at: Address, hello: dict[str, Any], patience: float) -> Met:
    """Any other process: says who it is and waits for what process 0 says."""
    link = _connected(at, patience)
    try:
        send(link, hello)
        # Process 0 may have begun to wait as late as now.
        said = receive(link, patience + PROMPT)
        if "refused" in said:
            raise UserError(str(said["refused"]))
        names = dict(enumerate(map(str, said["names"])))
    except (OSError, KeyError, TypeError):
        link.close()
        raise UserError(
            f"what listens at {at} does not answer as process 0 of this training does: give the address "
            "of its machine and a port that is free there"
        ) from None
    except UserError:
        link.close()
        raise
    return Met(Place(hello["process"], hello["processes"]), names, {0: link})


def _listener(at: Address, bind: str | None) -> socket.socket:
    """Raises UserError where process 0 cannot listen."""
    where = at.host if bind is None else bind
    try:
        if where == "":
            return socket.create_server(("", at.port), backlog=1024)
        family, _, _, _, found = socket.getaddrinfo(where, at.port, type=socket.SOCK_STREAM)[0]
        return socket.create_server(found[:2], family=family, backlog=1024)
    except OSError as error:
        raise UserError(
            f"process 0 cannot listen at {at} ({_why(error)}): give the address of its own machine and a "
            "port that nothing else uses, process 0 of another training included"
        ) from None


def _accepted(listener: socket.socket, until: float) -> socket.socket | None:
    listener.settimeout(max(until - time.monotonic(), 0.001))
    with contextlib.suppress(TimeoutError):
        return listener.accept()[0]
    return None


def _connected(at: Address, patience: float) -> socket.socket:
    """A connection to process 0, which may be started later. Raises UserError where there is none in time."""
    until, why = time.monotonic() + patience, ""
    while (left := until - time.monotonic()) > 0:
        try:
            # Names of a cluster may become known only when their machines are.
            family, kind, protocol, _, found = socket.getaddrinfo(*at, type=socket.SOCK_STREAM)[0]
            with contextlib.ExitStack() as undone:
                link = undone.enter_context(socket.socket(family, kind, protocol))
                link.settimeout(left)
                link.connect(found)
                undone.pop_all()
                return link
        except OSError as error:
            why = _why(error)
            time.sleep(min(0.2, left))
    raise UserError(
        f"process 0 does not answer at {at} ({why}) after {patience:g} s: start it there, or give the "
        "address of its machine"
    )


def _why(error: OSError) -> str:
    """As the system says it; of a name that is not known, as the resolver does."""
    number = error.errno or 0
    return os.strerror(number) if number > 0 else error.strerror or str(error)


def _name(hello: Mapping[str, Any]) -> str:
    return f"process {hello['process']} on {hello.get('host')} (pid {hello.get('pid')})"
