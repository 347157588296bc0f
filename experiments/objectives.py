"""How the reader should teach the retriever: every objective, from a strong and from a weak retriever.

    python -m experiments.objectives --scale almanac --out DIR [--objectives emdr2,...] [--starts strong,weak]
        [--measures retrieval,answers] [--seeds 0,1,2] [--dry-run]

The other scales take what experiments.table2 takes; where the retriever is a released one there is no weak
start. All begin with the same reader, which has learnt to read; the strong retriever comes from a full
inverse cloze, the weak one from a fifth of it. First the retriever of every row is measured (recall@5 of
questions, on almanac about facts that it was never asked about), then each is fine-tuned for exact match.
Runs that experiments.table2 made in DIR are used again. Rows are saved in DIR/objectives; the same command
resumes after the last one. Writes DIR/objectives.md and DIR/objectives.json.
"""

import argparse
import functools
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from experiments import pipeline, pricing
from experiments.rows import Finetuning, Row, Training
from experiments.runner import run
from experiments.saved import Saved, gaps, markdown, percent
from experiments.setting import Setting
from ralm_jax.errors import UserError
from ralm_jax.runs.writers import metrics_file, read_metrics

# Steps of inverse cloze; the strong retriever has 300. After 60 a retriever finds a third of the answers in
# its first five. After 30 (one in seven) no objective tried had anything to learn from, and retrieval fell
# (seed 0).
WEAK_STEPS = 60
TELEMETRY = ("prior_entropy", "retrieval_utility", "grad_norm_retriever", "grad_norm_reader")


class Objective(NamedTuple):
    """A row of the table.

    Attributes:
      changes: to the configuration of joint training.
      scorer: changes to the configuration that trains a scorer first, where there is one.
    """

    label: str
    changes: tuple[str, ...]
    scorer: tuple[str, ...] | None = None


