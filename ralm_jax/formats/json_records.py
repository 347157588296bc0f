"""Values of JSON: one a line, an array of them, or the document store of LlamaIndex."""

import json
from collections.abc import Callable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any

from ralm_jax import json_text
from ralm_jax.errors import UserError
from ralm_jax.formats.lines import Records, text_lines

_STORE = "docstore/data"
# Bytes of a file that is one object over several lines.
_WHOLE = 1 << 28


def json_records(path: Path) -> Records:
    """Where each value of a file stands, and the value, which should be an object.

    Raises UserError, naming the line, for invalid JSON.
    """
    remaining = text_lines(path)
    first = next(remaining, None)
    if first is None:
        return
    where, text = first
    if text.startswith("["):
        yield from _array(path, text, remaining)
        return
    try:
        found = parsed(text, where)
    except UserError:
        found = _whole(path, text, remaining)
        if found is None:
            raise
        remaining = iter(())
    if isinstance(found, dict) and _STORE in found:
        yield from _stored(path, found[_STORE])
        return
    yield where, found
    for where, text in remaining:
        yield where, parsed(text, where)


def parsed(text: str, where: str) -> Any:
    """The value of a line. Raises UserError for invalid JSON."""
    return _loaded(
        text, where, lambda wrong: f"{where}: invalid JSON ({wrong.msg}, column {wrong.colno})"
    )


def _loaded(text: str, where: str, said: Callable[[json.JSONDecodeError], str]) -> Any:
    """`said` puts the place of a mistake into words."""
    try:
        return json_text.parse(text)
    except json.JSONDecodeError as error:
        raise UserError(said(error)) from None
    except ValueError as error:
        raise UserError(f"{where}: invalid JSON ({error})") from None


def _joined(path: Path, found: Iterator[tuple[str, str]]) -> Any:
    text = "\n".join(line for _, line in found)
    return _loaded(
        text, str(path), lambda wrong: f"{path}, line {wrong.lineno}: invalid JSON ({wrong.msg})"
    )


def _whole(path: Path, first: str, remaining: Iterator[tuple[str, str]]) -> Any:
    """The object that begins in the first line and goes on in others; None where there is none."""
    # A file of many lines, of which the first is at fault, is not worth reading whole.
    if not first.startswith("{") or path.stat().st_size > _WHOLE:
        return None
    try:
        return json_text.parse("\n".join(chain([first], (line for _, line in remaining))))
    except ValueError:
        return None


def _array(path: Path, first: str, remaining: Iterator[tuple[str, str]]) -> Records:
    values = _joined(path, chain([("", first)], remaining))
    for number, value in enumerate(values, 1):
        yield f"{path}, record {number}", value


def _stored(path: Path, nodes: Any) -> Records:
    """The nodes of a LlamaIndex document store."""
    if not isinstance(nodes, dict):
        raise UserError(f"{path}: the document store holds no nodes; save it again with LlamaIndex")
    for name, node in nodes.items():
        where = f"{path}, node {name}"
        data = node.get("__data__") if isinstance(node, dict) else None
        # A store of other kinds of nodes keeps the data itself as JSON.
        yield where, parsed(data, where) if isinstance(data, str) else data
