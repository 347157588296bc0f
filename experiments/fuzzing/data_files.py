"""Readers of what users bring: records, tables, columns, pages, questions, and whole sources."""

import bz2
import gzip
import io
import json
import zipfile
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet

from experiments.fuzzing.outcome import Target
from ralm_jax.formats import arrow, lines, tables
from ralm_jax.formats.json_records import json_records
from ralm_jax.questions.read import read_questions
from ralm_jax.sources import almanac
from ralm_jax.sources.read import read_documents
from ralm_jax.sources.records import TEXTS, documents_of

ALMANAC = almanac.generate(almanac.World(people=3, names=3), seed=0)
RECORDS: list[dict[str, Any]] = ALMANAC.documents[:3]
ROWS = [
    {"id": str(n), "title": f"T {n}", "text": f"Kiln {n} was built in 171{n}."} for n in range(3)
]
ASKED: list[dict[str, Any]] = [
    {"id": 1, "question": "Who owned the mill?", "answers": ["Vera", "Ada"], "gold_ids": ["d1"]},
    {"_id": "2", "query": "When?", "answer": "17\\d2", "regex": True},
    {"id": "k", "input": "Where?", "output": [{"answer": "Turin", "provenance": [{"wikipedia_id": 3}]}]},
    {"question": "Which?", "answers": {"text": ["a"], "value": "b", "aliases": ["c"]},
     "positive_ctxs": [{"score": 1000, "passage_id": "7"}]},
]  # fmt: skip
SQUAD = {"data": [{"paragraphs": [{"context": "c", "qas": [
    {"id": "1", "question": "Who?", "answers": [{"text": "Vera", "answer_start": 0}]}]}]}]}  # fmt: skip
STORE = {"docstore/data": {"a": {"__data__": {"id_": "a", "text": "A kiln.", "metadata": {"title": "K"}}},
                           "b": {"__data__": '{"id_": "b", "text_resource": {"text": "B"}}'}}}  # fmt: skip
CSV = 'id,title,text\n1,"A ""kiln""","It was, in 1712,\nbuilt."\n2,,Two.\n'
TOPICS = """<top>\n<num> Number: 301\n<title> Topic: kilns\n</top>
<topic number='2'><query>mills</query></topic>"""
MARKDOWN = """---\ntitle: "Salt \\u00d6 Roads" # one\ntags: [a, b]\ntext: >\n  more\n---
# Salt Roads #\n\nText.\n"""
RST = "=====\nKilns\n=====\n\nText of it.\n"
HTML = """<!doctype html><html><head><meta charset="utf-8"><title>Öfen &amp; Brände</title></head><body>
<nav>Home</nav><h1>Öfen &amp; Brände</h1><p>The <b>kil</b>n.<br>It burns.</p><script/><ul><li>One<li>Two</ul>
<table><tr><td>a</td></tr></table><!-- unseen --></body></html>"""
W = 'xmlns:w="http://schemas.openxmlformats.org/wordprocessingml/2006/main"'
DOCX = f"""<w:document {W}><w:body><w:p><w:pPr><w:pStyle w:val="Title"/></w:pPr><w:r><w:t>The Kiln</w:t></w:r>
</w:p><w:p><w:r><w:t>It was </w:t><w:tab/></w:r></w:p></w:body></w:document>"""
CORE = '<c xmlns:dc="http://purl.org/dc/elements/1.1/"><dc:title>The Kiln</dc:title></c>'
CONTAINER = '<c><rootfiles><rootfile full-path="O/book.opf"/></rootfiles></c>'
OPF = """<package><metadata xmlns:dc="http://purl.org/dc/elements/1.1/"><dc:title>Kilns</dc:title></metadata>
<manifest><item id="b" href="b%20c.xhtml"/></manifest><spine><itemref idref="b"/></spine></package>"""


def encoded(files: dict[str, Any]) -> dict[str, bytes]:
    """Contents as bytes: those of text, and lists and objects as JSON."""
    texts = {n: x if isinstance(x, str | bytes) else json.dumps(x) for n, x in files.items()}
    return {name: x.encode() if isinstance(x, str) else x for name, x in texts.items()}


