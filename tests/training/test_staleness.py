"""What is logged of a step is of the index that its own queries were searched in."""

import pytest

from ralm_jax.batches import Lengths
from ralm_jax.models.config import EncoderConfig
from ralm_jax.models.ralm import Ralm
from ralm_jax.retrieval.refresh import Asynchronous, Synchronous
from ralm_jax.runs.writers import metrics_file, read_metrics
from ralm_jax.training import loop as training
from ralm_jax.training import optim, pretrain, schedule
from ralm_jax.training.tasks import Realm

LENGTHS = Lengths(query=20, passage=56, joint=64, masked=4)
SMALL = EncoderConfig(hidden=8, layers=1, heads=2, intermediate=16, positions=64, init_stddev=0.2)
MODEL = Ralm(SMALL, SMALL, embedding=8)
BOTH = optim.by_part(optim.adamw(1e-2), optim.adamw(1e-2))
STEPS = 12


def train(run, corpus, policy, checkpoint_every=100):
    task = Realm(LENGTHS, candidates=3, index="exact", refresh=policy)
    course = schedule.Schedule(STEPS, 8, BOTH, log_every=1, checkpoint_every=checkpoint_every)
    stages = [schedule.Stage("realm", task, course)]
    pretrain.pretrain(run=run, corpus=corpus, stages=stages, model=MODEL, held_out=0.2)


def staleness(run):
    """Of each step, counted from 0; the line of step n is written when n + 1 are done."""
    lines = [line for line in read_metrics(metrics_file(run)) if "staleness" in line]
    assert [line["step"] for line in lines] == list(range(1, STEPS + 1))
    return [line["staleness"] for line in lines]


ASYNCHRONOUS = Asynchronous(every=4, lag=3)
# Snapshots of steps 4 and 8 are published at steps 7 and 11, after the queries of those steps have
# been searched: they serve from steps 8 and 12 on.
MADE_AT = [0] * 8 + [4] * 4


@pytest.mark.parametrize(
    ("policy", "made_at", "checkpoint_every"),
    [
        pytest.param(ASYNCHRONOUS, MADE_AT, 100, marks=pytest.mark.slow),
        pytest.param(ASYNCHRONOUS, MADE_AT, 3, marks=pytest.mark.slow),
        pytest.param(Synchronous(every=5), [0] * 6 + [5] * 5 + [10], 100, marks=pytest.mark.slow),
    ],
    ids=["asynchronous", "checkpoints", "synchronous"],
)
def test_the_staleness_of_a_step_is_that_of_the_index_it_was_searched_in(
    tiny, tmp_path, policy, made_at, checkpoint_every
):
    """Whether its metrics are read at once, as before a checkpoint, or while the next step trains."""
    train(tmp_path, tiny.corpus, policy, checkpoint_every=checkpoint_every)
    assert staleness(tmp_path) == [step - made for step, made in enumerate(made_at)]


def test_the_policy_says_which_index_that_is():
    """The queries of a step are searched before the step's own publish."""
    served = [ASYNCHRONOUS.published(max(step - 1, 0)) for step in range(STEPS)]
    assert served == MADE_AT


@pytest.mark.slow
def test_a_resumed_run_logs_the_same(tiny, tmp_path):
    """Stopped with a refresh in flight, and where the queries of a step wait in the newer index."""
    for stop in (7, 8):
        with pytest.raises(training.Stopped):
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(training, "told_to_stop", lambda loop, done, stop=stop: done == stop)
                train(tmp_path, tiny.corpus, ASYNCHRONOUS)
    train(tmp_path, tiny.corpus, ASYNCHRONOUS)
    assert staleness(tmp_path) == [step - made for step, made in enumerate(MADE_AT)]
