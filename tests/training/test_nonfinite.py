"""Steps whose loss or gradient is not finite: skipped, so many as may be, and kept for study."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ralm_jax import partition
from ralm_jax.batches import Lengths
from ralm_jax.errors import UserError
from ralm_jax.inference.open_run import OpenRun
from ralm_jax.models.config import EncoderConfig
from ralm_jax.models.ralm import Ralm
from ralm_jax.runs.writers import metrics_file, read_metrics
from ralm_jax.training import loop, optim, pretrain, schedule
from ralm_jax.training.steps import create_state, train_step
from ralm_jax.training.tasks import InverseCloze

SMALL = EncoderConfig(hidden=8, layers=1, heads=2, intermediate=16, positions=64)


def test_such_a_step_changes_nothing_but_its_number():
    """Of three steps the second is not finite: as if there were two."""
    # Of numpy: a step takes the arrays of its state over.
    params = {"w": {"x": np.ones(3, np.float32)}}

    def loss(params, batch, key, train):
        return (params["w"]["x"] * batch).sum(), jnp.float32(1), {}

    step = partition.parallelize(functools.partial(train_step, loss=loss, skip=True))
    key, devices = jax.random.key(0), jax.local_device_count()
    ends = {}
    for name, scales in {"with": (1.0, np.nan, 2.0), "without": (1.0, 2.0)}.items():
        state = partition.replicate(create_state(params, optax.adam(0.1)))
        for scale in scales:
            state, _ = step(state, np.full((devices, 1), scale, np.float32), key)
        ends[name] = state
    assert int(ends["with"].step) == 3 and int(ends["without"].step) == 2
    for mine, theirs in zip(*(jax.tree.leaves(s.opt_state) for s in ends.values()), strict=True):
        np.testing.assert_array_equal(mine, theirs)
    np.testing.assert_array_equal(ends["with"].params["w"]["x"], ends["without"].params["w"]["x"])
    assert np.abs(np.asarray(ends["with"].params["w"]["x"]) - 1).min() > 0.1


@pytest.mark.slow
@pytest.mark.parametrize(("allowed", "part"), [(1, "gradient"), (2, "loss")])
def test_so_many_are_skipped_and_counted(tiny, tmp_path, monkeypatch, allowed, part):
    """The second and the fourth step are not finite; a gradient may be so where the loss is not."""

    def wild(state, batch, key, *, loss, skip):
        def sometimes(params, *given):
            total, count, metrics = loss(params, *given)
            bad = (state.step == 1) | (state.step == 3)
            if part == "loss":
                return jnp.where(bad, jnp.nan, total), count, metrics
            first = jax.tree.leaves(params)[0].sum()
            # Nothing is added, with an infinite slope.
            nothing = jnp.where(bad, first - jax.lax.stop_gradient(first), 1.0)
            return total + jnp.sqrt(nothing) - jnp.where(bad, 0.0, 1.0), count, metrics

        return train_step(state, batch, key, loss=sometimes, skip=skip)

    monkeypatch.setattr(loop, "train_step", wild)
    optimizer = optim.by_part(optim.adamw(1e-2), optim.adamw(1e-2))
    course = schedule.Schedule(
        5, 8, optimizer, log_every=1, checkpoint_every=2, skip_nonfinite=allowed
    )
    task = InverseCloze(Lengths(query=20, passage=56, joint=64, masked=4))
    model = Ralm(SMALL, SMALL, embedding=8)
    stages = (schedule.Stage("ict", task, course),)
    given = {"run": tmp_path, "corpus": tiny.corpus, "model": model, "stages": stages}
    if allowed == 1:
        said = (
            r"at step 4 of ict .*skip_nonfinite, and run again; .* from the checkpoint of step 2$"
        )
        with pytest.raises(UserError, match=said):
            pretrain.pretrain(**given)
    else:
        pretrain.pretrain(**given)
        params = OpenRun.open(tmp_path).params
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(params))
        lines = list(read_metrics(metrics_file(tmp_path)))
        assert [line.get("skipped_steps", 0) for line in lines] == [0, 1, 1, 2, 2]
        assert [line.get("loss") is not None for line in lines] == [True, False, True, False, True]
    kept = sorted(file.name for file in (tmp_path / "nonfinite").iterdir())
    assert kept == ["ict_2.npz", "ict_4.npz"]
