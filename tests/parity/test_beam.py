"""Apache Beam gives the bytes that one machine gives, and what goes wrong there is one line."""

import gzip
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import random_runs

from ralm_jax import cli
from ralm_jax.batches import Lengths
from ralm_jax.engines import embed as embedding
from ralm_jax.models.config import EncoderConfig
from ralm_jax.models.ralm import Ralm

pytest.importorskip("apache_beam")
pytestmark = [
    pytest.mark.parity,
    # Beam's own, of grpc, httplib2 and the like.
    pytest.mark.filterwarnings("ignore"),
]
WORDS = "the mill by river was old and people liked it for its bread in winter".split()


def document(rng, number):
    """Some have spans of their own, of kinds that come up in no order; some have nothing to see."""
    text = ". ".join(
        " ".join(rng.choice(WORDS, rng.integers(3, 20))).capitalize()
        + f" Chicago {rng.integers(1500, 2000)}"
        for _ in range(rng.integers(1, 9))
    )
    record = {"id": f"d{number}", "title": f"Title {number % 7}", "text": f"{text}."}
    if number % 3 == 0:
        kind = "zyxw"[rng.integers(4)]
        record["spans"] = [
            {"start": text.index("Chicago"), "stop": text.index("Chicago") + 7, "kind": kind}
        ]
    return {**record, "text": " \u200b", "spans": []} if number % 17 == 5 else record


@pytest.fixture
def source(tmp_path, monkeypatch):
    """Parts whose passages occur more than once, in one part and across them; many batches, a thin sample."""
    monkeypatch.setattr("ralm_jax.data.prepare._BATCH_CHARACTERS", 3000)
    monkeypatch.setattr("ralm_jax.data.prepare.SAMPLE_CHARACTERS", 9000)
    rng = np.random.default_rng(0)
    rows = [document(rng, number) for number in range(150)]
    rows += [rows[i] | {"id": f"again-{n}"} for n, i in enumerate((3, 140, 3, 1, 149))]
    for number, part in enumerate((rows[:70], [], rows[70:153], rows[153:])):
        lines = "".join(json.dumps(row) + "\n" for row in part)
        (tmp_path / f"part-{number}.jsonl.gz").write_bytes(gzip.compress(lines.encode()))
    return f"{tmp_path}/part-*.jsonl.gz"


def prepare(source, out, *more):
    size = ("--vocab-size", "200", "--passage-tokens", "40")
    return cli.main(["prepare", *source.split(), "--out", str(out), *size, *more])


def same(a: Path, b: Path):
    files = sorted(file.relative_to(a) for file in a.rglob("*") if file.is_file())
    assert files == sorted(file.relative_to(b) for file in b.rglob("*") if file.is_file())
    return [str(file) for file in files if (a / file).read_bytes() != (b / file).read_bytes()] == []


def test_a_corpus_is_the_same_to_the_byte(source, tmp_path):
    assert prepare(source, tmp_path / "here") == 0
    assert prepare(source, tmp_path / "beam", "--runner", "beam") == 0
    assert same(tmp_path / "here", tmp_path / "beam")
    counts = json.loads((tmp_path / "beam" / "manifest.json").read_text())["counts"]
    assert counts["rejected: passage given twice"] >= 5
    assert counts["rejected: document without text"] == 9


def test_records_without_ids_and_folders_of_texts_too(tmp_path, monkeypatch):
    monkeypatch.setattr("ralm_jax.data.prepare._BATCH_CHARACTERS", 100)
    (tmp_path / "texts").mkdir()
    for number in range(9):
        text = f"Mill {number} was built in {1500 + number}."
        (tmp_path / "texts" / f"{number}.txt").write_text(text)
        (tmp_path / f"part-{number}.csv").write_text(f"text\n{text}\n{text} It stands.\n")
    for name, source in (("t", str(tmp_path / "texts")), ("r", f"{tmp_path}/part-*.csv")):
        assert prepare(source, tmp_path / f"{name}-here") == 0
        assert prepare(source, tmp_path / f"{name}-beam", "--runner", "beam:DirectRunner") == 0
        assert same(tmp_path / f"{name}-here", tmp_path / f"{name}-beam")


def broken(name, data):
    return lambda folder: (folder / name).write_bytes(data)


