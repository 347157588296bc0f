"""Four curves: quality against staleness, candidates read, corpus size, and compute spent.

    python -m experiments.curves --out DIR [--curves staleness,corpus,...] [--seeds 0,1,2] [--dry-run]

On almanac. Quality is recall@5 of questions about facts that pretraining never asks about, and the share of
held-out masked spans that are read right with retrieved passages; nothing is fine-tuned. With DIR of
experiments.table2, the runs that both need are made once. Points are saved in DIR/points; the same command
resumes after the last one. --dry-run prints what is missing, in steps and hours, and starts nothing. Writes
DIR/curves.md, and DIR/curves.json, which experiments.report draws.
"""

import argparse
import functools
import sys
from collections.abc import Sequence
from typing import Any, NamedTuple

from experiments import datasets, pipeline, pricing
from experiments.rows import Row, Training
from experiments.runner import run
from experiments.saved import Saved, markdown, percent
from experiments.setting import ALMANAC, Setting
from ralm_jax import gin_config
from ralm_jax.inference.open_run import OpenRun
from ralm_jax.models.ralm import Ralm
from ralm_jax.questions.read import read_questions
from ralm_jax.quickstart import measure
from ralm_jax.sources.almanac import World

REALM = "experiments/almanac/realm.gin"
# Steps between refreshes, their lag, candidates, and steps of each stage, as in runs/quickstart.gin.
EVERY, LAG, K = 50, 20, 6
STEPS = {"ict": 300, "warmup": 800, "realm": 500}
# Times as many steps between two indexes. With 5 the index is refreshed once, with 30 never.
STALENESS = (1, 3, 5, 30)
CANDIDATES = (2, 4, K, 9, 12)
PEOPLE = (175, 350, 700, 1400)
# Times as many steps of every stage.
COMPUTE = (0.25, 0.5, 1, 2)
# Masked sentences read for a point.
CLOZES = 1500
ALONE = "inverse cloze alone"


class Point(NamedTuple):
    """One value of what a curve is drawn against, in one setting.

    Attributes:
      line: what is trained.
    """

    curve: str
    line: str
    value: float
    setting: Setting
    trainings: list[Training]

    def row(self) -> Row:
        seed = self.setting.seed
        return Row(
            name=f"{self.curve}-{self.line}-{self.value:g}-{seed}",
            label=f"{self.curve} {self.value:g}, {self.line}, seed {seed}",
            model=self.setting.model(),
            trainings=self.trainings,
            finetuning=None,
            make=lambda: make(self),
        )


def rows(settings: Sequence[Setting], options: argparse.Namespace) -> list[Row]:
    """The points of the curves chosen."""
    return [
        point.row()
        for setting in settings
        for name in options.curves
        for point in CURVES[name](setting)
    ]


def make(point: Point) -> dict[str, Any]:
    """Trains what is missing and measures."""
    seconds = pipeline.pretrained_all(point.trainings)
    last = point.trainings[-1]
    opened = OpenRun.open(last.run)
    assert isinstance(opened.model, Ralm)
    task = gin_config.bindings("pretrain.pretrain", REALM, last.changes)["stages"][-1].task
    questions = read_questions(point.setting.data.dev).asked
    found = measure(
        opened.corpus, questions, task, datasets.HELD_OUT, CLOZES, opened.model, opened.params
    )
    return {
        "curve": point.curve,
        "line": point.line,
        "value": point.value,
        "seed": point.setting.seed,
        "passages": opened.corpus.size,
        "recall@5": found["question_recall"]["5"],
        "spans_read": found["span_accuracy"],
        "spans_read_without": found["span_accuracy_null"],
        "seconds": seconds,
    }


def staleness(setting: Setting) -> list[Point]:
    """Joint training from the same warm-up, with an index that is refreshed less and less often."""
    chains = {1: setting.chain("realm"), 30: setting.chain("stale")}
    for times in STALENESS:
        changes = [f"REFRESH_EVERY = {EVERY * times}", f"REFRESH_LAG = {LAG * times}"]
        chains.setdefault(times, _joint(setting, f"refresh{times}", changes))
    return [Point("staleness", "REALM", times, setting, chains[times]) for times in STALENESS]


def candidates(setting: Setting) -> list[Point]:
    """Joint training from the same warm-up, with K passages read, the null passage included."""
    chains = {k: _joint(setting, f"candidates{k}", [f"CANDIDATES = {k}"]) for k in CANDIDATES}
    chains[K] = setting.chain("realm")
    return [Point("candidates", "REALM", k, setting, chains[k]) for k in CANDIDATES]


def corpus(setting: Setting) -> list[Point]:
    """Worlds of fewer and more people, with the same steps in each."""
    points = []
    for people in PEOPLE:
        out = setting.out if people == World().people else setting.out / f"people{people}"
        data = datasets.almanac_data(out, setting.seed, World(people=people))
        world = setting._replace(out=out, data=data)
        points.append(Point("corpus", "REALM", people, world, world.chain("realm")))
    return points


def compute(setting: Setting) -> list[Point]:
    """All three stages shorter and longer, and inverse cloze alone for as many operations."""
    points, model = [], setting.model()
    ict = setting.chain("ict")[0]
    each = pricing.pretraining(ict, model)[0].step
    for times in COMPUTE:
        chain = setting.chain("realm") if times == 1 else _scaled(setting, times)
        total = sum(cost.total for t in chain for cost in pricing.pretraining(t, model))
        changes = [*ict.changes, f"ICT_STEPS = {round(total / each)}"]
        alone = ict._replace(run=setting.run(f"ict_alone{times:g}"), changes=changes)
        points.append(Point("compute", "REALM", times, setting, chain))
        points.append(Point("compute", ALONE, times, setting, [alone]))
    return points


CURVES = {f.__name__: f for f in (staleness, candidates, corpus, compute)}


def _joint(setting: Setting, name: str, changes: list[str]) -> list[Training]:
    *before, joint = setting.chain("realm")
    return [*before, joint._replace(run=setting.run(name), changes=[*joint.changes, *changes])]


def _scaled(setting: Setting, times: float) -> list[Training]:
    chain: list[Training] = []
    for training in setting.chain("realm"):
        stage = training.run.name
        steps = f"{stage.upper()}_STEPS = {round(STEPS[stage] * times)}"
        chain.append(
            training._replace(
                run=setting.run(f"{stage}_{times:g}"),
                start=chain[-1].run if chain else None,
                changes=[*training.changes, steps],
            )
        )
    return chain


def table(saved: Saved) -> str:
    """Mean and range over seeds of each point."""
    points: dict[tuple, Saved] = {}
    for row in saved:
        points.setdefault((row["curve"], row["line"], row["value"]), []).append(row)
    lines = [
        [curve, line, f"{value:g}", *(percent([r[k] for r in own]) for k in MEASURES)]
        for (curve, line, value), own in sorted(points.items())
    ]
    return markdown(["curve", "line", "value", *MEASURES.values()], lines)


MEASURES = {
    "recall@5": "recall@5 of questions",
    "spans_read": "masked spans read, with passages",
    "spans_read_without": "masked spans read, without",
}

main = functools.partial(
    run,
    "curves",
    rows,
    table,
    usage=__doc__,
    choices={"curves": CURVES},
    scales=(ALMANAC,),
    folder="points",
)

if __name__ == "__main__":
    sys.exit(main())
