"""The tables of both README.md and the plots beside the results, from experiments/results and nothing else.

    python -m experiments.report

A table stands between `<!-- table: NAME -->` and `<!-- end of table -->`. A plot carries the digest of the
JSON it was drawn from; tests/experiments/test_report.py fails where a README or a plot differs from the
results.
"""

import hashlib
import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from experiments import (
    curve_plots,
    domains,
    flips,
    fuzz,
    kills,
    labels,
    masks,
    objectives,
    quickstart_seeds,
    refreshes,
    retriever,
    shares,
    table1,
    table2,
    teachers,
)
from experiments.bench import deep_search, estimates, verbs
from experiments.record import RESULTS
from experiments.saved import Saved, gaps, markdown, percent, saved_rows

# Of the project, and of its experiments.
PAGES = [RESULTS.parents[n] / "README.md" for n in (1, 0)]
BLOCK = re.compile(r"(<!-- table: (\w+) -->\n).*?(<!-- end of table -->)", re.DOTALL)


def result(name: str, file: str = "result.json") -> dict[str, Any]:
    """What an experiment left."""
    return json.loads((RESULTS / name / file).read_text("utf-8"))


def rows(name: str, file: str = "result.json") -> Saved:
    """The rows that an experiment left."""
    return saved_rows(RESULTS / name / file)


def almanac_answers() -> str:
    saved = rows("almanac_answers")
    wanted = [
        ("REALM", "fine-tuned", "realm", "retriever"),
        ("REALM", "frozen", "realm", "frozen"),
        ("inverse cloze + reader warm-up", "fine-tuned", "warmup", "retriever"),
        ("inverse cloze alone", "fine-tuned", "ict", "retriever"),
        ("REALM", "BM25 in its place", "realm", "bm25"),
    ]
    lines = []
    for pretraining, ranks, stage, kind in wanted:
        own = [row["answers"][kind] for row in saved if row["stage"] == stage]
        exact = percent([report["exact_match"][0] for report in own])
        recall = percent([report["recall"]["5"] for report in own])
        lines.append([pretraining, ranks, exact, recall])
    return markdown(["pretraining", "retriever", "exact match", "recall@5"], lines)


def real_answers() -> str:
    """Two runs from MiniLM: exact match, F1, recall of the beam; each beside BM25 with the same reader."""
    lines = []
    for name, label in (("squad_answers", "SQuAD"), ("wiki9k_answers", "NQ + WebQuestions")):
        report = result(name)["evaluation"]["dev"]
        for kind, found_by in (("retriever", "fine-tuned"), ("frozen", "frozen"), ("bm25", "BM25")):
            own = report[kind]
            low, high = (100 * x for x in own["exact_match"][1:])
            lines.append(
                [
                    f"{label}, {report['questions']:,} questions",
                    found_by,
                    f"{100 * own['exact_match'][0]:.1f} ({low:.1f} to {high:.1f})",
                    f"{100 * own['f1'][0]:.1f}",
                    " / ".join(f"{100 * own['recall'][k]:.1f}" for k in ("1", "5", "20")),
                ]
            )
    return markdown(["", "retriever", "exact match", "F1", "recall@1 / 5 / 20"], lines)


def bench_openqa() -> str:
    """Questions a second of both sides, and how many times as many; medians with 95% intervals."""
    lines = [
        [
            f"{size}: " + " / ".join(map(str, own["layers, hidden, heads"])),
            kind,
            _interval(own["our_questions_per_second"], ".2f"),
            _interval(own[f"their_questions_per_second, {kind} tokenizer"], ".3f"),
            _interval(own[f"times as many, {kind} tokenizer"], ".1f"),
        ]
        for size, own in result("bench_openqa")["sizes"].items()
        for kind in ("slow", "fast")
    ]
    head = ["layers / hidden / heads", "tokenizer", "ralm_jax", "RealmForOpenQA", "times as many"]
    return markdown(head, lines)


def _interval(figures: list[float], style: str) -> str:
    value, low, high = (format(figure, style) for figure in figures)
    return f"{value} ({low} to {high})"


# The columns of the tables on a part of Wikipedia.
WIKIPEDIA: dict[str, Callable[[dict], float]] = {
    "EM": lambda r: r["answers"]["retriever"]["exact_match"][0],
    "recall@1, zero-shot": lambda r: r["zero_shot"]["holds_answer"]["recall"]["1"],
    "recall@5, zero-shot": lambda r: r["zero_shot"]["holds_answer"]["recall"]["5"],
    "recall@5, fine-tuned": lambda r: r["answers"]["retriever"]["recall"]["5"],
}


def wikipedia() -> str:
    """Table 2 and objectives on a part of Wikipedia: mean and range over seeds; then pairs, seed by seed."""
    # {label: {seed: row}}
    made: dict[str, dict[int, dict[str, Any]]] = {}
    for row in rows("wiki9k_cpu", "table2.json"):
        made.setdefault(table2.ROWS[row["row"]].label, {})[row["seed"]] = row
    for row in rows("wiki9k_cpu", "objectives.json"):
        # REALM's own objective is a row of Table 2. Of the others there is a row for each measure.
        if row["objective"] != "marginal_per_token":
            own = made.setdefault(objectives.ROWS[row["objective"]].label, {})
            own.setdefault(row["seed"], {}).update(row)
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
        first, second = ([made[label][seed] for seed in seeds] for label in (above, below))
        differences = [
            gaps([of(row) for row in first], [of(row) for row in second])
            for of in WIKIPEDIA.values()
        ]
        pairs.append([f"{above} above {below}", *differences])
    compared = markdown(["is it above? seed by seed", *WIKIPEDIA], pairs)
    return markdown(["", "seeds", *WIKIPEDIA], lines) + "\n" + compared


