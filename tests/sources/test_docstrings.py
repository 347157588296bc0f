"""Python's own docstrings as documents and questions."""

from ralm_jax.sources.docstrings import BODY, SUMMARY, read_docstrings


def test_each_question_has_its_passage(capfd):
    found = read_docstrings()
    assert len(found.documents) == len(found.questions) > 500
    ids = [document["id"] for document in found.documents]
    assert len(set(ids)) == len(ids)
    for document, question in zip(found.documents, found.questions, strict=True):
        assert question["gold_ids"] == [document["id"]]
        assert len(question["question"]) >= SUMMARY and len(document["text"]) >= BODY
    known = dict(zip(ids, found.questions, strict=True))
    assert known["textwrap.dedent"]["question"].startswith("Remove any common leading whitespace")
    # No question twice: it would have another passage each time.
    asked = [question["question"] for question in found.questions]
    assert len(set(asked)) == len(asked)
    out, err = capfd.readouterr()
    assert out == err == ""
