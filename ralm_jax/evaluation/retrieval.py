"""What a model has learnt: zero-shot retrieval on questions, and masked spans read with evidence.

Everything is measured on what was never asked in training: given questions, and sentences whose fact
(or passage, where the corpus names no facts) is held out.
"""

import itertools
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ralm_jax.data.corpus import Corpus
from ralm_jax.evaluation import run_files
from ralm_jax.evaluation.cloze import KS, measure_clozes
from ralm_jax.evaluation.differences import by_question, differences, intervals, said, write_each
from ralm_jax.evaluation.rankings import ROWS, rankings
from ralm_jax.inference.embedding import Ranking
from ralm_jax.inference.open_run import OpenRun
from ralm_jax.lexical.bm25 import Bm25
from ralm_jax.metrics.means import Mean
from ralm_jax.metrics.ranking import all_ranked, judged, mrr, recall_at_k
from ralm_jax.models.ralm import Ralm
from ralm_jax.questions.question import Question, Questions, counted, cut_notes, lines_of
from ralm_jax.runs import directory, selection
from ralm_jax.terminal import watched


def evaluate_retrieval(
    opened: OpenRun,
    given: Questions | None,
    *,
    start: OpenRun | None = None,
    clozes: int = 1000,
    bm25: bool = True,
    each: Path | None = None,
    saved: Path | None = None,
) -> dict[str, Any]:
    """Measures a run on questions, beside what a person could have for nothing, and on held-out masked spans.

    Args:
      given: questions; without any, masked spans alone are measured.
      start: what the run began from, of the same corpus; it stands beside the run, and so do both with BM25.
      clozes: the most held-out sentences to read.
      bm25: False leaves out BM25 and every row that has it.
      each: a file that gets a JSON line for each question, with what every row makes of it.
      saved: a folder that gets the ranking of every row, as TREC and BEIR have them.

    Raises:
      UserError: as `OpenRun.open` says of its corpus, and where rankings cannot be saved.
    """
    corpus = opened.corpus
    report: dict[str, Any] = {
        "run": str(opened.path),
        "stage": opened.stage,
        "step": opened.step,
        "passages": corpus.size,
        "corpus_version": corpus.version.number,
    }
    if opened.path is not None and opened.stage == directory.BEST:
        report["selection"] = selection.said(opened.path)
    if given is not None:
        if saved is not None:
            run_files.check(given.asked, saved)
        questions = [q.question for q in given.asked]
        relevance = Relevance(corpus, given.asked)
        report["questions"], report["left_out"] = len(questions), given.notes
        cuts = cut_notes(opened.tokenizer, questions, opened.lengths.query)
        report["notes"] = relevance.notes | cuts
        lexical = Bm25(relevance.texts()) if bm25 else None
        found = rankings(opened, start, questions, lexical, max(KS))
        found = {name: relevance.without_itself(ranking) for name, ranking in found.items()}
        report |= {name: relevance.score(ranking) for name, ranking in found.items()}
        values = by_question(relevance, found)
        report["differences"] = differences(values)
        report["intervals"] = intervals(values)
        if each is not None:
            write_each(each, relevance.counted(), values)
        if saved is not None:
            run_files.write_rankings(saved, given.asked, relevance.documents, found)
    if isinstance(opened.model, Ralm) and clozes:
        report["clozes"] = measure_clozes(opened, limit=clozes)
    return report