def searchers() -> str:
    """Which searcher is quickest at which N, k and device."""
    saved = result("bench", "mips.json")
    lines = []
    for one in saved["measured"]:
        of = one["searchers"]
        quickest = min(set(of) - {"rounded"}, key=lambda name: of[name]["times_scann"])
        lines.append(
            [
                f"{saved['hardware']['devices']} x {saved['hardware']['device']}",
                f"{one['shape'][0]:,} x {one['shape'][1]}",
                str(one["k"]),
                *(f"{of[name]['times_scann']:.1f}" for name in ("exact", "faiss")),
                *(f"{of[name]['recall']:.3f}" for name in ("scann", "rounded")),
                {"scann": "ScaNN", "exact": "exact", "faiss": "FAISS"}[quickest],
            ]
        )
    times = ["exact, times ScaNN", "FAISS flat, times ScaNN"]
    recalls = ["recall@k, ScaNN", "recall@k, bfloat16 then float32"]
    return markdown(["device", "vectors", "k", *times, *recalls, "quickest"], lines)


def own_retriever() -> str:
    """What the retriever of several texts finds of each."""
    made = result("retriever", "retriever.json")
    return retriever.table(made["rows"], made["taught_by"])


def killed() -> dict[str, dict[str, Any]]:
    """What an experiment left for each kind of index."""
    files = sorted((RESULTS / "kills").glob("*.json"))
    return {file.stem: json.loads(file.read_text("utf-8")) for file in files}


def uncommitted() -> str:
    """The results that name a commit from which code or configurations differed."""
    lines = []
    for file in sorted(RESULTS.rglob("*.json")):
        made = json.loads(file.read_text("utf-8"))
        if '-dirty"' in json.dumps(made):
            name = f"`{file.relative_to(RESULTS.parent)}`"
            lines.append([name, _dirty_rows(file), made.get("note", "")])
    return markdown(["result", "rows", "what was uncommitted"], lines)


def _dirty_rows(file: Path) -> str:
    """How many rows name such a commit; all where the result as a whole names one and its rows none."""
    commits = [row["commit"] for row in saved_rows(file) if "commit" in row]
    if not commits:
        return "all"
    return f"{sum(commit.endswith('-dirty') for commit in commits)} of {len(commits)}"


TABLES: dict[str, Callable[[], str]] = {
    "quickstart": lambda: quickstart_seeds.table(rows("quickstart")),
    "almanac_answers": almanac_answers,
    "real_answers": real_answers,
    "bench_openqa": bench_openqa,
    "searchers": searchers,
    "deep_search": lambda: deep_search.table(result("bench", "deep_search.json")),
    "estimates": lambda: estimates.table(result("bench", "estimates.json")["rows"]),
    "verbs": lambda: verbs.table(result("bench", "verbs.json")["rows"]),
    "masks": lambda: masks.table(rows("masks", "masks.json")),
    "refreshes": lambda: refreshes.table(rows("refreshes", "refreshes.json")),
    "objectives": lambda: objectives.table(rows("objectives", "objectives.json")),
    "labels": lambda: labels.table(rows("labels", "labels.json")),
    "wikipedia": wikipedia,
    "domains": lambda: domains.table(rows("domains", "domains.json")),
    "nq": lambda: domains.table(rows("domains", "nq.json")),
    "labelled": lambda: domains.labelled(rows("domains", "labelled.json")),
    "shares": lambda: shares.table(rows("domains", "shares.json")),
    "retriever": own_retriever,
    "teachers": lambda: teachers.table(rows("domains", "teachers.json")),
    "table1": lambda: table1.table(rows("table1", "table1.json")),
    "table2": lambda: table2.table(rows("table2", "table2.json")),
    "kills": lambda: kills.table(killed()),
    "flips": lambda: flips.table(rows("flips", "flips.json")),
    "fuzz": lambda: fuzz.table(rows("fuzz", "fuzz.json")),
    "uncommitted": uncommitted,
}


def readme(text: str) -> str:
    """The text with every table in it written again. Raises KeyError for a table that does not exist."""
    return BLOCK.sub(lambda m: m[1] + TABLES[m[2]]() + m[3], text)


def digest(name: str, file: str) -> str:
    return hashlib.sha256((RESULTS / name / file).read_bytes()).hexdigest()


def plot_curves() -> list[Path]:
    """One plot a curve, beside curves.json."""
    return curve_plots.draw_all(
        rows("curves", "curves.json"), RESULTS / "curves", digest("curves", "curves.json")
    )


def main() -> int:
    for page in PAGES:
        page.write_text(readme(page.read_text("utf-8")), "utf-8")
    if (RESULTS / "curves" / "curves.json").exists():
        plot_curves()
    return 0


if __name__ == "__main__":
    sys.exit(main())
