"""Questions and answers from every source, and what is said of those that are at fault."""

import doctest
import gzip
import json
from types import SimpleNamespace

import numpy as np
import pytest
import tensorflow_datasets as tfds

from ralm_jax.errors import UserError
from ralm_jax.questions import question as questions
from ralm_jax.questions import read as question_sources
from ralm_jax.questions.question import ASKED_TWICE, NO_ANSWER, Question
from ralm_jax.questions.read import read_questions

TEXT = tfds.features.Text()
TEXTS = tfds.features.Sequence(TEXT)


def jsonl(path, *records):
    path.write_text("".join(json.dumps(record) + "\n" for record in records), "utf-8")
    return path


def test_json_lines(tmp_path):
    records = [
        {"id": "a", "question": " Who? ", "answers": ["Vera", "V."], "gold_ids": ["d1"]},
        {"question": "When?", "answer": ["1917"]},  # as the files of ORQA have it
        {"id": 3, "question": "What colour?", "answers": ["colou?r"], "regex": True},
    ]
    wanted = [
        Question("a", "Who?", ("Vera", "V."), ("d1",)),
        Question("2", "When?", ("1917",)),
        Question("3", "What colour?", ("colou?r",), (), patterns=True),
    ]
    plain = jsonl(tmp_path / "q.jsonl", *records)
    assert read_questions(plain) == (wanted, {})
    packed = tmp_path / "q.jsonl.gz"
    packed.write_bytes(gzip.compress(plain.read_bytes()))
    assert read_questions(packed) == (wanted, {})


BOM = "\ufeff".encode()


def test_byte_order_marks_and_stray_bytes(tmp_path):
    """At the start, and where files with a mark were joined; NUL bytes; lines on which nothing is seen."""
    one, two = (
        json.dumps({"question": q, "answers": [a]}).encode()
        for q, a in (("Who?", "V"), ("Is?", "A"))
    )
    wanted = [Question("1", "Who?", ("V",)), Question("2", "Is?", ("A",))]
    for content in (
        BOM + one + b"\n" + two,
        BOM + one + b"\r\n\r\n" + BOM + two + BOM + b"\r\n" + BOM,
        one + b"\0\n\0\0\n \n" + two[:9] + b"\0" + two[9:] + b"\n\x1a",
    ):
        (tmp_path / "q.jsonl").write_bytes(content)
        assert read_questions(tmp_path / "q.jsonl") == (wanted, {})
        (tmp_path / "q.jsonl.gz").write_bytes(gzip.compress(content))
        assert read_questions(tmp_path / "q.jsonl.gz") == (wanted, {})
    squad = {"question": "Who?", "id": 7, "answers": [{"text": "V"}]}
    squad = {"data": [{"paragraphs": [{"qas": [squad]}]}]}
    (tmp_path / "dev.json").write_bytes(BOM + json.dumps(squad, indent=1).encode())
    assert read_questions(tmp_path / "dev.json").asked == [Question("7", "Who?", ("V",))]
    (tmp_path / "t.tsv").write_bytes(BOM + b"1\tfactoid\tWho?\tV\n\0\n" + BOM + b"2\tx\tIs?\tA\n")
    assert [q.id for q in read_questions(tmp_path / "t.tsv").asked] == ["1", "2"]


def test_one_answer_numbers_and_other_names_of_the_id(tmp_path):
    file = jsonl(
        tmp_path / "q.jsonl",
        {"_id": "a7", "question": "Who?", "answers": "Vera", "gold_ids": "d1"},
        {"_id": 8, "question": "When?", "answers": 1917, "gold_ids": 12},
        {"id": None, "_id": None, "question": "Which?", "answer": "A", "gold_ids": [3, "d4"]},
        {"id": 0, "_id": 9, "question": "Where?", "answers": [1, "two"], "gold_ids": None},
        {"question": "Whose?", "answers": None, "answer": "Igor's"},
        {"question": "What?", "gold_ids": ["d5"]},
        {"question": "What colour?", "answers": "colou?r", "regex": True},
    )
    assert read_questions(file) == (
        [
            Question("a7", "Who?", ("Vera",), ("d1",)),
            Question("8", "When?", ("1917",), ("12",)),
            Question("3", "Which?", ("A",), ("3", "d4")),
            Question("0", "Where?", ("1", "two")),
            Question("5", "Whose?", ("Igor's",)),
            Question("6", "What?", (), ("d5",)),
            Question("7", "What colour?", ("colou?r",), patterns=True),
        ],
        {},
    )


