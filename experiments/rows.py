"""Rows of an experiment: priced before they start, made one by one, each kept as soon as it is done.

A row rests on pretraining runs that it may share with other rows; a run is made once, by the row that
first needs it.
"""

import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from tqdm import tqdm

from experiments import pricing
from experiments.ablation import Training
from experiments.record import commit, hardware
from ralm_jax.models.ralm import Ralm


class Row(NamedTuple):
    """One result to be made."""

    name: str  # of its file
    label: str
    model: Ralm  # what all its runs train
    rests_on: Sequence[Training]  # in the order they are made
    finetune: str | None  # configuration; none: measured as pretraining left it
    make: Callable[[], dict[str, Any]]


Kept = list[dict[str, Any]]


def keep(
    rows: Sequence[Row], folder: Path, only_price: bool, write: Callable[[Kept], object]
) -> None:
    """Makes the rows that `folder` lacks; prints what is left, in steps and hours, before it starts.

    Args:
      only_price: prints that, and starts nothing.
      write: given all rows that `folder` holds, at the beginning and after each that was made.
    """
    folder.mkdir(parents=True, exist_ok=True)
    left = [row for row in rows if not (folder / f"{row.name}.json").exists()]
    print(pricing.table(left, _held(folder)), flush=True)
    if only_price:
        return
    write(_held(folder))
    # Rows run the same steps in processes of their own: what one has compiled the next one loads.
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(folder.parent.resolve() / "compiled"))
    for row in tqdm(left, "rows"):
        tqdm.write(row.label)
        report = {**row.make(), "flops": pricing.row(row), "commit": commit()}
        report["hardware"] = hardware()
        file = folder / f"{row.name}.json"
        file.with_suffix(".part").write_text(json.dumps(report, indent=1) + "\n", "utf-8")
        file.with_suffix(".part").replace(file)
        write(_held(folder))


def _held(folder: Path) -> Kept:
    return [json.loads(file.read_text("utf-8")) for file in sorted(folder.glob("*.json"))]


def result(command: str, **parts: Any) -> str:
    """JSON of a result: how it was made, and what it is."""
    made = {"command": command, "commit": commit(), "hardware": hardware(), **parts}
    return json.dumps(made, indent=1) + "\n"


def percent(values: Sequence[float]) -> str:
    """Mean, and least to greatest over the seeds where there are several."""
    mean = 100 * sum(values) / len(values)
    spread = f" ({100 * min(values):.1f} to {100 * max(values):.1f})" if len(values) > 1 else ""
    return f"{mean:.1f}{spread}"
