"""Which rows of the passages each host holds, and their vectors on disk: cut anew where the hosts change.

    RUN/index/STAGE/step_STEP              all passages, made by one process
    RUN/index/STAGE-1-of-4/step_STEP       the second quarter of them, made by the second of four

A slice is stamped with its rows, so that nothing takes it for the whole. Checkpoints say how many processes
made them (`runs.checkpoint`), and so which slices go with them.
"""

from __future__ import annotations

import itertools
import re
import shutil
from collections.abc import Set
from pathlib import Path

from ralm_jax import json_text
from ralm_jax.errors import UserError
from ralm_jax.retrieval import index

# Vectors copied at a time.
ROWS = 1 << 16


def slices(passages: int, chunk: int, hosts: int) -> list[range]:
    """Rows of each host, in order: whole chunks where there are enough, as equal as they can be.

    A chunk is embedded at a time; whichever host has it, its vectors are the same to the bit.

    Raises UserError where there are fewer passages than hosts.
    """
    if passages < hosts:
        raise UserError(f"{passages} passages cannot be shared by {hosts} processes: take fewer")
    chunk = min(chunk, passages // hosts)
    chunks = -(-passages // chunk)
    starts = [min(passages, chunk * (chunks * host // hosts)) for host in range(hosts + 1)]
    return [range(*pair) for pair in itertools.pairwise(starts)]


def folder(root: Path, process: int, processes: int) -> Path:
    """Where one of several processes has its versions, given where one alone has them."""
    return root if processes == 1 else root.with_name(f"{root.name}-{process}-of-{processes}")


def stamp(fingerprint: str, rows: range, passages: int) -> str:
    """The fingerprint of a slice of a corpus; of all its rows, that of the corpus."""
    return fingerprint if len(rows) == passages else f"{fingerprint}[{rows.start}:{rows.stop}]"


def recut(
    root: Path, before: int, place: tuple[int, int], step: int, of: tuple[str, range, int, int]
) -> None:
    """Writes a version anew for this process, from the slices that `before` processes made of it.

    Args:
      root: of the versions of one process alone.
      place: this process, and how many there are now.
      of: fingerprint of the corpus, rows of this process, passages N, width E.

    Raises UserError where a slice is missing or damaged.
    """
    fingerprint, rows, passages, width = of
    own = folder(root, *place)
    there = sorted(
        _part(folder(root, i, before), step, fingerprint, passages) for i in range(before)
    )
    # Of a run that has since gone back to an earlier checkpoint, with other hosts.
    index.prune(own, set())
    about = stamp(fingerprint, rows, passages)
    writer = index.create(own, step, (len(rows), width), about)
    try:
        for start, stop, at in there:
            vectors = None
            for first in range(max(start, rows.start), min(stop, rows.stop), ROWS):
                if vectors is None:
                    part = stamp(fingerprint, range(start, stop), passages)
                    vectors = index.open_version(at, step, part).vectors
                last = min(first + ROWS, stop, rows.stop)
                writer.write(writer.rows, vectors[first - start : last - start])
        writer.commit()
    except BaseException:
        writer.abandon()
        raise


def prune_others(root: Path, processes: int, keep: Set[int]) -> None:
    """Removes versions that other numbers of processes made, save those that checkpoints need."""
    own = {folder(root, process, processes).name for process in range(processes)}
    for other in root.parent.iterdir():
        ours = other == root or re.fullmatch(re.escape(root.name) + r"-\d+-of-\d+", other.name)
        if ours and other.name not in own:
            index.prune(other, keep)
            if not index.versions(other):
                shutil.rmtree(other, ignore_errors=True)


def _part(at: Path, step: int, fingerprint: str, passages: int) -> tuple[int, int, Path]:
    """The rows that a folder has of a version, from one to another. Raises UserError where it has none."""
    manifest = index.folder(at, step) / index.MANIFEST
    try:
        said = str(json_text.parse(manifest.read_text("utf-8"))["fingerprint"])
    except (OSError, ValueError, KeyError, TypeError):
        raise UserError(
            f"index {manifest.parent}: {manifest.name} is missing or damaged; all hosts must see one folder "
            "of the run, with the index of its last checkpoint"
        ) from None
    cut = re.fullmatch(re.escape(fingerprint) + r"\[(\d+):(\d+)\]", said)
    start, stop = map(int, cut.groups()) if cut else (0, passages)
    return start, stop, at