def test_blank_answers_are_none(tmp_path):
    file = jsonl(
        tmp_path / "q.jsonl",
        {"question": "Who?", "answers": ["", "Vera", " \u200b\xad", "\0"], "gold_ids": ["d0"]},
        {"question": "Who painted it?", "answers": [""]},
        {"question": "Who mended it?", "answers": ["", "  ", "\u2060\ufeff"]},
        {"question": "Who sold it?", "answers": "\u200b", "regex": True},
        {"question": "Who saw it?", "answers": [" "], "gold_ids": ["d1"]},
    )
    asked, notes = read_questions(file)
    assert [q.answers for q in asked] == [("Vera",), ()] and notes == {NO_ANSWER: 3}


def test_questions_are_hashed_as_before():
    """A fine-tuning that is resumed compares a digest of their form as text."""
    assert repr([Question("1", "Who?", ("Vera",)), Question("2", "Is?", (), ("d",), True)]) == (
        "[Question(id='1', question='Who?', answers=('Vera',), gold_ids=(), patterns=False), "
        "Question(id='2', question='Is?', answers=(), gold_ids=('d',), patterns=True)]"
    )
    assert repr(Question("3", "Is?", (), ("d",), grades=(2,))).endswith(
        "patterns=False, grades=(2,))"
    )


def test_grades(tmp_path):
    """Of one asked twice a document keeps its best; none of a grade below 1 answers it."""
    file = jsonl(
        tmp_path / "q.jsonl",
        {"question": "Who?", "gold_ids": {"d1": 1, "d2": 3, "d3": 0}},
        {"question": "Who?", "gold_ids": ["d1", "d2", "d4"]},
        {"question": "When?", "gold_ids": {"d1": 0}},
        {"question": "Is?", "gold_ids": {"d1": 1}},
    )
    (who, is_), notes = read_questions(file)
    assert who.relevance == {"d1": 1, "d2": 3, "d4": 1} and notes == {NO_ANSWER: 1, ASKED_TWICE: 1}
    assert is_ == Question("4", "Is?", (), ("d1",))


def test_questions_that_are_cut_are_counted(tiny):
    tokenizer = tiny.corpus.tokenizer()
    asked = ["a b c", "a b c d", "a b c d e f g"]
    assert questions.cut_notes(tokenizer, asked, 6) == {"cut to 4 wordpieces": 1}
    assert questions.cut_notes(tokenizer, asked, 5) == {"cut to 3 wordpieces": 2}
    assert questions.cut_notes(tokenizer, asked, 9) == questions.cut_notes(tokenizer, [], 3) == {}
    assert doctest.testmod(questions).failed == 0


def test_a_question_asked_twice_once_without_answers(tmp_path):
    file = jsonl(
        tmp_path / "q.jsonl",
        {"question": "Who?", "gold_ids": ["d1"]},
        {"question": "Who?", "answers": "V.*", "regex": True},
        {"question": "Who?", "gold_ids": ["d2"]},
    )
    asked, notes = read_questions(file)
    assert asked == [Question("1", "Who?", ("V.*",), ("d1", "d2"), True)]
    assert notes == {ASKED_TWICE: 2}


