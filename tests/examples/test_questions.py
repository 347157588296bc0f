"""Questions and answers from every source, and what is said of those that are at fault."""

import gzip
import json
from types import SimpleNamespace

import numpy as np
import pytest
import tensorflow_datasets as tfds

from ralm_jax.errors import UserError
from ralm_jax.examples import question_sources
from ralm_jax.examples.question_sources import read_questions
from ralm_jax.examples.questions import ASKED_TWICE, NO_ANSWER, Question

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


def test_the_json_of_squad(tmp_path):
    asked = [
        {"id": "1", "question": "Who?", "answers": [{"text": "Vera"}, {"text": "Vera"}]},
        {"id": "2", "question": "Why?", "is_impossible": True, "answers": []},  # 2.0 has these
    ]
    file = tmp_path / "dev.json"
    file.write_text(json.dumps({"data": [{"paragraphs": [{"context": "x", "qas": asked}]}]}))
    assert read_questions(file) == ([Question("1", "Who?", ("Vera",))], {NO_ANSWER: 1})
    file.write_text(json.dumps({"question": "Who?", "answers": ["Vera"]}))
    with pytest.raises(UserError, match=r"not the JSON of SQuAD .* goes into a \.jsonl"):
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
    with pytest.raises(UserError, match=r"test\.tsv, line 1: 3 cells; expected id, kind"):
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
        ({"answers": ["x"]}, 'no "question"'),
        ({"question": "Who?", "answers": "Vera"}, '"answers" must be a list of strings'),
        ({"question": "Who?"}, '"answers" must be a list of strings'),
        ({"question": "  ", "answers": ["x"]}, "the question is empty"),
        ({"question": "Who?", "answers": ["x"], "gold_ids": "d1"}, '"gold_ids" must be a list'),
        ({"question": "Who?", "answers": ["x"], "regex": "yes"}, '"regex" must be true or false'),
        (
            {"question": "Who?", "answers": ["V(era"], "regex": True},
            "'V\\(era' is no regular expression .*; mend it",
        ),
        ({"question": "first", "answers": ["x"], "regex": True}, "answers of the other kind"),
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
        ("q.csv", b"x", "questions are read from FILE.jsonl"),
        ("q.jsonl", b"", "holds no questions with answers"),
        ("q.jsonl", b"\xff\xfe", "not UTF-8; convert it"),
        ("q.jsonl", b"{}\n{", r"line 1: no \"question\""),
        ("q.jsonl", b"{", "line 1: not JSON"),
        ("q.jsonl.gz", b"no gzip", "cannot be read"),
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
    held = {"value": "Vera", "aliases": ["Véra", "Vera"], "normalized_value": "vera"}
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
            {"question_id": "7", "answer": held},
        ),
        (longt5, {"answer": "Vera", "all_answers": ["Vera", "Véra"]}),
    ):
        name = dataset(features, [{"question": "Who?", **given}])
        ((question,), _) = read_questions(f"tfds:{name}:test")
        assert question.question == "Who?" and question.answers == ("Vera", "Véra")
        assert question.id == ("7" if "7" in given.values() else "test-0")
    name = dataset({"question": TEXT, "reply": TEXT}, [{"question": "Who?", "reply": "Vera"}])
    with pytest.raises(UserError, match=r"has no answers among .*; export it as JSONL"):
        read_questions(f"tfds:{name}")
    name = dataset({"text": TEXT}, [{"text": "Who?"}])
    with pytest.raises(UserError, match="has no question among text"):
        read_questions(f"tfds:{name}")
