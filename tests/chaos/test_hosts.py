"""Runs over hosts, each a process here: whatever their number and whoever is lost, they end as one does.

All slow, for each process starts jax. There are four devices throughout: of one process, or of several.
"""

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest

import ralm_jax
from ralm_jax.retrieval import index
from ralm_jax.runs import checkpoint, directory
from ralm_jax.runs.writers import metrics_file, read_metrics

pytestmark = pytest.mark.slow

# More steps than are made while a signal is on its way.
STEPS, DEVICES = 18, 4
LONG = 600  # seconds, on a loaded machine
STAGES = "pretrain.pretrain.stages = [@realm/schedule.Stage()]"


@pytest.fixture(scope="module")
def start(tiny, tiny_settings, tmp_path_factory):
    """(run, processes, more words) -> the processes that train it, just started."""
    compiled = str(tmp_path_factory.mktemp("compiled"))
    environment = os.environ | {
        "JAX_COMPILATION_CACHE_DIR": compiled,
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
        "PYTHONPATH": str(Path(ralm_jax.__file__).parents[1]),
        "PYTHONWARNINGS": "error",
    }
    made = []

    def start(run, count, *last):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            address = f"127.0.0.1:{free.getsockname()[1]}"
        processes = []
        for number in range(count):
            words = ["pretrain", "--config", "runs/pretrain.gin", "--run", str(run)]
            words += ["--corpus", str(tiny.corpus.path), *tiny_settings, "--set", STAGES]
            # Masks that several processes must draw as one does, and passages that are not all alike.
            for change in ("DROPOUT = 0.1", "INIT_STDDEV = 0.2", f"REALM_STEPS = {STEPS}"):
                words += ["--set", change]
            hosts = {"coordinator": address, "processes": count, "process": number, "patience": 60}
            if count > 1:
                words += [word for name, x in hosts.items() for word in (f"--{name}", str(x))]
            words += last if number == count - 1 else ()
            log = run.with_name(f"{run.name}.{len(made)}.log")
            with log.open("w") as out:
                process = subprocess.Popen(
                    [sys.executable, "-m", "ralm_jax.cli", *words],
                    env={**environment, "JAX_NUM_CPU_DEVICES": str(DEVICES // count)},
                    stdout=out,
                    stderr=out,
                )
            process.log = log
            made.append(process)
            processes.append(process)
        return processes

    yield start
    for process in made:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        process.wait()


def said(processes):
    return "\n".join(process.log.read_text() for process in processes)


def ended(processes, code=0):
    codes = [process.wait(LONG) for process in processes]
    assert codes == [code] * len(codes), said(processes)
    return said(processes)


def wait_for(run, processes, step):
    """Until the run has a checkpoint at that step or later, and has gone on."""
    until = time.monotonic() + LONG
    while time.monotonic() < until:
        saved = checkpoint.steps(directory.checkpoint_folder(run, "realm"))
        if saved and saved[-1] >= step:
            lines = read_metrics(metrics_file(run))
            if any(line["step"] > saved[-1] for line in lines):
                return
        assert all(process.poll() is None for process in processes), said(processes)
        time.sleep(0.02)
    raise AssertionError(f"no step {step}: {said(processes)}")


def outcome(run):
    """All that the last checkpoint of a run has, by name."""
    step, tree = checkpoint.newest(directory.checkpoint_folder(run, "realm"))
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return step, {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in leaves}


def held(run):
    """Passages that each process has vectors of, in the newest version of the index; by their folders."""
    roots = [root for root in (run / "index").iterdir() if index.versions(root)]
    newest = max(index.versions(root)[-1] for root in roots)
    there = {root.name: index.folder(root, newest) for root in roots}
    return {
        name: len(index.arrays.mapped(x / index.VECTORS)) for name, x in there.items() if x.exists()
    }


def test_four_hosts_of_which_one_is_lost_then_two_one_and_four_end_as_one(start, tiny, tmp_path):
    """The same candidates, to the passage; the rest but for the order in which devices are summed.

    Over several processes the sums of gradients are taken in another order than in one, which float32 shows
    in its last bits; Adam divides by small second moments and makes a little more of it.
    """
    whole, run = tmp_path / "whole", tmp_path / "run"
    ended(start(whole, 1))

    four = start(run, 4)
    wait_for(run, four, 4)
    four[2].kill()
    line = rf"^ralm: process 2 on \S+ \(pid {four[2].pid}\) is gone: "
    lines = ended([four[0], four[1], four[3]], 2)
    assert len(re.findall(line, lines, re.MULTILINE)) == 3 and "Traceback" not in lines
    assert held(run) == {f"realm-{host}-of-4": tiny.corpus.size // 4 for host in range(4)}

    two = start(run, 2)
    wait_for(run, two, 6)
    two[1].send_signal(signal.SIGTERM)  # sent to one, it counts for both
    assert "processes at this checkpoint: 4, now: 2; the index of step" in ended(two)

    (one,) = start(run, 1)
    wait_for(run, [one], 8)
    one.send_signal(signal.SIGTERM)
    assert "processes at this checkpoint: 2, now: 1; the index of step" in ended([one])

    assert "processes at this checkpoint: 1, now: 4; the index of step" in ended(start(run, 4))
    (last, found), (wanted_last, wanted) = outcome(run), outcome(whole)
    assert last == wanted_last == STEPS and found.keys() == wanted.keys()
    for name, leaf in found.items():
        rtol, atol = (1e-4, 1e-5) if leaf.dtype == np.float32 else (0, 0)
        np.testing.assert_allclose(leaf, wanted[name], rtol=rtol, atol=atol, err_msg=name)
    logged = [line["step"] for line in read_metrics(metrics_file(run)) if "loss" in line]
    assert logged == list(range(1, STEPS + 1))


def test_hosts_with_other_settings_are_refused_before_anything_is_made(start, tmp_path):
    run = tmp_path / "run"
    lines = ended(start(run, 2, "--set", "RETRIEVER_RATE = 1e-3"), 2)
    said = re.findall("^ralm: .*", lines, re.MULTILINE)
    assert len(said) == 2 and all(
        "process 1 on" in x and "has a configuration unlike" in x for x in said
    )
    assert not run.exists()
