"""`ralm check`: whether what lies in a folder is whole, read byte by byte against its checksums."""

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from ralm_jax import json_text, versions
from ralm_jax.data import corpus
from ralm_jax.engines import vector_files
from ralm_jax.errors import UserError
from ralm_jax.retrieval import index
from ralm_jax.runs import checkpoint, directory
from ralm_jax.terminal import BYTES, bar, in_words, watched


class Part(NamedTuple):
    """One part of what is in a folder: its kind, where it lies, which version it is, its bytes, what made it,
    and what is wrong with it; "" for nothing."""

    kind: str
    path: Path
    version: str
    size: int
    made_by: str
    problem: str


def check(path: str | Path) -> list[Part]:
    """Reads every file of a corpus, with all of its versions, of a run, with its checkpoints and indexes, or
    of vectors that `ralm embed` wrote.

    Nothing is changed. What another process removes meanwhile is left out.

    Raises UserError where there is none of them.
    """
    path = Path(path)
    size = _bytes(path)
    if (path / directory.RUN).is_file():
        return list(watched(_run(path), "checking", size, BYTES, size=lambda part: part.size))
    if (path / versions.MANIFEST).is_file() or (path / versions.FOLDER).is_dir():
        with bar("checking", size, BYTES) as shown:
            return list(_corpus(path, shown.update))
    if (path / vector_files.MANIFEST).is_file():
        made_by = _words(path / vector_files.MANIFEST, ("encoder", "corpus"))
        return [Part("vectors", path, "", size, made_by, _problem(vector_files.verify, path))]
    raise UserError(f"{path} is neither a corpus nor a run; give the folder of one")


def table(path: str | Path, parts: list[Part]) -> str:
    """The parts of a folder as a person reads them."""
    rows = [(str(path), "version", "size", "", "made by")]
    for part in parts:
        inside = f"{part.kind} {os.path.relpath(part.path, path)}".removesuffix(" .")
        # What is wrong is said whole in the line that ends the check.
        state = "damaged" if part.problem else "sound"
        rows.append((inside, part.version, in_words(part.size), state, part.made_by))
    widths = [max(len(row[i]) for row in rows) for i in range(4)]
    return "\n".join(
        f"{a:<{widths[0]}}  {b:>{widths[1]}}  {c:>{widths[2]}}  {d:<{widths[3]}}  {e}".rstrip()
        for a, b, c, d, e in rows
    )


def require_sound(parts: list[Part]) -> None:
    """Raises UserError where any part is not."""
    if damaged := [part for part in parts if part.problem]:
        raise UserError(
            f"{len(damaged)} of {len(parts)} parts are damaged; the first: {damaged[0].problem}"
        )


def _corpus(path: Path, seen: Callable[[int], object]) -> Iterator[Part]:
    newest, number = versions.current(path)
    folders = {number: newest}
    for folder in sorted((path / versions.FOLDER).glob("[0-9]*")):
        folders.setdefault(int(folder.name), folder)
    for version, folder in sorted(folders.items()):
        made_by = _words(folder / versions.MANIFEST, ("passage_tokens", "fingerprint"))
        # Its older versions go while another process updates it.
        problem = _problem(corpus.verify_corpus, folder, seen)
        if version == number or folder.exists():
            yield Part("corpus", folder, str(version), _bytes(folder), made_by, problem)


def _run(path: Path) -> Iterator[Part]:
    record = directory.read_record(path)
    made_by = "config.gin" if (path / "config.gin").exists() else "an import"
    if directory.MADE_WITH in record:
        made_by += f", {directory.MADE_WITH} {record[directory.MADE_WITH]}"
    problem = _problem(directory.load_model, path)
    own = sum(file.stat().st_size for file in path.iterdir() if file.is_file())
    yield Part("run", path, str(record.get("corpus_version", 0)), own, made_by, problem)
    for stage in [*record["stages"], directory.BEST]:
        folder = directory.checkpoint_folder(path, stage)
        for where in (folder / str(step) for step in checkpoint.steps(folder)):
            problem = _problem(checkpoint.verify, where)
            if int(where.name) in checkpoint.steps(folder):
                yield Part("checkpoint", where, f"step {where.name}", _bytes(where), stage, problem)
    for root in [*sorted((path / "index").glob("*")), *sorted((path / "vectors").glob("*"))]:
        for step in index.versions(root):
            folder = index.folder(root, step)
            problem = _problem(index.verify, root, step)
            if folder.exists():
                encoder = _words(folder / index.MANIFEST, ("fingerprint",))
                yield Part("index", folder, f"step {step}", _bytes(folder), encoder, problem)


def _problem(verify: Any, *given: Any) -> str:
    try:
        verify(*given)
    except UserError as error:
        return str(error)
    except (OSError, ValueError, KeyError, TypeError) as error:
        return f"{given[0]}: {error!r}"
    return ""


def _words(manifest: Path, names: tuple[str, ...]) -> str:
    try:
        record = json_text.parse(manifest.read_text("utf-8"))
        return ", ".join(f"{name} {record[name]}" for name in names if record.get(name) is not None)
    except (OSError, ValueError, AttributeError):
        return ""


def _bytes(folder: Path) -> int:
    """Of all files below a folder that stay there."""
    size = 0
    # Unlike Path.rglob, it goes on where a folder is removed meanwhile.
    for place, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(FileNotFoundError):
                size += os.stat(os.path.join(place, name)).st_size
    return size
