"""What a model has learnt: zero-shot retrieval on questions, and masked spans read with evidence.

Everything is measured on what was never asked in training: given questions, and sentences whose fact
(or passage, where the corpus names no facts) is held out.
"""

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ralm_jax import answers, losses, runs, supply
from ralm_jax.data import features, masking, pipeline
from ralm_jax.data.corpus import Corpus, open_corpus
from ralm_jax.data.pipeline import Lengths
from ralm_jax.data.questions import Question, read_questions
from ralm_jax.errors import UserError
from ralm_jax.metrics import Mean, mrr, recall_at_k
from ralm_jax.models.ralm import ClozeBatch, Ralm, Text
from ralm_jax.partition import replicate
from ralm_jax.retrieval.bm25 import Bm25
from ralm_jax.retrieval.exact import Exact
from ralm_jax.retrieval.index import Version

KS = (1, 5, 20, 100)
READ_BATCH = 16  # clozes read at a time: [16,K,M,V] logits are held


class Ranking(NamedTuple):
    """A question's best passages: rows of the corpus and scores, [Q, k], best first; -1 is none."""

    rows: np.ndarray
    scores: np.ndarray


def evaluate(
    *,
    run: str | Path,
    questions: str | Path | None,
    corpus: str | Path | None = None,
    stage: str | None = None,
    clozes: int = 1000,
) -> dict[str, Any]:
    """Measures a run: recall and MRR on questions beside BM25, and held-out masked spans.

    Args:
      corpus: prepared with the vocabulary of the run's own, which it stands in for.
      stage: whose newest checkpoint to measure; the last that has one by default.
      clozes: at most so many held-out sentences are read.

    Raises:
      UserError: no run, no corpus, another vocabulary, or a bad file of questions.
    """
    loaded = runs.load(Path(run), stage)
    own = runs.read_record(Path(run))
    text = open_corpus(corpus) if corpus else open_corpus(own["corpus"])
    if text.vocabulary.size != loaded.model.reader_config.vocab_size:
        raise UserError(
            f"the corpus {text.path} has {text.vocabulary.size} wordpieces and the run {run} was "
            f"trained with {loaded.model.reader_config.vocab_size}; prepare it with --vocab "
            f"{own['corpus']}/vocab.txt"
        )
    lengths = Lengths(**own["lengths"])
    vectors = embed_corpus(loaded.model, loaded.params, text, lengths)
    report: dict[str, Any] = {
        "run": str(run),
        "stage": loaded.stage,
        "step": loaded.step,
        "passages": text.size,
    }
    if questions is not None:
        asked = read_questions(questions)
        ranked = rank(loaded.model, loaded.params, text, vectors, lengths, asked, max(KS))
        judge = Judge(text, asked)
        lexical = Ranking(*Bm25(judge.texts()).search([q.question for q in asked], max(KS)))
        report["questions"] = len(asked)
        report["retriever"] = judge.score(ranked)
        report["bm25"] = judge.score(lexical)
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
    for rule in ("holds_answer", "gold_passage"):
        if rule not in report.get("retriever", {}):
            continue
        ours, lexical = report["retriever"][rule], report["bm25"][rule]
        what = (
            "the passage holds an answer" if rule == "holds_answer" else "the gold passage is found"
        )
        lines.append(f"\n{what}, {ours['questions']:,} questions")
        lines.append(f"{'':<12}" + "".join(f"{'@' + k:>8}" for k in ours["recall"]) + f"{'MRR':>8}")
        for name, row in (("retriever", ours), ("BM25", lexical)):
            shares = "".join(f"{value:>8.1%}" for value in row["recall"].values())
            lines.append(f"{name:<12}{shares}{row['mrr']:>8.3f}")
    read = report["clozes"]
    if read["sentences"]:
        lines.append(f"\nmasked spans of {read['sentences']:,} held-out sentences, read right")
        lines.append(f"  with retrieved passages {read['span_accuracy']:.1%}")
        lines.append(f"  without                 {read['span_accuracy_null']:.1%}")
        lines.append(f"  retrieval utility       {read['retrieval_utility']:+.3f} nats a token")
        if "cloze_recall" in read:
            shares = ", ".join(f"@{k} {v:.1%}" for k, v in read["cloze_recall"].items())
            lines.append(f"  a passage stating the same fact is found: {shares}")
    return "\n".join(lines)


