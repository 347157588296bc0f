"""RocketQAv2's distillation with labels: is a scorer that learns along a better teacher than a fixed one?

    python -m experiments.labels --scale almanac --out DIR [--starts strong,weak] [--seeds 0,1,2] [--dry-run]

Fine-tuning, from a retriever that inverse cloze left strong or weak and a reader that has read passages (no
joint training): as ORQA does it; with a scorer that learns along and teaches the retriever (dynamic); with
the same scorer as it was at the start (static). The scorer is first taught by labels alone, which of the
passages read hold an answer, while retriever and reader are held; both begin with it. Runs that
experiments.table2 or experiments.objectives made in DIR are not made again; rows are kept in DIR/labels, the
same command goes on where it stopped. Writes DIR/labels.md and DIR/labels.json.
"""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from experiments import ablation, objectives
from experiments.place import Place, arguments_of, asking, model_of, places_of
from experiments.rows import Kept, Row, keep, percent, result
from ralm_jax import gin_config
from ralm_jax.errors import UserError
from ralm_jax.training import finetune

LISTWISE = "DISTIL = @distillation.supervised"
STILL = "optim.by_part.scorer = @optim.frozen()"
TAUGHT = (  # the scorer alone learns
    LISTWISE,
    "optim.by_part.retriever = @optim.frozen()",
    "optim.by_part.reader = @optim.frozen()",
    "optim.by_part.scorer = @reader/optim.adamw()",
)
KINDS = {
    "plain": ("ORQA", ()),
    "dynamic": ("listwise distillation from labels, dynamic", (LISTWISE,)),
    "static": ("listwise distillation from labels, static", (LISTWISE, STILL)),
}
STARTS = objectives.STARTS
# The first above the second?
QUESTIONS = (("dynamic", "static"), ("dynamic", "plain"), ("static", "plain"))


# The columns of the table: by whom, and what.
MEASURES: tuple[tuple[str, Callable[[dict], float]], ...] = (
    ("retriever", lambda a: a["retriever"]["recall"]["1"]),
    ("retriever", lambda a: a["retriever"]["recall"]["5"]),
    ("reranked", lambda a: a["reranked"]["recall"]["1"]),
    ("retriever", lambda a: a["retriever"]["exact_match"][0]),
    ("reranked", lambda a: a["reranked"]["exact_match"][0]),
)


def taught_scorer(place: Place, run: Path, start: str) -> tuple[Path, float]:
    """A run with a scorer that learnt from labels, its retriever and reader those of `run`."""
    config, out = objectives.config(place, "finetune"), place.run(f"labelled_scorer_{start}")
    changes = [*place.changes(""), *TAUGHT]
    told = [word for change in changes for word in ("--set", change)]
    steps = gin_config.bindings("finetune.finetune", config, changes)["steps"]
    words = ["--config", config, "--run", run, "--out", out]
    words += ["--train", place.data.train, "--dev", place.data.select]
    return out, ablation.trained(out, finetune.STAGE, steps, "finetune", *words, *told)


def make(place: Place, kind: str, start: str) -> dict[str, Any]:
    """One row for one seed."""
    seconds, run, stage = objectives.started(place, start), objectives.start_run(place, start), None
    name = f"{kind}_labels_{start}"
    if kind != "plain":
        run, seconds["scorer"] = taught_scorer(place, run, start)
        stage = finetune.STAGE  # as it ended: no step is better for a reader that is held
    elif start == "strong":
        name = "baseline"  # a row of table2
    changes = [*place.changes(""), *KINDS[kind][1]]
    config, out = objectives.config(place, "finetune"), place.run(f"{place.named(name)}_answers")
    report, seconds["finetune"] = ablation.answered(run, out, config, place.data, changes, stage)
    return {
        "kind": kind,
        "start": start,
        "seed": place.seed,
        "answers": report,
        "seconds": {name: round(s, 1) for name, s in seconds.items()},
    }


def row(place: Place, kind: str, start: str) -> Row:
    return Row(
        name=f"{kind}-{start}-{place.seed}",
        label=f"{kind}, {start} start, seed {place.seed}",
        model=model_of(place),
        rests_on=objectives.before(place, start),
        finetune=objectives.config(place, "finetune"),
        make=lambda: make(place, kind, start),
    )


def table(rows: Kept) -> str:
    """Markdown: mean and range over seeds; then what is asked, seed by seed."""
    head = ["fine-tuning", "start", "recall@1", "recall@5", "recall@1, re-ranked", "EM"]
    lines = ["| " + " | ".join([*head, "EM, re-ranked"]) + " |", "|---" * (len(head) + 1) + "|"]

    def of(kind: str, start: str) -> dict[int, dict[str, Any]]:
        return {r["seed"]: r["answers"] for r in rows if (r["kind"], r["start"]) == (kind, start)}

    for start in STARTS:
        for kind, (label, _) in KINDS.items():
            made = list(of(kind, start).values())
            cells = [
                percent([value(a) for a in made if by in a]) if made and by in made[0] else ""
                for by, value in MEASURES
            ]
            cells = cells if made else ["not run"] * len(cells)
            lines.append(f"| {label} | {start} | " + " | ".join(cells) + " |")
    lines += ["", "| is it above? | EM, seed by seed | recall@1, seed by seed |", "|---|---|---|"]
    for start in STARTS:
        for above, below in QUESTIONS:
            first, second = of(above, start), of(below, start)
            both = [(first[s], second[s]) for s in sorted(first) if s in second]
            pairs = [
                [100 * (MEASURES[at][1](a) - MEASURES[at][1](b)) for a, b in both]
                for at in (3, 0)  # EM, recall@1
            ]
            said = [", ".join(f"{gap:+.1f}" for gap in gaps) or "not run" for gaps in pairs]
            lines.append(f"| {above} above {below}, {start} start | " + " | ".join(said) + " |")
    return "\n".join(lines) + "\n"


def main() -> int:
    parser = asking(arguments_of(__doc__))
    parser.add_argument("--starts", default=",".join(STARTS))
    arguments = parser.parse_args()
    try:
        return compare(arguments)
    except UserError as error:
        print(f"labels: {error}", file=sys.stderr)
        return 2


def compare(arguments: argparse.Namespace) -> int:
    """All rows asked for, or with --dry-run their price."""
    starts, out = arguments.starts.split(","), arguments.out
    if unknown := set(starts) - set(STARTS):
        raise UserError(f"there is no {sorted(unknown)[0]}; there are {', '.join(STARTS)}")
    places = places_of(arguments)
    wanted = [row(place, kind, start) for start in starts for place in places for kind in KINDS]
    told = f"python -m experiments.labels --scale {arguments.scale} --seeds {arguments.seeds} --out DIR"

    def write(rows: Kept) -> None:
        (out / "labels.json").write_text(result(told, rows=rows), "utf-8")
        (out / "labels.md").write_text(table(rows), "utf-8")

    keep(wanted, out / "labels", arguments.dry_run, write)
    if not arguments.dry_run:
        print((out / "labels.md").read_text("utf-8"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
