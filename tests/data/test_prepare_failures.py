"""What can go wrong while a corpus is prepared: one line says it, and nothing is left behind."""

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ralm_jax.data import corpus_writer
from ralm_jax.data.prepare import prepare
from ralm_jax.data.salient import CorpusTagger
from ralm_jax.errors import UserError

WORDS = "the mill by river was old and people liked it for its bread in winter".split()


def write(path, records):
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return str(path)


def documents(number):
    for i in range(number):
        text = " ".join(
            f"The {WORDS[(i * j) % 14]} of {WORDS[(i + j) % 14]} {i}." for j in range(9)
        )
        yield {"id": f"d{i}", "title": f"Title {i % 7}", "text": text}


def quiet(line):
    pass


# What such a tagger has learnt.
NOTHING = (*[frozenset()] * 4, True)


class UnwritableTagger(CorpusTagger):
    """Stands for whatever fails in a worker process for want of space."""

    def __call__(self, text):
        raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))


class KilledTagger(CorpusTagger):
    def __call__(self, text):
        os.kill(os.getpid(), signal.SIGKILL)


def raising(number):
    def fail(*args, **options):
        raise OSError(number, os.strerror(number))

    return fail


@pytest.mark.parametrize(
    ("number", "place"),
    [
        (errno.ENOSPC, (corpus_writer.ArrayWriter, "append")),
        (errno.EDQUOT, (corpus_writer.ArrayWriter, "finish")),
        (errno.EFBIG, (corpus_writer, "write_texts")),
        (errno.EROFS, (os, "fsync")),
        (errno.EACCES, (os, "rename")),
        (errno.EACCES, (Path, "mkdir")),
        (errno.EMFILE, (corpus_writer, "ArrayWriter")),
    ],
)
def test_what_cannot_be_written_is_one_line_and_leaves_nothing(
    tmp_path, monkeypatch, number, place
):
    source = write(tmp_path / "x.jsonl", documents(3))
    out = tmp_path / "new" / "folder" / "c"
    with monkeypatch.context() as patch:
        patch.setattr(*place, raising(number))
        with pytest.raises(UserError) as caught:
            prepare(source, out, vocab_size=200, say=quiet)
    assert str(caught.value) == f"{out} cannot be written: {os.strerror(number)}"
    assert os.listdir(tmp_path) == ["x.jsonl"]


def test_a_file_in_the_way(tmp_path):
    source = write(tmp_path / "x.jsonl", documents(3))
    for out, reason in ((f"{source}/c", "Not a directory"), (f"{source}/a/c", "Not a directory")):
        with pytest.raises(UserError, match=f"c cannot be written: {reason}$"):
            prepare(source, out, say=quiet)
    (tmp_path / "c").symlink_to("nowhere")
    with pytest.raises(UserError, match="c exists; remove it"):
        prepare(source, tmp_path / "c", say=quiet)
    assert sorted(os.listdir(tmp_path)) == ["c", "x.jsonl"]


LIMITED = """
import resource, sys
from ralm_jax.cli import main
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]),) * 2)
sys.exit(main(["prepare", *sys.argv[2:], "--vocab-size", "200", "--passage-tokens", "16"]))
"""


@pytest.mark.slow
def test_a_limit_on_the_size_of_files(tmp_path):
    """Whichever file meets it: the first, or one that is nearly complete."""
    source = write(tmp_path / "x.jsonl", documents(100))
    prepare(source, tmp_path / "whole", vocab_size=200, passage_tokens=16, say=quiet)
    arrays = max(file.stat().st_size for file in (tmp_path / "whole").glob("*.npy"))
    shutil.rmtree(tmp_path / "whole")
    for limit in (10, arrays - 1):
        command = [sys.executable, "-W", "error", "-c", LIMITED, str(limit), source]
        ran = subprocess.run([*command, "--out", tmp_path / "c"], capture_output=True, text=True)
        assert ran.returncode == 2
        assert ran.stderr == f"ralm: {tmp_path / 'c'} cannot be written: File too large\n"
        assert os.listdir(tmp_path) == ["x.jsonl"]


