"""How stages find their passages: by which searcher, in what memory, and which would be quicker.

Nothing runs. Exact search takes as long as its products at the peak of the devices, or as reading the table,
whichever is longer; on a GPU as long for each score as was measured, which is longer than either. ScaNN takes
as long for each code that it scores as was measured on one core.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

from ralm_jax.cost.chips import GIB, Chip
from ralm_jax.errors import UserError
from ralm_jax.models.openqa import OpenQA
from ralm_jax.models.ralm import Ralm
from ralm_jax.retrieval import sharded
from ralm_jax.retrieval.choose import form
from ralm_jax.retrieval.exact import RESCORED
from ralm_jax.retrieval.refresh import Frozen
from ralm_jax.retrieval.scann_build import TREE_FROM
from ralm_jax.training.schedule import Stage

# For each number of a vector: of ScaNN on one core and a query, 21.5 ms for 64 queries among 73,580 x 128
# (bench_mips/result.json); of its process, from 20,000 to 200,000 x 128 (bench/mips.json).
SCANN_SECONDS, SCANN_BYTES = 21.47e-3 / (64 * 73_580 * 128), 408e6 / (180_000 * 128)
# As much of a tree, over 13,353,718 x 128 and fitted to k = 100: 842 ms for 64 queries; 5.6 GiB while it
# serves, and 7.0 at the most while it builds (bench/deep_search.json).
TREE_SECONDS, TREE_BYTES = 0.842 / (64 * 13_353_718 * 128), 12.5 * GIB / (13_353_718 * 128)
ITEMSIZE = {"exact": 4, "rounded": 2}
# Of a search for 8 passages, for each score: on an H200, 220 ms for 512 queries among 13,353,718 x 128, or
# 357 ms where 16 are found in bfloat16 and scored again (bench/device_search.json). And its bytes a second.
GPU_SECONDS = {"exact": 0.220 / (512 * 13_353_718), "rounded": 0.357 / (512 * 13_353_718)}
GPU_BANDWIDTH = 4.8e12


class Search(NamedTuple):
    """What a stage asks for: queries of a step, passages, numbers of a vector."""

    stage: str
    index: str
    queries: int
    passages: int
    width: int
    # Cores of ScaNN, and versions that are held at a time.
    threads: int
    tables: int


def searches(
    model: Ralm | OpenQA,
    stages: Sequence[Stage],
    passages: int,
    wanted: dict[str, Chip],
    filled: float,
) -> tuple[dict[str, list[dict[str, Any] | None]], list[str]]:
    """What each stage takes (None: it does not search), by names of machines; and a line for each that does.

    filled: the share of a device's memory that may be.

    Raises:
      UserError: there is one machine, and exact search is wanted for which it has no room.
    """
    asked = [search(model, stage, passages) for stage in stages]
    found = {
        name: [on_chip(one, chip, filled) if one else None for one in asked]
        for name, chip in wanted.items()
    }
    for name, chip in wanted.items() if len(wanted) == 1 else ():
        for one, taken in zip(asked, found[name], strict=True):
            if one and taken and taken["searcher"] == "exact" and not taken["exact_fits"]:
                raise UserError(
                    f"{name} has {chip.memory / GIB:.0f} GiB a device, and exact search in stage {one.stage} "
                    f"takes {taken['device_bytes'] / GIB:.1f}: set INDEX = 'scann', or take more devices"
                )
    said = [
        _line(one, {name: each[number] for name, each in found.items()})
        for number, one in enumerate(asked)
        if one
    ]
    return found, said


def search(model: Ralm | OpenQA, stage: Stage, passages: int) -> Search | None:
    """Of a stage; None where it does not search an index."""
    task: Any = stage.task
    if not hasattr(task, "index"):
        return None
    tables = 1 if isinstance(task.refresh, Frozen) else 2
    sizes = stage.schedule.batch, passages, model.embedding
    return Search(stage.name, task.index, *sizes, task.index_threads or 1, tables)


def on_chip(asked: Search, chip: Chip, filled: float) -> dict[str, Any]:
    """What serves on that machine, its memory, seconds a step of either way, and which is faster and fits."""
    platform = "gpu" if chip.platform == "cuda" else chip.platform
    serves = form(asked.passages, asked.index, platform)  # pyrefly: ignore
    exactly = form(asked.passages, "exact", platform)
    each = sharded.device_bytes(asked.passages, asked.width, ITEMSIZE[exactly], chip.devices)
    fits = asked.tables * each <= filled * chip.memory
    seconds = {"exact": exact_seconds(asked, chip, exactly), "scann": scann_seconds(asked)}
    return {
        "searcher": "scann" if serves == "scann" else "exact",
        "device_bytes": 0 if serves == "scann" else asked.tables * each,
        "host_bytes": host_bytes(asked) if serves == "scann" else 0,
        "exact_device_bytes": asked.tables * each,
        "exact_fits": fits,
        "seconds": seconds,
        "faster": min(seconds, key=seconds.__getitem__) if fits else "scann",
    }


def exact_seconds(asked: Search, chip: Chip, exactly: str) -> float:
    """Of a step, on all devices of a machine."""
    scores = float(asked.queries) * asked.passages
    table = float(asked.passages) * asked.width * ITEMSIZE[exactly]
    needs = [2 * scores * asked.width / chip.peak, table / chip.bandwidth]
    if chip.platform == "cuda":
        needs.append(scores * GPU_SECONDS[exactly] * GPU_BANDWIDTH / chip.bandwidth)
    return max(needs) / chip.devices


def scann_seconds(asked: Search) -> float:
    """Of a step, on the cores it may use."""
    each = TREE_SECONDS if asked.passages >= TREE_FROM else SCANN_SECONDS
    return asked.queries * asked.passages * each * asked.width / asked.threads


def host_bytes(asked: Search) -> float:
    """Of ScaNN's process, while it serves a version and builds the next."""
    each = TREE_BYTES if asked.passages >= TREE_FROM else SCANN_BYTES
    return each * asked.passages * asked.width


