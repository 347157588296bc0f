"""Four curves: quality against staleness, candidates read, corpus size, and compute spent.

    python -m experiments.curves --out DIR [--curves staleness,corpus,...] [--seeds 0,1,2] [--dry-run]

On almanac. Quality is recall@5 of questions about facts that pretraining never asked for, and how many
held-out masked spans are read right with retrieved passages; nothing is fine-tuned. With DIR of
experiments.table2 the runs that both need are made once. Points are kept in DIR/points: the same command
goes on where it stopped. --dry-run says what is left, in steps and hours, and starts nothing. Writes
DIR/curves.json, which experiments.report draws.
"""

import argparse
import sys
from pathlib import Path
from typing import Any, NamedTuple

from experiments import ablation, pricing
from experiments.ablation import Training
from experiments.place import Place, model_of
from experiments.rows import Row, keep, result
from ralm_jax import gin_config
from ralm_jax.data.almanac import World
from ralm_jax.examples.question_sources import read_questions
from ralm_jax.inference.open_run import OpenRun
from ralm_jax.models.ralm import Ralm
from ralm_jax.quickstart import measure
from ralm_jax.runs import directory

REALM = "experiments/almanac/realm.gin"
EVERY, LAG, K = 50, 20, 6  # of runs/quickstart.gin, and
STEPS = {"ict": 300, "warmup": 800, "realm": 500}
STALENESS = (1, 3, 5, 30)  # times as long between two indexes; 5: one more comes, 30: none
CANDIDATES = (2, 4, K, 9, 12)
PEOPLE = (175, 350, 700, 1400)
COMPUTE = (0.25, 0.5, 1, 2)  # times the steps of every stage
CLOZES = 1500  # masked sentences read for a point


class Point(NamedTuple):
    """One value of what a curve is against, for one seed."""

    curve: str
    line: str  # what is trained
    value: float
    place: Place
    rests_on: list[Training]

    def row(self) -> Row:
        name = f"{self.curve}-{self.line}-{self.value:g}-{self.place.seed}"
        label = f"{self.curve} {self.value:g}, {self.line}, seed {self.place.seed}"
        model = model_of(self.place)
        return Row(name, label, model, self.rests_on, None, lambda: make(self))


def make(point: Point) -> dict[str, Any]:
    """Trains what is missing and measures."""
    seconds = {training.run.name: ablation.pretrained(training) for training in point.rests_on}
    last = point.rests_on[-1]
    loaded, corpus = OpenRun.open(last.run), directory.open_its_corpus(last.run, None)
    assert isinstance(loaded.model, Ralm)
    read = gin_config.bindings("pretrain.pretrain", REALM, last.changes)["stages"][-1].task
    asked = read_questions(point.place.data.dev).asked
    found = measure(corpus, asked, read, ablation.HELD_OUT, CLOZES, loaded.model, loaded.params)
    return {
        "curve": point.curve,
        "line": point.line,
        "value": point.value,
        "seed": point.place.seed,
        "passages": corpus.size,
        "recall@5": found["question_recall"]["5"],
        "spans_read": found["span_accuracy"],
        "spans_read_without": found["span_accuracy_null"],
        "seconds": {run: round(s, 1) for run, s in seconds.items()},
    }


def staleness(place: Place) -> list[Point]:
    """Joint training from the same warm-up; an index made anew less and less often."""
    runs_of = {1: place.chain("realm"), 30: place.chain("stale")}
    for times in STALENESS:
        changes = [f"REFRESH_EVERY = {EVERY * times}", f"REFRESH_LAG = {LAG * times}"]
        runs_of.setdefault(times, _joint(place, f"refresh{times}", changes))
    return [Point("staleness", "REALM", times, place, runs_of[times]) for times in STALENESS]


def candidates(place: Place) -> list[Point]:
    """Joint training from the same warm-up; K passages read, the null passage included."""
    runs_of = {k: _joint(place, f"candidates{k}", [f"CANDIDATES = {k}"]) for k in CANDIDATES}
    runs_of[K] = place.chain("realm")
    return [Point("candidates", "REALM", k, place, runs_of[k]) for k in CANDIDATES]


def corpus(place: Place) -> list[Point]:
    """Worlds of fewer and more people, the same steps in each."""
    found = []
    for people in PEOPLE:
        out = place.out if people == World().people else place.out / f"people{people}"
        data = ablation.almanac_data(out, place.seed, World(people=people))
        world = Place("almanac", out, place.seed, data, None)
        found.append(Point("corpus", "REALM", people, world, world.chain("realm")))
    return found


def compute(place: Place) -> list[Point]:
    """All three stages shorter and longer; and inverse cloze alone for as many operations."""
    found, model = [], model_of(place)
    one = place.chain("ict")[0]
    each = pricing.pretraining(one, model)[0].step
    for times in COMPUTE:
        chain = place.chain("realm") if times == 1 else _scaled(place, times)
        total = sum(cost.total for t in chain for cost in pricing.pretraining(t, model))
        changes = [*one.changes, f"ICT_STEPS = {round(total / each)}"]
        alone = one._replace(run=place.run(f"ict_alone{times:g}"), changes=changes)
        found.append(Point("compute", "REALM", times, place, chain))
        found.append(Point("compute", "inverse cloze alone", times, place, [alone]))
    return found


def _joint(place: Place, name: str, changes: list[str]) -> list[Training]:
    *before, joint = place.chain("realm")
    return [*before, joint._replace(run=place.run(name), changes=[*joint.changes, *changes])]


def _scaled(place: Place, times: float) -> list[Training]:
    chain: list[Training] = []
    for training in place.chain("realm"):
        stage = training.run.name
        steps = f"{stage.upper()}_STEPS = {round(STEPS[stage] * times)}"
        chain.append(
            training._replace(
                run=place.run(f"{stage}_{times:g}"),
                start=chain[-1].run if chain else None,
                changes=[*training.changes, steps],
            )
        )
    return chain


CURVES = {f.__name__: f for f in (staleness, candidates, corpus, compute)}


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--curves", default=",".join(CURVES))
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--dry-run", action="store_true")
    arguments = parser.parse_args()
    names = arguments.curves.split(",")
    if unknown := set(names) - CURVES.keys():
        there = ", ".join(CURVES)
        print(f"curves: there is no curve {sorted(unknown)[0]}; there are {there}", file=sys.stderr)
        return 2
    wanted = []
    for seed in map(int, arguments.seeds.split(",")):
        data = ablation.almanac_data(arguments.out, seed)
        place = Place("almanac", arguments.out, seed, data, None)
        wanted += [point.row() for name in names for point in CURVES[name](place)]
    told = f"python -m experiments.curves --curves {arguments.curves} --seeds {arguments.seeds} --out DIR"
    file = arguments.out / "curves.json"
    write = lambda made: file.write_text(result(told, points=made), "utf-8")  # noqa: E731
    keep(wanted, arguments.out / "points", arguments.dry_run, write)
    return 0


if __name__ == "__main__":
    sys.exit(main())
