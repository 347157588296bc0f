"""Table 1 is made of the rows of Table 2, with a column for each question set."""

import pytest

from experiments import table1, table2


def made(row, seed, asks="", **exact_match):
    answers = {k: {"exact_match": [v, 0, 1]} for k, v in exact_match.items()}
    return {"row": row, "seed": seed, "asks": asks, "answers": answers}


def test_each_line_is_of_the_row_and_the_retriever_it_names():
    saved = [
        made("baseline", 0, "nq", retriever=0.3, frozen=0.2, bm25=0.1),
        made("baseline", 1, "nq", retriever=0.5, frozen=0.4, bm25=0.1),
        made("realm", 0, "nq", retriever=0.6, frozen=0.55, bm25=0.15),
        made("realm", 0, "wq", retriever=0.2, frozen=0.1, bm25=0.05),
    ]
    lines = table1.table(saved).splitlines()
    assert lines[0] == "| system | nq, EM | wq, EM | NQ / WQ / CT, paper |"
    assert "| ORQA | 40.0 (30.0 to 50.0) | not run | 33.3 / 36.4 / 30.1 |" in lines
    assert "| dense retriever, frozen, + reader | 30.0 (20.0 to 40.0) | not run | – |" in lines
    assert "| BM25 + reader | 10.0 (10.0 to 10.0) | not run | 26.5 / 17.7 / 21.3 |" in lines
    assert "| REALM (X = Z) | 60.0 | 20.0 | 39.2 / 40.2 / 46.8 |" in lines
    assert "| REALM (X != Z) | not run | not run | 40.4 / 40.7 / 42.9 |" in lines


def test_its_rows_are_those_of_table2(setting):
    rows = table1.rows([setting], None)
    assert [row.name for row in rows] == ["baseline-1", "realm-1", "elsewhere-1"]
    assert [row.trainings for row in rows] == [
        table2.row(setting, name).trainings for name in table1.ROWS
    ]
    without_another_corpus = setting._replace(data=setting.data._replace(asked=None))
    assert len(table1.rows([without_another_corpus], None)) == 2


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            ["--scale", "almanac", "--questions", "nq=a,b"],
            "--questions: the scale almanac generates",
        ),
        (["--scale", "wiki9k"], "--scale wiki9k needs --corpus, --questions, --init"),
        (["--scale", "wiki9k", "--questions", "nq=a,b"], "--scale wiki9k needs --corpus, --init"),
    ],
)
def test_mistakes_are_one_line(tmp_path, capsys, words, said):
    assert table1.main(["--out", str(tmp_path), *words]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"table1: {said}") and error.count("\n") == 1
