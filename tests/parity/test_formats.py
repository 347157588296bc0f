"""Files that other libraries write: `datasets`, LangChain, LlamaIndex and python-docx."""

import json
from types import SimpleNamespace

import pytest

from ralm_jax.formats.pages import Page, read_page
from ralm_jax.questions.question import Question
from ralm_jax.questions.read import read_questions
from ralm_jax.sources.documents import Document
from ralm_jax.sources.read import read_documents, recognise

pytestmark = [pytest.mark.parity, pytest.mark.filterwarnings("ignore")]

DOCUMENTS = [
    Document("7", "Kiln", 'The "old" kiln, of 1712, was\tfired; twice.'),
    Document("n-2", "", "Salt roads lead to the sea.\nThey are old."),
]


@pytest.fixture
def data_set():
    datasets = pytest.importorskip("datasets")
    rows = [d._asdict() | {"spans": None} for d in DOCUMENTS]
    columns = {name: [row[name] for row in rows] for name in ("id", "title", "text")}
    return datasets, datasets.Dataset.from_dict(columns)


def read(path):
    return list(read_documents(str(path)))


def test_datasets(data_set, tmp_path):
    datasets, made = data_set
    made.save_to_disk(tmp_path / "one", num_shards=2)
    assert read(tmp_path / "one") == DOCUMENTS
    splits = datasets.DatasetDict({"test": made.select([0]), "corpus": made})
    splits.save_to_disk(tmp_path / "splits")
    assert recognise(str(tmp_path / "splits")).kind == "a data set saved by `datasets`"
    assert read(tmp_path / "splits") == DOCUMENTS
    made.to_parquet(tmp_path / "x.parquet")
    made.to_csv(tmp_path / "x.csv")
    made.to_csv(tmp_path / "y.tsv", sep="\t")
    made.to_json(tmp_path / "x.jsonl")
    made.to_json(tmp_path / "y.json", lines=False)
    for name in ("x.parquet", "x.csv", "y.tsv", "x.jsonl", "y.json"):
        assert read(tmp_path / name) == DOCUMENTS, name


def test_questions_of_datasets(data_set, tmp_path):
    datasets, _ = data_set
    answers = [{"text": ["Vera"], "answer_start": [3]}]
    given = {"id": ["q"], "question": ["Who?"], "answers": answers}
    datasets.Dataset.from_dict(given).save_to_disk(tmp_path / "squad")
    assert read_questions(tmp_path / "squad").asked == [Question("q", "Who?", ("Vera",))]


def test_langchain(tmp_path):
    documents = pytest.importorskip("langchain_core.documents")
    load = pytest.importorskip("langchain_core.load")
    made = [
        documents.Document(page_content=d.text, id=d.id, metadata={"title": d.title})
        for d in DOCUMENTS
    ]
    lines = "".join(json.dumps(one.model_dump()) + "\n" for one in made)
    (tmp_path / "plain.jsonl").write_text(lines)
    (tmp_path / "dumped.json").write_text(load.dumps(made))
    (tmp_path / "pretty.json").write_text(load.dumps(made, pretty=True))
    for name in ("plain.jsonl", "dumped.json", "pretty.json"):
        assert read(tmp_path / name) == DOCUMENTS, name


def test_llama_index(tmp_path):
    schema = pytest.importorskip("llama_index.core.schema")
    store = pytest.importorskip("llama_index.core.storage.docstore")
    made = [
        kind(text=d.text, id_=d.id, metadata={"title": d.title})
        for kind, d in zip((schema.TextNode, schema.Document), DOCUMENTS, strict=True)
    ]
    kept = store.SimpleDocumentStore()
    kept.add_documents(made)
    kept.persist(str(tmp_path / "store" / "docstore.json"))
    assert read(tmp_path / "store") == DOCUMENTS
    (tmp_path / "x.jsonl").write_text("".join(json.dumps(one.to_dict()) + "\n" for one in made))
    assert read(tmp_path / "x.jsonl") == DOCUMENTS


