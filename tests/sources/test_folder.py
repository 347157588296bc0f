import errno
import os
import sys
from collections import Counter
from pathlib import Path

import pytest

from ralm_jax.errors import UserError
from ralm_jax.sources.documents import Document
from ralm_jax.sources.folder import SUFFIXES
from ralm_jax.sources.read import read_documents


def fill(folder, files):
    """Writes {name: text or bytes} and returns the folder."""
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return folder


def read(folder):
    """({id: (title, stripped text)}, what was rejected)."""
    counts = Counter()
    documents = list(read_documents(str(folder), counts))
    assert [d.id for d in documents] == [
        d.id for d in sorted(documents, key=lambda d: d.id.split("/"))
    ]
    return {d.id: (d.title, d.text.strip()) for d in documents}, counts


def rejection(folder):
    with pytest.raises(UserError) as caught:
        read(folder)
    message = str(caught.value)
    assert message.startswith(str(folder)) and "\n" not in message
    return message.removeprefix(str(folder))


def test_a_folder(tmp_path):
    files = {
        "b/plain_notes.txt": "Just text.\n",
        "a.md": "---\ntags: x\n---\n\n# The Title #\n\nBody *text*.\n",
        "b/setext.md": "Set\n===\nBody.",
        "b/none.md": "No heading here.",
        "c.rst": "=====\nRest!\n=====\n\nBody.\r\nMore.",
        "d.RST": "Under\n-----\nBody.",
        "e.markdown": "# Rye\n\nSown in autumn.",
        "f.text": "# Not Markdown.",
        ".git/hidden.txt": "Hidden.",
        ".hidden.html": "Hidden.",
    }
    documents, counts = read(fill(tmp_path, files))
    assert documents == {
        "a.md": ("The Title", "Body *text*."),
        "b/none.md": ("none", "No heading here."),
        "b/plain_notes.txt": ("plain notes", "Just text."),
        "b/setext.md": ("Set", "Body."),
        "c.rst": ("Rest!", "Body.\nMore."),
        "d.RST": ("Under", "Body."),
        "e.markdown": ("Rye", "Sown in autumn."),
        "f.text": ("f", "# Not Markdown."),
    }
    assert not counts


@pytest.mark.parametrize(
    ("front", "title"),
    [
        ("title: Salt Roads\nweight: 3", "Salt Roads"),
        ('date: 2020\nTitle: "Tolls: \\"of\\" Dunmere" # the second', 'Tolls: "of" Dunmere'),
        ("title: 'The Miller''s Tale'", "The Miller's Tale"),
        ("title: Trains: a History # draft", "Trains: a History"),
        ("title: >-\n  Salt\n  Roads\ntags:\n- a\n- b: c\n\nlist: [\n  x,\n]", "Salt Roads"),
        ("# A comment.\n\ndate created: 2020\n'title': C# and F#", "C# and F#"),
        ("params:\n  title: Nested", "Heading"),
        ("title:\ntags: x", "Heading"),
        ('title: ""', "Heading"),
        ("title: null", "Heading"),
        ("", "Heading"),
    ],
)
@pytest.mark.parametrize("end", ["---", "..."])
@pytest.mark.parametrize("form", ["plain", "windows"])
def test_front_matter_gives_the_title_and_is_no_text(tmp_path, front, title, end, form):
    text = f"---\n{front}\n{end}\n# Heading\n\nBody.\n".replace("---\n\n", "---\n")
    data = text.encode()
    if form == "windows":
        data = b"\xef\xbb\xbf" + text.replace("\n", "\r\n").encode()
    documents, _ = read(fill(tmp_path, {"a.md": data}))
    # A heading that is not the title stays in the text.
    body = "Body." if title == "Heading" else "# Heading\n\nBody."
    assert documents == {"a.md": (title, body)}


@pytest.mark.parametrize(
    "text",
    [
        "---\n\nThe bell was cast in 1640.\n\n---\n\nThe second bell.",
        "---\nThe bell was cast in 1640.\n---\nThe second bell.",
        "---\n\ntitle: Bells\n---\nThe second bell.",
        "---\n# Bells\n\n---\nThe second bell.",
        "---\n- one\n- two\n---\nThe second bell.",
        "---\ntitle: Bells\n\nThe bell was cast in 1640.\n---\nThe second bell.",
        "---\nThe bell of Marsk has a motto: ring.\n---\nThe second bell.",
        "---\nhttp://example.com\n---\nThe second bell.",
    ],
)
def test_text_between_two_rules_is_kept(tmp_path, text):
    documents, _ = read(fill(tmp_path, {"notes.md": text}))
    assert documents == {"notes.md": ("notes", text)}


def test_index_files_are_named_by_their_folders(tmp_path):
    files = {
        "salt_roads/index.md": "Paved in 1688.",
        "salt_roads/_index.md": "---\ntags: x\n---\nOf Dunmere.",
        "rye/index.rst": "Rye\n===\nSown in autumn.",
        "tolls/INDEX.txt": "Three pence.",
        "titled/index.md": "---\ntitle: Harbour Rules\n---\nDrop anchor.",
        "index.md": "The top.",
    }
    documents, _ = read(fill(tmp_path / "the_source", files))
    assert {name: title for name, (title, _) in documents.items()} == {
        "salt_roads/index.md": "salt roads",
        "salt_roads/_index.md": "salt roads",
        "rye/index.rst": "Rye",
        "tolls/INDEX.txt": "tolls",
        "titled/index.md": "Harbour Rules",
        "index.md": "the source",
    }


