import itertools
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ralm_jax.errors import UserError
from ralm_jax.loaders.refresher import Refresher
from ralm_jax.retrieval import index
from ralm_jax.retrieval.exact import Exact
from ralm_jax.retrieval.refresh import Asynchronous, Frozen, Rolling, Synchronous, WriteBack

N, E, STEPS = 23, 4, 17
POLICIES = [
    Frozen(),
    Synchronous(6),
    Asynchronous(6, 6),
    Asynchronous(6, 4),
    Asynchronous(6, 1),
    Asynchronous(1, 1),
    Rolling(3, 2, turns=2),
    Rolling(2, 2, turns=3),
    Rolling(6, 4, turns=1),
    WriteBack(Asynchronous(6, 4)),
]
FEATURES = np.random.default_rng(0).normal(size=(N, E)).astype(np.float32)


class Run:
    """A toy training run: what is found at a step decides the parameters of the next."""

    def __init__(self, policy, root, keep=frozenset):
        self.log, self.embeds = [], []
        self.searcher = Exact()
        self.refresher = Refresher(
            policy, self.embed, self.searcher, root,
            rows=range(N), width=E, fingerprint="toy", chunk=4, keep=keep,
        )  # fmt: skip

    def embed(self, params, start, stop):
        self.embeds.append((start, stop))
        return jnp.asarray(FEATURES[start:stop]) @ params

    def start(self):
        self.params, self.step = jnp.eye(E), 0
        self.refresher.start(self.params)
        return self

    def resume(self, saved):
        self.params, self.step = saved["params"], saved["step"]
        self.refresher.resume(saved["snapshot"], saved["snapshot_step"], self.step)
        return self

    def save(self):
        return {
            "params": self.params,
            "step": self.step,
            "snapshot": self.refresher.snapshot,
            "snapshot_step": self.refresher.in_flight,
        }

    def train(self, until):
        while self.step < until:
            published = self.refresher.advance(self.params, self.step)
            ids, scores = self.searcher.search(np.eye(E, dtype=np.float32), 3)()
            turn = jax.random.normal(
                jax.random.fold_in(jax.random.key(int(ids.sum())), self.step), (E, E)
            )
            self.params = self.params + 0.3 * turn * scores.mean()
            staleness = self.refresher.staleness(self.step)
            self.log.append(
                (self.step, ids.tolist(), scores.tolist(), staleness, published and published.step)
            )
            self.step += 1
        return self


@pytest.mark.parametrize("policy", POLICIES, ids=repr)
def test_the_policy_tells_what_is_served(policy, tmp_path):
    run = Run(policy, tmp_path).start().train(STEPS)
    assert [step - staleness for step, _, _, staleness, _ in run.log] == [
        policy.published(step) for step in range(STEPS)
    ]
    assert [published for *_, published in run.log if published is not None] == sorted(
        {policy.published(step) for step in range(STEPS)} - {0}
    )


@pytest.mark.parametrize("policy", POLICIES, ids=repr)
def test_snapshots_are_served_in_order_one_at_a_time(policy):
    taken = [step for step in range(200) if policy.snapshot_due(step)]
    served = [policy.published(step) for step in range(200)]
    assert served == sorted(served) and set(served) <= {0, *taken}
    # A snapshot is published before, or as, the next one is taken.
    assert all(policy.published(later) >= early for early, later in itertools.pairwise(taken))
    lag = getattr(getattr(policy, "policy", policy), "lag", 0)
    assert all(policy.published(step + lag) == step for step in taken)
    assert all(policy.published(step + lag - 1) < step for step in taken)


@pytest.mark.parametrize("policy", POLICIES, ids=repr)
def test_a_run_interrupted_at_any_step_is_the_same_run(policy, tmp_path):
    whole = Run(policy, tmp_path / "whole").start().train(STEPS)
    first = Run(policy, tmp_path / "first").start()
    for stop in range(STEPS):
        root = shutil.copytree(tmp_path / "first", tmp_path / str(stop))
        second = Run(policy, root).resume(first.save()).train(STEPS)
        assert first.log + second.log == whole.log
        np.testing.assert_array_equal(second.params, whole.params)
        first.train(stop + 1)


@pytest.mark.parametrize("policy", POLICIES, ids=repr)
def test_a_run_lost_after_its_checkpoint_is_the_same_run(policy, tmp_path):
    whole = Run(policy, tmp_path / "whole").start().train(STEPS)
    for stop in range(0, STEPS, 3):
        root = tmp_path / str(stop)
        needed = {policy.published(max(stop - 1, 0))}
        run = Run(policy, root, keep=lambda needed=needed: needed).start().train(stop)
        saved, log = run.save(), list(run.log)
        run.train(STEPS)  # and lost
        again = Run(policy, root).resume(saved).train(STEPS)
        assert log + again.log == whole.log


def test_embedding_is_spread_over_three_quarters_of_the_lag(tmp_path):
    run = Run(Asynchronous(12, 8), tmp_path).start()
    chunks = len(run.embeds)
    assert run.embeds == [(start, min(start + 4, N)) for start in range(0, N, 4)]
    shares = []
    for step in range(1, 25):
        before = len(run.embeds)
        run.train(step)
        shares.append(len(run.embeds) - before)
    assert shares[12:20] == [1] * 6 + [0] * 2  # six chunks over 8 * 3/4 steps
    assert sum(shares) == chunks and sum(shares[:12]) == sum(shares[20:]) == 0
    assert index.versions(tmp_path) == [0, 12]


