"""`ralm evaluate`: a run of either kind, measured by what it is for."""

from pathlib import Path
from typing import Any

from ralm_jax.errors import UserError
from ralm_jax.evaluation import qa, retrieval
from ralm_jax.inference.open_run import OpenRun
from ralm_jax.questions.read import read_questions
from ralm_jax.runs import directory


def evaluate(
    run: str | Path,
    questions: str | Path,
    corpus: str | Path | None = None,
    *,
    stage: str | None = None,
    predictions: str | Path | None = None,
    reference: str | Path | None = None,
    each: str | Path | None = None,
    rankings: str | Path | None = None,
    bm25: bool = True,
    clozes: int = 1000,
) -> dict[str, Any]:
    """Measures a run on questions: retrieval and masked spans, or answers where it was fine-tuned.

    Args:
      questions: see `questions.read.read_questions`.
      corpus: stands in for the run's own; it must have been prepared with the run's vocabulary.
      stage: whose newest checkpoint to measure; by default the parameters that were selected.
      predictions: a file that gets a JSON line for each question answered.
      reference: a run to compare with, of the same wordpieces; by default the one that this run began from,
        where it is still there.
      each: a file that gets a JSON line for each question with a gold passage, or, if none has, with an
        answer: what every row makes of it.
      rankings: a folder that gets what every row found, as files of TREC and BEIR.
      bm25: also measures BM25 on the same questions; its index keeps every word of the corpus in memory.
      clozes: held-out sentences, at most, whose masked spans are read; 0 where the reader is of no interest.

    Returns:
      The report; see `retrieval.evaluate_retrieval` and `qa.evaluate_answers`, and `table` for its text.

    Raises:
      UserError: no run, no corpus, a corpus tokenized with a different vocabulary, a bad file of questions,
        or predictions asked of a run that does not answer questions, or rankings of one that does.
    """
    opened = OpenRun.open(run, corpus, stage=stage)
    if predictions is not None and not opened.answers:
        raise UserError(
            f"--predictions: the run {run} does not answer questions; ralm finetune makes one that does"
        )
    if rankings is not None and opened.answers:
        raise UserError(
            f"--rankings: the run {run} answers questions; give the run that it was fine-tuned from"
        )
    given = read_questions(questions)
    if opened.answers:
        file = None if predictions is None else Path(predictions)
        return qa.evaluate_answers(opened, given, predictions=file, bm25=bm25)
    start = began_from(opened, reference)
    file = None if each is None else Path(each)
    saved = None if rankings is None else Path(rankings)
    return retrieval.evaluate_retrieval(
        opened, given, start=start, bm25=bm25, each=file, saved=saved, clozes=clozes
    )


def began_from(opened: OpenRun, reference: str | Path | None) -> OpenRun | None:
    """The run to compare with, over the same corpus; None where none is given and none is known.

    Raises UserError where the one given is no run or has other wordpieces.
    """
    path = reference or directory.read_record(opened.folder).get("began_from")
    if path is None or (reference is None and not (Path(path) / directory.RUN).exists()):
        return None
    return OpenRun.open(path, opened.corpus.path)


def table(report: dict[str, Any]) -> str:
    """A report as a person reads it."""
    return qa.table(report) if "asking" in report else retrieval.table(report)
