"""Every shipped configuration of an accelerator, compiled without the device: the memory of its stages.

    python -m experiments.bench.compiled [--configs runs/pretrain_h100.gin,...] [--set 'NAME = VALUE']

The compilers are those of `ralm_jax[gpu]` and `ralm_jax[tpu]`. Each stage is compiled as a run of it would
be: with the microbatch that it says, or that "auto" chooses by the formula. Beside the compiler's bytes stand
those of the formula, and what is left of the device's memory.

Writes experiments/results/bench/compiled.json after each stage, and goes on where it stopped: what it has
already is compiled again with --again alone, or where "auto" now chooses another microbatch; the formula is
traced anew. A configuration without a model of its own has the sizes of MiniLM-L6.

With --corpus the joint stage is compiled once more, as a GPU reads the texts of a prepared corpus: sorted by
length and in parts, and whole where a group does not fit them.
"""

import argparse
import datetime
import importlib.metadata
import json
import shlex
import sys
import tempfile
from pathlib import Path
from typing import Any

from experiments.record import RESULTS, commit
from ralm_jax import gin_config
from ralm_jax.cost import ahead, chips, fitting, residuals
from ralm_jax.data.corpus import Corpus, open_corpus
from ralm_jax.examples import cloze_batches
from ralm_jax.losses import microbatch
from ralm_jax.models.ralm import Ralm
from ralm_jax.training.initialize import computing
from ralm_jax.training.schedule import Stage

OUT = RESULTS / "bench" / "compiled.json"
DEVICES = {
    "runs/warm_l4.gin": "l4",
    "runs/pretrain_h100.gin": "h100",
    "runs/pretrain_v5e8.gin": "v5e-8",
}
PACKAGES = ("jax", "jaxlib", "jax-cuda12-plugin", "jax-cuda12-pjrt", "libtpu")
# What a released encoder would bring.
RELEASED = """
from __gin__ import dynamic_registration
from ralm_jax.models import ralm
from ralm_jax.training import pretrain
include "{config}"
include "models/minilm_l6.gin"
EMBEDDING = 384
ralm.Ralm.head = "unit"
pretrain.pretrain.model = @ralm.Ralm()
"""


def given(config: str, changes: list[str]) -> dict[str, Any]:
    """What a configuration gives to `pretrain`, with the sizes of MiniLM-L6 where it names no model."""
    found = gin_config.pretraining(config, changes)
    if found.get("model") is not None:
        return found
    with tempfile.TemporaryDirectory() as folder:
        whole = Path(folder) / "whole.gin"
        whole.write_text(RELEASED.format(config=config), "utf-8")
        return gin_config.pretraining(str(whole), changes)


def measured(
    model: Ralm,
    stage: Stage,
    chip: chips.Chip,
    before: dict[str, Any],
    corpus: Corpus | None = None,
) -> dict[str, Any]:
    """One stage by the compiler and by the formula, in bytes of each device.

    before: what was found before; its program is not compiled again.
    corpus: whose texts are read in parts.
    """
    rows = stage.schedule.batch // chip.devices
    need = residuals.need(model, stage)
    asked = getattr(stage.task, "microbatch_size", None)
    room = fitting.filled(chip.platform) * chip.memory
    few = fitting.most(need, rows, room) if asked == "auto" else asked or rows
    formula = need.memory(rows, few)
    how = {} if corpus is None else {"part_widths": part_widths(stage, corpus, few)}
    if before.get("read_at_a_time") == few:
        found: dict[str, Any] = {name: before[name] for name in ("date", "commit", "compiler")}
    else:
        compiled = ahead.compiled(model, residuals.read_at_a_time(stage, few), chip, rows, **how)
        today = datetime.date.today().isoformat()
        found = {"date": today, "commit": commit(), "compiler": compiled._asdict()}
    most = found["compiler"]["most"]
    return {
        "queries_of_a_device": rows,
        "read_at_a_time": few,
        **how,
        **found,
        "formula": {**formula._asdict(), "total": formula.total},
        "formula_by_compiler": round(formula.total / most, 3),
        "share_left": round(1 - most / chip.memory, 3),
    }


def part_widths(stage: Stage, corpus: Corpus, few: int) -> tuple[int, ...]:
    """Of groups of so many queries with their candidates, as on a GPU."""
    task: Any = stage.task
    needed = cloze_batches.needed(corpus, task.lengths, titles=not task.freeze_retriever)
    return microbatch.part_widths(needed, few * (task.candidates - 1), task.lengths.joint)


def versions() -> dict[str, str]:
    found = {}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def written() -> dict[str, Any]:
    return json.loads(OUT.read_text("utf-8")) if OUT.exists() else {}


def write(name: str, record: dict[str, Any]) -> None:
    """One configuration; another may be written by another process meanwhile."""
    OUT.parent.mkdir(parents=True, exist_ok=True)
    OUT.write_text(json.dumps({**written(), name: record}, indent=1) + "\n", "utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--configs", default=",".join(DEVICES))
    parser.add_argument("--set", action="append", default=[], metavar="'NAME = VALUE'")
    parser.add_argument("--again", action="store_true")
    parser.add_argument("--corpus", type=Path)
    arguments = parser.parse_args()
    corpus = arguments.corpus and open_corpus(arguments.corpus)
    for config in arguments.configs.split(","):
        chip = chips.chip(DEVICES[config])
        about = given(config, arguments.set)
        model = computing(about["model"], about["compute"], chip.platform == "cuda")
        name = " ".join([config, *(f"--set {shlex.quote(change)}" for change in arguments.set)])
        record = written().get(name, {"stages": {}})
        record |= {
            "command": shlex.join(["python", "-m", "experiments.bench.compiled", *sys.argv[1:]]),
            "versions": versions(),
            "device": DEVICES[config],
            "memory_bytes": chip.memory,
            "attention": model.reader_config.attention,
        }
        programs: list[tuple[str, Stage, Corpus | None]]
        programs = [(stage.name, stage, None) for stage in about["stages"]]
        if corpus and chip.platform == "cuda":
            *_, (last, stage, _) = programs
            programs.append((f"{last}, in parts", stage, corpus))
        for program, stage, texts in programs:
            before = {} if arguments.again else record["stages"].get(program, {})
            record["stages"][program] = found = measured(model, stage, chip, before, texts)
            write(name, record)
            left, ratio = found["share_left"], found["formula_by_compiler"]
            print(f"{name} {program}: {left:.0%} left; formula / compiler {ratio}", flush=True)


if __name__ == "__main__":
    main()
