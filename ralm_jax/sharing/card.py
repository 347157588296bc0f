"""The card of an exported retriever, README.md: what it is, of which text and recipe, how good, for what use.

What is not known is left out, and no path of the machine it was made on is told.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from huggingface_hub import EvalResult, ModelCardData

from ralm_jax.errors import UserError
from ralm_jax.evaluation.differences import said
from ralm_jax.evaluation.rankings import ROWS
from ralm_jax.inference.open_run import OpenRun
from ralm_jax.release import VERSION
from ralm_jax.runs import directory, selection
from ralm_jax.runs.config_record import CONFIG

CARD = "README.md"
TAGS = ["sentence-transformers", "sentence-similarity", "feature-extraction", "dense", "ralm_jax"]
# What a report measures by, the better rule first, and what of it a card shows.
_RULES = {"gold_passage": "the gold passage", "holds_answer": "a passage that holds an answer"}
_RECALLS = ("1", "5", "20")
_INTENDED = (
    "## Intended use\n\n"
    "To find passages that answer questions, in text like that it was trained on. On other text, in "
    "other languages, for other tasks and for longer texts than above it has not been measured. What it "
    "finds is near a question, not true: it repeats what its text says, errors and slants included.\n"
)


class About(NamedTuple):
    """What only whoever shares a model knows: a report of `ralm evaluate`, the licence by its SPDX id, and
    results of its own in Markdown."""

    report: Mapping[str, Any] | None = None
    licence: str | None = None
    results: str = ""


def write_card(out: Path, opened: OpenRun, about: About, towers: Sequence[str]) -> None:
    """Writes the card of the retriever of a run, exported for sentence-transformers, to the folder `out`.

    Args:
      towers: the folders of the towers there; "" where one serves queries and passages.

    Raises:
      UserError: the report is of another kind or of other parameters.
    """
    rule = _rule(opened, about.report)
    start = began_from(opened.folder)
    data = ModelCardData(
        license=about.licence,
        library_name="sentence-transformers",
        pipeline_tag="sentence-similarity",
        tags=TAGS,
        base_model=start if start and re.fullmatch(r"[\w.-]+/[\w.-]+", start) else None,
        model_name="ralm_jax retriever" if rule else None,
        eval_results=list(_results(about.report, rule)) if about.report and rule else None,
    )
    parts = [
        f"---\n{data.to_yaml()}\n---\n",
        "# A retriever trained with ralm_jax\n",
        _use(opened, towers),
        _data(opened),
        _recipe(opened, start),
        _figures(about, rule),
        _INTENDED,
        _licence(about.licence, start),
    ]
    (out / CARD).write_text("\n".join(parts), "utf-8")


def began_from(run: Path) -> str | None:
    """The released model that a run began from, through the runs between: a name of the hub, package:NAME, or
    the name of a folder; None where it began from random weights, or nobody knows any more."""
    seen: set[Path] = set()
    while (run / directory.RUN).is_file() and run not in seen:
        seen.add(run)
        record = directory.read_record(run)
        if source := record.get("source"):
            is_local = Path(source).expanduser().is_dir() or source.count("/") != 1
            return Path(source).name if is_local and ":" not in source else source
        if not record.get("began_from"):
            return None
        run = Path(record["began_from"])
    return None


def _rule(opened: OpenRun, report: Mapping[str, Any] | None) -> str | None:
    """By what the rows of a report are shown; None without a report."""
    if report is None:
        return None
    row = report.get("retriever", {}) if isinstance(report, dict) else {}
    found = next((rule for rule in _RULES if rule in row), None)
    if found is None:
        raise UserError(
            "the report has no retrieval figures; write one with: ralm evaluate --run RUN --questions "
            "QUESTIONS --json FILE, of questions with gold passages or answers"
        )
    # Reports of answers do not name their checkpoint.
    of = report.get("stage", opened.stage), report.get("step", opened.step)
    if of != (opened.stage, opened.step):
        raise UserError(
            f"the report is of stage {of[0]}, step {of[1]}, and what is exported is of stage "
            f"{opened.stage}, step {opened.step}: measure this run again"
        )
    return found


def _results(report: Mapping[str, Any], rule: str) -> Iterator[EvalResult]:
    """Of the exported model alone, for the header."""
    row = report["retriever"][rule]
    values = {f"recall_at_{k}": row["recall"][k] for k in _RECALLS} | {"mrr": row["mrr"]}
    for name, value in values.items():
        yield EvalResult(
            task_type="information-retrieval",
            dataset_type="custom",
            dataset_name=f"{row['questions']:,} questions",
            metric_type=name,
            metric_value=round(value, 4),
        )


def _use(opened: OpenRun, towers: Sequence[str]) -> str:
    """How to load it, and how its vectors compare."""
    by = "cosine similarity" if opened.model.head == "unit" else "inner product (dot), not cosine"
    lines = ["```python", "from sentence_transformers import SentenceTransformer", ""]
    if "" in towers:
        lines.append('model = SentenceTransformer("DIR")')
        asked, read = "model", "model"
    else:
        lines += [f'{tower} = SentenceTransformer("DIR/{tower}")' for tower in towers]
        asked, read = "query", "passage" if "passage" in towers else "query"
    lines.append(f'questions = {asked}.encode(["a question"], prompt_name="query")')
    lines.append(f'passages = {read}.encode([("title", "text")], prompt_name="document")')
    if not (opened.model.query_prompt or opened.model.passage_prompt):
        lines = [re.sub(r', prompt_name="\w+"', "", line) for line in lines]
    lengths = opened.lengths
    return "\n".join(
        [
            "Questions and passages become vectors, and a passage that answers lies near its question. "
            f"Vectors compare by {by}. Questions of up to {lengths.query} wordpieces and passages of up to "
            f"{lengths.passage}, titles included, were read in training.\n",
            *lines,
            "```\n",
            "`DIR` is this folder, or the name of this repository.\n",
        ]
    )


def _data(opened: OpenRun) -> str:
    lines = ["## Data\n"]
    if directory.read_record(opened.folder)["corpus"] is None:
        return "\n".join([*lines, "Nothing was trained here: this is an import, as it was.\n"])
    try:
        corpus = opened.corpus
    except UserError:
        return "\n".join([*lines, "The corpus was not at hand when this card was written.\n"])
    documents = corpus.counts.get("documents")
    of = f"{documents:,} documents, cut into " if documents else ""
    lines.append(
        f"{of}{corpus.size:,} passages of at most {corpus.passage_tokens} wordpieces (fingerprint "
        f"`{corpus.fingerprint}`, version {corpus.version.number}). The text is not in this folder.\n"
    )
    return "\n".join(lines)


def _recipe(opened: OpenRun, start: str | None) -> str:
    run = opened.folder
    record = directory.read_record(run)
    stages = ", ".join(record["stages"])
    lines = ["## Recipe\n", f"- Start: {start or 'random weights, or a run that is not at hand'}"]
    lines.append(
        f"- Stages: {stages}; the parameters of stage {opened.stage}, step {opened.step:,}"
    )
    began = (
        f"ralm_jax {record[directory.MADE_WITH]}" if directory.MADE_WITH in record else "an early"
    )
    lines.append(f"- Releases: {began} began the run, ralm_jax {VERSION} exported it")
    lines.append(f"- Seed: {record.get('seed', 0)}")
    lines += [f"- Selection: {line}" for line in selection.said(run)]
    if (run / CONFIG).is_file():
        config = (run / CONFIG).read_text("utf-8").rstrip()
        summary = "<details><summary>The resolved configuration</summary>"
        lines += ["", summary, "", "```", config, "```", "", "</details>"]
    return "\n".join([*lines, ""])


def _figures(about: About, rule: str | None) -> str:
    report, lines = about.report, ["## Results\n"]
    if report is None or rule is None:
        lines.append(about.results or "Not measured on questions when this card was written.\n")
        return "\n".join(lines)
    rows = {name: report[name][rule] for name in ROWS if rule in report.get(name, {})}
    count = rows["retriever"]["questions"]
    lines.append(
        f"How often {_RULES[rule]} of {count:,} questions is among the first k, in percent; in brackets "
        "95% intervals over questions.\n"
    )
    lines.append("| | @1 | @5 | @20 | MRR | nDCG@10 |")
    lines.append("|---|---|---|---|---|---|")
    for name, row in rows.items():
        spread = report.get("intervals", {}).get(name, {})
        cells = [f"{100 * row['recall'][k]:.1f}" for k in _RECALLS]
        cells[1] += _between(spread.get("recall@5"), 100, 1)
        gain = f"{row['ndcg@10']:.3f}" if "ndcg@10" in row else "–"
        gain += _between(spread.get("ndcg@10"), 1, 3)
        lines.append(f"| {ROWS[name]} | {' | '.join(cells)} | {row['mrr']:.3f} | {gain} |")
    lines += ["", "Differences, paired by question, with 95% intervals:\n"] if said(report) else []
    lines += [f"- {line}" for line in said(report) if line]
    lines.append("\nThis folder holds the row “this run, dense”; BM25 is not part of it.\n")
    return "\n".join(lines)


def _between(found: Sequence[float] | None, scale: float, digits: int) -> str:
    """An interval [value, low, high] in brackets."""
    return f" ({scale * found[1]:.{digits}f} to {scale * found[2]:.{digits}f})" if found else ""


def _licence(licence: str | None, start: str | None) -> str:
    given = (
        f"This model is under the licence {licence}."
        if licence
        else "Whoever made this model has not said under which licence it is; ask before you use it."
    )
    also = f" The licence of what it began from ({start}) holds too." if start else ""
    return f"## Licence\n\n{given}{also}\n"