def embed_corpus(model: Ralm, params: dict, corpus: Corpus, lengths: Lengths) -> np.ndarray:
    """All passages with present parameters: float32 [N,E]."""
    retriever = replicate(params["retriever"])
    chunks = [
        supply.embed_passages(
            model, corpus, lengths.passage, retriever, i, min(i + supply.CHUNK, corpus.size)
        )
        for i in range(0, corpus.size, supply.CHUNK)
    ]
    return np.concatenate([np.asarray(chunk) for chunk in chunks])


def embed_texts(model: Ralm, params: dict, text: Text) -> np.ndarray:
    """Queries [n,L] -> float32 [n,E]."""
    retriever, n, out = replicate(params["retriever"]), len(text.tokens), []
    for start in range(0, n, supply.CHUNK):
        rows = np.arange(start, start + supply.CHUNK) % n
        part = Text(text.tokens[rows], text.types[rows])
        out.append(np.asarray(supply.embed_queries(model, retriever, part)))
    return np.concatenate(out)[:n]


def search(queries: np.ndarray, vectors: np.ndarray, k: int) -> Ranking:
    """Exact: queries [Q,E], vectors [N,E] -> the k best of each."""
    searcher = Exact()
    searcher.build(Version(0, vectors, Path()))
    searcher.publish()
    found = [searcher.search(queries[i : i + 256], k)() for i in range(0, len(queries), 256)]
    return Ranking(*(np.concatenate(part) for part in zip(*found, strict=True)))