MISTAKES = {
    "runner": (["--runner", "bean"], "there is no runner 'bean'; did you mean beam?", None),
    "its": (
        ["--runner", "beam:FlinkRuner"],
        "has no runner 'FlinkRuner'; did you mean FlinkRunner?",
        None,
    ),
    "name": (
        ["--runner", "beam", "--runner-option", "flink_mastr=x"],
        "no such option; did you mean flink_master?",
        None,
    ),
    "value": (["--runner", "beam", "--runner-option", "x"], "expected NAME=VALUE", None),
    "json": (
        ["--runner", "beam"],
        "part-7.jsonl.gz, line 1: invalid JSON",
        broken("part-7.jsonl.gz", b'{"id"'),
    ),
    "kinds": (
        ["--runner", "beam"],
        "part-7.jsonl.gz is a table",
        broken("part-7.jsonl.gz", b"id,text\n1,b\n"),
    ),
    "twice": (
        ["--runner", "beam"],
        "part-7.jsonl.gz: the id 'd0' already occurs in",
        broken("part-7.jsonl.gz", b'{"id": "d0", "text": "A."}\n'),
    ),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes_are_one_line_and_leave_nothing(source, tmp_path, capfd, name):
    options, said, breaks = MISTAKES[name]
    if breaks:
        breaks(tmp_path)
    before = sorted(tmp_path.iterdir())
    assert prepare(source, tmp_path / "out", *options) == 2
    (line,) = capfd.readouterr().err.splitlines()
    assert said in line
    assert sorted(tmp_path.iterdir()) == before


def test_vectors_are_the_same_to_the_bit(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(embedding, "PART", 32)
    monkeypatch.setenv("RALM_CACHE", str(tmp_path / "cache"))
    sizes = EncoderConfig(hidden=8, layers=1, heads=2, intermediate=8, positions=64, dropout=0.0)
    lengths = Lengths(query=20, passage=56, joint=64, masked=4)
    model = Ralm(sizes, sizes, embedding=8)
    run = random_runs.saved(tmp_path / "run", model, tiny.corpus, lengths)
    command = ["embed", "--run", str(run), "--out"]
    assert cli.main([*command, str(tmp_path / "here")]) == 0
    assert cli.main([*command, str(tmp_path / "beam"), "--runner", "beam"]) == 0
    assert same(tmp_path / "here", tmp_path / "beam")
    assert not list(tmp_path.glob(".*"))


def workers(parent: int) -> list[int]:
    """The processes of the direct runner below a process."""
    found = []
    for child in (
        c for f in Path(f"/proc/{parent}/task").glob("*/children") for c in f.read_text().split()
    ):
        found += [int(child), *workers(int(child))]
    return found


def lives(process):
    """Whether a process runs; one that nobody has taken note of does not."""
    try:
        state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


def test_two_processes_give_the_same_and_one_that_is_killed_ends_all(tmp_path):
    lines = [json.dumps(document(np.random.default_rng(i), i)) for i in range(600)]
    (tmp_path / "x.jsonl").write_text("\n".join(lines))
    ralm = [
        sys.executable,
        "-m",
        "ralm_jax.cli",
        "prepare",
        "x.jsonl",
        "--vocab-size",
        "200",
        "--out",
    ]
    engine = ["--runner", "beam", "--runner-option", "direct_num_workers=2"]
    subprocess.run([*ralm, "here"], cwd=tmp_path, check=True)
    subprocess.run([*ralm, "beam", *engine], cwd=tmp_path, check=True)
    assert same(tmp_path / "here", tmp_path / "beam")
    process = subprocess.Popen(
        [*ralm, "out", *engine], cwd=tmp_path, stderr=subprocess.PIPE, text=True
    )
    while not list(tmp_path.glob(".out.*/content/tokens.npy")):
        time.sleep(0.1)
    while not (found := workers(process.pid)):
        time.sleep(0.1)
    time.sleep(0.5)
    os.kill(found[-1], signal.SIGKILL)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 2
    assert said.splitlines()[-1].startswith("ralm: a worker process was killed")
    assert not (tmp_path / "out").exists() and not list(tmp_path.glob(".out*"))
    until = time.monotonic() + 60
    while any(map(lives, found)):
        assert time.monotonic() < until
        time.sleep(0.1)
