"""What JAX has compiled is kept for the next process."""

import os
import subprocess
import sys

import pytest

from ralm_jax import cache

PROGRAM = """
from ralm_jax import cache
cache.keep_programs()
import jax
jax.block_until_ready(jax.jit(lambda x: x @ x + 1)(jax.numpy.ones((3, 3))))
"""


@pytest.fixture
def place(monkeypatch, tmp_path):
    monkeypatch.setenv("RALM_CACHE", str(tmp_path))
    monkeypatch.setenv("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
    # So that what is set is taken back.
    monkeypatch.setenv(cache.PROGRAMS, "")
    monkeypatch.delenv(cache.PROGRAMS)
    return tmp_path / "compiled"


def test_a_second_process_compiles_nothing(place):
    command = [sys.executable, "-W", "error", "-c", PROGRAM]
    subprocess.run(command, check=True)
    made = {file: file.stat().st_mtime_ns for file in place.glob("*-cache")}
    assert made
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    assert {file: file.stat().st_mtime_ns for file in place.glob("*-cache")} == made
    assert not done.stderr


@pytest.mark.parametrize("given", ["", "/elsewhere"])
def test_a_folder_that_is_given_stays(place, monkeypatch, given):
    monkeypatch.setenv(cache.PROGRAMS, given)
    cache.keep_programs()
    assert os.environ[cache.PROGRAMS] == given


def test_nothing_is_made_before_there_is_something_to_keep(place):
    cache.keep_programs()
    assert os.environ[cache.PROGRAMS] == str(place) and not place.exists()


def test_where_nothing_can_be_written_nothing_is_kept(place, monkeypatch):
    monkeypatch.setattr(os, "access", lambda *given: False)
    cache.keep_programs()
    assert cache.PROGRAMS not in os.environ


@pytest.mark.skipif(os.name != "posix", reason="modes of POSIX")
def test_programs_are_not_taken_from_where_everybody_writes(place, monkeypatch):
    place.mkdir()
    place.chmod(0o777)
    cache.keep_programs()
    assert cache.PROGRAMS not in os.environ
    place.chmod(0o755)
    monkeypatch.setattr(os, "getuid", lambda: place.stat().st_uid + 1)
    cache.keep_programs()
    assert cache.PROGRAMS not in os.environ


def test_without_a_home_nothing_is_kept(place, monkeypatch):
    for name in ("RALM_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(cache.Path, "home", lambda: (_ for _ in ()).throw(RuntimeError))
    cache.keep_programs()
    assert cache.PROGRAMS not in os.environ


def test_the_oldest_programs_make_room(place, monkeypatch):
    monkeypatch.setattr(cache, "MOST_PROGRAMS", 25)
    place.mkdir()
    for number in range(4):
        file = place / f"jit_step-{number}-cache"
        file.write_bytes(bytes(10))
        os.utime(file, (number, number))
    cache.keep_programs()
    assert sorted(file.name[9] for file in place.iterdir()) == ["2", "3"]
