"""Every format of a corpus gives the same documents; each that is at fault, one line that says where."""

import bz2
import gzip
import io
import json
import sys

import pyarrow
import pyarrow.parquet
import pytest

from ralm_jax.data.prepare import prepare
from ralm_jax.errors import UserError
from ralm_jax.sources import hub
from ralm_jax.sources.documents import Document
from ralm_jax.sources.read import read_documents, recognise
from ralm_jax.sources.records import Columns

KILN = Document("7", "Kiln", 'The "old" kiln, of 1712, was\tfired; twice.')
SALT = Document("n-2", "", "Salt roads lead to the sea.\nThey are old.")
BOTH = [KILN, SALT]


def jsonl(path, *records, opened=open):
    path.parent.mkdir(parents=True, exist_ok=True)
    with opened(path, "wt", encoding="utf-8") as file:
        file.writelines(json.dumps(record) + "\n" for record in records)
    return path


def fields(document, id="id", text="text", title="title"):
    return {id: document.id, title: document.title, text: document.text}


def quoted(text):
    return '"' + text.replace('"', '""') + '"'


def beir(folder):
    records = [{"_id": d.id, "title": d.title, "text": d.text, "metadata": {}} for d in BOTH]
    jsonl(folder / "corpus.jsonl", *records)
    jsonl(folder / "queries.jsonl", {"_id": "q", "text": "What?"})
    (folder / "qrels").mkdir()
    (folder / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\nq\t7\t1\n")
    return folder


def mteb(folder):
    table = pyarrow.Table.from_pylist([fields(d, id="_id") for d in BOTH])
    (folder / "de-corpus").mkdir(parents=True)
    pyarrow.parquet.write_table(table, folder / "de-corpus" / "test-00000-of-00001.parquet")
    (folder / "README.md").write_text("# About")
    return folder


def dpr(folder):
    rows = [f"{d.id}\t{quoted(d.text)}\t{quoted(d.title)}\n" for d in BOTH]
    (folder / "psgs_w100.tsv.gz").write_bytes(
        gzip.compress(("id\ttext\ttitle\n" + "".join(rows)).encode())
    )
    return folder / "psgs_w100.tsv.gz"


def csv_of_a_spreadsheet(folder):
    rows = [f"{d.id};{quoted(d.text)};{quoted(d.title)}\r\n" for d in BOTH]
    file = folder / "sheet.csv"
    file.write_bytes(("\ufeffid;text;title\r\n" + "".join(rows)).encode())
    return file


def kilt(folder):
    records = [
        {
            "wikipedia_id": d.id,
            "wikipedia_title": d.title,
            "text": [f"{d.title}\n", "Section::::History.\n", f"BULLET::::- {d.text}\n"],
        }
        for d in BOTH
    ]
    return jsonl(folder / "kilt.json", *records)


def flashrag(folder):
    records = [
        {"id": KILN.id, "contents": f'"{KILN.title}"\n{KILN.text}'},
        {"id": SALT.id, "contents": SALT.text},
    ]
    return jsonl(folder / "wiki.jsonl", *records)


def pyserini(folder):
    jsonl(folder / "docs" / "a.json", {"id": KILN.id, "contents": KILN.text, "title": KILN.title})
    (folder / "docs" / "b.json").write_text(
        json.dumps([{"id": SALT.id, "contents": SALT.text}], indent=1)
    )
    return folder / "docs"


def array(folder):
    (folder / "all.json").write_text(json.dumps([fields(d) for d in BOTH], indent=2))
    return folder / "all.json"


def bzip2(folder):
    return jsonl(folder / "x.jsonl.bz2", *map(fields, BOTH), opened=bz2.open)


def misnamed(folder):
    return jsonl(folder / "dump.txt.data", *map(fields, BOTH), opened=gzip.open)


def parquet_with_numbers(folder):
    rows = [fields(KILN) | {"more": 1}, {"id": "n-2", "title": None, "text": SALT.text, "more": 2}]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), folder / "x.parquet")
    return folder / "x.parquet"


def stream(path, rows):
    table = pyarrow.Table.from_pylist(rows)
    with pyarrow.OSFile(str(path), "wb") as file, pyarrow.ipc.new_stream(file, table.schema) as out:
        out.write_table(table)


def saved(folder):
    """As `DatasetDict.save_to_disk` writes it."""
    inside = folder / "saved" / "train"
    inside.mkdir(parents=True)
    (folder / "saved" / "dataset_dict.json").write_text('{"splits": ["test", "train"]}')
    names = [f"data-{i:05}-of-00002.arrow" for i in range(2)]
    for name, document in zip(names, BOTH, strict=True):
        stream(inside / name, [fields(document)])
    (inside / "dataset_info.json").write_text("{}")
    files = [{"filename": name} for name in names]
    (inside / "state.json").write_text(json.dumps({"_data_files": files}))
    return folder / "saved"


def langchain(folder):
    plain = {
        "id": "7",
        "metadata": {"title": "Kiln"},
        "page_content": KILN.text,
        "type": "Document",
    }
    inside = {"id": "n-2", "metadata": {"source": "x"}, "page_content": SALT.text}
    return jsonl(folder / "lc.jsonl", plain, {"lc": 1, "type": "constructor", "kwargs": inside})


