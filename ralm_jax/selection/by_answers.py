"""Which of the parameters of a fine-tuning are kept: those that answer most of the development questions.

And where there is a scorer, whether its order of the passages is the one to answer from.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np

from ralm_jax.batches import Lengths
from ralm_jax.data.corpus import Corpus
from ralm_jax.errors import UserError
from ralm_jax.inference import answering
from ralm_jax.inference.embedding import Ranking, embed_texts
from ralm_jax.inference.open_run import OpenRun
from ralm_jax.models.openqa import OpenQA
from ralm_jax.questions.question import Question
from ralm_jax.retrieval import index
from ralm_jax.retrieval.refresh import Policy
from ralm_jax.retrieval.searcher import exact
from ralm_jax.runs import directory
from ralm_jax.runs.checkpoint import Checkpoints
from ralm_jax.runs.writers import metrics_file, read_metrics


def spread(questions: Sequence[Question], most: int) -> Sequence[Question]:
    """At most so many of the questions that have an answer to compare with, evenly from first to last.

    Raises UserError where there are questions and none has an answer.
    """
    answered = [question for question in questions if question.answers]
    if questions and not answered:
        raise UserError(
            "no development question has an answer to compare with; give questions with answers"
        )
    return answered[:: -(-len(answered) // most) or 1]


@dataclasses.dataclass(frozen=True)
class Selection:
    """Evaluates training: exact match and F1 over development questions; the best are checkpointed.

    With a scorer, in the better of two orders, the retriever's where they are alike; and
    `reranking_gain`, the exact match of the scorer's less that of the retriever's.
    """

    run: Path
    corpus: Corpus
    questions: Sequence[Question]
    lengths: Lengths
    candidates: int  # passages read
    refresh: Policy

    def __call__(self, model: OpenQA, params: dict, stage: str, step: int) -> dict[str, float]:
        # The index that served the step before: a newer one is not published until the next step begins.
        folder = directory.index_folder(self.run, stage)
        vectors = index.mapped(folder, self.refresh.published(max(step - 1, 0)))
        params = jax.device_put(params, jax.local_devices()[0])
        opened = OpenRun(
            model, params, self.lengths, self.run, source=self.corpus, embedded=vectors
        )
        scores = [self._score(found) for found in self._answered(opened)]
        exact, f1 = max(scores, key=lambda score: score[0])  # of equals the first
        if exact > self._best(stage, step):
            self._keep(params, step, rerank=exact > scores[0][0])
        gain = {"reranking_gain": scores[1][0] - scores[0][0]} if len(scores) > 1 else {}
        return {"exact_match": exact, "f1": f1, **gain}

    def _answered(self, opened: OpenRun) -> list[list[answering.Answered]]:
        """From passages in the retriever's order, and where there is a scorer in its own."""
        scored = opened.model.with_scorer
        beam = max(self.candidates, answering.RERANKED) if scored else self.candidates
        asked = opened.encode([q.question for q in self.questions])
        # On the host, where the vectors are mapped: training has its own copy of them on the device.
        queries = embed_texts(opened.model, opened.params, asked)
        orders = [Ranking(*exact(queries, opened.vectors, min(beam, self.corpus.size)))]
        if scored:
            orders.append(answering.reranked(opened, asked, orders[0]))
        return answering.read(opened, asked, orders, self.candidates)

    def _score(self, found: Sequence[answering.Answered]) -> tuple[float, float]:
        """Exact match and F1."""
        said = [a.answers[0].text if a.answers else "" for a in found]
        pairs = list(zip(said, self.questions, strict=True))
        exact = float(np.mean([q.answered_by(text) for text, q in pairs]))
        return exact, float(np.mean([q.f1(text) for text, q in pairs]))

    def _best(self, stage: str, step: int) -> float:
        """Of earlier evaluations, of which a resumed run has those up to where it went on."""
        file = metrics_file(self.run)
        lines = read_metrics(file) if file.exists() else []
        evals = (x for x in lines if x["stage"] == stage and x["step"] < step)
        return max((x.get("eval/exact_match", -1.0) for x in evals), default=-1.0)

    def _keep(self, params: dict, step: int, rerank: bool) -> None:
        checkpoints = Checkpoints(directory.checkpoint_folder(self.run, directory.BEST))
        try:
            latest = checkpoints.latest()
            if latest is None or latest < step:  # else a lost run came as far, by the same steps
                tree = {"state": {"params": params}, directory.RERANK: np.array(rerank)}
                checkpoints.save(step, tree, wait=True)
        finally:
            checkpoints.close()
