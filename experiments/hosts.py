"""One training by 1, 2 and 4 processes that share the index: what differs, what each holds, what crosses.

    python -m experiments.hosts --out DIR [--steps 12]

Each trains the same small model on almanac, on four devices: of one process, or of several; with exact search
and with ScaNN. Then a larger model, on as many queries for each process (weak scaling).
Where this user may make a network of its own (as root on Linux), the processes have one to themselves, whose
traffic is counted. Writes DIR/hosts.json.
"""

import argparse
import contextlib
import ctypes
import fcntl
import json
import os
import socket
import struct
import subprocess
import sys
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

DEVICES, PROCESSES = 4, (1, 2, 4)
SIZES = {
    "HIDDEN": 8, "LAYERS": 1, "RETRIEVER_LAYERS": 1, "HEADS": 2, "INTERMEDIATE": 16, "POSITIONS": 64,
    "EMBEDDING": 8, "QUERY_LENGTH": 20, "PASSAGE_LENGTH": 56, "JOINT_LENGTH": 64, "MASKED": 4,
    "DROPOUT": 0.1, "HELD_OUT": 0.2, "LOG_EVERY": 1, "REALM_BATCH": 8, "CANDIDATES": 3,
    "REFRESH_EVERY": 4, "REFRESH_LAG": 3,
}  # fmt: skip
# Of each process, where its work stays the same.
QUERIES = 16
LARGER = {
    "HIDDEN": 64, "LAYERS": 4, "RETRIEVER_LAYERS": 4, "HEADS": 4, "INTERMEDIATE": 256, "EMBEDDING": 32,
}  # fmt: skip
STAGES = "pretrain.pretrain.stages = [@realm/schedule.Stage()]"
# Of the environment, what a program is compiled by.
COMPILED = ("JAX_DISABLE_MOST_OPTIMIZATIONS", "XLA_FLAGS")
# Steps between which the bytes are counted: no version is published there.
COUNTED = (2, 6)


def corpus(out: Path) -> Path:
    from ralm_jax.data.prepare import prepare
    from ralm_jax.sources import almanac

    if not (out / "corpus").exists():
        out.mkdir(parents=True, exist_ok=True)
        made = almanac.generate(almanac.World(), seed=0)
        lines = (json.dumps(document) + "\n" for document in made.documents)
        (out / "almanac.jsonl").write_text("".join(lines), "utf-8")
        prepare(str(out / "almanac.jsonl"), out / "corpus", vocab_size=800, say=lambda line: None)
    return out / "corpus"


def command(run: Path, changes: dict[str, Any]) -> list[str]:
    """What trains a run on the corpus beside it, with settings of its own, for `ralm`."""
    words = ["pretrain", "--config", "runs/pretrain.gin", "--corpus", str(run.parent / "corpus")]
    words += ["--run", str(run), "--set", STAGES]
    settings = {**SIZES, **changes}
    return words + [x for name, to in settings.items() for x in ("--set", f"{name} = {to!r}")]