def llama_index(folder):
    nodes = {
        "7": {"__data__": {"id_": "7", "text": KILN.text, "metadata": {"title": "Kiln"}}},
        "n-2": {"__data__": {"id_": "n-2", "text_resource": {"text": SALT.text}, "metadata": {}}},
    }
    jsonl(folder / "docstore.json", {"docstore/data": nodes})
    jsonl(folder / "index_store.json", {})
    return folder


FORMATS = {
    beir: "a BEIR or MTEB set",
    mteb: "a BEIR or MTEB set",
    dpr: "a table of id, text, title",
    csv_of_a_spreadsheet: "a table of id, text, title",
    kilt: "JSON lines",
    flashrag: "JSON lines",
    pyserini: "a folder of records",
    array: "a JSON array",
    bzip2: "JSON lines",
    misnamed: "JSON lines",
    parquet_with_numbers: "Parquet",
    saved: "a data set saved by `datasets`",
    langchain: "JSON lines",
    llama_index: "a LlamaIndex store",
}


@pytest.mark.parametrize("make", FORMATS, ids=lambda make: make.__name__)
def test_every_format_gives_the_same_documents(tmp_path, make):
    source = str(make(tmp_path))
    found = [d._replace(text=d.text.removeprefix("History.\n\n")) for d in read_documents(source)]
    assert found == BOTH
    assert recognise(source).kind == FORMATS[make]


def test_ms_marco_knows_no_quotes(tmp_path):
    (tmp_path / "collection.tsv").write_text('0\ta "lone quote\n1\t"another\n\n2\tthe last\n')
    found = [tuple(d)[:3] for d in read_documents(str(tmp_path / "collection.tsv"))]
    assert found == [("0", "", 'a "lone quote'), ("1", "", '"another'), ("2", "", "the last")]


def test_a_cell_may_be_longer_than_python_allows_by_itself(tmp_path):
    (tmp_path / "x.csv").write_text(f"id,text\na,{'x' * 200_000}\n")
    assert len(next(read_documents(str(tmp_path / "x.csv"))).text) == 200_000


def test_documents_without_ids_are_numbered(tmp_path):
    source = jsonl(tmp_path / "x.jsonl", {"text": "One."}, {"text": ""}, {"text": "Three."})
    assert [d.id for d in read_documents(str(source))] == ["1", "3"]
    source = jsonl(tmp_path / "y.jsonl", {"id": "a", "text": "One."}, {"text": "Two."})
    with pytest.raises(UserError, match="line 2: the field 'id' is missing"):
        list(read_documents(str(source)))


def test_columns_of_other_names(tmp_path):
    (tmp_path / "x.csv").write_text("key,Abstract,Heading\na,Some text.,A title\n")
    columns = Columns(text="Abstract", title="Heading", id="key")
    found = list(read_documents(str(tmp_path / "x.csv"), columns=columns))
    assert found == [Document("a", "A title", "Some text.")]


def test_sentences_of_hotpot_lose_their_links(tmp_path):
    text = [["Kilns", " are <a href='x'>ovens</a>."], ["They burn."]]
    source = jsonl(tmp_path / "wiki.jsonl", {"id": 12, "title": "Kiln", "text": text})
    assert [d.text for d in read_documents(str(source))] == ["Kilns are ovens.\n\nThey burn."]


def test_texts_beside_records_are_what_is_read(tmp_path):
    jsonl(tmp_path / "notes.jsonl", fields(KILN))
    (tmp_path / "a.txt").write_text("A text.")
    assert [d.id for d in read_documents(str(tmp_path))] == ["a.txt"]


def test_standard_input(tmp_path, monkeypatch):
    text = "".join(json.dumps(fields(d)) + "\n" for d in BOTH)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text.encode())))
    said = []
    prepare("-", tmp_path / "corpus", vocab_size=99, processes=1, say=said.append)
    assert (
        said[0] == "Reading standard input: JSON lines"
        and (tmp_path / "corpus" / "manifest.json").exists()
    )
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b'{"text": 3}\n')))
    with pytest.raises(
        UserError, match=r"^standard input, line 1: the field 'text' must be a string"
    ):
        prepare("-", tmp_path / "other", vocab_size=99, processes=1, say=said.append)
    assert not (tmp_path / "other").exists()


def test_a_data_set_of_the_hub(tmp_path, monkeypatch):
    file = parquet_with_numbers(tmp_path)
    asked = []

    def listed(self, repo, repo_type, revision):
        asked.append((repo, repo_type, revision))
        names = (
            "corpus/corpus/0000.parquet",
            "corpus/corpus/0001.parquet",
            "queries/test/0.parquet",
        )
        return [*names, "README.md"]

    def fetched(repo, name, repo_type, revision):
        asked.append(name)
        return str(file)

    monkeypatch.setattr(hub.huggingface_hub.HfApi, "list_repo_files", listed)
    monkeypatch.setattr(hub.huggingface_hub, "hf_hub_download", fetched)
    assert hub.dataset_files("BeIR/scifact") == [file, file]
    assert asked == [
        ("BeIR/scifact", "dataset", "refs/convert/parquet"),
        *("corpus/corpus/0000.parquet", "corpus/corpus/0001.parquet"),
    ]
    assert hub.dataset_files("BeIR/scifact/queries:test") == [file]
    with pytest.raises(UserError, match=r"has no split 'dev'; it has test"):
        hub.dataset_files("BeIR/scifact/queries:dev")
    with pytest.raises(UserError, match=r"has no configuration 'qrels'; it has corpus, queries"):
        hub.dataset_files("BeIR/scifact/qrels")


