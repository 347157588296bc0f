"""A few places of what `python -m experiments.flips` damages by the hundred: nothing is used as it is."""

import shutil

import pytest

from experiments import flips
from ralm_jax.weights import seal


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    home = tmp_path_factory.mktemp("flips") / "whole"
    home.mkdir()
    flips.make(home)
    return home


@pytest.mark.slow
@pytest.mark.parametrize("name", flips.KINDS)
def test_what_is_damaged_is_never_used_in_silence(whole, tmp_path, name):
    found = flips.measure(name, whole, tmp_path / "home", places=6, seed=1)
    assert found["files"] and sum(found.get(w, 0) for w in ("refused", "harmless", "served")) == 6
    # What has no checksum is at least no other error.
    assert name in flips.NOT_KNOWN or not found["notes"], found["notes"]


@pytest.mark.slow
def test_what_is_used_is_known(whole, tmp_path):
    """An experiment that takes everything for harmless would show nothing."""
    home = shutil.copytree(whole, tmp_path / "home")
    kind, file = flips.KINDS["weights of others"], home / "foreign" / "model.safetensors"
    sound = kind.use(home)
    assert not (home / "foreign" / seal.FILE).exists()
    data = file.read_bytes()
    for harm, word in ((data, "harmless"), (data[:-99], "refused"), (b"", "refused")):
        file.write_bytes(harm)
        assert flips.outcome(kind, home, file, sound) == word
    file.write_bytes(flips.harmed(data, 8 * (len(data) - 9), end=False))
    assert flips.outcome(kind, home, file, sound) == "served"
    shutil.rmtree(home / "foreign")
    assert flips.outcome(kind, home, file, sound).startswith("refused")


def test_a_place_is_a_bit():
    assert flips.harmed(b"ab", 9, end=False) == b"a`" and flips.harmed(b"ab", 9, end=True) == b"a"