@pytest.mark.parametrize("turns", [2, 3, 9])
def test_a_rolling_index_is_made_of_turns(tmp_path, turns):
    """Chunk c is of the newest snapshot whose turn it was, as `made` says; nothing else is embedded."""
    policy = Rolling(2, 1, turns=turns)
    run, taken = Run(policy, tmp_path).start(), {0: np.eye(E)}
    chunks = len(run.embeds)
    for step in range(1, STEPS):
        if policy.snapshot_due(step - 1):
            taken[step - 1] = np.asarray(run.params)
        before = len(run.embeds)
        run.train(step)
        due = policy.snapshot_due(step - 1)
        embedded = {start // 4 for start, _ in run.embeds[before:]}
        turn = policy.turn(step - 1)
        assert embedded == (set(range(turn, chunks, turns)) if due else set())
    version = run.searcher.step
    wanted = [
        max([s for s in taken if 0 < s <= version and s // 2 % turns == c % turns], default=0)
        for c in range(chunks)
    ]
    made = run.refresher.made(np.arange(N))
    assert made.tolist() == [wanted[row // 4] for row in range(N)] and len(set(wanted)) > 1
    vectors = np.stack([FEATURES[row] @ taken[made[row]] for row in range(N)])
    np.testing.assert_allclose(index.mapped(tmp_path, version), vectors, rtol=1e-5)


def test_resuming_embeds_what_was_due(tmp_path):
    run = Run(Asynchronous(12, 8), tmp_path).start().train(16)
    again = Run(Asynchronous(12, 8), tmp_path).resume(run.save())
    assert again.embeds == [(start, start + 4) for start in range(0, 16, 4)]  # at steps 12 to 15


def test_no_chunk_is_fetched_in_the_call_that_queued_it(tmp_path):
    events = []

    class Queued:
        def __init__(self, value):
            self.value = np.asarray(value)

        def copy_to_host_async(self):
            events.append("queued")

        def __array__(self, dtype=None, copy=None):
            events.append("fetched")
            return self.value

    run = Run(Asynchronous(8, 8), tmp_path)
    plain = run.refresher._embed
    run.refresher._embed = lambda *where: Queued(plain(*where))
    run.start()
    for step in range(1, 16):
        run.train(step)
        del events[:]
        run.refresher.advance(run.params, run.step)
        assert events == sorted(events)  # "fetched" comes before "queued"
        run.step += 1


def test_versions_are_pruned_except_those_needed(tmp_path):
    run = Run(Asynchronous(4, 2), tmp_path, keep=lambda: {4}).start().train(23)
    assert index.versions(tmp_path) == [4, 16, 20]
    assert run.searcher.step == 20 and run.refresher.in_flight is None


def test_a_damaged_version_under_way_is_made_again(tmp_path):
    policy = Asynchronous(6, 6)
    whole = Run(policy, tmp_path / "whole").start().train(STEPS)
    run = Run(policy, tmp_path / "run").start().train(12)
    assert run.refresher.in_flight == 6 and 6 in index.versions(tmp_path / "run")
    (index.folder(tmp_path / "run", 6) / index.MANIFEST).write_text("{}")
    again = Run(policy, tmp_path / "run").resume(run.save()).train(STEPS)
    assert run.log + again.log == whole.log


def test_what_cannot_be_resumed_is_said(tmp_path):
    saved = Run(Asynchronous(6, 6), tmp_path).start().train(8).save()
    with pytest.raises(UserError, match="snapshot of step 6, but the refresh policy expects 5"):
        Run(Asynchronous(5, 5), tmp_path).resume(saved)
    with pytest.raises(UserError, match=r"step_00000006.*missing"):
        Run(Asynchronous(6, 6), tmp_path).resume(saved | {"snapshot": None, "snapshot_step": None})
    index.prune(tmp_path, set())
    with pytest.raises(UserError, match=r"step_00000000.*missing"):
        Run(Asynchronous(6, 6), tmp_path).resume(saved)
    with pytest.raises(UserError, match=r"refresh.Asynchronous: lag is 7"):
        Asynchronous(6, 7)
    with pytest.raises(UserError, match=r"refresh.Rolling: lag is 7"):
        Rolling(6, 7)
    with pytest.raises(UserError, match=r"Rolling.turns must be a whole number from 1, not 0"):
        Rolling(6, 6, turns=0)
    with pytest.raises(UserError, match=r"over is 1; at least twice the neighbours"):
        WriteBack(Asynchronous(6, 6), over=1)
    with pytest.raises(UserError, match=r"Synchronous.every must be a whole number from 1, not 0"):
        Synchronous(0)


def test_closing_leaves_no_half_version(tmp_path):
    run = Run(Asynchronous(6, 6), tmp_path).start().train(8)
    run.refresher.close()
    assert [path.name for path in tmp_path.iterdir()] == ["step_00000000"]
