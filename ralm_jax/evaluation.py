"""What a model has learnt: zero-shot retrieval on questions, and masked spans read with evidence.

Everything is measured on what was never asked in training: given questions, and sentences whose fact
(or passage, where the corpus names no facts) is held out.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ralm_jax import runs
from ralm_jax.data import features
from ralm_jax.data.corpus import Corpus
from ralm_jax.data.pipeline import Lengths
from ralm_jax.data.question_sources import read_questions
from ralm_jax.data.questions import Question, counted, cut_notes, lines_of
from ralm_jax.embedding import Ranking, embed_texts, search
from ralm_jax.kept_vectors import corpus_vectors
from ralm_jax.metrics import Mean, all_ranked, mrr, recall_at_k
from ralm_jax.models.openqa import OpenQA
from ralm_jax.models.ralm import Ralm
from ralm_jax.reading import KS, measure_clozes
from ralm_jax.retrieval.bm25 import Bm25


def evaluate(
    *,
    run: str | Path,
    questions: str | Path | None,
    corpus: str | Path | None = None,
    stage: str | None = None,
    clozes: int = 1000,
) -> dict[str, Any]:
    """Measures a run: recall and MRR on questions, compared with BM25, and held-out masked spans.

    Args:
      corpus: another corpus to measure on, prepared with the vocabulary of the run's own.
      stage: the stage whose newest checkpoint is measured; by default the last one that has a checkpoint.
      clozes: the most held-out sentences to read.

    Raises:
      UserError: the run or the corpus does not exist, the corpus was tokenized with a different
        vocabulary, or the questions cannot be read.
    """
    loaded = runs.load(Path(run), stage)
    own = runs.read_record(Path(run))
    text = runs.open_its_corpus(Path(run), corpus)
    asked = None if questions is None else read_questions(questions)
    lengths = Lengths(**own["lengths"])
    vectors = corpus_vectors(Path(run), loaded, text, lengths)
    report: dict[str, Any] = {
        "run": str(run),
        "stage": loaded.stage,
        "step": loaded.step,
        "passages": text.size,
    }
    if asked is not None:
        given = asked.asked
        ranked = rank(loaded.model, loaded.params, text, vectors, lengths, given, max(KS))
        judge = Judge(text, given)
        lexical = Ranking(*Bm25(judge.texts()).search([q.question for q in given], max(KS)))
        report["questions"], report["left_out"] = len(given), asked.notes
        texts = [q.question for q in given]
        report["notes"] = judge.notes | cut_notes(text.tokenizer(), texts, lengths.query)
        report["retriever"] = judge.score(ranked)
        report["bm25"] = judge.score(lexical)
    if isinstance(loaded.model, Ralm):
        report["clozes"] = measure_clozes(
            loaded.model, loaded.params, text, vectors, lengths, own["held_out"], limit=clozes
        )
    return report


def table(report: dict[str, Any]) -> str:
    """The report as a person reads it."""
    lines = [
        f"{report['run']}, stage {report['stage']}, step {report['step']:,}; "
        f"{report['passages']:,} passages"
    ]
    lines += notes(report)
    for rule in ("holds_answer", "gold_passage"):
        if rule not in report.get("retriever", {}):
            continue
        ours, lexical = report["retriever"][rule], report["bm25"][rule]
        lines.append(f"\n{TITLES[rule]}, over {counted(ours['questions'])}")
        lines.append(f"{'':<12}" + "".join(f"{'@' + k:>8}" for k in ours["recall"]) + f"{'MRR':>8}")
        for name, row in (("retriever", ours), ("BM25", lexical)):
            shares = "".join(f"{value:>8.1%}" for value in row["recall"].values())
            lines.append(f"{name:<12}{shares}{row['mrr']:>8.3f}")
    read = report.get("clozes", {})
    if read.get("sentences"):
        lines.append(
            f"\nMasked spans of {read['sentences']:,} held-out sentences, predicted exactly"
        )
        lines.append(f"  with retrieved passages {read['span_accuracy']:.1%}")
        lines.append(f"  without                 {read['span_accuracy_null']:.1%}")
        lines.append(f"  retrieval utility       {read['retrieval_utility']:+.3f} nats per token")
        if "cloze_recall" in read:
            shares = ", ".join(f"@{k} {v:.1%}" for k, v in read["cloze_recall"].items())
            lines.append(f"  recall of passages that state the same fact: {shares}")
    return "\n".join(lines)


def rank(
    model: Ralm | OpenQA,
    params: dict,
    corpus: Corpus,
    vectors: np.ndarray,
    lengths: Lengths,
    questions: Sequence[Question],
    k: int,
) -> Ranking:
    """The retriever's k best passages for each question; vectors [N,E] of the passages."""
    tokenizer = corpus.tokenizer()
    pieces = tokenizer.encode_batch([q.question for q in questions], add_special_tokens=False)
    text = features.query_text(corpus, [np.array(p.ids, np.int32) for p in pieces], lengths.query)
    return search(embed_texts(model, params, text), vectors, k)


