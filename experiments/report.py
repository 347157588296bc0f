"""The tables of both README.md and the plots beside the results, from experiments/results and nothing else.

    python -m experiments.report

A table stands between `<!-- table: NAME -->` and `<!-- end of table -->`. A plot carries the digest of the
JSON it was drawn from; tests/test_report.py fails where a README or a plot is not of the results here.
"""

import hashlib
import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from experiments import labels, masks, objectives, table1, table2
from experiments.record import RESULTS
from experiments.rows import percent

PAGES = [RESULTS.parents[n] / "README.md" for n in (1, 0)]  # of the project, and of its experiments
BLOCK = re.compile(r"(<!-- table: (\w+) -->\n).*?(<!-- end of table -->)", re.DOTALL)
SOURCE = "Source"  # of a PNG: the digest of its JSON


def result(name: str, file: str = "result.json") -> dict[str, Any]:
    """What an experiment left."""
    return json.loads((RESULTS / name / file).read_text("utf-8"))


def markdown(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "".join("| " + " | ".join(line) + " |\n" for line in lines).replace("| --- ", "|---")


def quickstart() -> str:
    seeds = result("quickstart")["seeds"]
    measures: dict[str, Callable[[dict], float]] = {
        "question recall@5": lambda r: r["question_recall"]["5"],
        "cloze recall@5, own passage excluded": lambda r: r["cloze_recall"]["5"],
        "masked spans read, with passages": lambda r: r["span_accuracy"],
        "masked spans read, null passage alone": lambda r: r["span_accuracy_null"],
    }
    moments = ("untrained", "ict", "realm")
    rows = [
        [label, *(percent([value(seed[moment]) for seed in seeds]) for moment in moments)]
        for label, value in measures.items()
    ]
    return markdown(["", "untrained", "after inverse cloze", "after REALM"], rows)


def almanac_answers() -> str:
    rows = result("almanac_answers")["rows"]
    wanted = [
        ("REALM", "fine-tuned", "realm", "retriever"),
        ("REALM", "frozen", "realm", "frozen"),
        ("inverse cloze + reader warm-up", "fine-tuned", "warmup", "retriever"),
        ("inverse cloze alone", "fine-tuned", "ict", "retriever"),
        ("REALM", "BM25 in its place", "realm", "bm25"),
    ]
    told = [
        [
            pretraining,
            retriever,
            percent([seed[kind]["exact_match"][0] for seed in rows[stage]]),
            percent([seed[kind]["recall"]["5"] for seed in rows[stage]]),
        ]
        for pretraining, retriever, stage, kind in wanted
    ]
    return markdown(["pretraining", "retriever", "exact match", "recall@5"], told)


def real_answers() -> str:
    """Two runs from MiniLM: exact match, F1, recall of the beam; each beside BM25 with the same reader."""
    rows = []
    for name, label in (("squad_answers", "SQuAD"), ("wiki9k_answers", "NQ + WebQuestions")):
        report = result(name)["evaluation"]["dev"]
        for kind, found_by in (("retriever", "fine-tuned"), ("frozen", "frozen"), ("bm25", "BM25")):
            own = report[kind]
            low, high = (100 * x for x in own["exact_match"][1:])
            rows.append(
                [
                    f"{label}, {report['questions']:,} questions",
                    found_by,
                    f"{100 * own['exact_match'][0]:.1f} ({low:.1f} to {high:.1f})",
                    f"{100 * own['f1'][0]:.1f}",
                    " / ".join(f"{100 * own['recall'][k]:.1f}" for k in ("1", "5", "20")),
                ]
            )
    return markdown(["", "retriever", "exact match", "F1", "recall@1 / 5 / 20"], rows)


def bench_openqa() -> str:
    kinds = ("slow", "fast")
    rows = [
        [
            f"{size}: " + " / ".join(map(str, own["layers, hidden, heads"])),
            f"{own['our_questions_per_second']:.2f}",
            *(f"{own[f'their_questions_per_second, {kind} tokenizer']:.2f}" for kind in kinds),
            " and ".join(f"{own[f'times as many, {kind} tokenizer']:.1f}" for kind in kinds),
        ]
        for size, own in result("bench_openqa")["sizes"].items()
    ]
    head = ["layers / hidden / heads", "ralm_jax", "RealmForOpenQA", "with fast tokenizer", "times"]
    return markdown(head, rows)


def wikipedia() -> str:
    """Table 2 and objectives on a part of Wikipedia: mean and range over seeds; then pairs, seed by seed."""
    made: dict[str, dict[int, dict[str, Any]]] = {}  # {label: {seed: row}}
    for row in result("wiki9k_cpu", "table2.json")["rows"]:
        made.setdefault(table2.ROWS[row["row"]].label, {})[row["seed"]] = row
    for row in result("wiki9k_cpu", "objectives.json")["rows"]:
        if row["objective"] != "marginal_per_token":  # that is REALM's row
            own = made.setdefault(objectives.OBJECTIVES[row["objective"]].label, {})
            own.setdefault(row["seed"], {}).update(row)  # one for each measure
    lines = [
        [
            label,
            f"{len(own)}",
            *(percent([of(r) for r in own.values()]) for of in WIKIPEDIA.values()),
        ]
        for label, own in made.items()
    ]
    pairs = []
    for above, below in (("REALM", "baseline (ORQA)"), ("lists of two", "REALM")):
        seeds = sorted(made[above].keys() & made[below].keys())
        gaps = [
            ", ".join(f"{100 * (of(made[above][s]) - of(made[below][s])):+.1f}" for s in seeds)
            for of in WIKIPEDIA.values()
        ]
        pairs.append([f"{above} above {below}", *gaps])
    compared = markdown(["is it above? seed by seed", *WIKIPEDIA], pairs)
    return markdown(["", "seeds", *WIKIPEDIA], lines) + "\n" + compared


WIKIPEDIA: dict[str, Callable[[dict], float]] = {
    "EM": lambda r: r["answers"]["retriever"]["exact_match"][0],
    "recall@1, zero-shot": lambda r: r["zero_shot"]["holds_answer"]["recall"]["1"],
    "recall@5, zero-shot": lambda r: r["zero_shot"]["holds_answer"]["recall"]["5"],
    "recall@5, fine-tuned": lambda r: r["answers"]["retriever"]["recall"]["5"],
}


TABLES: dict[str, Callable[[], str]] = {
    "quickstart": quickstart,
    "almanac_answers": almanac_answers,
    "real_answers": real_answers,
    "bench_openqa": bench_openqa,
    "masks": lambda: masks.table(result("masks", "masks.json")["rows"]),
    "objectives": lambda: objectives.table(result("objectives", "objectives.json")["rows"]),
    "labels": lambda: labels.table(result("labels", "labels.json")["rows"]),
    "wikipedia": wikipedia,
    "table1": lambda: table1.table(result("table1", "table1.json")["rows"]),
    "table2": lambda: table2.table(result("table2", "table2.json")["rows"]),
}


def readme(text: str) -> str:
    """The text with every table in it made anew. Raises KeyError for a table there is none of."""
    return BLOCK.sub(lambda m: m[1] + TABLES[m[2]]() + m[3], text)


def digest(name: str, file: str) -> str:
    return hashlib.sha256((RESULTS / name / file).read_bytes()).hexdigest()


AXES = {  # label, whether logarithmic
    "staleness": ("times as long between two indexes (1: every 50 steps; 30: never)", True),
    "candidates": ("passages read, the null passage included", False),
    "corpus": ("passages in the corpus", True),
    "compute": ("floating-point operations of training", True),
}


def draw_curves(axis: Any, curve: str, points: list[dict[str, Any]]) -> None:
    """Mean over seeds, each seed a dot: recall@5 of questions, and masked spans read."""
    x = {"corpus": "passages", "compute": "flops"}.get(curve, "value")
    own = [p for p in points if p["curve"] == curve]
    kinds = [("recall@5", "recall@5 of questions", "C0"), ("spans_read", "masked spans read", "C1")]
    for line, style in (("REALM", "-"), ("inverse cloze alone", ":")):
        for kind, label, color in kinds if line == "REALM" else kinds[:1]:
            values = sorted({p["value"] for p in own if p["line"] == line})
            each = [[p for p in own if (p["line"], p["value"]) == (line, v)] for v in values]
            if not each:
                continue
            where = [float(np.mean([p[x] for p in some])) for some in each]
            axis.plot(
                where, [np.mean([p[kind] for p in some]) for some in each], style, color=color
            )
            for place, some in zip(where, each, strict=True):
                axis.plot([place] * len(some), [p[kind] for p in some], ".", color=color, alpha=0.6)
            axis.plot([], [], style, color=color, label=f"{label}, {line}")
    label, logarithmic = AXES[curve]
    axis.set(xlabel=label, ylim=(0, 1), title=f"quality against {curve}")
    if logarithmic:
        axis.set_xscale("log")
        at = sorted({p[x] for p in own if (p["seed"], p["line"]) == (0, "REALM")})
        axis.set_xticks(at, [f"{v:.2g}" if v > 1e6 else f"{v:,g}" for v in at])
        axis.minorticks_off()
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(frameon=False, fontsize=8)


def plot_curves() -> list[Path]:
    """One plot a curve, beside curves.json."""
    from matplotlib.figure import Figure

    points, made = result("curves", "curves.json")["points"], []
    for curve in dict.fromkeys(p["curve"] for p in points):
        figure = Figure(figsize=(6, 3.8), layout="constrained")
        draw_curves(figure.subplots(), curve, points)
        made.append(RESULTS / "curves" / f"{curve}.png")
        figure.savefig(made[-1], dpi=130, metadata={SOURCE: digest("curves", "curves.json")})
    return made


def main() -> int:
    for page in PAGES:
        page.write_text(readme(page.read_text("utf-8")), "utf-8")
    if (RESULTS / "curves" / "curves.json").exists():
        plot_curves()
    return 0


if __name__ == "__main__":
    sys.exit(main())
