"""Which of the parameters of a fine-tuning are kept: those that answer most of the development questions.

And where there is a scorer, whether its order of the passages is the one to answer from.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np

from ralm_jax import answering, runs
from ralm_jax.checkpoint import Checkpoints
from ralm_jax.data.corpus import Corpus
from ralm_jax.data.pipeline import Lengths
from ralm_jax.data.questions import Question
from ralm_jax.embedding import exact_over
from ralm_jax.errors import UserError
from ralm_jax.models.openqa import OpenQA
from ralm_jax.retrieval import index
from ralm_jax.writers import metrics_file, read_metrics


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
    """A probe of training: exact match and F1 over development questions; the best are checkpointed.

    With a scorer, in the better of two orders, the retriever's where they are alike; and
    `reranking_gain`, the exact match of the scorer's less that of the retriever's.
    """

    run: Path
    corpus: Corpus
    questions: Sequence[Question]
    lengths: Lengths
    candidates: int  # passages read

    def __call__(self, model: OpenQA, params: dict, stage: str, step: int) -> dict[str, float]:
        folder = runs.index_folder(self.run, stage)
        newest = max(index.versions(folder))
        # Training has this version open: it wrote the vectors or verified them when it was resumed.
        fingerprint = self.corpus.fingerprint
        vectors = index.open_version(folder, newest, fingerprint, verify=False).vectors
        opened = answering.Opened(
            model,
            jax.device_put(params, jax.local_devices()[0]),
            self.corpus,
            exact_over(vectors),
            self.lengths,
            self.corpus.tokenizer(),
            self.corpus.texts(),
        )
        scores = [self._score(found) for found in self._answered(opened)]
        exact, f1 = max(scores, key=lambda score: score[0])  # of equals the first
        if exact > self._best(stage, step):
            self._keep(params, step, rerank=exact > scores[0][0])
        gain = {"reranking_gain": scores[1][0] - scores[0][0]} if len(scores) > 1 else {}
        return {"exact_match": exact, "f1": f1, **gain}

    def _answered(self, opened: answering.Opened) -> list[list[answering.Answered]]:
        """From passages in the retriever's order, and where there is a scorer in its own."""
        scored = opened.model.with_scorer
        beam = max(self.candidates, answering.RERANKED) if scored else self.candidates
        asked = answering.encode(opened, [q.question for q in self.questions])
        orders = [answering.rank(opened, asked, beam)]
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
        """Of earlier probes, of which a resumed run has those up to where it went on."""
        file = metrics_file(self.run)
        lines = read_metrics(file) if file.exists() else []
        probes = (x for x in lines if x["stage"] == stage and x["step"] < step)
        return max((x.get("probe/exact_match", -1.0) for x in probes), default=-1.0)

    def _keep(self, params: dict, step: int, rerank: bool) -> None:
        checkpoints = Checkpoints(runs.checkpoint_folder(self.run, runs.BEST))
        try:
            latest = checkpoints.latest()
            if latest is None or latest < step:  # else a lost run came as far, by the same steps
                tree = {"state": {"params": params}, runs.RERANK: np.array(rerank)}
                checkpoints.save(step, tree, wait=True)
        finally:
            checkpoints.close()
