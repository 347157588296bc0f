"""Rankings written for other evaluations measure there what they measure here."""

import json

import ir_measures
import numpy as np
import pytest
from ir_measures import AP, RR, nDCG

from ralm_jax.errors import UserError
from ralm_jax.evaluation import run_files
from ralm_jax.inference.embedding import Ranking
from ralm_jax.metrics.ranking import judged
from ralm_jax.questions.question import Question

# A document cut into two passages, one with white space in its id, and a passage of two documents.
DOCUMENTS = [["a"], ["a"], ["b c%"], ["d", "e"], ["f"]]
QUESTIONS = [
    Question("q 1", "Who?", (), ("e", "b c%"), grades=(3, 1)),
    Question("2", "When?", (), ("f", "unknown")),
    Question("3", "Which?", ("x",)),
]
# Equal scores, as fusion by rank has them, and none at all.
FOUND = Ranking(
    np.array([[1, 3, 0, 2], [2, 4, 1, -1], [-1, -1, -1, -1]], np.int32),
    np.array([[2.0, 2.0, 2.0, -1], [0, 0, 0, -np.inf], [-np.inf] * 4], np.float32),
)


def test_they_measure_elsewhere_what_they_measure_here(tmp_path):
    folder = tmp_path / "made" / "here"
    run_files.check(QUESTIONS, folder)
    named = lambda rows: [DOCUMENTS[row] if row >= 0 else [] for row in rows]  # noqa: E731
    run_files.write_rankings(folder, QUESTIONS, named, {"mixed": FOUND})
    ranked = [["a", "d", "e", "b c%"], ["b c%", "f", "a"]]
    here = judged(ranked, [q.relevance for q in QUESTIONS[:2]])
    measures = {"ndcg@10": nDCG @ 10, "mrr@10": RR @ 10, "map": AP}
    lines = list(ir_measures.read_trec_run(str(folder / "mixed.trec")))
    assert [line.doc_id for line in lines if line.query_id == "q%201"] == [
        "a",
        "d",
        "e",
        "b%20c%25",
    ]
    files = {
        "trec": (list(ir_measures.read_trec_qrels(str(folder / "qrels.trec"))), lines),
        "json": [json.loads((folder / f"{name}.json").read_text()) for name in ("qrels", "mixed")],
    }
    for qrels, run in files.values():
        elsewhere = ir_measures.calc_aggregate(list(measures.values()), qrels, run)
        for name, measure in measures.items():
            assert elsewhere[measure] == pytest.approx(here[name].mean())
    assert list(files["json"][1]["q 1"]) == ranked[0]
    scores = [line.score for line in lines if line.query_id == "q%201"]
    assert scores == sorted(set(scores), reverse=True)


def test_questions_that_share_an_id_are_refused(tmp_path):
    with pytest.raises(UserError, match="the id '2' is that of several questions"):
        run_files.check([*QUESTIONS, QUESTIONS[1]], tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"file cannot be made \(File exists\)"):
        run_files.check(QUESTIONS, tmp_path / "file")
