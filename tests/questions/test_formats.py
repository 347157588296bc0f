"""Questions in the formats people have: the same questions of each, and one line for each at fault."""

import bz2
import json

import pyarrow
import pyarrow.parquet
import pytest

from ralm_jax.errors import UserError
from ralm_jax.questions import read
from ralm_jax.questions.judgments import NOT_ASKED
from ralm_jax.questions.question import NO_ANSWER, Question
from ralm_jax.questions.read import read_questions

WHO = Question("q1", 'Who built "it"?', ("Vera", "V. Orn"), ("d1", "7"))
WHEN = Question("q2", "When, then?", ("1917",), ("d2",))
ANSWERED = [q._replace(gold_ids=()) for q in (WHO, WHEN)]
JUDGED = [WHO._replace(answers=(), grades=(2, 1)), WHEN._replace(answers=())]


def jsonl(path, *records, opened=open):
    path.parent.mkdir(parents=True, exist_ok=True)
    with opened(path, "wt", encoding="utf-8") as file:
        file.writelines(json.dumps(record) + "\n" for record in records)
    return path


def whole(path, value):
    path.write_text(json.dumps(value, indent=1))
    return path


def columns(path, *rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    return path


def dpr_train(folder):
    """A passage that a person found has the score 1000; the others are BM25's."""
    found = [{"title": "", "text": "", "passage_id": id, "score": 1000} for id in WHO.gold_ids]
    more = {"title": "", "text": "", "passage_id": "d9", "score": 12.5}
    records = [
        {
            "id": "q1",
            "question": WHO.question,
            "answers": WHO.answers,
            "positive_ctxs": [*found, more],
        },
        {
            "id": "q2",
            "question": WHEN.question,
            "answers": WHEN.answers,
            "positive_ctxs": [{"psg_id": "d2", "title": "", "text": "", "score": 3}],
            "hard_negative_ctxs": [],
        },
        {"question": "Whose?", "answers": [], "positive_ctxs": []},
    ]
    return whole(folder / "train.json", records)


def kilt(folder):
    """Answers and their pages may stand in different entries."""
    pages = [{"wikipedia_id": "d1", "title": "x"}, {"wikipedia_id": "7"}, {"wikipedia_id": "d1"}]
    who = [{"answer": "Vera"}, {"answer": "V. Orn", "provenance": pages}, {"meta": {}}]
    when = [{"answer": "1917", "provenance": [{"wikipedia_id": "d2"}]}]
    return jsonl(
        folder / "dev-kilt.jsonl",
        {"id": "q1", "input": WHO.question, "output": who, "meta": {}},
        {"id": "q2", "input": WHEN.question, "output": when},
        {"id": "q3", "input": "Unanswered?"},
    )


def csv_with_lists(folder):
    file = folder / "q.csv"
    answers = json.dumps(WHO.answers).replace('"', '""')
    file.write_text(
        "qid,question,answers,gold_ids\n"
        f'q1,"Who built ""it""?","{answers}","[\'d1\', 7]"\n'
        'q2,"When, then?",1917,d2\n'
    )
    return file


def flashrag(folder):
    return jsonl(
        folder / "dev.jsonl",
        *({"id": q.id, "question": q.question, "golden_answers": q.answers} for q in (WHO, WHEN)),
    )


def hotpot(folder):
    records = [
        {"_id": q.id, "question": q.question, "answer": q.answers, "supporting_facts": [["x", 0]]}
        for q in (WHO, WHEN)
    ]
    return whole(folder / "hotpot_dev.json", records)


def parquet_of_squad(folder):
    rows = [
        {"id": q.id, "question": q.question, "answers": {"text": q.answers, "answer_start": [0]}}
        for q in (WHO, WHEN)
    ]
    return columns(folder / "validation.parquet", *rows)


def trivia(folder):
    answer = {"value": "Vera", "aliases": ["V. Orn", "Vera"]}
    return jsonl(
        folder / "t.jsonl.bz2",
        {"question_id": "q1", "question": WHO.question, "answer": answer},
        {"question_id": "q2", "question": WHEN.question, "answer": {"value": "1917"}},
        opened=bz2.open,
    )


QUERIES = [{"_id": q.id, "text": q.question} for q in (WHO, WHEN)]
GRADES = [("q1", "d1", 2), ("q1", "7", 1), ("q2", "d3", 0), ("q2", "d2", 1)]


def beir(folder):
    jsonl(folder / "queries.jsonl", *QUERIES, {"_id": "q3", "text": "Of another split?"})
    (folder / "qrels").mkdir()
    lines = ["query-id\tcorpus-id\tscore", *("\t".join(map(str, one)) for one in GRADES)]
    (folder / "qrels" / "test.tsv").write_text("\n".join(lines) + "\n")
    (folder / "qrels" / "dev.tsv").write_text("query-id\tcorpus-id\tscore\nq3\td1\t1\n")
    return folder


def mteb(folder):
    columns(folder / "queries" / "test-00000-of-00001.parquet", *QUERIES)
    rows = [{"query-id": q, "corpus-id": d, "score": float(s)} for q, d, s in GRADES]
    columns(folder / "default" / "test-00000-of-00001.parquet", *rows)
    columns(folder / "default" / "train-00000-of-00001.parquet", *rows[:1])
    return folder


def ms_marco(folder):
    (folder / "queries.tsv").write_text(
        f"q1\t{WHO.question}\nq2\t{WHEN.question}\nq3\tNot judged?\n"
    )
    (folder / "qrels.tsv").write_text("".join(f"{q} 0 {d} {s}\n" for q, d, s in GRADES))
    return f"{folder / 'queries.tsv'}+{folder / 'qrels.tsv'}"


def trec(folder):
    """Elements are not closed; a grade below 0 is spam."""
    topics = "".join(
        f"<top>\n<num> Number: {q.id}\n<title> {q.question}\n<desc> Description:\nLonger.\n</top>\n"
        for q in (WHO, WHEN)
    )
    (folder / "topics.txt").write_text(topics)
    lines = "".join(f"{q}\t0\t{d}\t{s}\n" for q, d, s in [*GRADES, ("q2", "d8", -2)])
    (folder / "qrels.txt").write_text(lines)
    return f"{folder / 'topics.txt'}+{folder / 'qrels.txt'}"


def xml_topics_and_json(folder):
    topics = "".join(
        f'<topic number="{q.id}">\n<query>{q.question}</query>\n</topic>\n' for q in (WHO, WHEN)
    )
    (folder / "topics.xml").write_text(f"<topics>\n{topics}</topics>")
    nested = {}
    for query, document, grade in GRADES:
        nested.setdefault(query, {})[document] = grade
    whole(folder / "qrels.json", nested)
    return f"{folder / 'topics.xml'}+{folder / 'qrels.json'}"


def ir_datasets_tsv(folder):
    """The iteration, which says nothing, stands last."""
    jsonl(folder / "queries.jsonl", *({"query_id": q["_id"], "text": q["text"]} for q in QUERIES))
    (folder / "qrels.tsv").write_text("".join(f"{q}\t{d}\t{s}\t0\n" for q, d, s in GRADES))
    return f"{folder / 'queries.jsonl'}+{folder / 'qrels.tsv'}"


def ir_datasets_lines(folder):
    jsonl(folder / "queries.jsonl", *QUERIES)
    rows = ({"query_id": q, "doc_id": d, "relevance": s, "iteration": "0"} for q, d, s in GRADES)
    jsonl(folder / "qrels.jsonl", *rows)
    return f"{folder / 'queries.jsonl'}+{folder / 'qrels.jsonl'}"


BOTH_KINDS = [dpr_train, kilt, csv_with_lists]
WITHOUT_PASSAGES = [flashrag, hotpot, parquet_of_squad, trivia]
WITHOUT_ANSWERS = [beir, mteb, ms_marco, trec, xml_topics_and_json]
WITHOUT_ANSWERS += [ir_datasets_tsv, ir_datasets_lines]
EVERY = [
    *((make, [WHO, WHEN]) for make in BOTH_KINDS),
    *((make, ANSWERED) for make in WITHOUT_PASSAGES),
    *((make, JUDGED) for make in WITHOUT_ANSWERS),
]


@pytest.mark.parametrize(
    ("make", "wanted"), EVERY, ids=lambda value: getattr(value, "__name__", "")
)
def test_every_format_gives_the_same_questions(tmp_path, make, wanted):
    found = read_questions(make(tmp_path))
    assert found.asked == wanted
    assert found.notes == ({NO_ANSWER: 1} if make in (dpr_train, kilt) else {})


def test_pairs_of_dpr(tmp_path):
    file = tmp_path / "test.qa.csv"
    file.write_text("who built it\t['Vera', \"V's\"]\nwhen\t\"['1917']\"\n")
    assert [q[:3] for q in read_questions(file).asked] == [
        ("1", "who built it", ("Vera", "V's")),
        ("2", "when", ("1917",)),
    ]


def test_another_split_of_a_set(tmp_path):
    beir(tmp_path)
    found = read_questions(tmp_path / "qrels" / "dev.tsv").asked
    assert found == [Question("q3", "Of another split?", (), ("d1",))]
    (tmp_path / "qrels" / "test.tsv").rename(tmp_path / "qrels" / "train.tsv")
    with pytest.raises(
        UserError, match=r"several splits; give the qrels of one: .*dev\.tsv, .*train"
    ):
        read_questions(tmp_path)


def test_queries_that_are_judged_and_not_there_are_counted(tmp_path):
    file = beir(tmp_path) / "qrels" / "test.tsv"
    file.write_text(file.read_text() + "gone\td1\t1\nlost\td1\t1\n")
    found = read_questions(tmp_path)
    assert found.asked == JUDGED and found.notes == {NOT_ASKED: 2}


def test_a_data_set_of_the_hub(tmp_path, monkeypatch):
    files = {
        "mteb/x/queries": columns(tmp_path / "q.parquet", *QUERIES),
        "mteb/x/default:test": columns(
            tmp_path / "d.parquet",
            *({"query-id": q, "corpus-id": d, "score": s} for q, d, s in GRADES),
        ),
        "nq:validation": columns(tmp_path / "nq.parquet", {"question": "Who?", "answer": ["V"]}),
    }
    monkeypatch.setattr(read, "dataset_files", lambda name: [files[name]])
    assert read_questions("hf:mteb/x/queries+hf:mteb/x/default:test").asked == JUDGED
    assert read_questions("hf:nq:validation").asked == [Question("1", "Who?", ("V",))]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("q.csv", "question,answers\nWho?,V,W\n", "line 2: the row has 3 cells where the header has 2"),
        ("q.csv", 'question,answers\nWho?,"V\n', "line 2: a quote that opens a cell is not closed"),
        ("q.csv", "question,answers\nWho?,[V\n", r"line 2: '\[V' begins as a list and is none"),
        ("q.tsv", "who\t['a']\nwhen\t['b'\n", r"line 2: .* begins as a list and is none"),
        ("q.tsv", "who\t['a']\nwhen\n", "line 2: found 1 cells; expected question and answers"),
        ("q.json", '[{"question": "Who?"}]', 'record 1: "answers" is missing'),
        ("q.json", '{"data": 3}\n', "expected an object"),
        ("q.txt", "who built it\n", "unknown kind of file; give a file of JSON"),
    ],
)  # fmt: skip
def test_a_file_at_fault_is_named_with_its_line(tmp_path, name, text, message):
    (tmp_path / name).write_text(text)
    with pytest.raises(UserError, match=message) as caught:
        read_questions(tmp_path / name)
    assert str(tmp_path / name) in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("queries", "judgments", "message"),
    [
        ("q1\tWho?\n", "q1 0 d1\n", "expected a query, a document and a grade"),
        ("q1\tWho?\n", "q1 0 d1 x\n", r"found \[\"q1\", \"d1\", \"x\"\]"),
        ("q1\tWho?\n", '{"q1": 3}', "query q1: expected the grades of its documents"),
        ("q1\tWho?\n", '{"q1": {"d1": null}}', "query q1: expected a query, a document and a grade"),
        ("q1\n", "q1 0 d1 1\n", "line 1: found 1 cells; expected id and query"),
        ('{"text": "Who?"}\n', "q1 0 d1 1\n", "line 1: a query needs an _id and a text"),
        ("<x>\n", "q1 0 d1 1\n", "there is no <top> or <topic>"),
        ("<top><num>1\n<top><num>2<title>x\n", "q1 0 d1 1\n", "topic at line 1: it needs a number"),
        ("q1\tWho?\n", "q1 0 d1 0\n", "no question has an answer or a gold passage"),
    ],
)  # fmt: skip
def test_queries_and_judgments_at_fault(tmp_path, queries, judgments, message):
    (tmp_path / "q").write_text(queries)
    (tmp_path / "r").write_text(judgments)
    with pytest.raises(UserError, match=message):
        read_questions(f"{tmp_path / 'q'}+{tmp_path / 'r'}")


def test_sets_and_pairs_that_are_not_whole(tmp_path):
    with pytest.raises(UserError, match="there are no queries and qrels in this folder"):
        read_questions(tmp_path)
    beir(tmp_path)
    (tmp_path / "queries.jsonl").unlink()
    with pytest.raises(UserError, match=r"the set lacks queries\.jsonl"):
        read_questions(tmp_path)
    with pytest.raises(UserError, match=r"there is no file .*nothing; give QUERIES\+QRELS"):
        read_questions(f"{tmp_path}/nothing+{tmp_path}/qrels/dev.tsv")
