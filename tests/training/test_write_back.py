"""A run that writes vectors back resumes exactly, and finds what an index kept fresh would."""

import jax
import numpy as np
import pytest

from ralm_jax.batches import Lengths
from ralm_jax.errors import UserError
from ralm_jax.losses.prior import Prior
from ralm_jax.models.config import EncoderConfig
from ralm_jax.models.ralm import Ralm
from ralm_jax.retrieval import index
from ralm_jax.retrieval.refresh import Frozen, Rolling, Synchronous, WriteBack
from ralm_jax.runs import directory
from ralm_jax.runs.writers import metrics_file, read_metrics
from ralm_jax.training import loop, optim, pretrain, schedule
from ralm_jax.training.passage_windows import PassageWindows
from ralm_jax.training.tasks import Realm

LENGTHS = Lengths(query=24, passage=56, joint=64, masked=4)
SMALL = EncoderConfig(
    hidden=8, layers=1, heads=2, intermediate=16, positions=64, init_stddev=0.2, dropout=0.0
)
MODEL = Ralm(SMALL, SMALL, embedding=8)
BOTH = optim.by_part(optim.adamw(1e-2), optim.adamw(1e-2))
STEPS = 9


def stage(policy, prior=None, /, **changes):
    given = {"prior": prior} if prior else {}
    task = Realm(LENGTHS, candidates=3, index="exact", refresh=policy, **given, **changes)
    course = schedule.Schedule(STEPS, 8, BOTH, log_every=1, checkpoint_every=100)
    return schedule.Stage("realm", task, course)


def train(run, corpus, policy, prior=None, **changes):
    stages = [stage(policy, prior, **changes)]
    return pretrain.pretrain(run=run, corpus=corpus, stages=stages, model=MODEL, held_out=0.2)[1]


def stopped_at(done):
    patch = pytest.MonkeyPatch()
    patch.setattr(loop, "told_to_stop", lambda part, at: at == done)
    return patch


def told(run):
    """Every figure of every step but those of the clock."""
    kept = ("loss", "staleness", "candidate_age", "candidate_age_90", "p_null")
    return [
        {name: line[name] for name in kept if name in line}
        for line in read_metrics(metrics_file(run))
        if "loss" in line
    ]


@pytest.mark.slow
def test_a_stopped_run_is_the_same_run(tiny, tmp_path):
    """With all of it at once: a part of the passages in turn, few vectors kept, and BM25 beside them."""
    policy, prior = WriteBack(Rolling(2, 1, turns=3), over=3, written=5), Prior(lexical_weight=2.0)
    whole = train(tmp_path / "whole", tiny.corpus, policy, prior)
    patch = stopped_at(5)
    with pytest.raises(loop.Stopped):
        train(tmp_path / "parts", tiny.corpus, policy, prior)
    patch.undo()
    parts = train(tmp_path / "parts", tiny.corpus, policy, prior)
    jax.tree.map(np.testing.assert_array_equal, whole, parts)
    assert told(tmp_path / "whole") == told(tmp_path / "parts")


@pytest.mark.slow
def test_all_written_back_is_an_index_two_steps_old(tiny, tmp_path):
    """Where every passage is a candidate in every step, its vector is as old as the pipeline is long."""
    train(tmp_path, tiny.corpus, WriteBack(Frozen(), over=2))
    ages = [line["candidate_age"] for line in told(tmp_path)]
    stale = [line["staleness"] for line in told(tmp_path)]
    assert stale == list(range(STEPS))
    # Candidates of eight queries come again: half of them have been written lately.
    assert ages[0] == 0 and max(ages[4:]) < max(stale[4:]) and min(ages[2:]) == 2


@pytest.mark.slow
def test_candidates_of_steps_in_which_passages_stay_are_known_by_their_newest_vectors(
    tiny, tmp_path, monkeypatch
):
    """Every third step has their texts to embed; what it makes of them is what the others score by."""
    seen = []
    batch = Realm.batch
    monkeypatch.setattr(Realm, "batch", lambda *x: seen.append(batch(*x)) or seen[-1])
    train(tmp_path, tiny.corpus, WriteBack(Frozen(), over=2), passages_every=3)
    known = [given.vectors is not None for given in seen[:STEPS]]
    assert known == [step % 3 > 0 for step in range(STEPS)]
    assert [given.rows is not None for given in seen[:STEPS]] == [not x for x in known]
    first = index.mapped(directory.index_folder(tmp_path, "realm"), 0)

    def renewed(step):
        """Candidates whose vector is not one of the first index."""
        vectors = seen[step].vectors[:, 1:].reshape(-1, first.shape[1])
        return [v for v in vectors if not (first == v).all(1).any()]

    # What step 3 made is there from step 5 on; step 0 had the parameters of the index.
    assert not renewed(4) and renewed(5)


@pytest.mark.parametrize("task", ["frozen", "windows"])
def test_a_stage_that_embeds_nothing_has_nothing_to_write(task):
    policy = WriteBack(Synchronous(5))
    given = stage(policy, freeze_retriever=True)
    if task == "windows":
        given = schedule.Stage("windows", PassageWindows(LENGTHS, refresh=policy), given.schedule)
    with pytest.raises(UserError, match="WriteBack needs a stage that embeds its candidates"):
        schedule.check(given, MODEL)
    schedule.check(stage(policy), MODEL)