def test_texts_that_cannot_be_written(tmp_path, monkeypatch):
    class Full:
        def __init__(self, *args):
            pass

        def write(self, record):
            raise RuntimeError("write() failed: No space left on device; writing /x; at byte 7")

    monkeypatch.setattr("array_record.python.array_record_module.ArrayRecordWriter", Full)
    source = write(tmp_path / "x.jsonl", documents(3))
    with pytest.raises(UserError, match=r"cannot be written: .*No space left on device$"):
        prepare(source, tmp_path / "c", vocab_size=200, say=quiet)
    assert os.listdir(tmp_path) == ["x.jsonl"]


def test_a_source_that_cannot_be_read_is_not_blamed_on_the_corpus(tmp_path, monkeypatch):
    source = write(tmp_path / "x.jsonl", documents(3))
    monkeypatch.setattr("ralm_jax.sources.read.documents_of", raising(errno.EIO))
    with pytest.raises(UserError, match=r"x\.jsonl cannot be read: Input/output error"):
        prepare(source, tmp_path / "c", say=quiet)


SCRIPT = """
import sys
from ralm_jax.data import prepare
from ralm_jax.data.salient import CorpusTagger
from ralm_jax.errors import UserError
many = frozenset(f"word{n}" for n in range(20_000))
tagger = CorpusTagger(many, many, many, many, True)
prepare._BATCH_CHARACTERS = 1000
try:
    prepare.prepare(*sys.argv[1:], vocab_size=200, processes=2, tagger=tagger, say=str)
except UserError as error:
    print(error)
"""


def test_a_script_without_a_main_guard_does_not_hang(tmp_path):
    """Its workers end before they have read what they are sent, more than a pipe holds."""
    source, script = write(tmp_path / "x.jsonl", documents(200)), tmp_path / "script.py"
    script.write_text(SCRIPT)
    command = [sys.executable, str(script), source, str(tmp_path / "c")]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert "a worker process was killed" in ran.stdout.splitlines()[-1]
    assert sorted(os.listdir(tmp_path)) == ["script.py", "x.jsonl"]


def test_errors_of_worker_processes(tmp_path, monkeypatch):
    """A worker finds no vocabulary; another is killed."""
    monkeypatch.setattr("ralm_jax.data.prepare._BATCH_CHARACTERS", 1000)
    source = write(tmp_path / "x.jsonl", documents(30))
    for tagger, reason in (
        (UnwritableTagger(*NOTHING), "c cannot be written: Disk quota exceeded$"),
        (KilledTagger(*NOTHING), "a worker process was killed"),
    ):
        monkeypatch.setattr("ralm_jax.data.salient.fit_tagger", lambda texts, made=tagger: made)
        with pytest.raises(UserError, match=reason):
            prepare(source, tmp_path / "c", vocab_size=200, processes=2, say=quiet)
        assert os.listdir(tmp_path) == ["x.jsonl"]


# 300 Thai characters without a blank, of which WordPiece makes one unknown piece.
THAI = "หอสมุดแห่งเมือง" * 20
ENGLISH = "The library of the town was built by the river in 1640. "


@pytest.mark.parametrize(
    # Of 300 characters in Thai, and of 45 in each sentence in English.
    ("english", "share"),
    [(20, "25%"), (1, "87%")],
    ids=["some", "most"],
)
def test_text_that_the_vocabulary_does_not_know_is_reported(tmp_path, english, share):
    texts = {"few": ENGLISH * 1000 + THAI, "many": ENGLISH * english + THAI}
    found = {}
    for name, text in texts.items():
        source = write(tmp_path / f"{name}.jsonl", [{"id": "a", "title": "t", "text": text}])
        said = []
        prepare(source, tmp_path / name, vocab_size=300, say=said.append)
        found[name] = [line for line in said if line.startswith("warning")]
    assert not found["few"] and len(found["many"]) == 1
    assert f"{share} of the characters in {tmp_path / 'many.jsonl'}" in found["many"][0]
    assert "put spaces between the words" in found["many"][0] and "--vocab" in found["many"][0]


def test_text_of_which_next_to_nothing_is_known_is_refused(tmp_path):
    source = write(tmp_path / "x.jsonl", [{"id": "a", "title": "t", "text": f"{THAI} {THAI}."}])
    with pytest.raises(UserError, match="100% of the characters"):
        prepare(source, tmp_path / "c", say=quiet)
    assert os.listdir(tmp_path) == ["x.jsonl"]


STARTED = []