def test_the_json_of_squad(tmp_path):
    asked = [
        {"id": "1", "question": "Who?", "answers": [{"text": "Vera"}, {"text": "Vera"}]},
        {"id": "2", "question": "Why?", "is_impossible": True, "answers": []},  # 2.0 has these
    ]
    file = tmp_path / "dev.json"
    file.write_text(json.dumps({"data": [{"paragraphs": [{"context": "x", "qas": asked}]}]}))
    assert read_questions(file) == ([Question("1", "Who?", ("Vera",))], {NO_ANSWER: 1})
    file.write_text(json.dumps({"question": "Who?", "answers": ["Vera"]}))
    assert [q.question for q in read_questions(file).asked] == ["Who?"]
    file.write_text(json.dumps({"data": [{"paragraphs": [{"questions": []}]}]}, indent=1))
    with pytest.raises(UserError, match=r"not in the JSON format of SQuAD \(KeyError: 'qas'\)"):
        read_questions(file)


def test_the_patterns_of_curated_trec(tmp_path):
    file = tmp_path / "test.tsv"
    file.write_text("1669\tfactoid\tHow tall is it?\t20,?\\s?320\\s*f(ee|oo)t\n", "utf-8")
    ((question,), notes) = read_questions(file)
    assert (question.id, question.question, notes) == ("1669", "How tall is it?", {})
    # From its start, in either case, as the official evaluation matches (realm: re.match).
    for text, right in (
        ("20320 Feet high", True),
        ("about 20320 feet", False),
        ("20321 feet", False),
    ):
        assert question.answered_by(text) is right and question.f1(text) == float(right)
    assert question.answer_in("It is about 20,320 feet high.")
    file.write_text("1669\tfactoid\tHow tall is it?\n", "utf-8")
    with pytest.raises(UserError, match=r"test\.tsv, line 1: found 3 cells; expected id, kind"):
        read_questions(file)


def test_a_question_asked_twice_is_asked_once_with_the_answers_of_both(tmp_path):
    file = jsonl(
        tmp_path / "q.jsonl",
        {"id": "a", "question": "Who?", "answers": ["Vera"], "gold_ids": ["d1"]},
        {"id": "b", "question": "When?", "answers": ["1917"]},
        {"id": "c", "question": "Who? ", "answers": ["Igor", "Vera"], "gold_ids": ["d2"]},
    )
    asked, notes = read_questions(file)
    assert asked[0] == Question("a", "Who?", ("Vera", "Igor"), ("d1", "d2"))
    assert [q.id for q in asked] == ["a", "b"] and notes == {ASKED_TWICE: 1}


def test_a_question_without_answers_needs_a_gold_passage(tmp_path):
    gold = {"question": "Who?", "answers": [], "gold_ids": ["d1"]}
    file = jsonl(tmp_path / "q.jsonl", gold, {"question": "When?", "answers": []})
    asked, notes = read_questions(file)
    assert [q.question for q in asked] == ["Who?"] and notes == {NO_ANSWER: 1}


@pytest.mark.parametrize(
    "record, said",
    [
        ({"answers": ["x"]}, 'expected an object with "question"'),
        (["Who?"], 'expected an object with "question"'),
        ({"question": "Who?", "answers": {"text": "Vera"}}, '"answers" must be a string or a list'),
        ({"question": "Who?", "answers": [True]}, '"answers" must be a string or a list'),
        ({"question": "Who?", "answers": ["x", None]}, '"answers" must be a string or a list'),
        ({"question": "Who?"}, '"answers" is missing'),
        ({"question": "Who \ud83d?", "answers": ["x"]}, "half of a surrogate pair"),
        ({"question": "Who?", "answers": ["\udc00"]}, "half of a surrogate pair"),
        ({"question": "\u200b", "answers": ["x"]}, "the question is empty"),
        ({"question": "  ", "answers": ["x"]}, "the question is empty"),
        ({"question": "Who?", "answers": ["x"], "gold_ids": {}}, '"gold_ids" must be the id of a'),
        (
            {"question": "Who?", "answers": ["x"], "gold_ids": [1.5]},
            '"gold_ids" must be the id of a',
        ),
        (
            {"question": "Who?", "answers": ["x"], "gold_ids": {"d1": 0.5}},
            'the grades in "gold_ids" must be whole numbers',
        ),
        ({"question": "Who?", "answers": ["x"], "regex": "yes"}, '"regex" must be true or false'),
        (
            {"question": "Who?", "answers": ["V(era"], "regex": True},
            "'V\\(era' is not a valid regular expression",
        ),
        (
            {"question": "first", "answers": ["x"], "regex": True},
            "asked before; give all its answers",
        ),
    ],
)
def test_mistakes_name_their_line(tmp_path, record, said):
    file = jsonl(tmp_path / "q.jsonl", {"question": "first", "answers": ["y"]}, record)
    with pytest.raises(UserError, match=rf"q\.jsonl, line 2: .*{said}"):
        read_questions(file)


