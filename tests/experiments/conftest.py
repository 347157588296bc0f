"""Experiments on a world of 30 people, so that their rows are made in seconds."""

import functools

import compiling
import jax
import pytest

from experiments import datasets, pipeline
from experiments.setting import ALMANAC, Setting
from ralm_jax import cli
from ralm_jax.sources.almanac import World

SMALL = World(people=30, names=10)


@pytest.fixture(scope="session")
def small_data(tmp_path_factory):
    """Data of a small world with seed 1."""
    return datasets.almanac_data(tmp_path_factory.mktemp("world"), 1, SMALL)


@pytest.fixture
def setting(small_data, tmp_path):
    """A setting on almanac, without any run yet."""
    return Setting(ALMANAC, tmp_path, 1, small_data)


@pytest.fixture
def small_runs(tiny_settings, monkeypatch):
    """Shrinks the worlds of experiments, their models and their training.

    The command line is called in this process, where a step is compiled once for all rows.
    """

    def ralm(*words):
        assert cli.main([*map(str, words)]) == 0

    monkeypatch.setattr(pipeline, "ralm", ralm)
    # The quickstart would choose how many devices there are, too late.
    monkeypatch.setenv("JAX_NUM_CPU_DEVICES", str(jax.device_count()))
    # Saving takes longer than what is saved.
    sizes = [
        size.replace("CHECKPOINT_EVERY = 2", "CHECKPOINT_EVERY = 50")
        for size in tiny_settings[1::2]
    ]
    tuned = ["STEPS = 3", "BATCH = 8", "DEV_EVERY = 3", "DEV_QUESTIONS = 4", "CANDIDATES = 4"]
    tuned += [size for size in sizes if size.split()[0] in ("QUERY_LENGTH", "JOINT_LENGTH")]
    usual = Setting.changes
    small = functools.partial(datasets.almanac_data, world=SMALL)
    monkeypatch.setattr(datasets, "almanac_data", small)
    monkeypatch.setattr(
        Setting, "changes", lambda self, run: [*usual(self, run), *(sizes if run else tuned)]
    )


@pytest.fixture
def traced_runs(small_runs):
    """Small runs that learn nothing, where a test is of rows and tables."""
    with compiling.traced():
        yield