def table(report: dict[str, Any]) -> str:
    """The report as a person reads it."""
    lines = [
        f"{report['run']}, stage {report['stage']}, step {report['step']:,}; "
        f"{report['passages']:,} passages"
    ]
    lines += [*report.get("selection", []), *notes(report)]
    for rule in ("holds_answer", "gold_passage"):
        if rule not in report.get("retriever", {}):
            continue
        measured = {label: report[name][rule] for name, label in ROWS.items() if name in report}
        ours = report["retriever"][rule]
        lines.append(f"\n{TITLES[rule]}, over {counted(ours['questions'])}")
        more = [name for name in ("ndcg@10",) if name in ours]
        heads = [
            *("@" + k for k in ours["recall"]),
            "MRR",
            *(name.replace("ndcg", "nDCG") for name in more),
        ]
        lines.append(f"{'':<30}" + "".join(f"{head:>9}" for head in heads))
        for name, row in measured.items():
            shares = "".join(f"{value:>9.1%}" for value in row["recall"].values())
            rest = "".join(f"{row[name]:>9.3f}" for name in ("mrr", *more))
            lines.append(f"{name:<30}{shares}{rest}")
    lines += said(report)
    read = report.get("clozes", {})
    if read.get("sentences"):
        lines.append(
            f"\nMasked spans of {read['sentences']:,} held-out sentences, predicted exactly"
        )
        lines.append(f"  with retrieved passages {read['span_accuracy']:.1%}")
        lines.append(f"  without                 {read['span_accuracy_null']:.1%}")
        lines.append(f"  retrieval utility       {read['retrieval_utility']:+.3f} nats per token")
        if "likeliest_holds" in read:
            lines.append(
                f"  the likeliest candidate holds the span {read['likeliest_holds']:.1%}, where some do "
                f"and some do not (by chance {read['holds_by_chance']:.1%})"
            )
        if "cloze_recall" in read:
            shares = ", ".join(f"@{k} {v:.1%}" for k, v in read["cloze_recall"].items())
            lines.append(f"  recall of passages that state the same fact: {shares}")
    return "\n".join(lines)


def notes(report: dict[str, Any]) -> list[str]:
    """Which questions were left out, joined or cut, and which no figure counts: a line for each reason."""
    return lines_of(report.get("left_out", {})) + lines_of(report.get("notes", {}))


# Passages that are kept in memory, for the rows of a table find much the same.
KEPT = 1 << 16
UNKNOWN_GOLD = "none of their gold ids is in the corpus"
ITSELF = "a document of the corpus too, by id and text, which is left out of what they find"
TITLES = {
    "holds_answer": "Recall of passages that contain an answer",
    "gold_passage": "Recall of gold passages",
}


class _Passage(NamedTuple):
    """Its text without its title, and the documents that it stands in."""

    text: str
    documents: list[str]


