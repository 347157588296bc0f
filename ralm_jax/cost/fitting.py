"""How many queries a device reads at a time: as many as its memory holds, by the formula of `residuals`."""

from typing import Any

import jax
import numpy as np

from ralm_jax import partition
from ralm_jax.cost import residuals
from ralm_jax.cost.chips import GIB
from ralm_jax.models.openqa import OpenQA
from ralm_jax.models.ralm import Ralm
from ralm_jax.training.schedule import Stage

# Of a device's memory, so that a tenth is to spare; and what the formula may fill of a TPU's, of which its
# compiler has taken a tenth more (bench/compiled.json).
FILLED, FILLED_OF_TPU = 0.9, 0.8


def filled(platform: str) -> float:
    """The share of its memory that the formula may fill of a device."""
    return FILLED_OF_TPU if platform == "tpu" else FILLED


def most(need: residuals.Need, rows: int, room: float) -> int:
    """The greatest divisor of `rows` that fits when so many are read at a time; 1 where none does."""
    if not need.grouped:
        return rows
    divisors = (n for n in range(rows, 1, -1) if rows % n == 0)
    fit = (n for n in divisors if need.memory(rows, n).total <= room)
    return next(fit, 1)


def fitted(model: Ralm | OpenQA, stage: Stage) -> tuple[Stage, str | None]:
    """A stage whose microbatch is "auto" with a number in its place, and what to say of it.

    On a CPU, and wherever devices do not say how much they hold, the task decides by itself.
    """
    if getattr(stage.task, "microbatch_size", None) != "auto":
        return stage, None
    memory = held()
    if memory is None:
        return residuals.read_at_a_time(stage, None), None
    rows = stage.schedule.batch // jax.device_count()
    need = residuals.need(model, stage)
    few = most(need, rows, filled(jax.default_backend()) * memory)
    taken = need.memory(rows, few).total / GIB
    said = (
        f"{few} of {rows} queries of a device are read at a time: {taken:.1f} GiB by formula, of "
        f"{memory / GIB:.1f}"
    )
    return residuals.read_at_a_time(stage, few), said


def held() -> float | None:
    """Bytes that the smallest device of all processes may use, or None where none says so."""
    stats: list[Any] = [device.memory_stats() or {} for device in jax.local_devices()]
    limit = min(float(one.get("bytes_limit", 0)) for one in stats)
    # All processes must compile one program.
    limit = float(partition.gather_rows(np.array([limit])).min())
    return limit or None