def _line(asked: Search, found: dict[str, Any]) -> str:
    first = next(iter(found.values()))
    takes = "exact"
    if first["searcher"] == "scann":
        takes = f"ScaNN, {_gib(first['host_bytes'])} of the host, {_ms(first['seconds']['scann'])}"
    # Said once where it is so on all of them.
    faster = all(one["faster"] == "exact" for one in found.values())
    each = "; ".join(f"{name} {_exactly(one, faster)}" for name, one in found.items())
    said = "exact, of each device" + ", faster on all" * faster
    return f"search in {asked.stage}: {takes}; {said}: {each}"


def _exactly(one: dict[str, Any], said: bool) -> str:
    takes = _gib(one["exact_device_bytes"])
    if not one["exact_fits"]:
        return f"{takes}, does not fit"
    faster = ", faster" * (one["faster"] == "exact" and not said)
    return f"{takes}, {_ms(one['seconds']['exact'])}{faster}"


def _ms(seconds: float) -> str:
    ms = 1e3 * seconds
    return f"{ms:,.0f} ms a step" if ms >= 100 else f"{ms:.3g} ms a step"


def _gib(n: float) -> str:
    return f"{n / GIB:.1f} GiB" if n >= 0.1 * GIB else f"{n / (1 << 20):.1f} MiB"


ASSUMED = (
    f"exact search: accelerators find {RESCORED} k passages in bfloat16; a TPU by arithmetic, for as long as "
    "products take at the peak or reading the vectors; a GPU for as long as was measured on an H200 for 8 of "
    "13,353,718 passages, by bytes a second",
    "ScaNN, on one core unless index_threads says more: as long and as much memory for each passage as on a "
    f"busy core that was measured, over 73,580 passages or, from {TREE_FROM:,} on, over 13,353,718; without "
    "building it",
)