def test_files_that_are_none(tmp_path):
    with pytest.raises(UserError, match="there is no file of questions at"):
        read_questions(tmp_path / "no.jsonl")
    for name, content, said in (
        ("q.csv", b"x", "unknown kind of file; give a file of JSON"),
        ("q.jsonl", b"", "no question has an answer or a gold passage"),
        ("q.jsonl", b"\xff\xfe", r"line 1: not encoded in UTF-8 \(byte 1\)"),
        ("q.jsonl", b"{}\n{", r"line 1: expected an object"),
        ("q.jsonl", b"{", "line 1: invalid JSON"),
        ("q.jsonl.gz", b"no gzip", "unknown kind of file"),
        (
            "q.jsonl.gz",
            gzip.compress(b"{}")[:10] + b"\xff" * 20,
            "after line 0: damaged compressed file",
        ),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UserError, match=said):
            read_questions(tmp_path / name)


def test_natural_questions_as_it_is_nested_is_refused_with_what_to_take_instead(monkeypatch):
    given = "natural_questions", "train", SimpleNamespace(features={"annotations": None})
    monkeypatch.setattr(question_sources, "open_split", lambda name: given)
    with pytest.raises(UserError, match=r"give tfds:natural_questions_open, or"):
        read_questions("tfds:natural_questions")


def test_the_datasets_of_tfds(dataset):
    squad = tfds.features.Sequence({"text": TEXT, "answer_start": np.int32})
    trivia = {"value": TEXT, "aliases": TEXTS, "normalized_value": TEXT}
    longt5 = {"question": TEXT, "answer": TEXT, "all_answers": TEXTS}
    said = {"text": ["Vera", "Véra"], "answer_start": [0, 0]}
    answer = {"value": "Vera", "aliases": ["Véra", "Vera"], "normalized_value": "vera"}
    for features, given in (
        (
            {"question": np.str_, "answer": tfds.features.Sequence(np.str_)},
            {"answer": ["Vera", "Véra"]},
        ),
        (
            {"url": TEXT, "question": TEXT, "answers": TEXTS},
            {"url": "u", "answers": ["Vera", "Véra"]},
        ),
        ({"id": np.str_, "question": TEXT, "answers": squad}, {"id": "7", "answers": said}),
        (
            {"question_id": TEXT, "question": TEXT, "answer": trivia},
            {"question_id": "7", "answer": answer},
        ),
        (longt5, {"answer": "Vera", "all_answers": ["Vera", "Véra"]}),
    ):
        name = dataset(features, [{"question": "Who?", **given}])
        ((question,), _) = read_questions(f"tfds:{name}:test")
        assert question.question == "Who?" and question.answers == ("Vera", "Véra")
        assert question.id == ("7" if "7" in given.values() else "test-0")
    name = dataset({"question": TEXT, "reply": TEXT}, [{"question": "Who?", "reply": "Vera"}])
    with pytest.raises(UserError, match=r"has no field of answers, only .*; export it as JSONL"):
        read_questions(f"tfds:{name}")
    name = dataset({"text": TEXT}, [{"text": "Who?"}])
    with pytest.raises(UserError, match="has no field question, only text"):
        read_questions(f"tfds:{name}")