class Relevance:
    """Tells which passages answer a question: gold passages, and those that contain an answer."""

    def __init__(self, corpus: Corpus, questions: Sequence[Question]):
        self._source, self._questions = corpus.texts(), questions
        self._kept: dict[int, _Passage] = {}
        # The names of millions of documents take gigabytes, and few are asked for.
        names = (name for q in questions for name in (q.id, *q.gold_ids))
        asked = {name.encode("utf-8", "surrogatepass") for name in names}
        rows: dict[str, set[int]] = {}
        for row, record in enumerate(watched(self._source, "reading passages", corpus.size)):
            for document in asked.intersection(record["documents"]):
                rows.setdefault(document.decode(), set()).add(row)
        self._known = rows.keys()
        # A document that was cut into several passages is found with any of them.
        self.gold = [set().union(*(rows.get(g, ()) for g in q.gold_ids)) for q in questions]
        pairs = zip(questions, self.gold, strict=True)
        unknown = sum(bool(q.gold_ids) and not gold for q, gold in pairs)
        # Questions of which no figure by gold passage can be taken, for the person who reads the report.
        self.notes = {UNKNOWN_GOLD: unknown} if unknown else {}
        # In ArguAna and Quora a query is a document, and would find itself.
        self._itself = [self._own_rows(q, rows.get(q.id, ())) for q in questions]
        if known := sum(map(bool, self._itself)):
            self.notes[ITSELF] = known

    def texts(self) -> list[str]:
        """Title and body of every passage, in row order."""
        records = watched(self._source, "reading texts for BM25", len(self._source))
        return [f"{r['title'].decode()} {r['text'].decode()}" for r in records]

    def _own_rows(self, question: Question, rows: Iterable[int]) -> set[int]:
        """Those of some passages that the question is made of."""
        kept = self._passages([*rows])
        return {row for row in rows if kept[row].text in question.question}

    def without_itself(self, ranking: Ranking) -> Ranking:
        """A ranking in which no question finds the document that it is."""
        rows, scores = ranking.rows.copy(), ranking.scores.copy()
        for i, own in enumerate(self._itself):
            if own:
                kept = ~np.isin(rows[i], list(own))
                order = np.argsort(~kept, kind="stable")
                rows[i] = np.where(kept, rows[i], -1)[order]
                scores[i] = np.where(kept, scores[i], -np.inf)[order]
        return Ranking(rows, scores)

    def documents(self, rows: Sequence[int]) -> list[list[str]]:
        """Of each passage, by its row, the documents that it stands in; of -1 none."""
        kept = self._passages(rows)
        return [kept[row].documents if row >= 0 else [] for row in rows]

    def holding(self, rows: Sequence[int], question: Question) -> set[int]:
        """Those of the passages whose text (without its title) contains an answer."""
        kept = self._passages(rows)
        return {row for row in rows if row >= 0 and question.answer_in(kept[row].text)}

    def _passages(self, rows: Sequence[int]) -> dict[int, _Passage]:
        """Those that are kept, with all of the rows: read together, they take a tenth of the time."""
        wanted = sorted({row for row in rows if row >= 0})
        missing = [row for row in wanted if row not in self._kept]
        if len(self._kept) + len(missing) > KEPT:
            self._kept.clear()
            missing = wanted
        for row, record in zip(missing, self._source.read(missing), strict=True):
            names = [name.decode() for name in record["documents"]]
            self._kept[row] = _Passage(record["text"].decode(), names)
        return self._kept

    def score(self, ranking: Ranking) -> dict[str, Any]:
        """Recall at KS and MRR, by answer and by gold passage.

        Each is over the questions that have an answer, or a gold passage in the corpus, and is left out
        where no question has. Depths beyond the ranking are left out too, unless it ranks all passages.
        """
        rows = all_ranked(ranking.rows, len(self._source), max(KS))
        ks = [k for k in KS if k <= rows.shape[1]]
        report = {}
        if (answered := self._answered()).any():
            report["holds_answer"] = _recall(rows[answered], self._holding(rows), ks)
        known = np.array([bool(gold) for gold in self.gold])
        if known.any():
            measured = self.judged(ranking)
            means = {name: float(values.mean()) for name, values in measured.items()}
            report["gold_passage"] = means | _recall(rows[known], [g for g in self.gold if g], ks)
        return report

    def judged(self, ranking: Ranking) -> dict[str, np.ndarray]:
        """nDCG@10, MRR@10 and MAP over documents of each question that has a gold passage here.

        A document that was cut into several passages stands where the first of them does.
        """
        ranked, gold = [], []
        for rows, wanted, question in zip(ranking.rows, self.gold, self._questions, strict=True):
            if wanted:
                named = itertools.chain(*self.documents(rows.tolist()))
                ranked.append(list(dict.fromkeys(named)))
                grades = question.relevance.items()
                gold.append({name: grade for name, grade in grades if name in self._known})
        return judged(ranked, gold)

    def _answered(self) -> np.ndarray:
        """Which questions have an answer, bool [Q]."""
        return np.array([bool(q.answers) for q in self._questions], bool)

    def _holding(self, rows: np.ndarray) -> list[set[int]]:
        """Of each question that has an answer: which of its rows, of [Q, k], contain one."""
        pairs = zip(rows.tolist(), self._questions, strict=True)
        return [self.holding(found, q) for found, q in pairs if q.answers]

    def counted(self) -> list[Question]:
        """The questions that rows are compared on: with a gold passage here; if none has, with an answer."""
        known = [q for q, gold in zip(self._questions, self.gold, strict=True) if gold]
        return known or [q for q in self._questions if q.answers]

    def answer_found(self, ranking: Ranking, k: int) -> np.ndarray:
        """Of each question that has an answer: does one of the first k passages contain one? bool [q]."""
        return np.array([bool(found) for found in self._holding(ranking.rows[:, :k])], bool)

    def gold_found(self, ranking: Ranking, k: int) -> np.ndarray:
        """Of each question that has a gold passage here: is one among the first k? bool [q]."""
        pairs = zip(ranking.rows[:, :k].tolist(), self.gold, strict=True)
        return np.array([not wanted.isdisjoint(rows) for rows, wanted in pairs if wanted], bool)


def _recall(rows: np.ndarray, gold: list[set[int]], ks: Sequence[int]) -> dict[str, Any]:
    pairs = {str(k): pair for k, pair in recall_at_k(rows, gold, ks).items()}
    total, count = mrr(rows, gold)
    return {"recall": Mean.of(pairs).compute(), "mrr": total / count, "questions": count}
