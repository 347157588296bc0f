"""What a command is started in: streams that are closed or unread, no present folder, odd variables."""

import io
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from bad_input import snapshot
from bad_input.corpora import GOOD

from ralm_jax import cli, prepare

ROOT = Path(__file__).parents[2]
PREPARE = ["prepare", "source.jsonl", "--out", "out", "--vocab-size", "100"]
WORDS = "Die Mühle von İstanbul wurde 1712 gebaut. Işıl Øre besaß sie. 東京 🎉 IS INDIGO."
LINE = GOOD.replace('"text": "', f'"text": "{WORDS} ')
# All of these at once: other texts than Unicode, another order of sets, no checks by assert, no folder for
# what is temporary, nobody else's rights, and numbers of threads that are none.
ODD = {
    "LC_ALL": "C",
    "PYTHONUTF8": "0",
    "PYTHONCOERCECLOCALE": "0",
    "PYTHONHASHSEED": "7",
    "PYTHONOPTIMIZE": "2",
    "PYTHONSAFEPATH": "1",
    "PYTHONDONTWRITEBYTECODE": "1",
    "TZ": "Asia/Kathmandu",
    "TMPDIR": "/nonexistent",
    "HOME": "/nonexistent",
    "COLUMNS": "0",
    "OMP_NUM_THREADS": "many",
    "OPENBLAS_NUM_THREADS": "-3",
}


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("source.jsonl").write_text(LINE, "utf-8")
    return tmp_path


@pytest.fixture
def unread(monkeypatch):
    """Standard output is a pipe that nobody reads."""
    reads, writes = os.pipe()
    os.close(reads)
    with open(writes, "w") as stream:
        monkeypatch.setattr(sys, "stdout", stream)
        yield


def run(*words, odd=None, umask=-1):
    """The command in a process of its own: its code and what it says on standard error."""
    env = os.environ | {"PYTHONPATH": str(ROOT)} | (odd or {})
    nowhere, said = subprocess.DEVNULL, subprocess.PIPE
    command = [sys.executable, *words]
    done = subprocess.run(command, stdout=nowhere, stderr=said, env=env, umask=umask)
    return done.returncode, done.stderr.decode(errors="replace")


def test_what_is_made_is_the_same_whatever_the_surroundings(here):
    prepare("source.jsonl", here / "usual", vocab_size=100, say=lambda line: None)
    assert run("-m", "ralm_jax.cli", *PREPARE, odd=ODD, umask=0o077) == (0, "")
    assert snapshot(here / "out") == snapshot(here / "usual")
    assert {oct(file.stat().st_mode & 0o077) for file in Path("out").rglob("*")} == {"0o0"}


def test_streams_that_are_closed_lead_nowhere():
    """With none of the three, files that are opened would have their numbers."""
    script = (
        "import os, sys; [os.close(n) for n in range(3)]; os.execv(sys.executable, sys.argv[1:])"
    )
    made = [sys.executable, "-m", "ralm_jax.cli", *PREPARE]
    assert run("-c", script, *made) == (0, "")
    assert cli.main(["check", "out"]) == 0


@pytest.mark.parametrize("name", ["stdin", "stdout", "stderr"])
def test_a_stream_that_is_closed_is_no_error(monkeypatch, name):
    monkeypatch.setattr(sys, name, None)
    assert cli.main(["configs"]) == 0 and cli.main(["check", "none"]) == 2
    getattr(sys, name).close()


def test_what_makes_something_makes_it_though_nobody_reads(unread):
    assert cli.main(PREPARE) == 0
    assert Path("out/manifest.json").exists()


def test_damage_is_told_by_the_code_and_in_the_report_though_nobody_reads(unread):
    assert cli.main(PREPARE) == 0
    with open("out/tokens.npy", "r+b") as file:
        file.seek(-1, io.SEEK_END)
        file.write(b"\xff")
    assert cli.main(["check", "out", "--json", "report"]) == 2
    assert "tokens.npy" in Path("report").read_text()


def test_a_list_ends_where_nobody_reads(unread):
    assert cli.main(["configs"]) == 0


def test_a_line_that_cannot_be_written_is_told_by_the_code(monkeypatch):
    with open("/dev/full", "w") as full:
        monkeypatch.setattr(sys, "stderr", full)
        assert cli.main(["check", "none"]) == 2
        monkeypatch.undo()
        with pytest.raises(OSError, match="No space"):
            full.flush()
        os.dup2(os.open(os.devnull, os.O_WRONLY), full.fileno())


TRAIN = ["pretrain", "--config", "runs/small.gin", "--corpus", "c", "--run", "r"]


@pytest.mark.parametrize("command", [["check", "out"], PREPARE, ["update", "out", "s"], TRAIN])
def test_a_present_folder_that_is_gone_is_one_line(here, monkeypatch, capsys, command):
    (here / "gone").mkdir()
    monkeypatch.chdir(here / "gone")
    (here / "gone").rmdir()
    assert cli.main(command) == 2
    said = capsys.readouterr().err
    assert said.startswith("ralm: ") and said.count("\n") == 1


def test_a_bus_error_says_where_it_was(here):
    """Of what is cut short between the look at its size and the reading."""
    script = """
import mmap, os, sys
from ralm_jax import cli
assert cli.main(["configs"]) == 0
with open("table", "wb+") as file:
    file.write(bytes(1 << 16))
    file.flush()
    mapped = mmap.mmap(file.fileno(), 0)
    file.truncate(0)
def reads_a_table():
    return mapped[5000]
reads_a_table()
"""
    code, said = run("-c", script)
    assert code == -signal.SIGBUS
    assert "Bus error" in said and "reads_a_table" in said