def jsonl(records: list[Any]) -> str:
    return "".join(json.dumps(record) + "\n" for record in records)


def archive(members: dict[str, str]) -> bytes:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as out:
        for name, text in members.items():
            out.writestr(name, text)
    return made.getvalue()


def pdf(text: str = "The kiln was mod-") -> bytes:
    """The smallest PDF with a line of text and a title."""
    shown = f"BT /F 12 Tf 20 100 Td ({text}) Tj 0 -20 Td (ern.) Tj ET"
    objects = [
        "<</Type/Catalog/Pages 2 0 R>>",
        "<</Type/Pages/Kids[3 0 R]/Count 1>>",
        "<</Type/Page/Parent 2 0 R/MediaBox[0 0 200 200]/Contents 4 0 R"
        "/Resources<</Font<</F 5 0 R>>>>>>",
        f"<</Length {len(shown)}>>stream\n{shown}\nendstream",
        "<</Type/Font/Subtype/Type1/BaseFont/Helvetica>>",
        "<</Title(Old Kilns)>>",
    ]
    data, places = b"%PDF-1.4\n", []
    for number, one in enumerate(objects, 1):
        places.append(len(data))
        data += f"{number} 0 obj{one}endobj\n".encode()
    table = "".join(f"{place:010} 00000 n \n" for place in places)
    end = f"xref\n0 7\n0000000000 65535 f \n{table}trailer<</Size 7/Root 1 0 R/Info 6 0 R>>\n"
    return data + f"{end}startxref\n{len(data)}\n%%EOF".encode()


def columns(rows: list[dict[str, Any]], form: str) -> bytes:
    """Rows as Parquet, as an Arrow file, or as a stream of Arrow."""
    table, made = pyarrow.Table.from_pylist(rows), io.BytesIO()
    if form == "parquet":
        pyarrow.parquet.write_table(table, made, compression="none")
    else:
        new = pyarrow.ipc.new_file if form == "file" else pyarrow.ipc.new_stream
        with new(made, table.schema) as out:
            out.write_table(table)
    return made.getvalue()


def _json_files() -> dict[str, bytes]:
    files = {"lines.jsonl": jsonl(RECORDS), "array.json": ROWS, "store.json": STORE}
    return encoded({**files, "object.json": json.dumps(ROWS[0], indent=1)})


def _read_json(folder: Path, name: str) -> None:
    found = list(json_records(folder / name))
    assert all(isinstance(where, str) for where, _ in found)
    if name != "store.json":
        list(documents_of(iter(found)))


def _tables() -> dict[str, bytes]:
    files = {"t.csv": CSV, "t.tsv": CSV.replace(",", "\t"), "t2.csv": CSV.replace(",", ";")}
    packed = {"t.csv.gz": gzip.compress(CSV.encode()), "t.csv.bz2": bz2.compress(CSV.encode())}
    return encoded({**files, **packed, "bare.tsv": "1\tA kiln.\n2\tA mill.\n"})


def _read_table(folder: Path, name: str) -> None:
    file = folder / name
    list(lines.text_lines(file))
    names = tables.header(file, TEXTS)
    if names is None:
        list(tables.bare_rows(file, 2, "id and text"))
        return
    for _, row in tables.table_records(file, names):
        assert set(row) <= set(names)


def _columns() -> dict[str, bytes]:
    rows = [{**row, "answers": [row["title"]], "number": n} for n, row in enumerate(ROWS)]
    state = {"_data_files": [{"filename": "data-0.arrow"}]}
    files = {"t.parquet": columns(rows, "parquet"), "t.arrow": columns(rows, "file")}
    saved = {"saved/data-0.arrow": columns(rows, "stream"), "saved/state.json": state}
    splits = {
        "splits/dataset_dict.json": {"splits": ["a", "train"]},
        "splits/train/state.json": state,
    }
    return encoded(
        {**files, **saved, **splits, "splits/train/data-0.arrow": columns(rows, "stream")}
    )


