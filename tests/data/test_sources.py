import gzip
import json

import pytest

from ralm_jax.data.documents import Document, GivenSpan
from ralm_jax.data.sources import read_documents
from ralm_jax.errors import UserError

GOOD = {"id": "a", "title": "A", "text": "Some text."}


def write(path, *lines):
    data = b"".join((x if isinstance(x, bytes) else json.dumps(x).encode()) + b"\n" for x in lines)
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return str(path)


@pytest.mark.parametrize("name", ["x.jsonl", "x.jsonl.gz"])
def test_json_lines(tmp_path, name):
    span = {"start": 5, "stop": 9, "kind": "name", "fact": "f1"}
    source = write(
        tmp_path / name,
        b"\xef\xbb\xbf" + json.dumps(GOOD).encode(),
        b"",
        GOOD | {"id": "b", "spans": [span], "more": 1},
        GOOD | {"id": "c", "spans": []},
    )
    assert list(read_documents(source)) == [
        Document("a", "A", "Some text."),
        Document("b", "A", "Some text.", (GivenSpan(5, 9, "name", "f1"),)),
        Document("c", "A", "Some text.", ()),
    ]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b'{"id": "b", "title": ', "line 2: broken JSON"),
        (b'{"id": "b\xff"}', "line 2: not UTF-8"),
        (b'["b"]', "line 2: not an object"),
        ({"id": "b", "title": "B"}, "line 2: the field 'text' is missing"),
        ({"id": "b", "text": "B"}, "line 2: the field 'title' is missing"),
        ({"title": "b", "text": "B"}, "line 2: the field 'id' is missing"),
        (GOOD | {"id": 7}, "line 2: the field 'id' must be a string, not 7"),
        (GOOD | {"id": "b", "text": " \n"}, "line 2: the passage 'b' has no text"),
        (GOOD, "line 2: the id 'a' is that of line 1"),
        (GOOD | {"id": "b", "text": "x \ud800 y"}, "line 2: .* surrogate"),
        (GOOD | {"id": "b", "spans": 3}, "line 2: the field 'spans' must be a list"),
        (GOOD | {"id": "b", "spans": [{"start": 5, "stop": 5, "kind": "x"}]}, "line 2: a span"),
        (GOOD | {"id": "b", "spans": [{"start": 5, "stop": 99, "kind": "x"}]}, "line 2: a span"),
        (GOOD | {"id": "b", "spans": [{"start": 5, "stop": 9}]}, "line 2: a span"),
        (GOOD | {"id": "b", "spans": [{"start": 0, "stop": 1, "kind": "x", "fact": 3}]}, "a span"),
        (GOOD | {"id": "b", "spans": ["x"]}, "line 2: a span"),
    ],
)
def test_a_bad_line_is_named(tmp_path, line, message):
    source = write(tmp_path / "x.jsonl", GOOD, line)
    with pytest.raises(UserError, match=message) as caught:
        list(read_documents(source))
    assert str(caught.value).startswith(source) and "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["x.jsonl", "x.jsonl.gz"])
def test_an_empty_corpus(tmp_path, name):
    with pytest.raises(UserError, match="no documents"):
        list(read_documents(write(tmp_path / name)))


def test_a_truncated_gzip_file(tmp_path):
    path = tmp_path / "x.jsonl.gz"
    path.write_bytes(gzip.compress(json.dumps(GOOD).encode() * 9)[:-9])
    with pytest.raises(UserError, match="broken gzip"):
        list(read_documents(str(path)))


def test_unknown_sources(tmp_path):
    with pytest.raises(UserError, match="there is no source"):
        list(read_documents(str(tmp_path / "x.jsonl")))
    (tmp_path / "x.csv").write_text("a,b")
    with pytest.raises(UserError, match="unknown kind"):
        list(read_documents(str(tmp_path / "x.csv")))


def test_a_folder(tmp_path):
    files = {
        "b/plain_notes.txt": "Just text.\n",
        "a.md": "---\ntags: x\n---\n\n# The Title #\n\nBody *text*.\n",
        "b/setext.md": "Set\n===\nBody.",
        "b/none.md": "No heading here.",
        "c.rst": "=====\nRest!\n=====\n\nBody.\r\nMore.",
        "d.RST": "Under\n-----\nBody.",
        ".git/hidden.txt": "Hidden.",
        "b/code.py": "x = 1",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(text.encode())
    documents = {d.id: (d.title, d.text.strip()) for d in read_documents(str(tmp_path))}
    assert documents == {
        "a.md": ("The Title", "Body *text*."),
        "b/none.md": ("none", "No heading here."),
        "b/plain_notes.txt": ("plain notes", "Just text."),
        "b/setext.md": ("Set", "Body."),
        "c.rst": ("Rest!", "Body.\nMore."),
        "d.RST": ("Under", "Body."),
    }
    assert list(documents) == sorted(documents)


@pytest.mark.parametrize(
    ("data", "message"),
    [(b"", "no text"), (b"# Only a title\n", "no text"), (b"one\ntwo \xe9\n", "line 2: not UTF-8")],
)
def test_a_bad_file_is_named(tmp_path, data, message):
    (tmp_path / "a.md").write_bytes(data)
    with pytest.raises(UserError, match=message) as caught:
        list(read_documents(str(tmp_path)))
    assert "a.md" in str(caught.value)


def test_an_empty_folder(tmp_path):
    with pytest.raises(UserError, match="no documents"):
        list(read_documents(str(tmp_path)))
