"""Checkpoints of a run: Orbax, written in the background, sealed with checksums."""

import json
import logging
import os
import threading
import zlib
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, cast

import jax
import numpy as np
from orbax.checkpoint import v1 as ocp

from ralm_jax import json_text
from ralm_jax.errors import UserError
from ralm_jax.former_names import CHECKPOINT

_SEAL = "ralm_seal.json"
# Seconds that a save may take.
_PATIENCE = 30 * 24 * 3600
# Orbax numbers the operations of a process, and a save waits five minutes for signals under its number: where
# another thread begins to load before those are set up, they carry the wrong one and the save is lost.
_ONE_BEGINS = threading.Lock()


def newest(directory: str | Path) -> tuple[int, Any] | None:
    """Step and tree of the newest complete checkpoint in a folder; None where there is none.

    For whoever only looks at a run: nothing is written or removed, and a checkpoint that its owner
    removes in the middle of reading gives way to the one that has replaced it.

    Raises:
      UserError: the newest one is damaged.
    """
    gone: set[int] = set()
    while (step := max(set(steps(directory)) - gone, default=None)) is not None:
        where = Path(directory).absolute() / str(step)
        try:
            verify(where)
            return step, _read(where)
        except Exception:
            # Its owner removes the seal first.
            if step in steps(directory):
                raise
            gone.add(step)
    return None


def steps(directory: str | Path) -> list[int]:
    """Steps of the complete checkpoints in a folder, in ascending order."""
    seals = Path(directory).glob(f"*/{_SEAL}")
    return sorted(int(seal.parent.name) for seal in seals if seal.parent.name.isdigit())


class Checkpoints:
    """The newest `keep` checkpoints of one training state, in `directory`/STEP.

    A state is any pytree of jax and numpy arrays. Orbax writes its files and publishes them by one
    rename; then a seal is put on them, with the shape and dtype of every leaf and the CRC-32
    of every file, since Orbax returns wrong numbers for a file with a flipped bit. A checkpoint
    without its seal does not count, so a process killed while saving leaves the earlier ones.
    """

    def __init__(self, directory: str | Path, keep: int = 2):
        if keep < 2:
            raise ValueError("the last checkpoint must outlive the writing of the next: keep >= 2")
        # Orbax reports at length there; what matters reaches the user as an exception.
        logging.getLogger("absl").setLevel(logging.CRITICAL)
        self._directory, self._keep = Path(directory).absolute(), keep
        self._orbax = ocp.training.Checkpointer(
            str(self._directory),
            context=_one_replica(),
            # pyrefly: ignore[bad-argument-type]: Orbax annotates its own policies otherwise
            preservation_policy=ocp.training.preservation_policies.LatestN(keep),
            cleanup_tmp_directories=True,  # what a killed save left
        )
        self._background = ThreadPoolExecutor(max_workers=1, thread_name_prefix="checkpoint")
        self._saving: Future[int] | None = None
        found = [checkpoint.step for checkpoint in self._orbax.checkpoints]
        sealed = set(steps(self._directory))
        self._unsealed = [step for step in found if step not in sealed]
        self._latest = max(set(found) & sealed, default=None)

    def latest(self) -> int | None:
        """The step of the newest complete checkpoint, None where there is none."""
        return self._latest

    def save(self, step: int, tree: Any, wait: bool = False) -> None:
        """Saves `tree` as the state at `step`; one already saved at this step stays as it is.

        Waits for the previous save and returns once the arrays are copied, so that they may be
        donated or overwritten. The files are written in the background, or first with `wait`.

        Raises:
          ValueError: a later step is saved already.
          UserError: the files of the previous save, or with `wait` of this one, were not written.
        """
        self.wait()
        if self._latest is not None and step < self._latest:
            raise ValueError(f"step {step} is older than the checkpoint of step {self._latest}")
        if step != self._latest:
            with _ONE_BEGINS:
                while self._unsealed:
                    self._orbax.delete(self._unsealed.pop())
                self._unseal_old()
                response = self._orbax.save_async(step, tree)
            assert response is not None, f"Orbax declined to save step {step}"
            self._saving = self._background.submit(self._finish, response, step, _kinds(tree))
        if wait:
            self.wait()

    def restore(self, step: int, like: Any) -> Any:
        """The tree saved at `step`, with the structure and the shardings of `like`, a dict of parts.

        Raises:
          UserError: there is no such checkpoint, it is damaged, or it is of another kind of state.
        """
        where = self._at(step)
        saved = verify(where)
        former = {new: old for old, new in CHECKPOINT.items() if _has(saved, old)}
        there = {former.get(name, name): part for name, part in like.items()}
        _check_same_kind(saved, _kinds(there), where)
        with _ONE_BEGINS:
            tree: Any = self._orbax.load(step, cast(Any, there))
        return {name: tree[former.get(name, name)] for name in like}

    def processes(self, step: int) -> int:
        """How many processes saved the state at `step`; 1 where an earlier release did not say."""
        return int(json.loads(self._seal_of(step).read_bytes()).get("processes", 1))

    def load(self, step: int) -> Any:
        """The tree saved at `step` as nested dicts and lists of numpy arrays, whatever is in it.

        On the host, since the devices it was saved from may not be those of today.

        Raises:
          UserError: there is no such checkpoint, or it is damaged.
        """
        where = self._at(step)
        verify(where)
        return _read(where)

    def _at(self, step: int) -> Path:
        """The folder of a checkpoint. Raises UserError where there is none."""
        where = self._directory / str(step)
        if not where.is_dir():
            raise UserError(f"no checkpoint at {where}: the newest there is {self._latest}")
        return where

    def wait(self) -> None:
        """Returns when no save is under way; raises UserError if the last one was not written."""
        saving, self._saving = self._saving, None
        if saving is not None:
            self._latest = saving.result()

    def close(self) -> None:
        try:
            self.wait()
        finally:
            self._background.shutdown()
            self._orbax.close()

    def _unseal_old(self) -> None:
        """Takes the seals from the checkpoints that Orbax removes once the next one is written.

        It removes them file by file, and may be killed on the way: to a reader none of them counts by then.
        """
        if jax.process_index() == 0:
            for step in steps(self._directory)[: -(self._keep - 1)]:
                self._seal_of(step).unlink()

    def _seal_of(self, step: int) -> Path:
        return self._directory / str(step) / _SEAL

    def _finish(self, response: ocp.AsyncResponse[bool], step: int, kinds: dict[str, str]) -> int:
        """Waits for Orbax to have written its files, seals them and returns the step."""
        seal = self._seal_of(step)
        partial = seal.with_suffix(".partial")
        try:
            response.result()
            if jax.process_index() == 0:
                record = {"leaves": kinds, "files": _checksums(seal.parent)}
                record["processes"] = jax.process_count()
                with open(partial, "w", encoding="utf-8") as file:
                    json.dump(record, file, indent=1)
                    file.flush()
                    os.fsync(file.fileno())
                partial.rename(seal)
            return step
        except Exception as error:  # whatever was wrong with the tree itself, save() has raised
            partial.unlink(missing_ok=True)
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise UserError(
                f"the checkpoint of step {step} could not be written in {self._directory} "
                f"({reason:.200}): make room there and run again"
            ) from error


