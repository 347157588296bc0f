"""How the reader should teach the retriever: every objective, from a strong and from a weak retriever.

    python -m experiments.objectives --scale almanac --out DIR [--objectives emdr2,...] [--starts strong,weak]
        [--measures retrieval,answers] [--seeds 0,1,2] [--dry-run]

The other scales take what experiments.table2 takes; where the retriever is a released one there is no
weak start. All begin with one reader that has learnt to read; the strong retriever comes from a full inverse
cloze, the weak one from a fifth of it. First every row's retriever is measured (recall@5 of questions, on
almanac about facts that it was never asked for), then each is fine-tuned for exact match. Runs that
experiments.table2 made in DIR are not made again; rows are kept in DIR/objectives, and the same command goes
on where it stopped.
Writes DIR/objectives.md and DIR/objectives.json.
"""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from experiments import ablation, pricing
from experiments.ablation import Training
from experiments.place import Place, arguments_of, asking, model_of, places_of
from experiments.rows import Kept, Row, keep, percent, result
from ralm_jax.errors import UserError
from ralm_jax.runs.writers import metrics_file, read_metrics

# Of inverse cloze, where the strong retriever has 300: it finds a third of the answers in its first five.
# After 30 (one in seven) no objective tried had anything to learn from, and retrieval fell (seed 0).
WEAK_STEPS = 60
TELEMETRY = ("prior_entropy", "retrieval_utility", "grad_norm_retriever", "grad_norm_reader")


class Objective(NamedTuple):
    label: str
    changes: tuple[str, ...]  # to experiments/almanac/realm.gin
    scorer: tuple[str, ...] | None = (
        None  # changes to experiments/almanac/scorer.gin, where it has one
    )


# Of the reader's list, beside 1: Atlas has 0.01.
SHARP = 0.1
LISTWISE = "OBJECTIVE = @distillation.label_free"
LISTWISE_SHARP = f"distillation.label_free.temperature = {SHARP}"
STATIC = (
    "distillation.label_free.static = True",
    "realm/optim.by_part.scorer = @optim.frozen()",  # weight decay needs no gradient
)
OBJECTIVES = {
    "marginal_per_token": Objective("REALM, per token", ()),
    "marginal_per_span": Objective("REALM, per span", ("OBJECTIVE = @marginal.marginal_per_span",)),
    "emdr2": Objective("EMDR2", ("OBJECTIVE = @objectives.emdr2",)),
    "pdist": Objective(
        "perplexity distillation", ("OBJECTIVE = @objectives.perplexity_distillation",)
    ),
    "loop": Objective("leave one out", ("OBJECTIVE = @objectives.leave_one_out",)),
    "list": Objective("lists of two", ("OBJECTIVE = @objectives.list_marginal",)),
    "dynamic": Objective("listwise distillation, dynamic", (LISTWISE,), ()),
    "static": Objective("listwise distillation, static", (LISTWISE, *STATIC), ()),
    "pdist_sharp": Objective(
        f"perplexity distillation at {SHARP}",
        (
            "OBJECTIVE = @objectives.perplexity_distillation",
            f"objectives.perplexity_distillation.temperature = {SHARP}",
        ),
    ),
    "dynamic_sharp": Objective(
        f"listwise distillation at {SHARP}, dynamic",
        (LISTWISE, LISTWISE_SHARP),
        (LISTWISE_SHARP,),
    ),
    "static_sharp": Objective(
        f"listwise distillation at {SHARP}, static",
        (LISTWISE, LISTWISE_SHARP, *STATIC),
        (LISTWISE_SHARP,),
    ),
}
STARTS = ("strong", "weak")
# What is asked of the rows: the first above the second?
QUESTIONS = (
    ("emdr2", "pdist", "weak"),
    ("emdr2", "pdist", "strong"),
    ("pdist_sharp", "pdist", "weak"),
    ("emdr2", "pdist_sharp", "weak"),
    ("dynamic_sharp", "static_sharp", "strong"),
    ("dynamic_sharp", "static_sharp", "weak"),
    ("dynamic", "static", "strong"),
    ("dynamic", "static", "weak"),
)


