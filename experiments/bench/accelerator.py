"""The stages of a configuration on an accelerator: seconds, operations a second and memory.

    python -m experiments.bench.accelerator [--config runs/pretrain_h100.gin] [--set 'NAME = VALUE; ...']
        [--corpus CORPUS]

Each stage is trained for a few steps, in a process of its own, on texts that are drawn at random and fill
their lengths. Its operations a second, counted as `ralm estimate` counts them, stand beside those of a
product of the shapes of its feed-forward layers; the most memory that it had, beside the formula and the
compiler. --config and --set may be given several times: each configuration is measured with no change and
with each change alone, beside those of --always. With --corpus texts are as long as those of a prepared
corpus, and are read whole and then no wider than they are; operations are not counted. Runs on a CPU too.

Writes experiments/results/bench/accelerator.json after each stage; a row that is measured anew replaces its
former one.
"""

import argparse
import functools
import json
import multiprocessing
import os
import shlex
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from experiments.bench import compiled
from experiments.record import RESULTS, commit, hardware
from ralm_jax.models.ralm import Ralm
from ralm_jax.training.schedule import Stage

OUT = RESULTS / "bench" / "accelerator.json"
# Seconds that a product is timed for.
PRODUCT = 0.5


def stages(config: str, changes: list[str]) -> list[str]:
    return [stage.name for stage in compiled.given(config, changes)["stages"]]


class Asked(NamedTuple):
    """A stage of a configuration with changes; whether texts of a corpus are read no wider than they are."""

    config: str
    changes: list[str]
    stage: str
    corpus: Path | None = None
    no_wider: bool = False


def measured(asked: Asked, steps: int) -> dict[str, Any]:
    """One stage, in this process, which measures no other."""
    import jax

    from ralm_jax.cost import fitting, residuals
    from ralm_jax.training.initialize import computing, has_cudnn

    about = compiled.given(asked.config, asked.changes)
    model, compute = about["model"], about.get("compute")
    if compute is not None:
        model = computing(model, compute, has_cudnn(compute))
    (stage,) = (one for one in about["stages"] if one.name == asked.stage)
    stage, _ = fitting.fitted(model, stage)
    rows = stage.schedule.batch // jax.device_count()
    few = getattr(stage.task, "microbatch_size", None) or rows
    found = timed(model, stage, rows, steps, asked)
    second = float(np.median(found["seconds"]))
    made = {
        "batch": stage.schedule.batch,
        "read_at_a_time": few,
        "attention": model.reader_config.attention,
        "dtype": str(np.dtype(model.reader_config.dtype)),
        "queries_a_second": round(stage.schedule.batch / second, 1),
        "formula_bytes": residuals.need(model, stage).memory(rows, few).total,
        **found,
    }
    if asked.corpus is None:
        done = operations(model, stage)
        product = best_product(model, few * getattr(stage.task, "candidates", 1))
        made |= {
            "operations": done,
            "operations_a_second": done / second,
            "best_product": product,
            "share_of_best_product": round(done / second / product, 3),
        }
    return made


def operations(model: Ralm, stage: Stage) -> float:
    """Of a step alone, without the search before it."""
    from ralm_jax.cost import operations as counted

    task: Any = stage.task
    done = counted.stage(model, task, passages=0, batch=stage.schedule.batch, steps=1).step
    if hasattr(task, "candidates"):
        done -= counted.embed(model, stage.schedule.batch, task.lengths.query)
    return done


def best_product(model: Ralm, texts: int) -> float:
    """Operations a second of [t,D] x [D,4D], in the model's precision, and the same of all devices."""
    import jax
    import jax.numpy as jnp

    config = model.reader_config
    t, d = min(texts * 256, 1 << 18), config.hidden
    keys = jax.random.split(jax.random.key(0))
    x = jax.random.normal(keys[0], (t, d), config.dtype)
    w = jax.random.normal(keys[1], (d, config.intermediate), config.dtype)

    def several(x, w):
        # One after another, so that starting them costs nothing.
        def one(x, _):
            return ((x @ w) @ w.T).astype(x.dtype) * jnp.asarray(1e-3, x.dtype), None

        return jax.lax.scan(one, x, length=8)[0]

    run = jax.jit(several)
    run(x, w).block_until_ready()
    seconds, begun = [], time.perf_counter()
    while time.perf_counter() - begun < PRODUCT or len(seconds) < 3:
        start = time.perf_counter()
        run(x, w).block_until_ready()
        seconds.append(time.perf_counter() - start)
    rate = 16 * 2.0 * t * d * config.intermediate / float(np.median(seconds))
    return rate * (1 if jax.default_backend() == "cpu" else jax.device_count())


