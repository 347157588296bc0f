"""How many queries are read at a time where a run is to find out by itself."""

import dataclasses

import compiling
import pytest

from ralm_jax import cli
from ralm_jax.batches import Lengths
from ralm_jax.cost import fitting, residuals
from ralm_jax.models.config import EncoderConfig
from ralm_jax.models.ralm import Ralm
from ralm_jax.training import optim
from ralm_jax.training.schedule import Schedule, Stage
from ralm_jax.training.tasks import InverseCloze, Realm

NEED = residuals.Need(10, 20, fixed=5, each=5, given=1, layer=2, logits=1, grouped=True)
LENGTHS = Lengths(query=20, passage=56, joint=64, masked=4)
SMALL = EncoderConfig(vocab_size=50, hidden=8, layers=2, heads=2, intermediate=16, positions=64)
MODEL = Ralm(SMALL, SMALL, 8)
OPTIMIZER = optim.by_part(optim.adamw(1e-3), optim.adamw(1e-3))
ALL = 8 * 12  # queries of eight devices


def stage(task):
    return Stage("one", task, Schedule(steps=10, batch=ALL, optimizer=OPTIMIZER))


TASK = Realm(LENGTHS, candidates=3, index="exact", microbatch_size="auto")
AUTO = stage(TASK)


def test_the_most_that_fit_and_divide_are_read_at_a_time():
    for few in (12, 6, 4, 3, 2, 1):
        just = NEED.memory(12, few).total
        assert fitting.most(NEED, 12, just * 1.0001) == few
        assert fitting.most(NEED, 12, just * 0.9999) == max(
            [n for n in (6, 4, 3, 2, 1) if n < few], default=1
        )
    # What is not read in groups is read as a whole, and whether it fits is for others to say.
    assert fitting.most(NEED._replace(grouped=False), 12, 1.0) == 12


def test_a_tpu_is_filled_less(monkeypatch):
    """32 queries at a time of `pretrain_v5e8.gin` take 15.6 of 15.75 GiB by compiler, 14.2 by formula."""
    monkeypatch.setattr(residuals, "need", lambda model, stage: NEED)
    monkeypatch.setattr(fitting, "held", lambda: NEED.memory(12, 4).total / 0.85)
    for platform, few in (("gpu", 4), ("tpu", 3)):
        monkeypatch.setattr(fitting.jax, "default_backend", lambda platform=platform: platform)
        assert fitting.fitted(MODEL, AUTO)[0].task.microbatch_size == few


def test_memory_by_hand():
    """Of 12 queries, read 4 at a time: a sum of gradients and those of a group, as layers want more."""
    found = NEED.memory(12, 4)
    assert found == residuals.Memory(10, 20, gradients=20, activations=25, working=8, batch=12)
    # Read as a whole there is no sum; the logits want more than a layer and the gradients do.
    assert NEED._replace(logits=3).memory(12, 12) == residuals.Memory(10, 20, 0, 65, 36, 12)


def test_auto_is_what_the_devices_hold(monkeypatch):
    monkeypatch.setattr(residuals, "need", lambda model, stage: NEED)
    monkeypatch.setattr(fitting, "held", lambda: NEED.memory(12, 4).total / fitting.FILLED + 0.1)
    found, said = fitting.fitted(MODEL, AUTO)
    assert found.task == dataclasses.replace(TASK, microbatch_size=4)
    assert found.task.loss(MODEL).keywords["microbatch_size"] == 4
    assert said.startswith("4 of 12 queries of a device are read at a time: ")


def test_a_number_or_a_task_without_groups_stays(monkeypatch):
    monkeypatch.setattr(fitting, "held", lambda: pytest.fail("nobody asked"))
    for task in (InverseCloze(LENGTHS), dataclasses.replace(TASK, microbatch_size=2)):
        given = stage(task)
        assert fitting.fitted(MODEL, given) == (given, None)


def test_a_cpu_says_nothing_of_its_memory_and_reads_what_fits_its_cache():
    found, said = fitting.fitted(MODEL, AUTO)
    assert (found.task.microbatch_size, said) == (None, None)
    plain = dataclasses.replace(TASK, microbatch_size=None)
    few = [task.loss(MODEL).keywords["microbatch_size"] for task in (plain, TASK, found.task)]
    assert few == [2048 // (3 * 64)] * 3


@pytest.mark.slow
def test_a_run_says_what_it_chose(tiny, tiny_settings, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(fitting, "held", lambda: 1e12)
    words = ["--config", "runs/pretrain_h100.gin", "--corpus", str(tiny.corpus.path)]
    words += ["--run", str(tmp_path / "run"), *tiny_settings]
    for change in ("WARMUP_STEPS = 1", "pretrain.pretrain.stages = [@warmup/schedule.Stage()]"):
        words += ["--set", change]
    with compiling.traced():
        assert cli.main(["pretrain", *words]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "computes in bfloat16; attention by XLA" in lines
    (line,) = [x for x in lines if x.startswith("warmup: ") and "read at a time" in x]
    assert "1 of 1 queries of a device are read at a time: " in line