def notes(report: dict[str, Any]) -> list[str]:
    """Which questions were left out, joined or cut, and which no figure counts: a line for each reason."""
    return lines_of(report.get("left_out", {})) + lines_of(report.get("notes", {}))


UNKNOWN_GOLD = "none of their gold ids is in the corpus"
TITLES = {
    "holds_answer": "Recall of passages that contain an answer",
    "gold_passage": "Recall of gold passages",
}


class Judge:
    """Tells which passages answer a question: gold passages, and those that contain an answer."""

    def __init__(self, corpus: Corpus, questions: Sequence[Question]):
        self._source, self._questions = corpus.texts(), questions
        rows: dict[str, set[int]] = {}
        for row in range(corpus.size):
            for document in self._source[row]["documents"]:
                rows.setdefault(document.decode(), set()).add(row)
        # A document that was cut into several passages is found with any of them.
        self.gold = [set().union(*(rows.get(g, ()) for g in q.gold_ids)) for q in questions]
        pairs = zip(questions, self.gold, strict=True)
        unknown = sum(bool(q.gold_ids) and not gold for q, gold in pairs)
        # Questions of which no figure by gold passage can be taken, for the person who reads the report.
        self.notes = {UNKNOWN_GOLD: unknown} if unknown else {}

    def texts(self) -> list[str]:
        """Title and body of every passage, in row order."""
        records = (self._source[row] for row in range(len(self._source)))
        return [f"{r['title'].decode()} {r['text'].decode()}" for r in records]

    def holds(self, row: int, question: Question) -> bool:
        """Whether the passage's text (without its title) contains an answer."""
        return row >= 0 and question.answer_in(self._source[row]["text"].decode())

    def score(self, ranking: Ranking) -> dict[str, Any]:
        """Recall at KS and MRR, by answer and by gold passage.

        Each is over the questions that have an answer, or a gold passage in the corpus, and is left out
        where no question has. Depths beyond the ranking are left out too, unless it ranks all passages.
        """
        rows = all_ranked(ranking.rows, len(self._source), max(KS))
        ks = [k for k in KS if k <= rows.shape[1]]
        report = {}
        answered = np.array([bool(q.answers) for q in self._questions])
        if answered.any():
            asked = [q for q in self._questions if q.answers]
            right = [
                {int(row) for row in found if self.holds(int(row), q)}
                for found, q in zip(rows[answered], asked, strict=True)
            ]
            report["holds_answer"] = _recall(rows[answered], right, ks)
        known = np.array([bool(gold) for gold in self.gold])
        if known.any():
            report["gold_passage"] = _recall(rows[known], [g for g in self.gold if g], ks)
        return report


def _recall(rows: np.ndarray, gold: list[set[int]], ks: Sequence[int]) -> dict[str, Any]:
    pairs = {str(k): pair for k, pair in recall_at_k(rows, gold, ks).items()}
    total, count = mrr(rows, gold)
    return {"recall": Mean.of(pairs).compute(), "mrr": total / count, "questions": count}