def timed(model: Ralm, stage: Stage, rows: int, steps: int, asked: Asked) -> dict[str, Any]:
    """Compiles the very step, and takes it so many times, once more before that."""
    import jax

    from ralm_jax import partition
    from ralm_jax.cost import probe, shapes
    from ralm_jax.data.corpus import open_corpus
    from ralm_jax.models import initial
    from ralm_jax.training import steps as training

    devices = jax.device_count()
    corpus = open_corpus(asked.corpus) if asked.corpus else None
    loss = stage.task.loss(model, corpus if asked.no_wider else None)
    step = partition.parallelize(functools.partial(training.train_step, loss=loss))
    params = initial.drawn_params(model, 0)
    state = partition.replicate(training.create_state(params, stage.schedule.optimizer))
    rng = np.random.default_rng(0)
    batch = probe.drawn(shapes.batch(model, stage, rows, devices), devices, rng)
    batch = probe.as_long_as_those(batch, stage, corpus, rng) if corpus else batch
    begun = time.perf_counter()
    program = step.lower(state, batch, jax.random.key(0)).compile()
    compiling = time.perf_counter() - begun
    used, seconds = program.memory_analysis(), []
    state, metrics = jax.block_until_ready(program(state, batch, jax.random.key(0)))
    for _ in range(steps):
        start = time.perf_counter()
        state, metrics = program(state, batch, jax.random.key(0))
        jax.block_until_ready((state, metrics))
        seconds.append(round(time.perf_counter() - start, 4))
    loss, count = metrics["loss"]
    if not np.isfinite(float(loss) / float(count)):
        raise ValueError(f"{stage.name}: the loss is {float(loss)}")
    stats: Any = jax.local_devices()[0].memory_stats() or {}
    need = used.argument_size_in_bytes + used.temp_size_in_bytes + used.output_size_in_bytes
    return {
        "seconds": seconds,
        "compile_seconds": round(compiling, 1),
        "compiler_bytes": need - used.alias_size_in_bytes,
        "most_bytes": stats.get("peak_bytes_in_use"),
        "loss": round(float(loss) / float(count), 4),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--config", action="append", default=[])
    parser.add_argument("--set", action="append", default=[], metavar="'NAME = VALUE; ...'")
    parser.add_argument("--always", action="append", default=[], metavar="'NAME = VALUE'")
    parser.add_argument("--corpus", type=Path)
    parser.add_argument("--stages", default="", help="those alone, such as ict,realm")
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--out", type=Path, default=OUT)
    given = parser.parse_args()
    # As much as a process alone may have.
    os.environ.setdefault("XLA_CLIENT_MEM_FRACTION", "0.92")
    context = multiprocessing.get_context("spawn")
    for config in given.config or ["runs/pretrain_h100.gin"]:
        for change in ["", *given.set]:
            changes = [*given.always, *(one.strip() for one in change.split(";") if one.strip())]
            for name in stages(config, changes):
                if given.stages and name not in given.stages.split(","):
                    continue
                for no_wider in (False, True) if given.corpus else (False,):
                    asked = Asked(config, changes, name, given.corpus, no_wider)
                    with context.Pool(1) as alone:
                        found = alone.apply(measured, (asked, given.steps))
                    row = {"config": config, "set": changes, "stage": name}
                    if given.corpus:
                        row |= {"texts": given.corpus.name, "no_wider": no_wider}
                    write(given.out, {**row, **found})
                    print(config, changes, name, json.dumps(found), flush=True)


def write(out: Path, row: dict[str, Any]) -> None:
    """Adds a row, in place of a former one of the same stage."""
    same = ("config", "set", "stage", "texts", "no_wider")
    kept = json.loads(out.read_text("utf-8"))["rows"] if out.exists() else []
    kept = [one for one in kept if any(one.get(name) != row.get(name) for name in same)]
    made = {
        "command": shlex.join(["python", "-m", "experiments.bench.accelerator", *sys.argv[1:]]),
        "commit": commit(),
        "hardware": hardware(),
        "rows": [*kept, row],
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(made, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
