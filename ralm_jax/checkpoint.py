"""Checkpoints of a run: Orbax, written in the background, verified when read."""

import contextlib
import gc
import logging
import sys
import time
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar

import jax
import numpy as np
from orbax.checkpoint import v1 as ocp

from ralm_jax.errors import UserError

Tree = TypeVar("Tree")

_LEAVES = "leaves"


class Checkpoints:
    """The newest `keep` checkpoints of one training state, in `directory`/STEP.

    A state is any pytree of jax and numpy arrays. A checkpoint appears by one rename, so a process
    killed while saving leaves the earlier ones as they were. Beside the arrays stand their shapes,
    dtypes and CRC-32s: Orbax itself returns wrong numbers for a file with a flipped bit.
    """

    def __init__(self, directory: str | Path, keep: int = 2):
        # Orbax reports at length there; what matters reaches the user as an exception.
        logging.getLogger("absl").setLevel(logging.CRITICAL)
        self._directory = Path(directory).absolute()
        self._orbax = ocp.training.Checkpointer(
            self._directory,
            preservation_policy=ocp.training.preservation_policies.LatestN(keep),
            cleanup_tmp_directories=True,  # what a killed save left
        )

    def latest(self) -> int | None:
        """The step of the newest complete checkpoint, None where there is none."""
        newest = self._orbax.latest
        return None if newest is None else newest.step

    def save(self, step: int, tree: Any, wait: bool = False) -> None:
        """Saves `tree` as the state at `step`; one already saved at this step stays as it is.

        Waits for the previous save and returns once the arrays are copied, so that they may be
        donated or overwritten. The files are written in the background, or first with `wait`.

        Raises:
          ValueError: a later step is saved already.
          UserError: the files of this save (with `wait`) or of the one before could not be written.
        """
        latest = self.latest()
        if latest is not None and step < latest:
            raise ValueError(f"step {step} is older than the checkpoint of step {latest}")
        self.wait()
        if step != latest:
            tree = jax.tree.map(_own, tree)
            self._orbax.save_async(step, tree, custom_metadata={_LEAVES: _describe(tree)})
        if wait:
            self.wait()

    def restore(self, step: int, like: Tree) -> Tree:
        """The tree saved at `step`, with the structure and the shardings of `like`.

        Raises:
          UserError: there is no such checkpoint, it is damaged, or it holds another kind of state.
        """
        where = self._directory / str(step)
        if not where.is_dir():
            raise UserError(f"no checkpoint at {where}: the newest here is {self.latest()}")
        damaged = UserError(
            f"checkpoint {where} is damaged: remove it to go on from an earlier one"
        )
        try:
            saved = self._orbax.metadata(step).custom_metadata[_LEAVES]
        except Exception as error:
            raise damaged from error
        _check_same_kind(saved, like, where)
        tree = self._load(step, like)
        if tree is None or _describe(tree) != saved:
            raise damaged
        return tree

    def _load(self, step: int, like: Tree) -> Tree | None:
        """What Orbax reads, None where it cannot read it."""
        try:
            return self._orbax.load(step, like)
        except Exception:
            pass
        with _hush():
            # The first failure closes Orbax's event loop on the reads still under way. Let them
            # end here, where the pages they have to say of it are not heard.
            time.sleep(0.5)
            gc.collect()
        return None

    def wait(self) -> None:
        """Returns when no save is under way; raises UserError if the last one failed to write."""
        try:
            self._orbax.wait()
        except Exception as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise UserError(
                f"a checkpoint could not be written in {self._directory} ({reason}): "
                "make room there and run again"
            ) from error

    def close(self) -> None:
        self.wait()
        self._orbax.close()


@contextlib.contextmanager
def _hush() -> Iterator[None]:
    """Drops what asyncio logs and what Python says of exceptions nobody can catch."""
    asyncio_log, hook = logging.getLogger("asyncio"), sys.unraisablehook
    asyncio_log.disabled, sys.unraisablehook = True, lambda unraisable: None
    try:
        yield
    finally:
        asyncio_log.disabled, sys.unraisablehook = False, hook


def _own(leaf: jax.Array | np.ndarray) -> jax.Array | np.ndarray:
    """A host array is copied, since its owner may write to it while it is being saved."""
    return leaf if isinstance(leaf, jax.Array) else np.array(leaf)


def _describe(tree: Any) -> dict[str, dict[str, Any]]:
    """Shape, dtype and CRC-32 of every leaf by its path, as plain JSON."""
    description = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        if isinstance(leaf, jax.Array) and leaf.is_fully_replicated:
            leaf = leaf.addressable_data(0)  # on many hosts no process holds every copy
        bits = np.ascontiguousarray(leaf).reshape(-1).view(np.uint8)
        description[_name(path)] = _kind(leaf) | {"crc32": zlib.crc32(bits)}
    return description


def _check_same_kind(saved: dict[str, dict[str, Any]], like: Any, where: Path) -> None:
    """Raises UserError naming the first leaf that differs in presence, shape or dtype."""
    leaves = jax.tree_util.tree_leaves_with_path(like)
    wanted = {_name(path): _kind(leaf) for path, leaf in leaves}
    held = {name: {"shape": leaf["shape"], "dtype": leaf["dtype"]} for name, leaf in saved.items()}
    for name in sorted(wanted.keys() | held.keys()):
        if wanted.get(name) != held.get(name):
            raise UserError(
                f"checkpoint {where} does not fit this configuration: {name} is "
                f"{_show(held.get(name))} there and {_show(wanted.get(name))} here; "
                "go on with the configuration it was made with, or start another run"
            )


def _name(path: tuple[Any, ...]) -> str:
    return jax.tree_util.keystr(path, simple=True, separator="/")


def _kind(leaf: Any) -> dict[str, Any]:
    return {"shape": list(leaf.shape), "dtype": str(leaf.dtype)}


def _show(kind: dict[str, Any] | None) -> str:
    return "absent" if kind is None else f"{kind['dtype']}{kind['shape']}"
