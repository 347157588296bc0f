"""`ralm estimate`: parameters, operations, memory, disk, hours and money of a run, before it starts."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from ralm_jax.cost import ahead, fitting, operations, residuals, searching, shapes
from ralm_jax.cost.chips import CHIPS, GIB, Chip, chip
from ralm_jax.cost.fitting import FILLED
from ralm_jax.cost.probe import probe, resident
from ralm_jax.data.corpus import Corpus
from ralm_jax.errors import UserError
from ralm_jax.losses import microbatch
from ralm_jax.models import initial
from ralm_jax.models.config import Compute
from ralm_jax.models.ralm import Ralm
from ralm_jax.terminal import watched
from ralm_jax.training.initialize import computing, has_cudnn
from ralm_jax.training.schedule import Stage

# Checkpoints that a run keeps of a stage, while a third is written.
CHECKPOINTS = 3


def estimate(
    model: Ralm,
    stages: Sequence[Stage],
    passages: int,
    *,
    compute: Compute | None = None,
    on: str | None = None,
    dollars: float | None = None,
    here: bool = False,
    corpus: Corpus | None = None,
) -> dict[str, Any]:
    """What a run will take.

    Args:
      passages: of the corpus.
      compute: how a device computes the model.
      on: a device of `chips`, whose own compiler then says what memory each stage takes.
      dollars: an hour of it.
      here: times small steps on this machine, of texts as long as those of `corpus` if there is one.

    Raises:
      UserError: a device that is not known or has no compiler here; a stage that no microbatch makes fit.
    """
    params = initial.shapes(model)
    counts = {part: sum(x.size for x in jax.tree.leaves(tree)) for part, tree in params.items()}
    wanted = _priced({on: chip(on)} if on else CHIPS, dollars)
    costs = [_cost(model, stage, passages) for stage in stages]
    report: dict[str, Any] = {
        "passages": passages,
        "parameters": counts,
        "disk_bytes": _disk(model, stages, passages),
        "stages": [_stage(s, cost) for s, cost in zip(stages, costs, strict=True)],
        "devices": {},
    }
    if here:
        _time(_here(model, compute), stages, report, corpus)
    total = sum(cost.total for cost in costs)
    found, report["searches"] = searching.searches(model, stages, passages, wanted, FILLED)
    needs: dict[Ralm, list[residuals.Need]] = {}
    for name, each in wanted.items():
        hours = [total / (each.devices * each.peak * share) / 3600 for share in each.reached[::-1]]
        ours = _on(each.platform, model, compute)
        needs[ours] = needs.get(ours) or [residuals.need(ours, stage) for stage in stages]
        fitted = [_fitted(*x, each) for x in zip(needs[ours], stages, found[name], strict=True)]
        if on:
            fitted = _all_compiled(ours, stages, fitted, each)
        report["devices"][name] = {
            "devices": each.devices,
            "memory_bytes": each.memory,
            "hours": hours,
            "dollars": [each.dollars * h for h in hours],
            "stages": fitted,
        }
    if on and (bad := [f["name"] for f in report["devices"][on]["stages"] if not f["fits"]]):
        raise UserError(
            f"{on} has {wanted[on].memory / GIB:.0f} GiB, and stage {bad[0]} does not fit at any microbatch: "
            "shorten its texts, lower its batch, or take a device with more memory"
        )
    report["assumptions"] = assumptions(next(iter(needs)), wanted)
    return report


def _priced(chips: dict[str, Chip], dollars: float | None) -> dict[str, Chip]:
    """Devices at the price given, where one is."""
    if dollars is None:
        return chips
    if not 0 <= dollars < math.inf:
        raise UserError(f"--price {dollars}: give dollars an hour, 0 or more")
    return {name: each._replace(dollars=dollars) for name, each in chips.items()}


def _all_compiled(model: Ralm, stages: Sequence[Stage], fitted: list[dict], each: Chip) -> list:
    """`_compiled` of each stage, which takes minutes for large ones."""
    pairs = watched(zip(stages, fitted, strict=True), "compiling", len(stages), " stages")
    return [_compiled(model, *pair, each) for pair in pairs]


def _time(
    model: Ralm, stages: Sequence[Stage], report: dict[str, Any], corpus: Corpus | None
) -> None:
    """Adds what a step of each stage takes on this machine."""
    pairs = zip(stages, report["stages"], strict=True)
    for stage, said in watched(pairs, "timing steps", len(stages), " stages"):
        # Before small steps leave something behind.
        if (taken := resident(model, stage)) is not None:
            said["memory_bytes_here"] = taken
        said["seconds_a_step_here"] = probe(model, stage, corpus).of(stage.schedule.batch)


def _here(model: Ralm, compute: Compute | None) -> Ralm:
    """The model as the devices of this machine compute it."""
    return model if compute is None else computing(model, compute, has_cudnn(compute))


def _on(platform: str, model: Ralm, compute: Compute | None) -> Ralm:
    """The model as devices of a platform compute it; cuDNN's attention is of one of them."""
    if compute is None:
        return model
    cuda = platform == "cuda"
    how = compute if cuda else dataclasses.replace(compute, attention="xla")
    return computing(model, how, cuda)


