import errno
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from ralm_jax.errors import UserError
from ralm_jax.runs import checkpoint
from ralm_jax.runs.checkpoint import Checkpoints


def state(seed: int) -> dict:
    """A training state in small: parameters, optimizer state, host arrays, counters."""
    rng = np.random.default_rng(seed)
    params = {
        "dense": {"kernel": jnp.asarray(rng.normal(size=(40, 30)), jnp.float32)},
        "scale": jnp.asarray(rng.normal(size=(30,)), jnp.bfloat16),
    }
    return {
        "step": jnp.asarray(seed, jnp.int32),
        "params": params,
        "opt_state": optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(1e-3)).init(params),
        "candidates": rng.integers(0, 1000, (64, 8)),
    }


@pytest.fixture
def checkpoints(tmp_path):
    opened = Checkpoints(tmp_path / "checkpoints")
    yield opened
    opened.close()


def assert_same(found, wanted):
    assert jax.tree.structure(found) == jax.tree.structure(wanted)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        assert isinstance(a, jax.Array) == isinstance(b, jax.Array)
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b)


def test_a_restored_state_is_the_saved_one(checkpoints):
    assert checkpoints.latest() is None
    checkpoints.save(7, state(7), wait=True)
    assert checkpoints.latest() == 7
    assert_same(checkpoints.restore(7, state(0)), state(7))


def test_a_clock_set_forward_by_days_does_not_time_a_save_out():
    """Orbax times saves by the clock of the wall, and gives them 20 minutes unless it is told otherwise."""
    assert checkpoint._one_replica().asynchronous.timeout_secs >= 7 * 24 * 3600


def test_restores_onto_the_shardings_of_the_template(checkpoints):
    mesh = jax.make_mesh((8,), ("devices",))
    everywhere = NamedSharding(mesh, PartitionSpec())
    checkpoints.save(1, {"w": jnp.arange(16.0)}, wait=True)
    found = checkpoints.restore(1, {"w": jax.device_put(jnp.zeros(16), everywhere)})
    assert found["w"].sharding == everywhere


def test_what_happens_to_the_state_after_save_does_not_reach_the_checkpoint(checkpoints):
    host = np.arange(3_000_000)
    device = jnp.ones((1500, 1000))
    checkpoints.save(1, {"host": host, "device": device})
    host[:] = -1
    jax.jit(lambda x: x * 0 - 1, donate_argnums=0)(device).block_until_ready()
    checkpoints.wait()
    found = checkpoints.restore(1, {"host": host, "device": jnp.zeros((1500, 1000))})
    np.testing.assert_array_equal(found["host"], np.arange(3_000_000))
    np.testing.assert_array_equal(found["device"], np.ones((1500, 1000)))


def test_the_newest_two_are_kept(checkpoints, tmp_path):
    for step in (1, 2, 3):
        checkpoints.save(step, state(step))
    checkpoints.wait()
    assert sorted(os.listdir(tmp_path / "checkpoints")) == ["2", "3"]


def test_what_orbax_is_about_to_remove_counts_no_more(checkpoints, tmp_path, monkeypatch):
    """It removes file by file and may be killed on the way: no reader may take the rest for a checkpoint."""
    for step in (1, 2):
        checkpoints.save(step, state(step), wait=True)
    folder, counted, save = tmp_path / "checkpoints", [], checkpoints._orbax.save_async

    def saved(*given):
        counted.append((checkpoint.steps(folder), sorted(os.listdir(folder))))
        return save(*given)

    monkeypatch.setattr(checkpoints._orbax, "save_async", saved)
    checkpoints.save(3, state(3), wait=True)
    assert counted == [([2], ["1", "2"])] and checkpoint.steps(folder) == [2, 3]


def test_a_step_is_saved_once_and_never_out_of_order(checkpoints):
    checkpoints.save(5, state(5), wait=True)
    checkpoints.save(5, state(6), wait=True)
    assert_same(checkpoints.restore(5, state(0)), state(5))
    with pytest.raises(ValueError, match="older"):
        checkpoints.save(4, state(4))


@pytest.mark.parametrize(
    ("name", "other"),
    [
        ("params/scale", lambda s: s["params"].update(scale=jnp.zeros(31, jnp.bfloat16))),
        ("params/scale", lambda s: s["params"].update(scale=jnp.zeros(30))),
        ("candidates", lambda s: s.pop("candidates")),
        ("extra", lambda s: s.update(extra=np.zeros(2))),
    ],
)
def test_a_state_of_another_kind_is_named(checkpoints, name, other):
    checkpoints.save(1, state(1), wait=True)
    like = state(1)
    other(like)
    with pytest.raises(UserError, match=f"1 does not fit this configuration: {name} is") as error:
        checkpoints.restore(1, like)
    assert "\n" not in str(error.value)


