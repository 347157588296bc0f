import errno
import gzip
import json
from collections import Counter
from pathlib import Path

import pytest

from ralm_jax.data.prepare import prepare
from ralm_jax.errors import UserError
from ralm_jax.sources.documents import Document, GivenSpan
from ralm_jax.sources.read import read_documents

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
        (b'{"id": "b", "title": ', "line 2: invalid JSON"),
        (b'{"id": "b\xff"}', "line 2: not encoded in UTF-8"),
        (b'["b"]', "line 2: expected an object"),
        ({"id": "b", "title": "B"}, "line 2: the field 'text' is missing"),
        ({"title": "b", "text": "B"}, "line 2: the field 'id' is missing"),
        ({"_id": None, "text": "B"}, "line 2: the field 'id' is missing"),
        (GOOD | {"text": None}, "line 2: the field 'text' is missing"),
        (GOOD | {"id": True}, "line 2: the field 'id' must be a string, not true"),
        (b'{"id": NaN, "text": "B"}', "line 2: the field 'id' must be a string, not NaN"),
        (b'{"id": ' + b"7" * 5000 + b"}", "line 2: invalid JSON"),
        (b"[" * 100_000, "line 2: invalid JSON"),
        (GOOD, "line 2: the id 'a' already occurs in line 1"),
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
    with pytest.raises(UserError, match="damaged compressed file"):
        list(read_documents(str(path)))


def test_unknown_sources(tmp_path):
    with pytest.raises(UserError, match=r"x\.jsonl does not exist"):
        list(read_documents(str(tmp_path / "x.jsonl")))
    (tmp_path / "x.csv").write_text("a,b")
    with pytest.raises(UserError, match="file of this kind"):
        list(read_documents(str(tmp_path / "x.csv")))


def test_ids_as_numbers_ids_of_beir_and_missing_titles(tmp_path):
    source = write(
        tmp_path / "x.jsonl",
        {"id": 7, "title": None, "text": "Seven."},
        {"_id": "q1", "text": "BEIR.", "title": "T"},
        {"_id": 12345678901234567890, "id": None, "text": "Long.", "title": ""},
        {"id": 7.5, "_id": "unused", "text": "Half."},
        b"\xef\xbb\xbf \r",
    )
    assert [tuple(document) for document in read_documents(source)] == [
        ("7", "", "Seven.", None),
        ("q1", "T", "BEIR.", None),
        ("12345678901234567890", "", "Long.", None),
        ("7.5", "", "Half.", None),
    ]


def test_a_number_and_a_string_that_are_one_id(tmp_path):
    source = write(tmp_path / "x.jsonl", GOOD | {"id": 7}, GOOD | {"_id": "7", "id": "7"})
    with pytest.raises(UserError, match="line 2: the id '7' already occurs in line 1"):
        list(read_documents(source))


def test_documents_without_text_are_counted_and_left_out(tmp_path):
    texts = ["", "Some.", " \n", "\u200b\ufeff", "\u200b" * 200 + "Late."]
    rows = [{"id": i, "text": text} for i, text in enumerate(texts)]
    counts = Counter({"rejected: document without text": 1, "others": 2})
    documents = read_documents(write(tmp_path / "x.jsonl", *rows), counts)
    assert [document.id for document in documents] == ["1", "4"]
    assert counts == {"rejected: document without text": 4, "others": 2}
    with pytest.raises(UserError, match=r"no documents \(rejected: document without text: 2\)"):
        list(read_documents(write(tmp_path / "x.jsonl", rows[0], rows[3])))


def test_a_file_that_cannot_be_read(tmp_path, monkeypatch):
    source = write(tmp_path / "x.jsonl", GOOD)

    def refuse(*_):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(UserError, match=r"x\.jsonl cannot be read \(Permission denied\)"):
        list(read_documents(source))


def test_prepare_counts_what_was_rejected(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.md").write_text("# Kiln\n\nThe kiln was built in 1712. It is fired.")
    (tmp_path / "in" / "b.txt").write_text("\u200b")
    (tmp_path / "in" / "c.png").write_text("<p>x</p>")
    said = []
    counts = prepare(
        str(tmp_path / "in"), tmp_path / "corpus", vocab_size=200, processes=1, say=said.append
    )
    expected = {
        "rejected: document without text": 1,
        "rejected: file of another kind (.png 1)": 1,
    }
    assert expected.items() <= counts.items() and counts["documents"] == 1
    manifest = json.loads((tmp_path / "corpus" / "manifest.json").read_text())
    assert manifest["counts"] == counts
    for name in expected:
        assert any(line.endswith(f"1  {name}") for line in said)
