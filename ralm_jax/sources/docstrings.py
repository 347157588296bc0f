"""Real text that every Python has: the docstrings of its standard library, and questions about them.

The summary line of a docstring is the question, and the rest of it is the passage that answers. Nothing is
fetched, and nothing is labelled by hand. The text is under the licence of Python (PSF-2.0).
"""

import contextlib
import importlib
import inspect
import io
import sys
import warnings
from collections.abc import Iterator
from typing import Any, NamedTuple

# Importing these opens a browser, prints a poem, or needs a display.
NOT_IMPORTED = {"antigravity", "this", "idlelib", "turtledemo", "tkinter", "turtle"}
# Characters of a summary that asks something, and of a body that answers.
SUMMARY, BODY = 25, 80


class Docstrings(NamedTuple):
    """Records as `ralm prepare` and `ralm evaluate` read them: {id, title, text} and {question, gold_ids}."""

    documents: list[dict[str, Any]]
    questions: list[dict[str, Any]]


def read_docstrings() -> Docstrings:
    """Of every public function, class and method of the standard library with a summary and more."""
    documents, questions, seen = [], [], set()
    for name, thing in _members():
        with contextlib.suppress(Exception):
            summary, _, body = (inspect.getdoc(thing) or "").partition("\n\n")
            summary, body = " ".join(summary.split()), body.strip()
            if len(summary) < SUMMARY or len(body) < BODY or summary in seen or body in seen:
                continue
            seen |= {summary, body}
            documents.append({"id": name, "title": name, "text": body})
            questions.append({"question": summary, "gold_ids": [name]})
    return Docstrings(documents, questions)


def _members() -> Iterator[tuple[str, Any]]:
    """The dotted name of each, and what it names."""
    for module in sorted(set(sys.stdlib_module_names) - NOT_IMPORTED):
        if module.startswith("_"):
            continue
        # Some are for other platforms, and some warn that they will go.
        with contextlib.suppress(Exception), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with contextlib.redirect_stdout(io.StringIO()):
                members = sorted(vars(importlib.import_module(module)).items())
            for name, thing in members:
                if name.startswith("_") or getattr(thing, "__module__", "") != module:
                    continue
                yield f"{module}.{name}", thing
                if inspect.isclass(thing):
                    for method, function in sorted(vars(thing).items()):
                        if not method.startswith("_") and callable(function):
                            yield f"{module}.{name}.{method}", function
