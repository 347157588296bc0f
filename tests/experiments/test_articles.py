"""A part of a corpus: which articles are taken, and which questions they leave."""

import gzip
import json

import pytest

from experiments import articles

HITS = articles.HITS


def question(name, *hits):
    return {"id": name, "question": "who?", "answers": ["x"], HITS: list(hits)}


TRAIN = [
    question("a", "Bees-1f-000", "Bees-1f-001", "Cats-2e-000"),
    question("b", "Cats-2e-004"),
    question("c"),
    question("d", "Dogs-at-sea-3d-000", "Dogs-at-sea-3d-001", "Dogs-at-sea-3d-002"),
    question("e", "Dogs-at-sea-3d-002"),
]


def test_each_article_counts_once_for_a_question():
    """By passages Dogs and Bees had most; by questions Cats and Dogs."""
    chosen = articles.most_hit(TRAIN, 2)
    assert chosen == {"Cats-2e", "Dogs-at-sea-3d"}
    assert [q["id"] for q in articles.hit_in(TRAIN, chosen)] == ["a", "b", "d", "e"]


def run(folder, **files):
    for name, records in files.items():
        text = "".join(x if isinstance(x, str) else json.dumps(x) + "\n" for x in records)
        (folder / f"{name}.gz").write_bytes(gzip.compress(text.encode()))
    words = [w for name in ("corpus", "train", "dev") for w in (f"--{name}", f"{folder}/{name}.gz")]
    return articles.main([*words, "--out", str(folder / "out"), "--articles", "1"])


PASSAGES = [{"id": i, "title": "", "text": "é"} for i in ("Cats-2e-000", "Cats-2e-001", "Elk-4c-0")]


def test_files_are_written_whole_and_alike(tmp_path, capsys):
    dev = [question("y", "Elk-4c-0"), question("z", "Cats-2e-001")]
    assert run(tmp_path, corpus=PASSAGES, train=TRAIN[:2], dev=dev) == 0
    assert "1 articles, 2 passages; questions: 2 to train, 1 to dev" in capsys.readouterr().out
    out = tmp_path / "out"
    first = (out / "corpus.jsonl.gz").read_bytes()
    assert list(map(json.loads, gzip.decompress(first).splitlines())) == PASSAGES[:2]
    assert json.loads((out / "dev.jsonl").read_text("utf-8")) == dev[1]
    assert run(tmp_path, corpus=PASSAGES, train=TRAIN[:2], dev=dev) == 0
    assert (out / "corpus.jsonl.gz").read_bytes() == first


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        ({"train": ["{\n"]}, "train.gz, line 1: invalid JSON (Expecting"),
        ({"train": [TRAIN[0], {"id": "a"}]}, f"train.gz, line 2: no field '{HITS}'"),
        ({"corpus": ["{}\n"]}, "corpus.gz, line 1: no field 'id'"),
    ],
)
def test_bad_input_is_one_line(bad, said, tmp_path, capsys):
    files = {"corpus": PASSAGES, "train": TRAIN, "dev": TRAIN} | bad
    assert run(tmp_path, **files) == 2
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1
    assert not (tmp_path / "out").exists()
    (tmp_path / "dev.gz").unlink()
    assert run(tmp_path, corpus=PASSAGES, train=TRAIN) == 2
    assert f"{tmp_path / 'dev.gz'} cannot be read (" in capsys.readouterr().err
    (tmp_path / "dev.gz").write_bytes(gzip.compress(b"{}" * 99)[:-9])
    words = [
        w for name in ("corpus", "train", "dev") for w in (f"--{name}", f"{tmp_path}/{name}.gz")
    ]
    assert articles.main([*words, "--out", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert "dev.gz, after line 0: damaged compressed file" in error and error.count("\n") == 1