@pytest.fixture(autouse=True)
def nobody_lives_on():
    """What a failed test has started ends with it: it would prepare without end."""
    yield
    while STARTED:
        ran = STARTED.pop()
        if ran.poll() is None:
            os.killpg(ran.pid, signal.SIGKILL)
            ran.communicate()


def begun(source, out):
    """`ralm prepare` in a group of its own, once its workers cut passages."""
    command = [sys.executable, "-c", ENDLESS, "prepare", source, "--out", str(out)]
    ran = subprocess.Popen(
        [*command, "--vocab-size", "200"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    STARTED.append(ran)
    for line in ran.stdout:
        if line == "cutting\n":
            return ran
    raise AssertionError(ran.stderr.read())


# Documents without an end, so that every signal comes in time. Ten batches show that workers run.
ENDLESS = """
import itertools, os, sys
from ralm_jax import cli
from ralm_jax.data import prepare
from ralm_jax.sources import read as sources

if __name__ == "__main__":
    prepare._BATCH_CHARACTERS = 1000
    read = sources.documents_of
    passes = itertools.count()

    def endless(records, columns):
        found = list(read(records, columns))
        if next(passes) == 0:
            return found
        return (d._replace(id=f"{d.id}-{i}") for i in itertools.count() for d in found)

    add = prepare.CorpusWriter.add
    added = itertools.count()

    def recorded(self, batch, repeats):
        add(self, batch, repeats)
        if next(added) == 10:
            print("cutting", flush=True)

    sources.documents_of, prepare.CorpusWriter.add = endless, recorded
    os.cpu_count = lambda: 2
    sys.exit(cli.main())
"""


def members(group):
    """The processes of a group that have not ended."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, of = stat.read_text().rsplit(") ", 1)[1].split()[:3]
        except OSError:
            continue
        if int(of) == group and state not in "ZX":
            found.append(stat.parent.name)
    return found


def wait_for_end(group):
    deadline = time.monotonic() + 60
    while left := members(group):
        assert time.monotonic() < deadline, f"{left} live on"
        time.sleep(0.05)


@pytest.mark.slow
@pytest.mark.parametrize("to_group", [False, True], ids=["process", "group"])
@pytest.mark.parametrize(
    ("number", "code", "line"),
    [
        (signal.SIGTERM, 143, "ralm: terminated\n"),
        (signal.SIGINT, 130, "ralm: interrupted\n"),
        (signal.SIGHUP, 129, "ralm: the terminal was closed\n"),
    ],
)
def test_signals_end_the_workers_and_remove_what_is_half_written(
    tmp_path, number, code, line, to_group
):
    source = write(tmp_path / "x.jsonl", documents(30))
    ran = begun(source, tmp_path / "c")
    assert len(members(ran.pid)) > 2
    (os.killpg if to_group else os.kill)(ran.pid, number)
    _, said = ran.communicate(timeout=120)
    assert (ran.returncode, said) == (code, line)
    assert os.listdir(tmp_path) == ["x.jsonl"]
    wait_for_end(ran.pid)


@pytest.mark.slow
def test_after_a_kill_the_workers_end_and_the_next_preparation_sweeps(tmp_path):
    source = write(tmp_path / "x.jsonl", documents(30))
    ran = begun(source, tmp_path / "c")
    ran.kill()
    ran.communicate(timeout=120)
    wait_for_end(ran.pid)
    left = f".c.{ran.pid}.partial"
    # A folder that an earlier version left, which had no locks.
    former = tmp_path / ".c.999999999.partial"
    former.mkdir()
    # Not by one that prepares something else, and not what somebody is still writing.
    prepare(source, tmp_path / "d", vocab_size=200, say=quiet)
    assert sorted(os.listdir(tmp_path)) == sorted([former.name, left, "d", "x.jsonl"])
    other = begun(source, tmp_path / "c")
    assert sorted(os.listdir(tmp_path)) == [f".c.{other.pid}.partial", "d", "x.jsonl"]
    prepare(source, tmp_path / "c", vocab_size=200, say=quiet)
    assert sorted(os.listdir(tmp_path)) == [f".c.{other.pid}.partial", "c", "d", "x.jsonl"]
    other.terminate()
    other.communicate(timeout=120)
    assert sorted(os.listdir(tmp_path)) == ["c", "d", "x.jsonl"]