def config(place: Place, name: str) -> str:
    return f"experiments/{place.scale}/{name}.gin"


def before(place: Place, start: str) -> list[Training]:
    """What is to be trained before a start, in order."""
    known = place.chain("warmup")
    if start == "weak":
        if known[0].run != place.run("ict"):
            raise UserError(
                f"--scale {place.scale} has no inverse cloze to cut short: --starts strong"
            )
        short = known[0]._replace(run=place.run("ict_weak"))
        known.append(short._replace(changes=[*short.changes, f"ICT_STEPS = {WEAK_STEPS}"]))
    return known


def start_run(place: Place, start: str) -> Path:
    """What is begun with: of a weak start the retriever of one run and the reader of another."""
    return place.run("weak") if start == "weak" else before(place, start)[-1].run


def started(place: Place, start: str) -> dict[str, float]:
    """Makes what a start lacks; seconds of each run."""
    seconds = {t.run.name: round(ablation.pretrained(t), 1) for t in before(place, start)}
    if start == "weak":
        ablation.combined(start_run(place, start), place.run("ict_weak"), place.run("warmup"))
    return seconds


def chain(place: Place, name: str, start: str) -> list[Training]:
    """What is to be trained for one objective, in order."""
    known, corpus = before(place, start), place.data.corpus
    begin = start_run(place, start)
    if (scorer := OBJECTIVES[name].scorer) is not None:
        named = f"scorer_{start}_sharp" if scorer else f"scorer_{start}"
        changes = [*known[0].changes, *scorer]
        known.append(Training(place.run(named), config(place, "scorer"), corpus, begin, changes))
        begin = known[-1].run
    plain = name == "marginal_per_token" and start == "strong"  # a row of table2
    run = place.run("realm" if plain else f"{name}_{start}")
    changes = [*place.changes("realm"), *OBJECTIVES[name].changes]
    return [*known, Training(run, config(place, "realm"), corpus, begin, changes)]


def trained(place: Place, name: str, start: str) -> dict[str, float]:
    """Makes what is missing of a chain; seconds of each run."""
    seconds = started(place, start)
    for training in chain(place, name, start)[len(seconds) :]:
        seconds[training.run.name] = round(ablation.pretrained(training), 1)
    return seconds


def retrieval(place: Place, name: str, start: str) -> dict[str, Any]:
    """The retriever as joint training leaves it, and as it was before."""
    seconds = trained(place, name, start)
    joint = chain(place, name, start)[-1]
    assert joint.start is not None
    cost = pricing.pretraining(joint, model_of(place))[-1]
    log = [line for line in read_metrics(metrics_file(joint.run)) if "loss" in line]
    before, after = (ablation.zero_shot(run, place.data.dev) for run in (joint.start, joint.run))
    return {
        **_name(place, name, start),
        "recall@5": after["holds_answer"]["recall"]["5"],
        "recall@5 before": before["holds_answer"]["recall"]["5"],
        "zero_shot": after,
        "telemetry": {key: log[-1][key] for key in TELEMETRY},
        "joint": {"steps": cost.steps, "flops": cost.total, "seconds": seconds[joint.run.name]},
        "seconds": seconds,
    }


def answers(place: Place, name: str, start: str) -> dict[str, Any]:
    """The same after fine-tuning."""
    seconds = trained(place, name, start)
    run = chain(place, name, start)[-1].run
    row = "realm" if run.name == "realm" else run.name
    out = place.run(f"{place.named(row)}_answers")  # table2's, where it is its row
    told = place.changes("")
    report, seconds["finetune"] = ablation.answered(
        run, out, config(place, "finetune"), place.data, told
    )
    return {**_name(place, name, start), "answers": report, "seconds": seconds}


MEASURES = {f.__name__: f for f in (retrieval, answers)}  # the first at a third of the cost


def _name(place: Place, name: str, start: str) -> dict[str, Any]:
    return {"objective": name, "start": start, "seed": place.seed}


