"""How fresh must the index be, and what does freshness cost? One joint training under each refresh policy.

    python -m experiments.refreshes --out DIR [--policies full,rare,...] [--seeds 0,1,2] [--dry-run]

On almanac, from one warm-up for each seed. Quality is recall@5 of questions about facts that pretraining
never asks about, with vectors made at the end, so that it is what the retriever has learnt. With DIR of
experiments.table2, the runs that both need are made once. Rows are saved in DIR/refreshes; the same command
resumes after the last one. Writes DIR/refreshes.md and DIR/refreshes.json.
"""

import argparse
import functools
import sys
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from experiments import pipeline, pricing
from experiments.rows import Row, Training
from experiments.runner import run
from experiments.saved import Saved, gaps, markdown, percent
from experiments.setting import ALMANAC, Setting
from ralm_jax.runs.writers import metrics_file, read_metrics

# Joint training takes 500 steps there, with a new index every 50: ten times more rarely is never.
RARE = ("REFRESH_EVERY = 500", "REFRESH_LAG = 200")
WRITTEN = (
    "realm/tasks.Realm.refresh = @refresh.WriteBack()",
    "refresh.WriteBack.policy = @refresh.Asynchronous()",
)
ROLLING = (
    "realm/tasks.Realm.refresh = @refresh.Rolling()",
    "refresh.Rolling.every = %REFRESH_EVERY",
    "refresh.Rolling.lag = %REFRESH_LAG",
)
INSIDE = "refresh.WriteBack.policy = @refresh.Rolling()"


class Kind(NamedTuple):
    """A policy, and the changes to the configuration that make it."""

    label: str
    changes: tuple[str, ...]


ROWS = {
    "full": Kind("all passages every 50 steps", ()),
    "rare": Kind("ten times more rarely", RARE),
    "written": Kind("ten times more rarely, written back", (*RARE, *WRITTEN)),
    "both": Kind("a tenth of them every 50 steps, written back", (*ROLLING, *WRITTEN, INSIDE)),
    "rolling": Kind("a tenth of them every 50 steps", ROLLING),
    "seldom": Kind(
        "a tenth of them every 50 steps, written back; passages learn in every fourth step",
        (*ROLLING, *WRITTEN, INSIDE, "realm/tasks.Realm.passages_every = 4"),
    ),
}
PAIRS = (
    ("rare", "full"),
    ("written", "full"),
    ("both", "full"),
    ("rolling", "full"),
    ("seldom", "both"),
    ("written", "rare"),
)


def rows(settings: Sequence[Setting], options: argparse.Namespace) -> list[Row]:
    """The policies chosen, in each setting."""
    return [row(setting, name) for setting in settings for name in options.policies]


def row(setting: Setting, name: str) -> Row:
    return Row(
        name=setting.row_name(name),
        label=f"{ROWS[name].label}, seed {setting.seed}",
        model=setting.model(),
        trainings=chain(setting, name),
        finetuning=None,
        make=lambda: make(setting, name),
    )


def chain(setting: Setting, name: str) -> list[Training]:
    """What is to be trained, in order."""
    *before, joint = setting.chain("realm")
    if not ROWS[name].changes:
        return [*before, joint]
    changes = [*joint.changes, *ROWS[name].changes]
    return [*before, joint._replace(run=setting.run(f"refresh_{name}"), changes=changes)]


def make(setting: Setting, name: str) -> dict[str, Any]:
    """Trains what is missing and measures."""
    trainings = chain(setting, name)
    seconds = pipeline.pretrained_all(trainings)
    recall = pipeline.zero_shot(trainings[-1].run, setting.data.dev)
    logged = [x for x in read_metrics(metrics_file(trainings[-1].run)) if "staleness" in x]
    cost = pricing.pretraining(trainings[-1], setting.model())[-1]
    # Where all vectors are of one step, candidates are as old as the index.
    ages = [x.get("candidate_age", x["staleness"]) for x in logged]
    return {
        "policy": name,
        "seed": setting.seed,
        "recall@5": recall["holds_answer"]["recall"]["5"],
        "index_age": float(np.mean([x["staleness"] for x in logged])),
        "candidate_age": float(np.mean(ages)),
        "candidate_age_90": float(
            np.mean([x.get("candidate_age_90", x["staleness"]) for x in logged])
        ),
        "refresh_share": cost.index * cost.refreshes / cost.total,
        "seconds": seconds,
    }


def table(saved: Saved) -> str:
    """Mean and range over seeds of each policy, then the differences seed by seed."""
    lines = []
    for name, kind in ROWS.items():
        own = [r for r in saved if r["policy"] == name]
        if own:
            shown = [f"{np.mean([r[k] for r in own]):.0f}" for k in ("index_age", "candidate_age")]
            share = f"{100 * np.mean([r['refresh_share'] for r in own]):.1f}%"
            lines.append(
                [kind.label, f"{len(own)}", percent([r["recall@5"] for r in own]), *shown, share]
            )
    head = [
        "the index is refreshed",
        "seeds",
        "recall@5",
        "its age, steps",
        "age of candidates",
        "share of FLOPs",
    ]
    recalls = {
        name: {r["seed"]: r["recall@5"] for r in saved if r["policy"] == name} for name in ROWS
    }
    compared = []
    for a, b in PAIRS:
        seeds = sorted(recalls[a].keys() & recalls[b].keys())
        found = gaps([recalls[a][s] for s in seeds], [recalls[b][s] for s in seeds])
        compared.append([f"{ROWS[a].label} − {ROWS[b].label}", found])
    return "\n".join([markdown(head, lines), markdown(["recall@5", "seed by seed"], compared)])


main = functools.partial(
    run,
    "refreshes",
    rows,
    table,
    usage=__doc__,
    choices={"policies": ROWS},
    scales=(ALMANAC,),
    folder="refreshes",
)

if __name__ == "__main__":
    sys.exit(main())
