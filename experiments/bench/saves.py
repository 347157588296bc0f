"""What a checkpoint leaves behind in memory, and how much of it TensorStore does.

    python -m experiments.bench.saves --out DIR [--saves 300] [--arrays 60]

Saves a tree of small arrays over and over, and counts blocks of Python's allocator and resident bytes.
Beside it stands a TensorStore specification alone that is written as JSON, as Orbax does for each array it
saves. Writes DIR/saves.json.
"""

import argparse
import functools
import gc
import importlib.metadata
import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import tensorstore

from experiments.runner import exit_code, write
from experiments.saved import result
from ralm_jax import memory
from ralm_jax.runs.checkpoint import Checkpoints

# Saves before the first count, for caches fill; and calls of TensorStore.
WARM_UP, CALLS = 50, 10_000


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--saves", type=int, default=300)
    parser.add_argument("--arrays", type=int, default=60)
    given = parser.parse_args(argv)
    return exit_code("bench.saves", functools.partial(_run, given))


def _run(given: argparse.Namespace) -> None:
    given.out.mkdir(parents=True, exist_ok=True)
    memory.keep_freed()
    state = {str(n): jnp.full((8,), n, jnp.float32) for n in range(given.arrays)}
    folder = given.out / "checkpoints"
    shutil.rmtree(folder, ignore_errors=True)
    checkpoints = Checkpoints(folder)

    def save(step: int) -> None:
        checkpoints.save(step, {"state": {"params": state}}, wait=True)

    for step in range(WARM_UP):
        save(step)
    saved = growth(save, range(WARM_UP, WARM_UP + given.saves))
    checkpoints.close()
    spec = tensorstore.KvStore.Spec({"driver": "file", "path": str(folder) + "/"})
    written = growth(lambda _: spec.to_json(), range(CALLS))
    command = (
        f"python -m experiments.bench.saves --out DIR --saves {given.saves} --arrays {given.arrays}"
    )
    versions = {
        name: importlib.metadata.version(name) for name in ("tensorstore", "orbax-checkpoint")
    }
    report = {"a save": saved, "a specification of TensorStore as JSON": written} | versions
    write(given.out / "saves.json", result(command, **report))
    print((given.out / "saves.json").read_text())


def growth(call: Callable[[int], Any], numbers: Sequence[int]) -> dict[str, float]:
    """Blocks of Python's allocator and resident bytes that each of some calls leaves."""
    call(numbers[0])
    seen = []
    for part in np.array_split(np.array(numbers[1:]), 2):
        gc.collect()
        seen.append((sys.getallocatedblocks(), memory.private_bytes()))
        for number in part.tolist():
            call(number)
    gc.collect()
    seen.append((sys.getallocatedblocks(), memory.private_bytes()))
    (blocks, resident), count = np.diff(np.array(seen)[[0, -1]], axis=0)[0], len(numbers) - 1
    return {"blocks": round(blocks / count, 1), "resident bytes": round(resident / count)}


if __name__ == "__main__":
    sys.exit(main())