def test_a_state_is_loaded_onto_the_host(checkpoints):
    """Whatever is in it, and though the devices it was saved from may be gone."""
    everywhere = NamedSharding(jax.make_mesh((8,), ("devices",)), PartitionSpec())
    tree = {"state": jax.device_put(state(1), everywhere), "found": np.arange(3), "none": {}}
    checkpoints.save(1, tree, wait=True)
    found = checkpoints.load(1)
    assert found["none"] == {}
    wanted = [np.asarray(leaf) for leaf in jax.tree.leaves(tree)]
    assert_same(jax.tree.leaves(found), wanted)


def test_a_missing_step_names_the_newest(checkpoints):
    checkpoints.save(1, state(1), wait=True)
    with pytest.raises(UserError, match=r"no checkpoint at .*9: the newest there is 1"):
        checkpoints.restore(9, state(1))


@pytest.mark.parametrize("damage", ["flip", "truncate", "remove"])
def test_damage_to_any_file_is_noticed(checkpoints, tmp_path, damage):
    checkpoints.save(1, state(1), wait=True)
    files = [file for file in (tmp_path / "checkpoints").rglob("*") if file.is_file()]
    assert len(files) > 5
    for file in files:
        whole = file.read_bytes()
        spoil(file, whole, damage)
        with pytest.raises(UserError, match=r"1 is damaged .*: remove it"):
            checkpoints.restore(1, state(0))
        file.write_bytes(whole)
    assert_same(checkpoints.restore(1, state(0)), state(1))


def test_a_checkpoint_without_its_seal_does_not_count(checkpoints, tmp_path):
    for step in (1, 2):
        checkpoints.save(step, state(step), wait=True)
    (tmp_path / "checkpoints" / "2" / "ralm_seal.json").unlink()
    again = Checkpoints(tmp_path / "checkpoints")
    assert again.latest() == 1
    again.save(2, state(3), wait=True)
    assert_same(again.restore(2, state(0)), state(3))
    assert_same(again.restore(1, state(0)), state(1))
    again.close()


def test_a_full_disk_is_reported_and_the_last_checkpoint_stays(checkpoints, monkeypatch, tmp_path):
    checkpoints.save(1, state(1), wait=True)

    def no_space(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", no_space)
        checkpoints.save(2, state(2))
        with pytest.raises(UserError, match=r"of step 2 could not be .*No space left.*make room"):
            checkpoints.close()
    again = Checkpoints(tmp_path / "checkpoints")
    assert again.latest() == 1
    assert_same(again.restore(1, state(0)), state(1))
    again.save(2, state(2), wait=True)
    assert again.latest() == 2
    again.close()


def spoil(file: Path, whole: bytes, damage: str) -> None:
    if damage == "remove":
        file.unlink()
    elif damage == "truncate":
        file.write_bytes(whole[: len(whole) // 2])
    else:
        middle = len(whole) // 2
        file.write_bytes(whole[:middle] + bytes([whole[middle] ^ 0xFF]) + whole[middle + 1 :])


def test_a_killed_save_leaves_the_one_before(tmp_path):
    # Large enough that the kill falls into the writing.
    program = """
        import sys
        import numpy as np
        from ralm_jax.runs.checkpoint import Checkpoints
        checkpoints = Checkpoints(sys.argv[1])
        checkpoints.save(1, {"w": np.full(1_000, 1)}, wait=True)
        noise = np.random.default_rng(0).integers(0, 1 << 60, 16_000_000)
        print("saving", flush=True)
        checkpoints.save(2, {"w": noise})
        checkpoints.wait()
        print("saved", flush=True)
    """
    command = [sys.executable, "-c", textwrap.dedent(program), str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout.readline() == "saving\n"
        while not (started := [name for name in os.listdir(tmp_path) if name.startswith("2")]):
            assert child.poll() is None
        child.send_signal(signal.SIGKILL)
        assert child.stdout.read() == ""
    assert started != ["2"]
    checkpoints = Checkpoints(tmp_path)
    assert checkpoints.latest() == 1
    found = checkpoints.restore(1, {"w": np.zeros(1_000, int)})
    np.testing.assert_array_equal(found["w"], np.full(1_000, 1))
    checkpoints.save(3, found, wait=True)
    assert sorted(os.listdir(tmp_path)) == ["1", "3"]  # and nothing of the killed save
    checkpoints.close()