def _one_replica() -> ocp.Context:
    """Every array is replicated: one device gives it whole, where else each would give a slice of it.

    Orbax takes half a second to slice 170 arrays on eight devices, and training waits for that.
    """
    context = ocp.Context()
    context.array.saving.use_replica_parallel = False
    # By the clock of the wall, which may be set forward in the middle of a save.
    context.asynchronous.timeout_secs = _PATIENCE
    return context


def verify(where: Path) -> dict[str, str]:
    """Dtypes and shapes of the leaves of a checkpoint. Raises UserError unless it is as it was written."""
    if not where.is_dir():
        raise UserError(f"there is no checkpoint at {where}")
    damage = "checkpoint {} is damaged ({}): remove it to go on from an earlier one"
    try:
        seal = json_text.parse((where / _SEAL).read_bytes())
        kinds, checksums = seal["leaves"], seal["files"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(damage.format(where, f"its {_SEAL} cannot be read")) from error
    if wrong := sorted(checksums.items() ^ _checksums(where).items()):
        raise UserError(damage.format(where, f"{wrong[0][0]} is not as it was written"))
    return kinds


def _read(where: Path) -> Any:
    """The tree of a checkpoint as nested dicts and lists of numpy arrays."""
    with _ONE_BEGINS:
        saved = ocp.metadata(str(where)).metadata
        like = jax.tree.map(lambda leaf: np.broadcast_to(leaf.dtype.type(0), leaf.shape), saved)
        return ocp.load(str(where), like)


def _kinds(tree: Any) -> dict[str, str]:
    """Dtype and shape of every leaf by its path, such as {"params/scale": "float32[30]"}."""
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): f"{leaf.dtype}{list(leaf.shape)}"
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }


def _has(kinds: dict[str, str], part: str) -> bool:
    """Whether a checkpoint has a part of that name."""
    return any(name.partition("/")[0] == part for name in kinds)


def _check_same_kind(saved: dict[str, str], wanted: dict[str, str], where: Path) -> None:
    """Raises UserError naming the first leaf that differs in presence, shape or dtype."""
    for name in sorted(wanted.keys() | saved.keys()):
        there, here = saved.get(name, "absent"), wanted.get(name, "absent")
        if there != here:
            raise UserError(
                f"checkpoint {where} does not fit this configuration: {name} is {there} there and "
                f"{here} here; go on with the configuration it was made with, or start another run"
            )


def _checksums(directory: Path) -> dict[str, int]:
    """CRC-32 of every file under `directory` but the seal, by its path there."""
    files = sorted(file for file in directory.rglob("*") if file.is_file())
    return {
        str(file.relative_to(directory)): _crc32(file)
        for file in files
        if file.stem != Path(_SEAL).stem
    }


def _crc32(file: Path) -> int:
    checksum = 0
    with open(file, "rb") as opened:
        while block := opened.read(1 << 24):
            checksum = zlib.crc32(block, checksum)
    return checksum