def _read_columns(folder: Path, name: str) -> None:
    at = name.partition("/")[0]
    files = arrow.saved_files(folder / at) if "/" in name else [folder / at]
    for file in files:
        list(documents_of(arrow.column_records(file)))


def _pages() -> dict[str, bytes]:
    texts = {"p.html": HTML, "p.md": MARKDOWN, "p.rst": RST, "p.txt": "A kiln.\n"}
    book = {"META-INF/container.xml": CONTAINER, "O/book.opf": OPF, "O/b c.xhtml": HTML}
    word = {"word/document.xml": DOCX, "docProps/core.xml": CORE}
    return encoded({**texts, "p.pdf": pdf(), "p.epub": archive(book), "p.docx": archive(word)})


def _read_page(folder: Path, name: str) -> None:
    for document in read_documents(str(folder / name)):
        document.text.encode(), document.title.encode()


def _questions() -> dict[str, bytes]:
    cells = 'question,answers,gold_ids\nWho?,"[""Igor"", ""Ada""]",d1\nWhen?,"[\'1712\']",\n'
    many = [{"question": "Who?", "answers": ["Igor"], "gold_ids": ["d1"], "id": "1"}]
    alone = {
        "q.jsonl": jsonl(ASKED),
        "q.json": SQUAD,
        "q.csv": cells,
        "q.parquet": columns(many, "parquet"),
    }
    bare = {"trec.tsv": "1\tfactoid\tWho?\tIg.r\n", "dpr.tsv": "Who?\t['Igor', \"Ada\"]\n"}
    beir = {"set/queries.jsonl": jsonl([{"_id": "1", "text": "Who?"}, {"_id": "2", "text": "When?"}]),
            "set/qrels/test.tsv": "query-id\tcorpus-id\tscore\n1\td\t1\n2\te\t0\n"}  # fmt: skip
    pair = {
        "topics": TOPICS,
        "qrels": "301 0 d1 1\n2 0 d2 2\n",
        "qrels.json": {"301": {"d1": 1, "d2": 0}},
    }
    return encoded({**alone, **bare, **beir, **pair})


def _read_questions(folder: Path, name: str) -> None:
    if name.startswith("set/"):
        read_questions(folder / "set")
    elif name in ("topics", "qrels", "qrels.json"):
        judged = "qrels" if name == "topics" else name
        read_questions(f"{folder / 'topics'}+{folder / judged}")
    else:
        read_questions(folder / name)


def _documents() -> dict[str, bytes]:
    """Contents of one kind under the name of another too, and folders that are sets."""
    contents = {"jsonl": jsonl(RECORDS), "json": STORE, "csv": CSV, "tsv": "1\tA kiln.\n", "html": HTML,
                "parquet": columns(ROWS, "parquet"), "gz": gzip.compress(jsonl(ROWS).encode()),
                "pdf": pdf(), "md": MARKDOWN, "docx": archive({"word/document.xml": DOCX})}  # fmt: skip
    names, given = [*contents], [*contents.values()]
    files = dict(zip([f"as_it_is.{name}" for name in names], given, strict=True))
    files |= dict(zip([f"other.{name}" for name in (*names[3:], *names[:3])], given, strict=True))
    beir = [{"_id": row["id"], "title": row["title"], "text": row["text"]} for row in ROWS]
    sets = {"beir/corpus.jsonl": jsonl(beir), "parts/a-00000-of-00001.parquet": contents["parquet"]}
    return encoded({**files, **sets, "folder/a.txt": "One.", "folder/b.md": MARKDOWN})


def _read_documents(folder: Path, name: str) -> None:
    for document in read_documents(str(folder / name.partition("/")[0])):
        document.text.encode(), document.title.encode(), document.digest()


TARGETS = {
    "JSON": Target(_json_files, _read_json),
    "tables": Target(_tables, _read_table),
    "columns": Target(_columns, _read_columns),
    "pages": Target(_pages, _read_page),
    "questions": Target(_questions, _read_questions),
    "documents": Target(_documents, _read_documents),
}