def assumptions(model: Ralm, wanted: dict[str, Chip]) -> list[str]:
    """A line each."""
    kind = jnp.dtype(model.reader_config.dtype).name
    low = min(each.reached[0] for each in wanted.values())
    high = max(each.reached[1] for each in wanted.values())
    lines = [
        f"a device reaches {low:.0%} to {high:.0%} of its peak in bfloat16; none of this was measured",
        "texts fill their lengths: where they are shorter it is less",
        "a backward pass is two forward ones; searches on the host, and waiting for them, are not counted",
        *searching.ASSUMED,
    ]
    kin = {model.retriever_config.family, model.reader_config.family} & {"modernbert", "nomic_bert"}
    if kin:
        lines.append(
            f"the memory that a layer of {' and '.join(sorted(kin))} needs is taken to be that of a BERT "
            "of the same size"
        )
    if kind != "bfloat16":
        lines.append(
            f"this configuration computes in {kind}, which is slower: set DTYPE to bfloat16"
        )
    return lines


def _cost(model: Ralm, stage: Stage, passages: int) -> operations.Cost:
    batch, steps = stage.schedule.batch, stage.schedule.steps
    return operations.stage(model, stage.task, passages=passages, batch=batch, steps=steps)  # pyrefly: ignore


def _stage(stage: Stage, cost: operations.Cost) -> dict[str, Any]:
    parts = {"train": cost.step * cost.steps, "refresh": cost.index * cost.refreshes}
    parts |= {"read_once": cost.once} if cost.once else {}
    sizes = {"steps": cost.steps, "batch": stage.schedule.batch}
    return {"name": stage.name, **sizes, "operations": parts}


def _disk(model: Ralm, stages: Sequence[Stage], passages: int) -> dict[str, float]:
    state = max(residuals.size(shapes.state(model, stage)) for stage in stages)
    return {"checkpoints": CHECKPOINTS * state, "index": 2.0 * 4 * passages * model.embedding}