def test_python_docx(tmp_path):
    docx = pytest.importorskip("docx")
    made = docx.Document()
    made.core_properties.title = ""
    made.add_heading("The Kiln", level=0)
    made.add_paragraph("It was built. ").add_run("Late.").bold = True
    made.add_table(rows=1, cols=1).cell(0, 0).text = "A cell."
    made.save(str(tmp_path / "x.docx"))
    assert read_page(tmp_path / "x.docx") == Page("The Kiln", "It was built. Late.\n\nA cell.")


QRELS = {"q1": {"7": 1, "n-2": 0}, "q2": {"n-2": 2}}
QUERIES = {"q1": "Which kiln?", "q2": "Where do salt roads lead?"}
ASKED = [
    Question("q1", QUERIES["q1"], (), ("7",)),
    Question("q2", QUERIES["q2"], (), ("n-2",), grades=(2,)),
]


def test_mteb(data_set, tmp_path, monkeypatch):
    """A set as MTEB lays it out for the hub; the files are written here instead of there."""
    abstract = pytest.importorskip("mteb.abstasks.retrieval")
    datasets, corpus = data_set
    queries = datasets.Dataset.from_list([{"id": q, "text": text} for q, text in QUERIES.items()])
    split = {"corpus": corpus, "queries": queries, "relevant_docs": QRELS, "top_ranked": None}

    def push(made, folder, config, **_):
        for name, part in made.items():
            file = tmp_path / folder / config / f"{name}-00000-of-00001.parquet"
            file.parent.mkdir(parents=True)
            part.to_parquet(file)

    monkeypatch.setattr(datasets.DatasetDict, "push_to_hub", push)
    task = SimpleNamespace(dataset={"default": {"test": split}}, metadata=SimpleNamespace(name="x"))
    task.convert_v1_dataset_format_to_v2 = lambda num_proc: None
    abstract.AbsTaskRetrieval._push_dataset_to_hub(task, "set")
    assert recognise(str(tmp_path / "set")).kind == "a BEIR or MTEB set"
    assert read(tmp_path / "set") == DOCUMENTS
    assert read_questions(tmp_path / "set").asked == ASKED


@pytest.mark.parametrize("queries", ["tsv", "jsonl"])
@pytest.mark.parametrize("qrels", ["trec", "tsv", "jsonl"])
def test_ir_datasets(queries, qrels, tmp_path, capsys, monkeypatch):
    ir_datasets = pytest.importorskip("ir_datasets")
    export = pytest.importorskip("ir_datasets.commands.export")
    monkeypatch.setattr(ir_datasets, "registry", type(ir_datasets.registry)())
    texts = {d.id: " ".join(d.text.split()) for d in DOCUMENTS}
    (tmp_path / "d").write_text("".join(f"{id}\t{text}\n" for id, text in texts.items()))
    (tmp_path / "q").write_text("".join(f"{id}\t{text}\n" for id, text in QUERIES.items()))
    graded = [f"{q} 0 {d} {n}\n" for q, found in QRELS.items() for d, n in found.items()]
    (tmp_path / "r").write_text("".join(graded))
    given = {"docs_tsv": "d", "queries_tsv": "q", "qrels_trec": "r"}
    made = ir_datasets.create_dataset(**{n: str(tmp_path / f) for n, f in given.items()})
    ir_datasets.registry.register("ours", made)
    for what, form in (("docs", queries), ("queries", queries), ("qrels", qrels)):
        export.main(["ours", what, "--format", form])
        (tmp_path / f"{what}.{form}").write_text(capsys.readouterr().out)
    found = read(tmp_path / f"docs.{queries}")
    assert {d.id: d.text for d in found} == texts
    asked = read_questions(f"{tmp_path / f'queries.{queries}'}+{tmp_path / f'qrels.{qrels}'}").asked
    assert asked == ASKED