def test_no_network(monkeypatch):
    def refuse(*_, **__):
        raise OSError("no route to host\nmore")

    monkeypatch.setattr(hub.huggingface_hub.HfApi, "list_repo_files", refuse)
    with pytest.raises(
        UserError, match=r"^hf:a/b could not be downloaded \(no route to host\); dow"
    ):
        list(read_documents("hf:a/b"))


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("x.csv", "id,text\na,one,two\n", "line 2: the row has 3 cells where the header has 2"),
        ("x.csv", 'id,text\na,"one\nb,two\n', "line 2: a quote that opens a cell is not closed"),
        ("x.csv", 'id,text\na,"one" more\n', "line 2: a quote that opens a cell is not closed"),
        ("x.csv", "id,text\na,\n", "line 2: the field 'text' is missing"),
        ("x.csv", "key,Abstract\na,Some.\n", "line 1: .* no column is called text in .* --text-column"),
        ("x.tsv", "0\tone\n1\ttwo\tthree\n", "line 2: found 3 cells; expected id and text"),
        ("x.tsv", "0\tone\n1\n", "line 2: found 1 cells; expected id and text"),
        ("x.jsonl", '{"key": 1, "Abstract": "x"}\n', "line 1: .*'Abstract'.* --text-column"),
        ("x.json", '[{"id": "a", "text": "x"}, 3]', "record 2: expected an object"),
        ("x.json", '[{"id": "a", "text": "x"},', "invalid JSON"),
        ("x.json", '{"docstore/data": []}', "the document store holds no nodes"),
        ("x.json", '{\n "docstore/data": {"a": {"__data__": 3}}\n}', "node a: expected an object"),
        ("x.parquet", "PAR1 and nothing else", "after row 0: cannot be read"),
        ("x.arrow", "nothing at all", "after row 0: cannot be read"),
        ("x.csv", b"id,text\na,caf\xe9\n", "line 2: not encoded in UTF-8"),
        ("x.csv", b"id,te\rxt\na,b\n", "line 1: cannot read documents from a file of this kind"),
        ("x.bin", b"\x00\x01\x02\xff", "line 1: not encoded in UTF-8"),
        ("x.bz2", b"BZh91AY&SY", "after line 0: damaged compressed file"),
    ],
)  # fmt: skip
def test_a_file_at_fault_is_named_with_its_line(tmp_path, name, data, message):
    path = tmp_path / name
    path.write_bytes(data if isinstance(data, bytes) else data.encode())
    with pytest.raises(UserError, match=message) as caught:
        list(read_documents(str(path)))
    assert str(caught.value).startswith(str(path)) and "\n" not in str(caught.value)


def test_a_set_that_lacks_its_corpus(tmp_path):
    (beir(tmp_path) / "corpus.jsonl").unlink()
    with pytest.raises(UserError, match=r"queries and qrels, but no corpus.jsonl beside them"):
        list(read_documents(str(tmp_path)))


def test_a_saved_data_set_that_is_not_whole(tmp_path):
    folder = saved(tmp_path)
    (folder / "train" / "data-00001-of-00002.arrow").unlink()
    with pytest.raises(UserError, match=r"names data-00001-of-00002.arrow, which is not there"):
        list(read_documents(str(folder)))
    (folder / "dataset_dict.json").write_text('{"splits": ["en", "de"]}')
    with pytest.raises(UserError, match="holds the splits en, de; give the folder of one of them"):
        list(read_documents(str(folder)))


def test_bytes_in_columns_that_are_no_text(tmp_path):
    """Arrow itself reads beyond damaged data, or raises whatever comes."""
    for make, name in ((parquet_with_numbers, "x.parquet"), (saved, "data-00000-of-00002.arrow")):
        make(tmp_path)
        (file,) = tmp_path.rglob(name)
        file.write_bytes(file.read_bytes().replace(b"kiln, of", b"k\xf1ln, of"))
        source = tmp_path / "saved" if make is saved else file
        with pytest.raises(UserError, match=rf"{name}, after row 0: cannot be read \("):
            list(read_documents(str(source)))


def test_a_saved_data_set_that_names_no_files(tmp_path):
    folder = saved(tmp_path) / "train"
    for state in ('{"_data_files": [{}]}', '{"_data_files": [3]}', '{"_data_files": 3}', "[]", "{"):
        (folder / "state.json").write_text(state)
        with pytest.raises(UserError, match=r"state\.json"):
            list(read_documents(str(folder)))
