"""Runs in processes of their own: killed, asked to stop, and spread over two.

All slow, for each starts jax again; within one process test_loop.py asks the same of interruptions.
"""

import concurrent.futures
import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import jax
import numpy as np
import pytest

from experiments import chaos, outcomes
from ralm_jax.check import check
from ralm_jax.errors import UserError
from ralm_jax.evaluation.cloze import measure_clozes
from ralm_jax.inference.open_run import OpenRun
from ralm_jax.runs import directory
from ralm_jax.runs.checkpoint import Checkpoints
from ralm_jax.runs.writers import metrics_file, read_metrics
from ralm_jax.weights.exporting import export_model

STEPS = {"ict": 3, "realm": 12}
STAGES = "pretrain.pretrain.stages = [@ict/schedule.Stage(), @realm/schedule.Stage()]"
PATIENCE = 240  # seconds
TOGETHER = """
import sys
import jax
jax.distributed.initialize(sys.argv[1], 2, int(sys.argv[2]))
from ralm_jax import cli
sys.exit(cli.main(sys.argv[3:]))
"""


@pytest.fixture(scope="module")
def words(tiny, tiny_settings):
    """(run) -> the command that trains it."""

    def command(run):
        words = ["pretrain", "--config", "runs/pretrain.gin", "--run", str(run)]
        words += ["--corpus", str(tiny.corpus.path), *tiny_settings]
        # Masks that two processes must draw as one does.
        return [
            *words,
            *("--set", STAGES, "--set", "CHECKPOINT_EVERY = 2", "--set", "DROPOUT = 0.1"),
        ]

    return command


@pytest.fixture(scope="module", autouse=True)
def environment(tmp_path_factory):
    """Of every process: two devices, and what one has compiled the next one loads."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path_factory.mktemp("compiled")))
        patch.setenv("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
        patch.setenv("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")
        patch.setenv("JAX_NUM_CPU_DEVICES", "2")
        patch.setenv("PYTHONPATH", str(Path(chaos.__file__).parents[1]))
        patch.setenv("PYTHONWARNINGS", "error")
        yield


@pytest.fixture(scope="module")
def start(words):
    """(run, address, number) -> one of two processes of a run, just started, with a device of its own."""
    started = []

    def start(run, address, number):
        with open(f"{run}.{len(started)}.log", "w") as log:
            process = subprocess.Popen(
                [sys.executable, "-c", TOGETHER, address, str(number), *words(run)],
                env={**os.environ, "JAX_NUM_CPU_DEVICES": "1"},
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
def whole(words, tmp_path_factory):
    """A run that nothing happened to, and how it went."""
    run = tmp_path_factory.mktemp("processes") / "whole"
    return chaos.undisturbed(words(run), run, run.with_suffix(".log"))


@contextlib.contextmanager
def readers(run, exported):
    """Four who search, measure, check and export a run all the while, each of them at least once."""
    counts, done = [0] * 4, threading.Event()

    def search():
        opened = OpenRun.open(run)
        assert np.isfinite(opened.search(["Who was born in Norford?"], 3).scores).all()

    def measure():
        measure_clozes(OpenRun.open(run), candidates=3, limit=8)

    def sound():
        assert not [part.problem for part in check(run) if part.problem]

    def export():
        export_model(run, "sentence-transformers", exported / str(counts[3]))

    def read(number, act):
        while not done.is_set() or counts[number] == 0:
            try:
                act()
                counts[number] += 1
            except UserError as error:
                early = (
                    "there is no run at",
                    "has no checkpoint yet",
                    "is neither a corpus nor a run",
                )
                assert any(words in str(error) for words in early), error

    with concurrent.futures.ThreadPoolExecutor() as threads:
        acts = enumerate((search, measure, sound, export))
        reading = [threads.submit(read, *pair) for pair in acts]
        try:
            yield
        finally:
            done.set()
    for reader in reading:
        reader.result()


# Orbax reads on a loop of its own, and where a file is gone in the middle it leaves callbacks behind to that.
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_killed_ten_times_and_read_it_ends_as_if_nothing_had_happened(words, whole, tmp_path):
    run = tmp_path / "run"
    command = whole._replace(words=words(run), run=run)
    (tmp_path / "exported").mkdir()
    with readers(run, tmp_path / "exported"):
        kills = chaos.endure([command], tmp_path / "logs", kills=10, saved_every=2, seed=0)
    assert len(kills) == 10
    assert outcomes.differences(outcomes.outcome(whole.run), outcomes.outcome(run)) == []


@pytest.mark.slow
def test_what_a_run_says_has_no_text_of_the_corpus(whole, tiny):
    said = whole.run.with_suffix(".log").read_text()
    assert "sentences to ask" in said
    assert not [x["title"] for x in tiny.almanac.documents if x["title"] in said]


def two(start, run):
    """Both processes of a run that is spread over two."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    return [start(run, address, number) for number in range(2)]


def assert_close(found, wanted):
    assert found.keys() == wanted.keys()
    for name, leaf in found.items():
        np.testing.assert_allclose(leaf, wanted[name], rtol=1e-4, atol=1e-6, err_msg=name)


@pytest.mark.slow
def test_two_processes_stopped_and_killed_end_as_one(start, whole, tmp_path):
    run = tmp_path / "run"
    both = two(start, run)
    wait_for(run, both[0], "realm", 2)
    both[1].send_signal(signal.SIGTERM)  # sent to one, it counts for both
    for process in both:
        finish(process)
    assert (OpenRun.open(run).stage, OpenRun.open(run).step) < ("realm", 12)

    both = two(start, run)
    wait_for(run, both[0], "realm", 7)
    for process in both:
        process.kill()
    for process in both:
        process.wait(PATIENCE)
    assert (OpenRun.open(run).stage, OpenRun.open(run).step) < ("realm", 12)
    for process in two(start, run):
        finish(process)
    assert_close(saved(run), saved(whole.run))