# Temperature of the reader's list; that of the other rows is 1. Atlas has 0.01.
SHARP = 0.1
LISTWISE = "OBJECTIVE = @distillation.label_free"
LISTWISE_SHARP = f"distillation.label_free.temperature = {SHARP}"
# Weight decay would move a scorer that has no gradient.
STATIC = (
    "distillation.label_free.static = True",
    "realm/optim.by_part.scorer = @optim.frozen()",
)
ROWS = {
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
# Pairs of rows: is the first above the second?
PAIRS = (
    ("emdr2", "pdist", "weak"),
    ("emdr2", "pdist", "strong"),
    ("pdist_sharp", "pdist", "weak"),
    ("emdr2", "pdist_sharp", "weak"),
    ("dynamic_sharp", "static_sharp", "strong"),
    ("dynamic_sharp", "static_sharp", "weak"),
    ("dynamic", "static", "strong"),
    ("dynamic", "static", "weak"),
)


def rows(settings: Sequence[Setting], options: argparse.Namespace) -> list[Row]:
    """The rows chosen, all retrievers before any answers."""
    return [
        row(setting, name, start, measure)
        for measure in options.measures
        for setting in settings
        for start in options.starts
        for name in options.objectives
    ]


def row(setting: Setting, name: str, start: str, measure: str) -> Row:
    answers = measure == "answers"
    return Row(
        name=f"{measure}-{name}-{start}-{setting.seed}",
        label=f"{ROWS[name].label}, {start} start, seed {setting.seed}, {measure}",
        model=setting.model(),
        trainings=chain(setting, name, start),
        finetuning=finetuning(setting) if answers else None,
        make=lambda: MEASURES[measure](setting, name, start),
    )


def finetuning(setting: Setting) -> Finetuning:
    return Finetuning(setting.config("finetune"), setting.changes(""))


def before(setting: Setting, start: str) -> list[Training]:
    """What is to be trained before a start, in order. Raises UserError where the scale has no such start."""
    chain = setting.chain("warmup")
    if start == "weak":
        if chain[0].run != setting.run("ict"):
            raise UserError(
                f"--starts weak: the scale {setting.scale} has no inverse cloze to cut short; "
                "use --starts strong"
            )
        short = chain[0]._replace(run=setting.run("ict_weak"))
        chain.append(short._replace(changes=[*short.changes, f"ICT_STEPS = {WEAK_STEPS}"]))
    return chain


def start_run(setting: Setting, start: str) -> Path:
    """The run to begin with; a weak one has the retriever of one run and the reader of another."""
    return setting.run("weak") if start == "weak" else before(setting, start)[-1].run


def started(setting: Setting, start: str) -> dict[str, float]:
    """Trains what a start lacks; seconds of each run."""
    seconds = pipeline.pretrained_all(before(setting, start))
    if start == "weak":
        retriever, reader = setting.run("ict_weak"), setting.run("warmup")
        pipeline.combined(start_run(setting, start), retriever, reader)
    return seconds


def chain(setting: Setting, name: str, start: str) -> list[Training]:
    """What is to be trained for one objective, in order."""
    trainings, corpus = before(setting, start), setting.data.corpus
    begin = start_run(setting, start)
    if (scorer := ROWS[name].scorer) is not None:
        run = setting.run(f"scorer_{start}_sharp" if scorer else f"scorer_{start}")
        changes = [*trainings[0].changes, *scorer]
        trainings.append(Training(run, setting.config("scorer"), corpus, begin, changes))
        begin = run
    # REALM from the strong start is a row of Table 2.
    shared = name == "marginal_per_token" and start == "strong"
    run = setting.run("realm" if shared else f"{name}_{start}")
    changes = [*setting.changes("realm"), *ROWS[name].changes]
    return [*trainings, Training(run, setting.config("realm"), corpus, begin, changes)]


def trained(setting: Setting, name: str, start: str) -> dict[str, float]:
    """Trains what is missing of a chain; seconds of each run."""
    seconds = started(setting, start)
    return seconds | pipeline.pretrained_all(chain(setting, name, start)[len(seconds) :])


def retrieval(setting: Setting, name: str, start: str) -> dict[str, Any]:
    """The retriever as joint training leaves it, and as it was before."""
    seconds = trained(setting, name, start)
    joint = chain(setting, name, start)[-1]
    assert joint.start is not None
    cost = pricing.pretraining(joint, setting.model())[-1]
    log = [line for line in read_metrics(metrics_file(joint.run)) if "loss" in line]
    dev = setting.data.dev
    earlier, now = (pipeline.zero_shot(run, dev) for run in (joint.start, joint.run))
    return {
        **_identity(setting, name, start),
        "recall@5": now["holds_answer"]["recall"]["5"],
        "recall@5 before": earlier["holds_answer"]["recall"]["5"],
        "zero_shot": now,
        "telemetry": {key: log[-1][key] for key in TELEMETRY},
        "joint": {"steps": cost.steps, "flops": cost.total, "seconds": seconds[joint.run.name]},
        "seconds": seconds,
    }


def answers(setting: Setting, name: str, start: str) -> dict[str, Any]:
    """The same after fine-tuning."""
    seconds = trained(setting, name, start)
    run = chain(setting, name, start)[-1].run
    # Named as in experiments.table2, so that the row they share is fine-tuned once.
    row = "realm" if run.name == "realm" else run.name
    out = setting.run(f"{setting.row_name(row)}_answers")
    report, spent = pipeline.answered(run, out, finetuning(setting), setting.data)
    seconds["finetune"] = spent
    return {**_identity(setting, name, start), "answers": report, "seconds": seconds}


# The first costs a third of the second.
MEASURES: dict[str, Callable[[Setting, str, str], dict[str, Any]]] = {
    "retrieval": retrieval,
    "answers": answers,
}


def _identity(setting: Setting, name: str, start: str) -> dict[str, Any]:
    return {"objective": name, "start": start, "seed": setting.seed}


def table(saved: Saved) -> str:
    """A line for each objective and start, then pairs of rows, seed by seed."""
    head = ["objective", "start", "recall@5 before", "recall@5", "EM", "EM, re-ranked"]
    head += ["entropy of p(z\\|x), nats", "operations of joint training"]
    lines = [
        [objective.label, start, *_cells(saved, name, start)]
        for start in STARTS
        for name, objective in ROWS.items()
    ]
    compared = []
    for above, below, start in PAIRS:
        first, second = (_recall(saved, name, start) for name in (above, below))
        both = sorted(first.keys() & second.keys())
        pair = f"{ROWS[above].label} above {ROWS[below].label}, {start} start"
        compared.append([pair, gaps([first[s] for s in both], [second[s] for s in both])])
    pairs = markdown(["is it above?", "recall@5, seed by seed"], compared)
    return markdown(head, lines) + "\n" + pairs


def _of(saved: Saved, name: str, start: str, key: str) -> Saved:
    """The rows of an objective and a start that have a figure."""
    return [r for r in saved if (r["objective"], r["start"]) == (name, start) and key in r]


def _recall(saved: Saved, name: str, start: str) -> dict[int, float]:
    return {r["seed"]: r["recall@5"] for r in _of(saved, name, start, "recall@5")}


def _cells(saved: Saved, name: str, start: str) -> list[str]:
    """The figures of an objective and a start."""
    retrieved = _of(saved, name, start, "recall@5")
    read = [r["answers"] for r in _of(saved, name, start, "answers")]
    reranked = [r["reranked"]["exact_match"][0] for r in read if "reranked" in r]
    cells = ["not run", "not run", "not run", percent(reranked) if reranked else "", "", ""]
    if retrieved:
        cells[0] = percent([r["recall@5 before"] for r in retrieved])
        cells[1] = percent([r["recall@5"] for r in retrieved])
        entropies = [r["telemetry"]["prior_entropy"] for r in retrieved]
        cells[4] = f"{sum(entropies) / len(entropies):.2f}"
        cells[5] = f"{retrieved[0]['joint']['flops']:.1e}"
    if read:
        cells[2] = percent([r["retriever"]["exact_match"][0] for r in read])
    return cells


main = functools.partial(
    run,
    "objectives",
    rows,
    table,
    usage=__doc__,
    choices={"objectives": ROWS, "starts": STARTS, "measures": MEASURES},
)

if __name__ == "__main__":
    sys.exit(main())
