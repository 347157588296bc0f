import json
import shutil
import subprocess
import sys

import numpy as np
import pytest

from ralm_jax import checksums
from ralm_jax.data.corpus import ARRAYS, open_corpus, verify_corpus
from ralm_jax.data.prepare import prepare
from ralm_jax.errors import UserError


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    path = tmp_path_factory.mktemp("prepared")
    with (path / "x.jsonl").open("w") as file:
        for i in range(5):
            record = {
                "id": f"{i}",
                "title": f"Page {i}",
                "text": f"It was in {1900 + i}. It rained.",
            }
            file.write(json.dumps(record) + "\n")
    prepare(str(path / "x.jsonl"), path / "corpus", vocab_size=100, say=lambda line: None)
    return path / "corpus"


@pytest.fixture
def copy(prepared, tmp_path):
    return shutil.copytree(prepared, tmp_path / "copy")


def test_arrays_are_memory_mapped_and_typed(prepared):
    corpus = open_corpus(prepared)
    dtypes = {"tokens": "u2", "lengths": "u2", "ids": "S32", "sentences": "i4", "spans": "i4"}
    for name in ARRAYS:
        array = getattr(corpus, name)
        assert isinstance(array, np.memmap) and not array.flags.writeable
        assert array.dtype == np.dtype(dtypes.get(name, "u8"))
    assert corpus.tokens.shape == (5, corpus.passage_tokens - 3) and corpus.size == 5
    assert corpus.vocabulary.pad == 0
    assert corpus.counts["passages"] == 5 and corpus.counts["spans"] == len(corpus.spans) == 5


def test_texts_are_a_dataset_that_needs_no_tensorflow(prepared):
    code = (
        "import sys; from ralm_jax.data.corpus import open_corpus;"
        f"texts = open_corpus({str(prepared)!r}).texts();"
        "print(texts[4]['title'].decode(), texts[4]['text'].decode(), texts[4]['documents']);"
        "assert not {'tensorflow', 'jax'} & sys.modules.keys()"
    )
    out = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert out.stdout == "Page 4 It was in 1904. It rained. [b'4']\n"


@pytest.mark.parametrize("function", [open_corpus, verify_corpus])
def test_a_missing_corpus(tmp_path, function):
    with pytest.raises(UserError, match=r"there is no corpus at .*nowhere; make one with: ralm"):
        function(tmp_path / "nowhere")


FILES = [*(f"{name}.npy" for name in ARRAYS), "vocab.txt", "texts"]


def file_of(corpus, name):
    return next((corpus / name).glob("*array_record*")) if name == "texts" else corpus / name


@pytest.mark.parametrize("name", FILES)
def test_changed_bytes_are_found(copy, name):
    verify_corpus(copy)
    file = file_of(copy, name)
    data = bytearray(file.read_bytes())
    data[-3] ^= 1
    file.write_bytes(data)
    for function in (verify_corpus, lambda path: open_corpus(path).texts()):
        with pytest.raises(UserError, match=f"damaged: .*{file.name} has changed"):
            function(copy)


@pytest.mark.parametrize("name", FILES)
def test_files_that_are_cut_or_missing_are_found_at_opening(copy, name):
    file = file_of(copy, name)
    data = file.read_bytes()
    for changed in (data[:-1], data + b"x", b""):
        file.write_bytes(changed)
        with pytest.raises(
            UserError, match=f"damaged: .*{file.name} has {len(changed):,} bytes rather"
        ):
            open_corpus(copy)
    file.unlink()
    for function in (open_corpus, verify_corpus):
        with pytest.raises(UserError, match=f"damaged: .*{file.name} is missing"):
            function(copy)


@pytest.fixture
def former(copy):
    """A corpus whose manifest has no sizes and no checksum, as earlier versions wrote them."""
    manifest = json.loads((copy / "manifest.json").read_text())
    assert manifest.pop("sizes").keys() == manifest["files"].keys() and manifest.pop("crc32")
    (copy / "manifest.json").write_text(json.dumps(manifest))
    return copy


@pytest.mark.parametrize("name", ARRAYS)
def test_arrays_without_recorded_sizes_are_checked_by_their_headers(former, name):
    verify_corpus(former)
    open_corpus(former)
    file = former / f"{name}.npy"
    data, array = file.read_bytes(), np.load(file)
    for changed in (data[:-1], data + b"x", b""):
        file.write_bytes(changed)
        with pytest.raises(UserError, match="damaged") as caught:
            open_corpus(former)
        assert "\n" not in str(caught.value)
    np.save(file, array[:-1])
    with pytest.raises(UserError, match=f"{name}.npy has changed"):
        open_corpus(former)


def test_opening_reads_a_large_file_once_until_it_changes(copy, monkeypatch, tmp_path):
    monkeypatch.setenv("RALM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(checksums, "_SMALL", 1000)
    read, digest = [], checksums.sha256
    monkeypatch.setattr(checksums, "sha256", lambda file: (read.append(file.name), digest(file))[1])
    open_corpus(copy)
    assert "tokens.npy" in read and not any("texts" in name for name in read)
    read.clear()
    open_corpus(copy)
    assert "tokens.npy" not in read
    data = (copy / "tokens.npy").read_bytes()
    (copy / "tokens.npy").write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(UserError, match=r"damaged: tokens\.npy has changed; prepare it again"):
        open_corpus(copy)
    # What was found damaged is read again, and so is what was put right.
    (copy / "tokens.npy").write_bytes(data)
    open_corpus(copy)
    assert read.count("tokens.npy") == 2


def test_texts_are_read_by_who_asks_for_them(copy):
    (file,) = (copy / "texts").glob("*array_record*")
    data = file.read_bytes()
    file.write_bytes(data[:200] + bytes([data[200] ^ 1]) + data[201:])
    opened = open_corpus(copy)
    with pytest.raises(UserError, match=r"damaged: texts/.* has changed"):
        opened.texts()


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"format": 1, "files": []}'])
def test_a_damaged_manifest(copy, text):
    (copy / "manifest.json").write_text(text)
    for function in (open_corpus, verify_corpus):
        with pytest.raises(UserError, match="damaged") as caught:
            function(copy)
        assert "\n" not in str(caught.value)


def test_another_format_version(copy):
    manifest = json.loads((copy / "manifest.json").read_text())
    (copy / "manifest.json").write_text(json.dumps(manifest | {"format": 99}))
    with pytest.raises(UserError, match="format 99, and this version reads format 1; prep"):
        open_corpus(copy)


def test_a_corpus_without_spans_opens(tmp_path):
    (tmp_path / "x.jsonl").write_text(
        '{"id": "a", "title": "", "text": "nothing here", "spans": []}'
    )
    prepare(str(tmp_path / "x.jsonl"), tmp_path / "c", say=lambda line: None)
    corpus = open_corpus(tmp_path / "c")
    assert corpus.spans.shape == (0, 4) and corpus.span_groups.shape == (0,) and corpus.kinds == ()
    assert corpus.lengths[0, 0] == 0