def _fitted(
    need: residuals.Need, stage: Stage, search: dict[str, Any] | None, each: Chip
) -> dict[str, Any]:
    """The most queries at a time that fit by the formula beside what is searched, and what they take."""
    room = fitting.filled(each.platform) * each.memory - (search["device_bytes"] if search else 0)
    rows = -(-stage.schedule.batch // each.devices)
    few = fitting.most(need, rows, room)
    found = need.memory(rows, few)
    taken = {"rows": rows, "microbatch": few, "fits": found.total <= room}
    taken |= {"total_bytes": found.total, "memory_bytes": found._asdict()}
    return {"name": stage.name, **taken, "search": search}


def _compiled(model: Ralm, stage: Stage, fitted: dict[str, Any], each: Chip) -> dict[str, Any]:
    """The same by the compiler of the device; at most half as many at a time until they fit."""
    few, rows = fitted["microbatch"], fitted["rows"]
    while True:
        narrowed = residuals.read_at_a_time(stage, few)
        found = ahead.compiled(model, narrowed, each, rows)
        table = fitted["search"]["device_bytes"] if fitted["search"] else 0
        fits = found.most + table <= FILLED * each.memory
        if fits or not _narrower(stage, rows, few):
            said = {"microbatch": few, "fits": fits, "compiled_bytes": found.most}
            return {**fitted, **said, "compile_seconds": found.seconds}
        few = _narrower(stage, rows, few)


def _narrower(stage: Stage, rows: int, few: int) -> int:
    """The next number of queries to try, or 0."""
    grouped = hasattr(stage.task, "microbatch_size") and few > 1
    return microbatch.divisor(rows, few // 2) if grouped else 0


def table(report: dict[str, Any]) -> str:
    """For a person."""
    counts = ", ".join(f"{part} {count / 1e6:.1f}M" for part, count in report["parameters"].items())
    disk = ", ".join(f"{name} {_bytes(n)}" for name, n in report["disk_bytes"].items())
    lines = [f"parameters: {counts}; {report['passages']:,} passages; disk: {disk}", ""]
    head = f"{'stage':<12}{'steps':>9}{'batch':>7}{'operations':>12}{'refresh':>10}"
    lines.append(f"{head}{'s a step here':>15}{'measured':>10}{'memory here':>13}")
    for stage in report["stages"]:
        parts = stage["operations"]
        here, was = (stage.get(f"seconds_a_step_{name}") for name in ("here", "measured"))
        most = stage.get("memory_bytes_here")
        refresh = parts["refresh"] / max(sum(parts.values()), 1)
        lines.append(
            f"{stage['name']:<12}{stage['steps']:>9,}{stage['batch']:>7,}{sum(parts.values()):>12.2e}"
            f"{refresh:>10.0%}{'' if here is None else f'{here:.2f}':>15}"
            f"{'' if was is None else f'{was:.2f}':>10}{'' if most is None else _bytes(most):>13}"
        )
    lines += [
        "",
        f"{'device':<9}{'time':>20}{'dollars':>20}   memory of each stage, queries read at a time",
    ]
    for name, each in report["devices"].items():
        time, dollars = _duration(each["hours"]), _range(each["dollars"])
        fits = "; ".join(_memory_of(stage) for stage in each["stages"])
        whole = _bytes(each["memory_bytes"])
        lines.append(f"{name:<9}{time:>20}{dollars:>20}   {fits}; of {whole}")
    lines += ["", *report["searches"]]
    return "\n".join([*lines, "", *(f"- {line}" for line in report["assumptions"])])


def _duration(hours: Sequence[float]) -> str:
    """In the unit that a person would use."""
    units = (("s", 3600), ("min", 60), ("h", 1))
    unit, an_hour = next((u, n) for u, n in units if n == 1 or max(hours) * n < 90)
    return f"{_range([h * an_hour for h in hours])} {unit}"


def _range(values: Sequence[float]) -> str:
    if max(values) < 0.01:
        return "under 0.01"
    return " to ".join(f"{value:,.0f}" if value >= 10 else f"{value:.2g}" for value in values)


def _memory_of(stage: dict[str, Any]) -> str:
    if not stage["fits"]:
        return f"{stage['name']} does not fit"
    most = stage.get("compiled_bytes", stage["total_bytes"])
    how = "compiled" if "compiled_bytes" in stage else "by formula"
    return f"{stage['name']} {_bytes(most)} {how} ({stage['microbatch']})"


def _bytes(n: float) -> str:
    return f"{n / GIB:.1f} GiB" if n >= 0.1 * GIB else f"{n / (1 << 20):.1f} MiB"
