"""A step whose loss or gradient is not finite, and its batch, which is kept for study."""

from pathlib import Path
from typing import Any

import jax
import numpy as np

from ralm_jax.errors import UserError

FOLDER = "nonfinite"


class NotFinite(Exception):
    """Such a step, where none may be skipped any more."""

    def with_advice(self, saved: int | None) -> UserError:
        """What a person can do, given the step of the newest checkpoint of the stage."""
        where = "its beginning" if saved is None else f"the checkpoint of step {saved}"
        return UserError(
            f"{self}: lower its learning rate, or set schedule.Schedule.skip_nonfinite, and run again; the "
            f"stage goes on from {where}"
        )


def save_batch(run: Path, name: str, batch: Any, drawn: np.ndarray) -> str:
    """Writes RUN/nonfinite/NAME.npz, once: every array of this process's part of a batch, by its path.

    Args:
      drawn: which sentences of the corpus, or which questions, the batch asks; [b], under the name `drawn`.
    Returns:
      The first of these, and where the file is.
    """
    process = f"_{jax.process_index()}" if jax.process_count() > 1 else ""
    file = run / FOLDER / f"{name}{process}.npz"
    if not file.exists():
        file.parent.mkdir(exist_ok=True)
        leaves = jax.tree_util.tree_leaves_with_path(batch)
        arrays: dict[str, Any] = {"drawn": drawn}
        arrays |= {jax.tree_util.keystr(p).strip("."): np.asarray(x) for p, x in leaves}
        np.savez(file, **arrays)
    first = ", ".join(map(str, drawn[:3].tolist())) + (", ..." if len(drawn) > 3 else "")
    return f"(queries {first}; see {file})"