def row(place: Place, name: str, start: str, kind: Callable[..., dict[str, Any]]) -> Row:
    return Row(
        name=f"{kind.__name__}-{name}-{start}-{place.seed}",
        label=f"{OBJECTIVES[name].label}, {start} start, seed {place.seed}, {kind.__name__}",
        model=model_of(place),
        rests_on=chain(place, name, start),
        finetune=config(place, "finetune") if kind is answers else None,
        make=lambda: kind(place, name, start),
    )


def of(rows: Kept, name: str, start: str, kind: str) -> dict[int, dict[str, Any]]:
    """{seed: row} of those that hold `kind`."""
    wanted = (name, start)
    return {r["seed"]: r for r in rows if (r["objective"], r["start"]) == wanted and kind in r}


def table(rows: Kept) -> str:
    """Markdown: a line for each objective and start; then what the literature says, seed by seed."""
    head = ["objective", "start", "recall@5 before", "recall@5", "EM", "EM, re-ranked"]
    head += ["entropy of p(z\\|x), nats", "operations of joint training"]
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    for start in STARTS:
        for name, objective in OBJECTIVES.items():
            made = list(of(rows, name, start, "recall@5").values())
            read = [r["answers"] for r in of(rows, name, start, "answers").values()]
            ordered = [r["reranked"]["exact_match"][0] for r in read if "reranked" in r]
            cells = ["not run", "not run", "not run", percent(ordered) if ordered else "", "", ""]
            if made:
                cells[0] = percent([r["recall@5 before"] for r in made])
                cells[1] = percent([r["recall@5"] for r in made])
                cells[4] = f"{sum(r['telemetry']['prior_entropy'] for r in made) / len(made):.2f}"
                cells[5] = f"{made[0]['joint']['flops']:.1e}"
            if read:
                cells[2] = percent([r["retriever"]["exact_match"][0] for r in read])
            lines.append(f"| {objective.label} | {start} | " + " | ".join(cells) + " |")
    lines += ["", "| is it above? recall@5, seed by seed | |", "|---|---|"]
    for above, below, start in QUESTIONS:
        first, second = (of(rows, name, start, "recall@5") for name in (above, below))
        gaps = [
            100 * (first[s]["recall@5"] - second[s]["recall@5"])
            for s in sorted(first)
            if s in second
        ]
        said = ", ".join(f"{gap:+.1f}" for gap in gaps) or "not run"
        names = (OBJECTIVES[above].label, OBJECTIVES[below].label)
        lines.append(f"| {names[0]} above {names[1]}, {start} start | {said} |")
    return "\n".join(lines) + "\n"


def main() -> int:
    parser = asking(arguments_of(__doc__))
    for name, known in (("objectives", OBJECTIVES), ("starts", STARTS), ("measures", MEASURES)):
        parser.add_argument(f"--{name}", default=",".join(known))
    arguments = parser.parse_args()
    try:
        return compare(arguments)
    except UserError as error:
        print(f"objectives: {error}", file=sys.stderr)
        return 2


def compare(arguments: argparse.Namespace) -> int:
    """All rows asked for, retrievers first, or with --dry-run their price."""
    asked = (arguments.objectives, arguments.starts, arguments.measures)
    names, starts, measures = (text.split(",") for text in asked)
    for given, known in ((names, OBJECTIVES), (starts, STARTS), (measures, MEASURES)):
        if unknown := set(given) - set(known):
            raise UserError(f"there is no {sorted(unknown)[0]}; there are {', '.join(known)}")
    out = arguments.out
    places = places_of(arguments)
    wanted = [
        row(place, name, start, MEASURES[kind])
        for kind in measures
        for place in places
        for start in starts
        for name in names
    ]
    told = f"python -m experiments.objectives --scale {arguments.scale} --seeds {arguments.seeds} --out DIR"

    def write(rows: Kept) -> None:
        (out / "objectives.json").write_text(result(told, rows=rows), "utf-8")
        (out / "objectives.md").write_text(table(rows), "utf-8")

    keep(wanted, out / "objectives", arguments.dry_run, write)
    if not arguments.dry_run:
        print((out / "objectives.md").read_text("utf-8"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
