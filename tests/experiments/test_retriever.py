import gzip
import json

import pytest

from experiments import retriever
from ralm_jax.errors import UserError
from ralm_jax.weights import seal


def test_texts_of_all_sources_become_one(tmp_path):
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "a.txt").write_text("A text of the folder.")
    with gzip.open(tmp_path / "papers.jsonl.gz", "wt") as file:
        file.write(json.dumps({"id": "1", "title": "One", "text": "A paper."}) + "\n")
    texts = dict(
        map(
            retriever.text,
            [f"notes={tmp_path / 'notes'}", f"papers={tmp_path / 'papers.jsonl.gz'}"],
        )
    )
    file = retriever.joined(texts, tmp_path / "out")
    found = [json.loads(line) for line in file.read_text().splitlines()]
    assert [(each["id"], each["text"]) for each in found] == [
        ("notes/a.txt", "A text of the folder."),
        ("papers/1", "A paper."),
    ]


@pytest.mark.parametrize("word", ["papers", "=papers", "papers="])
def test_a_text_without_name_or_source_is_refused(word):
    with pytest.raises(UserError, match="NAME=SOURCE"):
        retriever.text(word)


def test_the_table_says_which_texts_taught():
    def row(domain, ours):
        recall = {"gold_passage": {"recall": {"5": 0.5}}}
        own = {"gold_passage": {"recall": {"5": ours}}}
        gain = {"recall@5": {"difference": ours - 0.5, "low": ours - 0.6, "high": ours - 0.4}}
        rows = dict.fromkeys(retriever.ROWS, recall) | {"retriever": own}
        return {"domain": domain, "differences": {"retriever - start": gain}, **rows}

    lines = retriever.table([row("papers", 0.75), row("tales", 0.5)], ["papers"]).splitlines()
    assert "| papers | yes | 50.0 |" in lines[2] and "| +25.0 (+15.0 to +35.0) |" in lines[2]
    assert "| tales | no |" in lines[3] and "| +0.0 (-10.0 to +10.0) |" in lines[3]


def test_a_folder_is_sealed_again(tmp_path):
    (tmp_path / "below").mkdir()
    for file in (tmp_path / "card", tmp_path / "below" / "weights"):
        file.write_text("before")
    seal.write(tmp_path)
    (tmp_path / "card").write_text("after")
    with pytest.raises(UserError):
        seal.check(tmp_path)
    seal.write(tmp_path)
    seal.check(tmp_path)
