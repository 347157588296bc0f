"""Runs in processes of their own: killed, asked to stop, and spread over two.

All slow, for each starts jax again; within one process test_training.py asks the same of interruptions.
"""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest

from ralm_jax.inference.open_run import OpenRun
from ralm_jax.runs import directory
from ralm_jax.runs.checkpoint import Checkpoints
from ralm_jax.runs.writers import metrics_file, read_metrics

STEPS = {"ict": 3, "realm": 12}
STAGES = "pretrain.pretrain.stages = [@ict/schedule.Stage(), @realm/schedule.Stage()]"
PATIENCE = 240  # seconds
ALONE = "import sys; from ralm_jax import cli; sys.exit(cli.main(sys.argv[1:]))"
TOGETHER = """
import sys
import jax
jax.distributed.initialize(sys.argv[1], 2, int(sys.argv[2]))
from ralm_jax import cli
sys.exit(cli.main(sys.argv[3:]))
"""


@pytest.fixture(scope="module")
def pretrain(tiny, tiny_settings, tmp_path_factory):
    """(run, program, *arguments before those of ralm, devices) -> the process, just started."""
    started = []
    cache = tmp_path_factory.mktemp("compiled")
    settings = {
        "JAX_COMPILATION_CACHE_DIR": str(cache),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
        "PYTHONPATH": str(Path(directory.__file__).parents[1]),
    }

    def start(run, program=ALONE, *arguments, devices=2):
        arguments += ("pretrain", "--config", "runs/pretrain.gin", "--run", str(run))
        arguments += ("--corpus", str(tiny.corpus.path), *tiny_settings)
        arguments += ("--set", STAGES, "--set", "CHECKPOINT_EVERY = 5")
        # Masks that two processes must draw as one does.
        arguments += ("--set", "DROPOUT = 0.1")
        with open(f"{run}.{len(started)}.log", "w") as log:
            process = subprocess.Popen(
                [sys.executable, "-W", "error", "-c", program, *arguments],
                env={**os.environ, **settings, "JAX_NUM_CPU_DEVICES": str(devices)},
                stdout=log,
                stderr=log,
            )
        process.log = log.name
        started.append(process)
        return process

    yield start
    for process in started:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        process.wait()


def finish(process):
    assert process.wait(PATIENCE) == 0, Path(process.log).read_text()


def wait_for(run, process, stage, step):
    """Until the run has logged that step."""
    until = time.monotonic() + PATIENCE
    while time.monotonic() < until:
        if metrics_file(run).exists():
            lines = read_metrics(metrics_file(run))
            if any(x["stage"] == stage and x["step"] >= step and "loss" in x for x in lines):
                return
        assert process.poll() is None, Path(process.log).read_text()
        time.sleep(0.02)
    raise AssertionError(f"no step {step} of {stage}: {Path(process.log).read_text()}")


def saved(run):
    """Everything in the last checkpoints of a finished run, by name."""
    found = {}
    for stage, steps in STEPS.items():
        checkpoints = Checkpoints(directory.checkpoint_folder(run, stage))
        assert checkpoints.latest() == steps
        tree = checkpoints.load(steps)
        checkpoints.close()
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
            found[stage + jax.tree_util.keystr(path)] = leaf
    return found


@pytest.fixture(scope="module")
def whole(pretrain, tmp_path_factory):
    run = tmp_path_factory.mktemp("processes") / "whole"
    finish(pretrain(run))
    return saved(run)


@pytest.mark.slow
def test_a_killed_run_ends_as_if_nothing_had_happened(pretrain, whole, tmp_path):
    run = tmp_path / "run"
    process = pretrain(run)
    wait_for(run, process, "realm", 2)
    process.send_signal(signal.SIGTERM)
    finish(process)  # asked to stop, it has not failed
    assert "run the same command again to go on" in Path(process.log).read_text()
    assert OpenRun.open(run).stage == "realm"

    process = pretrain(run)
    wait_for(run, process, "realm", 7)
    process.kill()
    assert process.wait(PATIENCE) == -signal.SIGKILL
    assert (OpenRun.open(run).stage, OpenRun.open(run).step) < ("realm", 12)

    finish(pretrain(run))
    found = saved(run)
    assert found.keys() == whole.keys()
    for name, leaf in found.items():
        np.testing.assert_array_equal(leaf, whole[name], err_msg=name)


def two(pretrain, run):
    """Both processes of a run that is spread over two."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    return [pretrain(run, TOGETHER, address, str(number), devices=1) for number in range(2)]


def assert_close(found, wanted):
    assert found.keys() == wanted.keys()
    for name, leaf in found.items():
        np.testing.assert_allclose(leaf, wanted[name], rtol=1e-4, atol=1e-6, err_msg=name)


@pytest.mark.slow
def test_two_processes_stopped_and_killed_end_as_one(pretrain, whole, tmp_path):
    run = tmp_path / "run"
    both = two(pretrain, run)
    wait_for(run, both[0], "realm", 2)
    both[1].send_signal(signal.SIGTERM)  # sent to one, it counts for both
    for process in both:
        finish(process)
    assert (OpenRun.open(run).stage, OpenRun.open(run).step) < ("realm", 12)

    both = two(pretrain, run)
    wait_for(run, both[0], "realm", 7)
    for process in both:
        process.kill()
    for process in both:
        process.wait(PATIENCE)
    assert (OpenRun.open(run).stage, OpenRun.open(run).step) < ("realm", 12)
    for process in two(pretrain, run):
        finish(process)
    assert_close(saved(run), whole)
