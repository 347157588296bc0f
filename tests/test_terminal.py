"""What a terminal is shown: progress on a terminal alone, and no text of a corpus that steers it."""

import doctest
import errno
import io
import json
import os

import pytest

from ralm_jax import errors, terminal
from ralm_jax.inference import ask
from ralm_jax.terminal import escaped, is_styled, printable, watched

STEERING = "\x1b]0;title\x07\x1b[2Jred\x1b[31m\r\x9b1A\u202edrow\x7f"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_text_is_as_long_and_steers_nothing():
    seen = printable(f"{STEERING}\t\n")
    assert len(seen) == len(STEERING) + 2 and seen.endswith("\t\n")
    assert all(c in "\t\n" or c.isprintable() for c in seen)
    assert printable("naïve 東京 🎉 — plain") == "naïve 東京 🎉 — plain"


def test_json_on_a_terminal_says_the_same_and_steers_nothing():
    line = json.dumps({"text": STEERING, "title": "東京"}, ensure_ascii=False)
    assert escaped(line).isprintable() and json.loads(escaped(line)) == json.loads(line)


def test_evidence_cannot_steer_the_terminal(monkeypatch):
    """The title, the passage, the answer and what else was likely, each with escape sequences."""
    text = f"{STEERING} in 1901"
    passage = {"id": "1", "documents": [STEERING], "title": STEERING, "text": text}
    passage |= {"start": len(STEERING) + 4, "stop": len(text)}
    record = {"answer": STEERING, "probability": 0.5, "evidence": passage, "passages": []}
    record["runners_up"] = [{"answer": STEERING, "probability": 0.1}]
    monkeypatch.setattr(ask, "as_record", lambda opened, found: record)
    shown = ask.show(None, None, bold=True)
    assert f"{ask.BOLD}1901{ask.PLAIN}" in shown
    rest = shown.replace(ask.BOLD, "").replace(ask.PLAIN, "")
    assert all(c == "\n" or c.isprintable() for c in rest)


@pytest.mark.parametrize(
    ("name", "value", "styled"),
    [("NO_COLOR", "1", False), ("NO_COLOR", "", True), ("TERM", "dumb", False)],
)
def test_bold_type_is_for_terminals_that_want_it(monkeypatch, name, value, styled):
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv(name, value)
    assert is_styled(Terminal()) is styled
    assert not is_styled(io.StringIO())


@pytest.mark.parametrize("stream", [Terminal, io.StringIO])
def test_progress_is_shown_on_a_terminal_alone(monkeypatch, stream):
    shown = stream()
    monkeypatch.setattr("sys.stderr", shown)
    monkeypatch.setattr(terminal, "DELAY", 0.0)
    assert list(watched("abcd", "spelling", 8, " letters", size=lambda letter: 2)) == list("abcd")
    if not shown.isatty():
        assert shown.getvalue() == ""
        return
    assert "spelling" in shown.getvalue() and "letters/s" in shown.getvalue()


@pytest.mark.parametrize("module", [errors, terminal])
def test_examples_in_docstrings(module):
    ran = doctest.testmod(module)
    assert ran.attempted and not ran.failed


@pytest.fixture
def unread():
    """A pipe that nobody reads any more."""
    reads, writes = os.pipe()
    os.close(reads)
    with open(writes, "w") as stream:
        yield stream
        # What was not written must not be an error as it closes either.
        terminal.silence(stream)


def test_work_goes_on_where_nobody_reads(unread):
    for _ in range(3):
        terminal.say("a line", unread)
    unread.write("more")
    unread.flush()


class Gone(io.StringIO):
    """A terminal that was closed, or a disk that is full, in front of a real file."""

    def __init__(self, error, file):
        super().__init__()
        self.error, self.fileno = error, file.fileno

    def write(self, text):
        raise OSError(self.error, os.strerror(self.error))


def test_a_terminal_may_go_but_a_full_disk_is_said(tmp_path):
    with open(tmp_path / "log", "w") as file:
        terminal.say("a line", Gone(errno.EIO, file))
        with pytest.raises(OSError, match="No space left"):
            terminal.say("a line", Gone(errno.ENOSPC, file))
    assert (tmp_path / "log").read_text() == ""


def test_a_line_is_said_to_standard_output_above_the_bars(capsys):
    terminal.say("one\x1b[2J")
    assert capsys.readouterr() == ("one\N{REPLACEMENT CHARACTER}[2J\n", "")
