"""Two hosts in networks of their own and a link of a limited rate between them, and what faults of it do.

    python -m experiments.networks --out DIR [--rate 200mbit] [--steps 18 | --sizes]

As root on Linux, with iproute2. Both train the small model of `experiments.hosts`, of whose four devices each
has two, with exact search. Then one is killed, one is stopped, the link goes down, and packets vanish; each
time one process goes on from the last checkpoint. Writes DIR/networks.json. With --sizes, a few steps with a
larger model and a larger batch instead, for what crosses the link; writes DIR/sizes.json.
"""

import argparse
import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from experiments.hosts import DEVICES, command, corpus, parameters
from experiments.saved import result
from ralm_jax.runs import checkpoint, directory
from ralm_jax.runs.writers import metrics_file, read_metrics

ADDRESSES = ("10.203.0.1", "10.203.0.2")
PORT = 29500
# Seconds after which a silent host is taken for lost.
PATIENCE = 20
# Steps between which bytes are counted: no version is published there.
COUNTED = (2, 6)


class Link(NamedTuple):
    """Two network namespaces and the device that each reaches the other by."""

    networks: tuple[str, str]
    devices: tuple[str, str]

    def sent(self) -> int:
        """Bytes that both have sent over it."""
        return sum(
            json.loads(_said(["ip", "-n", network, "-s", "-j", "link", "show", device]))[0][
                "stats64"
            ]["tx"]["bytes"]
            for network, device in zip(self.networks, self.devices, strict=True)
        )


@contextlib.contextmanager
def joined(rate: str) -> Generator[Link]:
    """Raises OSError or CalledProcessError where this user may not make networks."""
    own = os.getpid()
    link = Link((f"ralm{own}a", f"ralm{own}b"), (f"r{own}a", f"r{own}b"))
    with contextlib.ExitStack() as made:
        for network in link.networks:
            _said(["ip", "netns", "add", network])
            made.callback(_said, ["ip", "netns", "del", network])
        (network, device), (other, far) = zip(link.networks, link.devices, strict=True)
        pair = [device, "netns", network, "type", "veth", "peer", "name", far, "netns", other]
        _said(["ip", "link", "add", *pair])
        for network, device, address in zip(link.networks, link.devices, ADDRESSES, strict=True):
            _said(["ip", "-n", network, "addr", "add", f"{address}/24", "dev", device])
            for name in ("lo", device):
                _said(["ip", "-n", network, "link", "set", name, "up"])
            limit = ["root", "tbf", "rate", rate, "burst", "256kb", "latency", "100ms"]
            _said(["ip", "netns", "exec", network, "tc", "qdisc", "add", "dev", device, *limit])
        yield link


