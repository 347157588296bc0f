"""`ralm doctor` says what there is, and tells what is missing from what is broken."""

import importlib.metadata
import json

import pytest

from ralm_jax import cli, doctor, release
from ralm_jax.retrieval import scann_process

REQUIRES = ["jax>=0.1", 'pypdf>=5; extra == "pages"', 'nothing-of-this-name>=5; extra == "more"']


@pytest.fixture
def needs(monkeypatch):
    """(requirements) -> what ralm_jax asks for, as if it were installed with them. ScaNN is not tried."""

    def make(lines):
        message = importlib.metadata.metadata("ralm_jax")
        del message["Provides-Extra"]
        for extra in ("pages", "more", "test"):
            message["Provides-Extra"] = extra
        monkeypatch.setattr(importlib.metadata, "requires", lambda name: lines)
        monkeypatch.setattr(importlib.metadata, "metadata", lambda name: message)
        monkeypatch.setattr(doctor, "_scann", lambda broken: None)

    return make


def test_what_is_there_and_what_an_extra_would_bring(needs, capsys, monkeypatch, tmp_path):
    needs(REQUIRES)
    monkeypatch.setenv("RALM_CACHE", str(tmp_path / "cache"))
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "file").write_bytes(bytes(2048))
    assert cli.main(["doctor", "--json", "-"]) == 0
    found, said = capsys.readouterr()
    report = json.loads(found)
    assert report["ralm_jax"] == release.VERSION and len(report["devices"]) == 8
    assert report["packages"] == {"jax": importlib.metadata.version("jax")}
    assert report["extras"] == {"pages": True, "more": False} and report["broken"] == []
    assert report["missing"] == [
        {"what": "more (nothing-of-this-name)", "command": "pip install 'ralm_jax[more]'"}
    ]
    assert report["caches"][0]["bytes"] == 2048 and "2.0 KiB" in said
    assert "pip install 'ralm_jax[more]'" in said


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("jax>=999", "is installed: pip install 'jax>=999'"),
        ("nothing-of-this-name", "nothing-of-this-name is not installed: pip install"),
    ],
)
def test_what_is_needed_and_not_there_is_broken(needs, capsys, line, said):
    needs([line])
    assert cli.main(["doctor"]) == 2
    assert said in capsys.readouterr().err


def test_a_cache_that_cannot_be_written_is_broken(needs, monkeypatch, tmp_path):
    needs([])
    monkeypatch.setattr(doctor.os, "access", lambda path, mode: False)
    monkeypatch.setenv("RALM_CACHE", str(tmp_path / "cache"))
    (problem,) = doctor.doctor()["broken"]
    assert f"{tmp_path / 'cache'} cannot be written" in problem


def test_there_may_be_no_scann(monkeypatch):
    for module in (doctor, scann_process):
        monkeypatch.setattr(module, "has_scann", lambda: False)
    report = doctor.doctor()
    assert report["scann"] is None and not any("ScaNN" in line for line in report["broken"])
    assert "ScaNN      not installed: the search is exact" in doctor.table(report)


@pytest.mark.skipif(not scann_process.has_scann(), reason="ScaNN is not installed")
def test_scann_is_really_asked(monkeypatch):
    broken = []
    assert doctor._scann(broken)["recall"] > 0.9 and not broken
    monkeypatch.setattr(doctor.index, "create", lambda *given: 1 / 0)
    assert doctor._scann(broken) is None and "ScaNN does not search" in broken[0]
