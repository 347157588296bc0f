"""Table 1 is made of the rows of Table 2, one column a set of questions."""

from pathlib import Path

import pytest

from experiments import table1, table2
from ralm_jax.errors import UserError


def made(row, seed, **exact_match):
    return {
        "row": row,
        "seed": seed,
        "answers": {k: {"exact_match": [v, 0, 1]} for k, v in exact_match.items()},
    }


def test_each_line_is_of_the_row_and_the_retriever_it_names():
    rows = {
        "nq": [
            made("baseline", 0, retriever=0.3, frozen=0.2, bm25=0.1),
            made("baseline", 1, retriever=0.5, frozen=0.4, bm25=0.1),
            made("realm", 0, retriever=0.6, frozen=0.55, bm25=0.15),
        ],
        "wq": [],
    }
    lines = table1.table(rows).splitlines()
    assert lines[0] == "| system | nq, EM | wq, EM | NQ / WQ / CT, paper |"
    assert "| ORQA | 40.0 (30.0 to 50.0) | not run | 33.3 / 36.4 / 30.1 |" in lines
    assert "| dense retriever, frozen, + reader | 30.0 (20.0 to 40.0) | not run | – |" in lines
    assert "| BM25 + reader | 10.0 (10.0 to 10.0) | not run | 26.5 / 17.7 / 21.3 |" in lines
    assert "| REALM (X != Z) | not run | not run | 40.4 / 40.7 / 42.9 |" in lines
    assert {system.row for system in table1.SYSTEMS} <= table2.ROWS.keys()


def test_sets_of_questions():
    assert table1.question_sets(["nq=a.jsonl,b.jsonl"]) == {
        "nq": (Path("a.jsonl"), Path("b.jsonl"))
    }
    for wrong in ("nq", "nq=a", "=a,b", "nq=,b"):
        with pytest.raises(UserError, match="not of the form NAME=TRAIN,DEV"):
            table1.question_sets([wrong])


@pytest.mark.parametrize(
    "words, said",
    [
        (["--scale", "almanac", "--questions", "nq=a,b"], "almanac asks its own"),
        (["--scale", "wiki9k"], "needs --questions NAME=TRAIN,DEV"),
        (["--scale", "wiki9k", "--questions", "nq=a,b"], "needs --corpus"),
    ],
)
def test_mistakes_are_one_line(tmp_path, capsys, monkeypatch, words, said):
    monkeypatch.setattr("sys.argv", ["table1", "--out", str(tmp_path), *words])
    assert table1.main() == 2
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1