def rank(
    model: Ralm,
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


class Judge:
    """Tells which passages answer a question, by gold ids and by holding an answer."""

    def __init__(self, corpus: Corpus, questions: Sequence[Question]):
        self._source, self._questions = corpus.texts(), questions
        self._words: dict[int, str] = {}
        rows: dict[str, int] = {}
        for row in range(corpus.size):
            for document in self._source[row]["documents"]:
                rows.setdefault(document.decode(), row)
        self.documents = rows
        self.gold = [{rows[g] for g in q.gold_ids if g in rows} for q in questions]

    def texts(self) -> list[str]:
        """Title and body of every passage, in row order."""
        records = (self._source[row] for row in range(len(self._source)))
        return [f"{r['title'].decode()} {r['text'].decode()}" for r in records]

    def holds(self, row: int, wanted: Sequence[str]) -> bool:
        """Whether the passage's text (without its title) holds an answer."""
        return row >= 0 and answers.has_answer(self._source[row]["text"].decode(), wanted)

    def score(self, ranking: Ranking) -> dict[str, Any]:
        """Recall at KS and MRR: by answer held, and by gold passage where any question names one."""
        depth = ranking.rows.shape[1]
        ks = [k for k in KS if k <= depth]
        held = [
            {int(row) for row in found if self.holds(int(row), q.answers)}
            for found, q in zip(ranking.rows, self._questions, strict=True)
        ]
        report = {"holds_answer": _recall(ranking.rows, held, ks)}
        known = np.array([bool(gold) for gold in self.gold])
        if known.any():
            gold = [g for g in self.gold if g]
            report["gold_passage"] = _recall(ranking.rows[known], gold, ks)
        return report


def _recall(rows: np.ndarray, gold: list[set[int]], ks: Sequence[int]) -> dict[str, Any]:
    pairs = {str(k): pair for k, pair in recall_at_k(rows, gold, ks).items()}
    total, count = mrr(rows, gold)
    return {"recall": Mean.of(pairs).compute(), "mrr": total / count, "questions": count}


def measure_clozes(
    model: Ralm,
    params: dict,
    corpus: Corpus,
    vectors: np.ndarray,
    lengths: Lengths,
    held_out: float,
    *,
    candidates: int = 8,
    limit: int = 1000,
) -> dict[str, Any]:
    """Held-out sentences, their own passage excluded: what is retrieved, and what is read from it.

    Returns:
      span_accuracy (all predicted tokens of the span right) with the retrieved candidates and with the
      null passage alone, retrieval_utility (nats a token), and, where the corpus names facts,
      cloze_recall {k: share with a passage that states the same fact}.
    """
    usable = pipeline.held_out_sentences(corpus, held_out) & pipeline.with_span(
        corpus, lengths.query
    )
    rows = np.flatnonzero(usable)
    if not len(rows):
        return {"sentences": 0}
    rows = np.sort(np.random.default_rng(0).permutation(rows)[:limit])
    asked = pipeline.clozes(
        corpus, rows, np.arange(len(rows)), masking.salient_span, lengths, seed=0
    )
    depth = min(max(KS) + 1, corpus.size)
    found = search(embed_texts(model, params, asked.query), vectors, depth).rows
    chosen = pipeline.candidates(found, asked.passages, candidates)
    report: dict[str, Any] = {"sentences": len(rows)}
    report |= _read_all(model, params, corpus, asked, chosen, lengths)
    gold = same_fact(corpus, rows)
    if any(gold):
        others = pipeline.candidates(found, asked.passages, depth)[:, 1:]
        known = np.array([bool(g) for g in gold])
        ks = [k for k in KS if k <= others.shape[1]]
        pairs = recall_at_k(others[known], [g for g in gold if g], ks)
        report["cloze_recall"] = Mean.of({str(k): p for k, p in pairs.items()}).compute()
    return report


def same_fact(corpus: Corpus, sentences: np.ndarray) -> list[set[int]]:
    """For each sentence row, the other passages that state the fact of its first span."""
    groups, spans = np.asarray(corpus.span_groups), np.asarray(corpus.spans)
    passages: dict[int, set[int]] = {}
    for group, sentence in zip(groups.tolist(), spans[:, 0], strict=True):
        passages.setdefault(group, set()).add(int(corpus.sentences[sentence, 0]))
    first = np.searchsorted(spans[:, 0], sentences)
    return [
        passages[int(groups[span])] - {int(corpus.sentences[row, 0])}
        for span, row in zip(first, sentences, strict=True)
    ]


def _read_all(model, params, corpus, asked: pipeline.Clozes, chosen, lengths: Lengths):
    """Reads clozes with candidate rows [n,K]; one batch shape, so one compilation."""
    params = jax.device_put(params, jax.local_devices()[0])
    total, n = Mean(), len(chosen)
    for start in range(0, n, READ_BATCH):
        real = np.arange(start, start + READ_BATCH) < n
        rows = np.minimum(np.arange(start, start + READ_BATCH), n - 1)
        part = pipeline.Clozes(
            query=Text(asked.query.tokens[rows], asked.query.types[rows]),
            positions=asked.positions[rows],
            targets=asked.targets[rows],
            weights=asked.weights[rows] * real[:, None],
            passages=asked.passages[rows],
        )
        batch = pipeline.with_candidates(corpus, part, chosen[rows], lengths)
        total = total.merge(Mean.of(read(model, params, batch)))
    return total.compute()


@functools.partial(jax.jit, static_argnames="model")
def read(model: Ralm, params: dict, batch: ClozeBatch) -> dict[str, tuple]:
    """{name: (sum, count)} for a batch; rows whose weights are all 0 do not count."""
    variables = {"params": params}
    call: Any = functools.partial(model.apply, variables, batch)
    logits = jax.nn.log_softmax(call(method="read"))  # [B,K,M,V]
    prior = losses.log_prior(call(method="scores"), batch.valid)  # [B,K]
    marginal = jax.nn.logsumexp(prior[:, :, None, None] + logits, axis=1)  # [B,M,V]
    unused = batch.weights == 0
    asked = (~unused).any(-1)

    def right(guess):  # [B,M,V] -> spans wholly right
        return (((guess.argmax(-1) == batch.targets) | unused).all(-1) & asked).sum()

    targets = jnp.broadcast_to(batch.targets[:, None, :, None], (*logits.shape[:-1], 1))
    likelihood = jnp.take_along_axis(logits, targets, axis=-1)[..., 0]  # [B,K,M]
    telemetry = losses.retrieval_telemetry(prior, likelihood, batch.weights)
    return {
        "span_accuracy": (right(marginal), asked.sum()),
        "span_accuracy_null": (right(logits[:, 0]), asked.sum()),
        "retrieval_utility": telemetry["retrieval_utility"],
    }
