"""What an index that stays fresh costs beside its embedding: training with refreshes and without, in turns.

    python -m experiments.bench.freshness CORPUS --out DIR [--every 500] [--rounds 3]

CORPUS is a prepared corpus. A small model is trained for two refreshes, then for as many steps with the index
that it began with; and the same passages are embedded by themselves, in the chunks of a refresh. What is
left of the difference is taking snapshots, writing vectors, and building, publishing and measuring an index.
Writes DIR/freshness.json; a round that is there is not run again.
"""

import argparse
import functools
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from experiments import pipeline
from experiments.runner import exit_code, write
from experiments.saved import markdown, result
from ralm_jax.inference import embedding
from ralm_jax.inference.open_run import OpenRun
from ralm_jax.runs.writers import metrics_file, read_metrics

LAG = 4 / 5
REFRESHES = 2
SMALL = (
    "LAYERS = 2", "RETRIEVER_LAYERS = 2", "HIDDEN = 128", "HEADS = 2", "INTERMEDIATE = 512",
    "POSITIONS = 256", "QUERY_LENGTH = 32", "PASSAGE_LENGTH = 192", "JOINT_LENGTH = 224", "MASKED = 8",
    "CANDIDATES = 4", "REALM_BATCH = 4", "EVAL_EVERY = 1000000", "CHECKPOINT_EVERY = 1000000",
    "pretrain.pretrain.stages = [@realm/schedule.Stage()]",
)  # fmt: skip
NEVER = ("realm/tasks.Realm.refresh = @refresh.Frozen()",)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("corpus", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--every", type=int, default=500)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args(argv)
    return exit_code("bench.freshness", functools.partial(_run, given))


def _run(given: argparse.Namespace) -> None:
    given.out.mkdir(parents=True, exist_ok=True)
    saved = given.out / "freshness.json"
    rounds = json.loads(saved.read_text("utf-8"))["rounds"] if saved.exists() else []
    command = f"python -m experiments.bench.freshness CORPUS --out DIR --every {given.every}"
    for number in range(len(rounds), given.rounds):
        rounds.append(measured(given, number))
        made = result(command, every=given.every, rounds=rounds, share=share(rounds))
        write(saved, made)
    print(table(rounds))


def measured(given: argparse.Namespace, number: int) -> dict[str, Any]:
    """Seconds of the steps of either kind, and of embedding the passages of the refreshes by themselves."""
    # To the end of the last refresh.
    lag = round(LAG * given.every)
    cadence = [f"REFRESH_EVERY = {given.every}", f"REFRESH_LAG = {lag}"]
    steps = [f"REALM_STEPS = {REFRESHES * given.every + lag}", f"LOG_EVERY = {lag}"]
    found: dict[str, Any] = {"steps": REFRESHES * given.every}
    for name, more in (("never", NEVER), ("fresh", ())):
        run = given.out / f"{name}{number}"
        changes = [*SMALL, *cadence, *steps, *more]
        words = ["--config", "runs/pretrain.gin", "--corpus", given.corpus, "--run", run]
        pipeline.ralm("pretrain", *words, *pipeline.as_options(changes))
        # The first line has the step that compiles, and no snapshot yet.
        lines = [line for line in read_metrics(metrics_file(run)) if "loss" in line][1:]
        taken = np.diff([lag, *(line["step"] for line in lines)])
        seconds = [line["step_seconds"] for line in lines]
        found[name] = round(float(np.dot(seconds, taken)), 2)
    found["passages"], each = embedded(given.out / f"fresh{number}")
    return {**found, "embedding": round(REFRESHES * each, 2)}


def embedded(run: Path) -> tuple[int, float]:
    """How many passages there are, and the seconds to embed them as a refresh does, by themselves."""
    opened = OpenRun.open(run)
    model, corpus, length = opened.model, opened.corpus, opened.lengths.passage
    tower = jax.device_put(opened.params["retriever"])
    rows = embedding.own_chunk_rows(model, length)
    chunks = [(start, min(start + rows, corpus.size)) for start in range(0, corpus.size, rows)]
    embed = functools.partial(embedding.embed_passages, model, corpus, length, tower)
    # The first one compiles.
    np.asarray(embed(*chunks[0]))
    begun = time.perf_counter()
    for chunk in chunks:
        np.asarray(embed(*chunk))
    return corpus.size, time.perf_counter() - begun


def share(rounds: Sequence[dict[str, Any]]) -> list[float]:
    """Of the wall time of training without a refresh, what refreshes add beside embedding; of each round."""
    return [
        round((one["fresh"] - one["never"] - one["embedding"]) / one["never"], 4) for one in rounds
    ]


def table(rounds: Sequence[dict[str, Any]]) -> str:
    heads = [
        "steps", "passages", "s without a refresh", "s with two", "s of embedding alone",
        "what else refreshes add",
    ]  # fmt: skip
    lines = []
    for one, more in zip(rounds, share(rounds), strict=True):
        seconds = (f"{one[name]:.1f}" for name in ("never", "fresh", "embedding"))
        lines.append([f"{one['steps']:,}", f"{one['passages']:,}", *seconds, f"{100 * more:+.1f}%"])
    return markdown(heads, lines)


if __name__ == "__main__":
    sys.exit(main())
