"""`ralm ask`: a question from a person, its answer and the evidence on the screen."""

import io
import json
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ralm_jax.errors import UserError
from ralm_jax.inference import answering
from ralm_jax.inference.answering import Answered
from ralm_jax.inference.embedding import embed_texts
from ralm_jax.inference.open_run import OpenRun
from ralm_jax.inference.records import as_record
from ralm_jax.terminal import escaped, is_styled, printable

BOLD, PLAIN = "\033[1m", "\033[0m"
PROMPT = "Ask (an empty line ends): "


def ask(
    *,
    run: str | Path,
    question: str | None,
    corpus: str | Path | None = None,
    as_json: bool = False,
) -> None:
    """Answers one question; or those typed in until an empty line; or those piped in, one a line.

    Raises UserError as `OpenRun.open`, and for an empty question.
    """
    if question is not None and not question.strip():
        raise UserError("the question is empty; leave it out to be asked for one")
    opened = OpenRun.open(run, corpus)
    opened.check_answers()
    if question is not None:
        _answer(opened, question, as_json)
        return
    for line in _typed() if sys.stdin.isatty() else _piped():
        # The corpus may have been updated since the last question.
        opened = opened.current()
        _answer(opened, line, as_json)


def _typed() -> Iterator[str]:
    """Questions of a person; an empty line ends them."""
    while True:
        try:
            line = input(PROMPT).strip()
        except (EOFError, KeyboardInterrupt):
            return
        if not line:
            return
        yield line


def _piped() -> Iterator[str]:
    """A question a line; blank lines say nothing, and bytes that are not text do no harm."""
    if isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(errors="replace")
    yield from (line.strip() for line in sys.stdin if line.strip())


def _answer(opened: OpenRun, question: str, as_json: bool) -> None:
    found, seconds = timed_answer(opened, question)
    cut = opened.cut(question)
    if as_json:
        rounded = {part: round(took, 4) for part, took in seconds.items()}
        record = {"question": question, **as_record(opened, found), "seconds": rounded}
        record |= {"cut_to": opened.lengths.query} if cut else {}
        record["corpus_version"] = opened.corpus.version.number
        print(escaped(json.dumps(record, ensure_ascii=False)), flush=True)
        return
    if cut:
        print(
            f"The question is longer than the run reads: it was cut to {opened.lengths.query} wordpieces."
        )
    print(show(opened, found, bold=is_styled(sys.stdout)))
    parts = ", ".join(f"{part} {1000 * took:.0f}" for part, took in seconds.items())
    print(f"({1000 * sum(seconds.values()):.0f} ms: {parts})\n", flush=True)


def timed_answer(
    opened: OpenRun, question: str, *, beam: int = 100, candidates: int = 5
) -> tuple[Answered, dict[str, float]]:
    """As `OpenRun.answer`, with the seconds it took to embed the question, search, re-rank, and read."""
    began = time.perf_counter()
    asked = opened.encode([question])
    vectors = embed_texts(opened.model, opened.params, asked)
    embedded = time.perf_counter()
    ranked = opened.nearest(asked, vectors, beam)
    searched = time.perf_counter()
    seconds = {"embed": embedded - began, "search": searched - embedded}
    if opened.rerank:
        ranked = answering.reranked(opened, asked, ranked)
        seconds["re-rank"] = time.perf_counter() - searched
    begun = time.perf_counter()
    ((found,),) = answering.read(opened, asked, [ranked], candidates)
    seconds["read"] = time.perf_counter() - begun
    return found, seconds


def show(opened: OpenRun, found: Answered, *, bold: bool) -> str:
    """The answer, its passage with the span marked, the beam and the runners-up.

    Texts of the corpus have no escape sequences there; a mark stands for each character of them.
    """
    record = _steerless(as_record(opened, found))
    evidence = record["evidence"]
    if evidence is None:
        return "No answer: no passage was found."
    mark = (BOLD, PLAIN) if bold else ("[", "]")
    text, start, stop = evidence["text"], evidence["start"], evidence["stop"]
    marked = f"{text[:start]}{mark[0]}{text[start:stop]}{mark[1]}{text[stop:]}"
    lines = [f"{record['answer']}   p = {record['probability']:.2f}", ""]
    title = evidence["title"] or evidence["documents"][0]
    lines += [f"  {title}", *textwrap.wrap(marked, 96, initial_indent="  ", subsequent_indent="  ")]
    passages = ", ".join(f"{p['probability']:.2f}" for p in record["passages"])
    lines += ["", f"  p(passage | question), first of the beam: {passages}"]
    if record["runners_up"]:
        others = ", ".join(f"{r['answer']} ({r['probability']:.2f})" for r in record["runners_up"])
        lines.append(f"  or: {others}")
    return "\n".join(lines)


def _steerless(record: Any) -> Any:
    """A record whose texts are printable, each as long as it was."""
    if isinstance(record, dict):
        return {name: _steerless(each) for name, each in record.items()}
    if isinstance(record, list):
        return [_steerless(each) for each in record]
    return printable(record) if isinstance(record, str) else record