def started(run: Path, changes: dict[str, int], link: Link | None = None) -> list[subprocess.Popen]:
    """The processes of one training: one in each network of the link, or one alone."""
    count = 1 if link is None else 2
    words = command(run, {"CHECKPOINT_EVERY": 2, **changes})
    made = []
    for number in range(count):
        own = [sys.executable, "-m", "ralm_jax.cli", *words]
        if link is not None:
            own = ["ip", "netns", "exec", link.networks[number], *own]
            own += ["--coordinator", f"{ADDRESSES[0]}:{PORT}", "--processes", "2"]
            own += ["--process", str(number), "--patience", str(PATIENCE)]
        log = _log(run, number)
        with log.open("ab") as said:
            environment = {**os.environ, "JAX_NUM_CPU_DEVICES": str(DEVICES // count)}
            made.append(subprocess.Popen(own, env=environment, stdout=said, stderr=said))
    return made


def whole(run: Path, changes: dict[str, int], link: Link | None = None) -> dict[str, Any]:
    """A training that nothing happens to: bytes over the link and seconds, each step."""
    processes, seen = started(run, changes, link), dict[int, int]()
    while any(process.poll() is None for process in processes):
        if link is not None:
            seen.setdefault(_done(run), link.sent())
        time.sleep(0.01)
    if any(process.returncode for process in processes):
        raise SystemExit(f"a process failed: see {_log(run, 0)}")
    lines = read_metrics(metrics_file(run))
    row: dict[str, Any] = {
        "processes": len(processes),
        "seconds_a_step": float(np.median([x["step_seconds"] for x in lines if "loss" in x][2:])),
        "gradient_bytes": int(4 * sum(leaf.size for leaf in parameters(run).values())),
    }
    first, last = (next((at for at in sorted(seen) if at >= step), None) for step in COUNTED)
    if first is not None and last is not None and last > first:
        row["bytes_a_step"] = (seen[last] - seen[first]) / (last - first)
    return row


def sizes(out: Path, rate: str) -> list[dict[str, Any]]:
    """What crosses the link at each step with a larger model, and with more queries."""
    rows = []
    for changes in ({}, {"HIDDEN": 32, "INTERMEDIATE": 64}, {"REALM_BATCH": 32}):
        run = out / "_".join(["sized", *map(str, changes.values())])
        with joined(rate) as link:
            rows.append({"changes": changes, **whole(run, {"REALM_STEPS": 8, **changes}, link)})
    return rows


def faults(link: Link) -> dict[str, Callable[[list[subprocess.Popen]], object]]:
    """What happens to the second host, by name."""
    b, device = link.networks[1], link.devices[1]
    return {
        "killed": lambda processes: processes[1].kill(),
        "stopped": lambda processes: processes[1].send_signal(signal.SIGSTOP),
        "link down": lambda _: _said(["ip", "-n", b, "link", "set", device, "down"]),
        "packets vanish": lambda _: _said(
            ["ip", "-n", b, "route", "replace", "blackhole", f"{ADDRESSES[0]}/32"]
        ),
    }


def faulty(out: Path, steps: int, rate: str, name: str) -> dict[str, Any]:
    """A training with a fault after its fourth step: how both hosts ended, and what became of it after."""
    run = out / name.replace(" ", "_")
    with joined(rate) as link:
        processes = started(run, {"REALM_STEPS": steps}, link)
        while _saved(run) < 4:
            if any(process.poll() is not None for process in processes):
                raise SystemExit(f"a process ended by itself: see {_log(run, 0)}")
            time.sleep(0.02)
        faults(link)[name](processes)
        at, ended = time.monotonic(), {}
        # One that is stopped does not end.
        lasting = processes[:1] if name == "stopped" else processes
        while len(ended) < len(lasting) and time.monotonic() - at < 30 * PATIENCE:
            for number, process in enumerate(lasting):
                if number not in ended and process.poll() is not None:
                    ended[number] = {"seconds": time.monotonic() - at, "code": process.returncode}
            time.sleep(0.02)
        for process in processes:
            process.kill()
            process.wait()
    for number, row in ended.items():
        lines = re.findall(r"^ralm: .*", _log(run, number).read_text(), re.MULTILINE)
        row["line"] = re.sub(r"on \S+ \(pid \d+\)", "on HOST (pid N)", lines[-1]) if lines else ""
    (alone,) = started(run, {"REALM_STEPS": steps})
    if alone.wait():
        raise SystemExit(f"it did not go on: see {_log(run, 0)}")
    return {"fault": name, "ended": {str(i): ended[i] for i in sorted(ended)}, **compared(out, run)}


def compared(out: Path, run: Path) -> dict[str, Any]:
    """A run beside that of one process that nothing happened to."""
    wanted, found = parameters(out / "alone"), parameters(run)
    far = max(float(np.abs(found[name] - leaf).max()) for name, leaf in wanted.items())
    steps = [
        [line["step"] for line in read_metrics(metrics_file(each)) if "loss" in line]
        for each in (out / "alone", run)
    ]
    return {"greatest_difference_of_a_parameter": far, "the_same_steps": steps[0] == steps[1]}


def _done(run: Path) -> int:
    if not metrics_file(run).exists():
        return 0
    return max(
        (line["step"] for line in read_metrics(metrics_file(run)) if "loss" in line), default=0
    )


def _saved(run: Path) -> int:
    return max(checkpoint.steps(directory.checkpoint_folder(run, "realm")), default=0)


def _log(run: Path, number: int) -> Path:
    return run.with_name(f"{run.name}.{number}.log")


def _said(words: list[str]) -> str:
    return subprocess.run(words, check=True, capture_output=True, text=True).stdout


def main() -> None:
    kind = argparse.RawTextHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=kind)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--rate", default="200mbit")
    parser.add_argument("--steps", type=int, default=18)
    parser.add_argument("--sizes", action="store_true")
    given = parser.parse_args()
    corpus(given.out)
    asked = f"python -m experiments.networks --out DIR --rate {given.rate}"
    if given.sizes:
        made = result(f"{asked} --sizes", rows=sizes(given.out, given.rate))
        (given.out / "sizes.json").write_text(made, "utf-8")
        return
    steps = {"REALM_STEPS": given.steps}
    rows = [whole(given.out / "alone", steps)]
    with joined(given.rate) as link:
        row = whole(given.out / "joined", steps, link)
        rows.append({**row, **compared(given.out, given.out / "joined")})
        names = list(faults(link))
    ended = [faulty(given.out, given.steps, given.rate, name) for name in names]
    about = {"rate": given.rate, "patience": PATIENCE, "rows": rows, "faults": ended}
    made = result(f"{asked} --steps {given.steps}", **about)
    (given.out / "networks.json").write_text(made, "utf-8")


if __name__ == "__main__":
    main()
