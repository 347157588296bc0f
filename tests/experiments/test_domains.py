"""The experiment of domains: what its table says, and how domains are named."""

import json

import pytest

from experiments import domains
from ralm_jax.errors import UserError
from ralm_jax.evaluation.rankings import ROWS


def made(domain, seed, recalls, *more):
    at = {"difference": 0.042, "low": -0.01, "high": 0.09, "p": 0.1}
    return {
        "domain": domain,
        "seed": seed,
        "passages": 1200,
        "seconds": {"seed0": 600.0},
        "selection": ["50% of the way from the start was kept", *more],
        "measured": {
            name: {"recall": {"5": recall}} for name, recall in zip(ROWS, recalls, strict=True)
        },
        "differences": {"mixed - bm25": {"recall@5": at}},
    }


def test_the_table_by_hand():
    first = [0.7, 0.4, 0.6, 0.7, 0.5, 0.8]
    rows = [
        made("law", 0, first, "BM25 weighs 5"),
        made("law", 1, [*first[:-1], 0.9]),
        made("tales", 0, [0.1] * 6),
    ]
    shown = domains.table(rows)
    assert (
        "| law | 1,200 | 70.0 | 40.0 | 60.0 | 70.0 | 50.0 | 85.0 (80.0 to 90.0) | 10 |"
    ) in shown
    assert "| tales | 1,200 | 10.0 |" in shown
    # The mean of domains, not of rows: (85 + 10) / 2.
    assert "| mean of domains |  | 40.0 | 25.0 | 35.0 | 40.0 | 30.0 | 47.5 |  |" in shown
    assert "| law, seed 1 | +4.2 (-1.0 to +9.0) |" in shown
    assert "| tales, seed 0 | 50% of the way from the start was kept |" in shown
    # Every line of a table has as many cells as its head.
    for block in shown.split("\n\n"):
        assert len({line.count("|") for line in block.splitlines() if line}) == 1


def test_the_table_of_labels_by_hand():
    rows = [
        {**made("tales", 0, [0.1, 0.4, 0.6, 0.7, 0.5, 0.8]), "labels": 50},
        {**made("tales", 0, [0.1, 0.4, 0.6, 0.7, 0.45, 0.75]), "labels": 0},
        {**made("tales", 1, [0.1, 0.4, 0.6, 0.7, 0.6, 0.8], "BM25 weighs 5"), "labels": 50},
    ]
    lines = domains.labelled(rows).splitlines()
    assert lines[2].startswith("| 0 | 40.0 | 70.0 | 45.0 | 75.0 | seed 0: 50% of the way")
    assert lines[3].startswith("| 50 | 40.0 | 70.0 | 55.0 (50.0 to 60.0) | 80.0 (80.0 to 80.0) |")
    assert "seed 1: 50% of the way from the start was kept; BM25 weighs 5" in lines[3]


def test_figures_are_by_gold_passage_where_one_is_known():
    assert domains.figures({"gold_passage": {"mrr": 1.0}, "holds_answer": {"mrr": 0.5}})["mrr"] == 1
    assert domains.figures({"holds_answer": {"mrr": 0.5}})["mrr"] == 0.5


def test_domains_are_named_as_they_are_given(tmp_path):
    plain = tmp_path / "q.jsonl"
    plain.write_text("")
    found = domains.domain(f"law=tfds:a/b:train,{plain}")
    assert found == ("law", "tfds:a/b:train", plain)
    for word in ("law", f"={plain},{plain}", f"law={plain}"):
        with pytest.raises(UserError, match="write it as NAME=SOURCE,QUESTIONS"):
            domains.domain(word)
    with pytest.raises(UserError, match=r"there is no file of questions no\.jsonl"):
        domains.domain("law=text,no.jsonl")


def test_labels_are_drawn_by_seed(tmp_path):
    file = tmp_path / "train.jsonl"
    lines = [{"question": f"what is {i}", "gold_ids": [str(i)]} for i in range(30)]
    file.write_text("".join(json.dumps(line) + "\n" for line in lines), "utf-8")
    drawn = [
        domains.labels(file, 10, seed, tmp_path / "some.jsonl").read_text() for seed in (0, 1, 0)
    ]
    assert drawn[0] == drawn[2] != drawn[1]
    each = [json.loads(line) for line in drawn[0].splitlines()]
    assert len({q["question"] for q in each}) == 10
    assert all(q["question"] == f"what is {q['gold_ids'][0]}" for q in each)
    with pytest.raises(UserError, match=r"--labelled 31: .* has 30 questions"):
        domains.labels(file, 31, 0, tmp_path / "some.jsonl")
