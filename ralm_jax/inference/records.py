"""An answer with its evidence as JSON: what `ralm ask --json` prints and predictions hold."""

from typing import Any

from ralm_jax.inference.answering import Answered, Reading


def as_record(
    opened: Reading, found: Answered, runners_up: int = 3, beam: int = 5
) -> dict[str, Any]:
    """An answer as JSON: its text, where it stands, what else was likely, and the first of the beam."""
    best = found.answers[0] if found.answers else None
    record: dict[str, Any] = {"answer": None, "probability": 0.0, "evidence": None}
    if best is not None:
        passage = opened.texts[best.row]
        record["answer"], record["probability"] = best.text, best.probability
        record["evidence"] = {
            "id": passage["id"].decode(),
            "documents": [d.decode() for d in passage["documents"]],
            "title": passage["title"].decode(),
            "text": passage["text"].decode(),
            "start": best.start,
            "stop": best.stop,
        }
    record["runners_up"] = [
        {"answer": a.text, "probability": a.probability} for a in found.answers[1 : 1 + runners_up]
    ]
    record["passages"] = [
        {"id": opened.texts[int(row)]["id"].decode(), "probability": float(p)}
        for row, p in zip(found.rows[:beam], found.probabilities[:beam], strict=True)
        if row >= 0
    ]
    return record