def test_files_of_other_kinds_are_counted_by_suffix(tmp_path):
    names = ["a.txt", "b.PNG", "c/d.png", "e.ps", "Makefile", "c/x.tar.gz"]
    documents, counts = read(fill(tmp_path, dict.fromkeys(names, "x")))
    assert list(documents) == ["a.txt"]
    assert counts == {
        "rejected: file of another kind (.png 2, .gz 1, .ps 1, no suffix 1)": 5,
    }


def test_the_most_frequent_suffixes_are_named(tmp_path):
    names = [f"{i}.x{kind}" for kind in range(10) for i in range(10 - kind)]
    _, counts = read(fill(tmp_path, dict.fromkeys([*names, "a.txt"], "x")))
    named = ", ".join(f".x{kind} {10 - kind}" for kind in range(8))
    assert counts == {f"rejected: file of another kind ({named}, others 3)": 55}


def test_a_folder_without_documents_names_what_is_there_and_what_is_read(tmp_path):
    fill(tmp_path, {"a.png": "x", "b.png": "x", "c.txt": "\u200b"})
    assert rejection(tmp_path) == (
        ": no documents (rejected: document without text: 1, "
        "rejected: file of another kind (.png 2): 2); "
        f"give a folder with {', '.join(SUFFIXES)} files"
    )
    (tmp_path / "empty").mkdir()
    assert rejection(tmp_path / "empty").startswith(": no documents (it is empty); give a folder")


def test_files_without_text_are_counted_and_left_out(tmp_path):
    files = {
        "a.md": "# Kiln\n\nText.",
        "__init__.md": "",
        "title.md": "# Only a title\n",
        "front.md": "---\ntitle: x\n---\n",
        "bom.txt": b"\xef\xbb\xbf\r\n",
        "unseen.txt": "\u200b \u2060\n",
    }
    documents, counts = read(fill(tmp_path, files))
    assert documents == {"a.md": ("Kiln", "Text.")}
    assert counts == {"rejected: document without text": 5}


def test_folders_named_like_files(tmp_path):
    documents, counts = read(
        fill(tmp_path / "corpus.jsonl", {"x.md/a.txt": "A.", "x.md/y.txt/b.md": "B."})
    )
    assert documents == {"x.md/a.txt": ("a", "A."), "x.md/y.txt/b.md": ("b", "B.")}
    assert not counts


def test_reading_stays_inside_the_folder(tmp_path):
    outside = fill(tmp_path / "outside", {"secret.md": "Secret."})
    inside = fill(tmp_path / "inside", {"sub/a.md": "Text.", "b.md": "More."})
    (inside / "link.md").symlink_to("sub/a.md")
    (inside / "dangling.md").symlink_to("nowhere.md")
    (inside / "loop.md").symlink_to("loop.md")
    (inside / "parent").symlink_to(".")
    (inside / "sub.md").symlink_to("sub")
    (inside / "secret.md").symlink_to(outside / "secret.md")
    (inside / "out").symlink_to(outside)
    (inside / ".hidden").symlink_to(outside)
    os.mkfifo(inside / "pipe.md")
    source = tmp_path / "source"
    source.symlink_to(inside)
    documents, counts = read(source)
    assert documents == {
        "b.md": ("b", "More."),
        "link.md": ("link", "Text."),
        "sub/a.md": ("a", "Text."),
    }
    assert counts == {
        "rejected: broken link": 2,
        "rejected: link to a folder": 2,
        "rejected: link that leads out of the folder": 2,
        "rejected: not a regular file": 1,
    }


@pytest.mark.skipif(sys.platform == "darwin", reason="APFS takes names in UTF-8 only")
def test_names_that_are_not_utf8(tmp_path):
    for name, text in {b"caf\xe9_one.txt": "One.", b"caf\xe8_one.txt": "Two."}.items():
        (tmp_path / os.fsdecode(name)).write_text(text)
    (tmp_path / os.fsdecode(b"x.\xe9")).write_text("x")
    documents = list(read_documents(str(tmp_path), counts := Counter()))
    assert documents == [
        Document("caf\\xe8_one.txt", "caf\ufffd one", "Two."),
        Document("caf\\xe9_one.txt", "caf\ufffd one", "One."),
    ]
    assert counts == {"rejected: file of another kind (.\ufffd 1)": 1}


def test_a_file_that_is_not_utf8_is_named(tmp_path):
    fill(tmp_path, {"a.md": b"one\ntwo \xe9\n"})
    assert rejection(tmp_path) == "/a.md, line 2: not encoded in UTF-8; save it as UTF-8"


def refuse(*_, **__):
    raise PermissionError(errno.EACCES, "Permission denied")


@pytest.mark.parametrize("method", ["read_bytes", "is_file", "is_symlink"])
def test_a_file_that_cannot_be_read_is_named(tmp_path, monkeypatch, method):
    fill(tmp_path, {"a.md": "Text."})
    monkeypatch.setattr(Path, method, refuse)
    assert rejection(tmp_path).startswith("/a.md cannot be read (Permission denied); change")


def test_a_folder_that_cannot_be_read_is_named(tmp_path, monkeypatch):
    fill(tmp_path, {"a.md": "Text.", "b/c.md": "More."})
    scandir = os.scandir

    def scan(path):
        if os.path.basename(path) == "b":
            raise PermissionError(errno.EACCES, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", scan)
    assert rejection(tmp_path).startswith("/b cannot be read (Permission denied); change")