def train(
    run: Path, count: int, changes: dict[str, Any], devices: int | None = None
) -> dict[str, Any]:
    """Trains with so many processes; what each noted, and what was seen of them from outside."""
    from ralm_jax.runs.writers import metrics_file, read_metrics

    words = command(run, changes)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    environment = {**os.environ, "JAX_NUM_CPU_DEVICES": str(devices or DEVICES // count)}
    processes = []
    for number in range(count):
        notes = run.with_name(f"{run.name}.{number}.json")
        hosts = ["--coordinator", address, "--processes", str(count), "--process", str(number)]
        noted = [sys.executable, "-m", "experiments.hosts", "--notes", str(notes), *words]
        processes.append(subprocess.Popen([*noted, *hosts], env=environment))
    crossed = _watched(run, processes)
    if any(process.wait() for process in processes):
        raise SystemExit(f"a process of {count} failed")
    files = [run.with_name(f"{run.name}.{number}.json") for number in range(count)]
    notes = [json.loads(file.read_text("utf-8")) for file in files]
    lines = read_metrics(metrics_file(run))
    return {
        "notes": notes,
        "bytes_a_step": crossed,
        "loss": [line["loss"] for line in lines if "loss" in line],
        "seconds_a_step": float(np.median([x["step_seconds"] for x in lines if "loss" in x][2:])),
        "recall": [x["publish/index_recall"] for x in lines if "publish/index_recall" in x],
        "churn": [x["publish/index_churn"] for x in lines if "publish/index_churn" in x],
    }


def _watched(run: Path, processes: list[subprocess.Popen]) -> float | None:
    """Bytes over the network of these processes from one step to another, each."""
    from ralm_jax.runs.writers import metrics_file, read_metrics

    seen: dict[int, int] = {}
    while any(process.poll() is None for process in processes):
        if metrics_file(run).exists():
            done = max(
                (x["step"] for x in read_metrics(metrics_file(run)) if "loss" in x), default=0
            )
            seen.setdefault(done, sent())
        time.sleep(0.01)
    first, last = (next((at for at in sorted(seen) if at >= step), None) for step in COUNTED)
    if not alone() or first is None or last is None or last == first:
        return None
    return (seen[last] - seen[first]) / (last - first)


def sent() -> int:
    """Bytes that were sent over the loopback of this network."""
    lines = Path("/proc/net/dev").read_text("utf-8").splitlines()
    return int(next(line for line in lines if line.strip().startswith("lo:")).split()[9])


def alone() -> bool:
    return os.environ.get("RALM_NETWORK") == "own"


def own_network() -> None:
    """Moves this process, and what it starts, to a network of its own. Raises OSError where it may not."""
    flag = 0x40000000  # CLONE_NEWNET
    if ctypes.CDLL(None, use_errno=True).unshare(flag):
        raise OSError(ctypes.get_errno(), "unshare")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        # SIOCSIFFLAGS: up and running.
        fcntl.ioctl(any_socket, 0x8914, struct.pack("16sh", b"lo", 0x41))
    os.environ["RALM_NETWORK"] = "own"


def noting(notes: Path, words: list[str]) -> int:
    """One process: trains, and notes the candidates of every step and what it holds of the index."""
    from ralm_jax import cli

    found: list[int] = []
    held: list[int] = []
    with _noted(found, held):
        code = cli.main(words)
    notes.write_text(json.dumps({"candidates": found, "index_bytes": held}), "utf-8")
    return code


@contextlib.contextmanager
def _noted(found: list[int], held: list[int]):
    """`ralm pretrain` imports these once JAX has been started, and so must this."""
    from ralm_jax.hosts import start

    begin = start.joined

    @contextlib.contextmanager
    def joined(*args):
        with begin(*args):
            from ralm_jax.loaders.retrieval_loader import RetrievalLoader
            from ralm_jax.retrieval.exact import Exact
            from ralm_jax.retrieval.scann_process import ScannProcess

            _after(RetrievalLoader, "batch", lambda self: found.append(zlib.crc32(self._found)))
            _after(Exact, "publish", lambda self: held.append(self._served.blocks.nbytes))
            own = lambda self: held.append(self._served.vectors.nbytes)  # noqa: E731
            _after(ScannProcess, "publish", own)
            yield

    with mock.patch.object(start, "joined", joined):
        yield


def _after(kind: type, name: str, note: Callable[[Any], object]) -> None:
    """Notes something of an object whenever a method of its has been called."""
    method = getattr(kind, name)

    def noted(self, *args):
        result = method(self, *args)
        note(self)
        return result

    setattr(kind, name, noted)


def compared(out: Path, kind: str, by: dict[int, dict]) -> list[dict[str, Any]]:
    """A row for each number of processes, against one."""
    whole = parameters(out / f"{kind}_by_1")
    rows = []
    for count, made in by.items():
        own = parameters(out / f"{kind}_by_{count}")
        far = max(float(np.abs(own[name] - leaf).max()) for name, leaf in whole.items())
        wanted = by[1]["notes"][0]["candidates"]
        same = [
            sum(a == b for a, b in zip(notes["candidates"], wanted, strict=True))
            for notes in made["notes"]
        ]
        row = {
            "processes": count,
            "index": kind,
            "steps": len(wanted),
            "steps_with_the_same_candidates": min(same),
            "greatest_difference_of_a_parameter": far,
            "same_losses": made["loss"] == by[1]["loss"],
            "index_bytes_of_each_process": [notes["index_bytes"][-1] for notes in made["notes"]],
        }
        rows.append(row | {k: v for k, v in made.items() if k not in ("notes", "loss")})
    return rows


def scaled(out: Path, steps: int) -> list[dict[str, Any]]:
    """As many queries for each process, of one core each; the first row is one process with both cores."""
    rows = []
    for count, devices in ((1, 2), (1, 1), (2, 1), (4, 1)):
        queries = QUERIES * count * devices
        changes = {**LARGER, "REALM_STEPS": steps, "REALM_BATCH": queries}
        made = train(out / f"scaled_{count}_{devices}", count, changes, devices)
        rows.append(
            {
                "processes": count,
                "devices_of_each": devices,
                "queries_a_step": queries,
                "seconds_a_step": made["seconds_a_step"],
                "queries_a_second": queries / made["seconds_a_step"],
            }
        )
    return rows


def parameters(run: Path) -> dict[str, np.ndarray]:
    """Those of the newest checkpoint of a run, by name."""
    import jax

    from ralm_jax.runs import checkpoint, directory

    found = checkpoint.newest(directory.checkpoint_folder(run, "realm"))
    assert found is not None
    leaves = jax.tree_util.tree_leaves_with_path(found[1]["state"]["params"])
    return {jax.tree_util.keystr(path): np.asarray(leaf, np.float64) for path, leaf in leaves}


def main() -> None:
    if sys.argv[1:2] == ["--notes"]:
        sys.exit(noting(Path(sys.argv[2]), sys.argv[3:]))
    kind = argparse.RawTextHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=kind)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=12)
    arguments = parser.parse_args()
    with contextlib.suppress(OSError):
        own_network()
    from experiments import record
    from ralm_jax.data.corpus import open_corpus

    made, rows = corpus(arguments.out), []
    for kind in ("exact", "scann"):
        changes = {"REALM_STEPS": arguments.steps, "INDEX": kind}
        runs = {count: arguments.out / f"{kind}_by_{count}" for count in PROCESSES}
        by = {count: train(run, count, changes) for count, run in runs.items()}
        rows += compared(arguments.out, kind, by)
    result = {
        "command": f"python -m experiments.hosts --out DIR --steps {arguments.steps}",
        "commit": record.commit(),
        "hardware": record.hardware(),
        "passages": open_corpus(made).size,
        "environment": {k: os.environ[k] for k in COMPILED if k in os.environ},
        "sizes": SIZES,
        "rows": rows,
        "larger": LARGER,
        "scaled": scaled(arguments.out, arguments.steps),
    }
    (arguments.out / "hosts.json").write_text(json.dumps(result, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
