"""Runs in processes of their own, killed and read meanwhile.

All slow, for each starts jax again; within one process test_loop.py asks the same of interruptions.
"""

import concurrent.futures
import contextlib
import threading
from pathlib import Path

import numpy as np
import pytest

from experiments import chaos, outcomes
from ralm_jax.check import check
from ralm_jax.errors import UserError
from ralm_jax.evaluation.cloze import measure_clozes
from ralm_jax.inference.open_run import OpenRun
from ralm_jax.weights.exporting import export_model

STAGES = "pretrain.pretrain.stages = [@ict/schedule.Stage(), @realm/schedule.Stage()]"


@pytest.fixture(scope="module")
def words(tiny, tiny_settings):
    """(run) -> the command that trains it."""

    def command(run):
        words = ["pretrain", "--config", "runs/pretrain.gin", "--run", str(run)]
        words += ["--corpus", str(tiny.corpus.path), *tiny_settings]
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
