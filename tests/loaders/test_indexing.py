"""A training with an indexing job is the training without: the same versions, at the same steps."""

import concurrent.futures
import contextlib
import hashlib
import shutil
import threading
import time
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ralm_jax import cli
from ralm_jax.errors import UserError
from ralm_jax.loaders import indexing, snapshots
from ralm_jax.loaders.refresher import Refresher
from ralm_jax.loaders.snapshots import Handing, Passages
from ralm_jax.retrieval import index
from ralm_jax.retrieval.exact import Exact
from ralm_jax.retrieval.refresh import Asynchronous, Synchronous
from ralm_jax.runs.writers import metrics_file, read_metrics

N, E, STEPS, CHUNK = 23, 4, 15, 4
FEATURES = np.random.default_rng(0).normal(size=(N, E)).astype(np.float32)
REALM = "pretrain.pretrain.stages = [@realm/schedule.Stage()]"


def embed(params, start, stop):
    return jnp.asarray(FEATURES[start:stop]) @ params["tower"]["w"]


def hashed(params):
    return hashlib.sha256(np.asarray(params["tower"]["w"]).tobytes()).hexdigest()


class Run:
    """A toy training: what is found at a step decides the parameters of the next."""

    def __init__(self, policy, run, handed):
        root = run / "index" / "toy"
        handing = Handing(run, root, Passages(0, N, E, "toy", "toy", 8), hashed)
        self.log, self.searcher = [], Exact()
        self.refresher = Refresher(
            policy, embed, self.searcher, root,
            rows=range(N), width=E, fingerprint="toy", chunk=CHUNK, handing=handing if handed else None,
        )  # fmt: skip

    def start(self):
        self.params, self.step = {"tower": {"w": jnp.eye(E)}}, 0
        self.refresher.start(self.params)
        return self

    def train(self, until):
        while self.step < until:
            published = self.refresher.advance(self.params, self.step)
            ids, scores = self.searcher.search(np.eye(E, dtype=np.float32), 3)()
            key = jax.random.fold_in(jax.random.key(int(ids.sum())), self.step)
            turn = 0.3 * jax.random.normal(key, (E, E)) * scores.mean()
            self.params = {"tower": {"w": self.params["tower"]["w"] + turn}}
            self.log.append(
                (self.step, ids.tolist(), scores.tolist(), published and published.step)
            )
            self.step += 1
        return self


def embed_all(snapshot):
    params = snapshot.params()
    if params is None:
        return
    writer = index.create(snapshot.root, snapshot.step, (N, E), "toy", snapshot.encoder)
    # In the chunks of the training, to be the same to the bit.
    for start in range(0, N, CHUNK):
        writer.write(start, np.asarray(embed(params, start, min(start + CHUNK, N))))
    writer.commit()


@contextlib.contextmanager
def toy_job(run):
    """Embeds what is handed out, in a thread."""
    done = threading.Event()

    def work():
        with snapshots.at_work(run):
            while not done.is_set():
                for snapshot in snapshots.waiting(run):
                    with snapshots.claimed(snapshot) as mine:
                        if mine:
                            embed_all(snapshot)
                time.sleep(0.01)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


@pytest.fixture(autouse=True)
def glances(monkeypatch):
    monkeypatch.setattr(snapshots, "GLANCE", 0.01)


@pytest.mark.parametrize(
    "policy", [Asynchronous(6, 4), Asynchronous(3, 1), Synchronous(5)], ids=repr
)
def test_it_is_the_training_without(policy, tmp_path):
    alone = Run(policy, tmp_path / "alone", handed=False).start().train(STEPS)
    run = tmp_path / "run"
    run.mkdir()
    with toy_job(run):
        handed = Run(policy, run, handed=True).start().train(STEPS)
        handed.refresher.close()
    assert handed.log == alone.log
    assert not list(run.rglob("snapshot_*"))


@pytest.mark.parametrize("made", [False, True], ids=["before", "after"])
def test_it_goes_on_from_a_snapshot_that_is_handed_out(made, tmp_path):
    """Whether its version was made before the training was lost, or has to be made yet."""
    policy, run = Asynchronous(6, 4), tmp_path / "run"
    alone = Run(policy, tmp_path / "alone", handed=False).start().train(STEPS)
    run.mkdir()
    lost = Run(policy, run, handed=True).start().train(8)
    saved = lost.params, lost.step, lost.refresher.snapshot, lost.refresher.in_flight
    # Handed out in the background, as the version of step 6 is by now.
    lost.refresher._job._encoder.result()
    if made:
        with toy_job(run):
            while 6 not in index.versions(run / "index" / "toy"):
                time.sleep(0.01)
    with toy_job(run):
        again = Run(policy, run, handed=True)
        again.params, again.step = saved[:2]
        again.refresher.resume(*saved[2:], again.step)
        again.train(STEPS)
        again.refresher.close()
    assert again.log == alone.log[8:]


def test_a_version_of_other_parameters_is_not_served(tmp_path):
    run, root = tmp_path, tmp_path / "index" / "toy"
    training = Run(Asynchronous(6, 4), run, handed=True).start().train(7)
    training.refresher._job._encoder.result()
    writer = index.create(root, 6, (N, E), "toy", "of another training")
    writer.write(0, np.zeros((N, E), np.float32))
    writer.commit()
    assert training.refresher._job.fetch() is None
    (snapshot,) = snapshots.waiting(run)
    assert snapshot.step == 6 and snapshot.wanted
    training.refresher.close()
    assert not snapshot.wanted


def test_without_a_job_it_ends_with_what_to_start(tmp_path, monkeypatch):
    monkeypatch.setattr(snapshots, "PATIENCE", 0.05)
    training = Run(Asynchronous(6, 4), tmp_path, handed=True).start()
    with pytest.raises(
        UserError, match=f"step 6: start ralm index --run {tmp_path}, and this again"
    ):
        training.train(STEPS)
    training.refresher.close()


def test_a_damaged_snapshot_is_refused(tmp_path):
    training = Run(Asynchronous(6, 4), tmp_path, handed=True).start().train(7)
    training.refresher._job._encoder.result()
    (snapshot,) = snapshots.waiting(tmp_path)
    file = snapshot.folder / snapshots.PARAMS
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(bytes(data))
    with pytest.raises(UserError, match="is not as it was written"):
        snapshot.params()
    training.refresher.close()


def test_one_that_is_there_stays(tmp_path):
    """A job may be reading it when the training goes on from its last checkpoint."""
    training = Run(Asynchronous(6, 4), tmp_path, handed=True).start().train(7)
    training.refresher._job._encoder.result()
    (snapshot,) = snapshots.waiting(tmp_path)
    file = snapshot.folder / snapshots.PARAMS
    data, made = bytearray(file.read_bytes()), file.stat().st_mtime_ns
    again = snapshot.params(), snapshot.encoder, snapshot.passages
    snapshots.hand_out(snapshot.root, 6, *again)
    assert file.stat().st_mtime_ns == made
    data[-1] ^= 1
    file.write_bytes(bytes(data))
    snapshots.hand_out(snapshot.root, 6, *again)
    assert file.stat().st_mtime_ns != made and snapshot.wanted
    snapshots.hand_out(snapshot.root, 6, again[0], "another", snapshot.passages)
    assert not snapshot.wanted and snapshot.params() is None
    training.refresher.close()


def test_what_is_taken_back_while_it_is_read_ends_no_job(tmp_path, monkeypatch):
    training = Run(Asynchronous(6, 4), tmp_path, handed=True).start().train(7)
    training.refresher._job._encoder.result()
    (snapshot,) = snapshots.waiting(tmp_path)
    corpus = SimpleNamespace(fingerprint="toy", path="toy")
    monkeypatch.setattr(indexing, "own_chunk_rows", lambda model, length: CHUNK)
    training.refresher.close()
    assert indexing._embed(snapshot, None, corpus, print) is False


def test_one_job_writes_to_a_root(tmp_path):
    training = Run(Asynchronous(6, 4), tmp_path, handed=True).start().train(7)
    training.refresher._job._encoder.result()
    (snapshot,) = snapshots.waiting(tmp_path)
    with snapshots.claimed(snapshot) as first, snapshots.claimed(snapshot) as second:
        assert (first, second) == (True, False)
    training.refresher.close()
    with snapshots.claimed(snapshot) as late:
        assert late is False


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (["pretrain.pretrain.stages = [@ict/schedule.Stage()]"], "no stage of this configuration"),
        (
            [
                REALM,
                "realm/tasks.Realm.refresh = @refresh.Rolling()",
                "refresh.Rolling.every = 4",
                "refresh.Rolling.lag = 3",
            ],
            "stage realm: Rolling embeds a part",
        ),
    ],
)
def test_where_it_has_nothing_to_do_it_is_refused(
    tiny, tiny_settings, tmp_path, capsys, changes, said
):
    words = [word for change in changes for word in ("--set", change)]
    words = ["pretrain", "--config", "runs/pretrain.gin", "--run", str(tmp_path / "run"), *words]
    words += ["--corpus", str(tiny.corpus.path), *tiny_settings, "--index-job"]
    assert cli.main(words) == 2
    assert said in capsys.readouterr().err and not (tmp_path / "run").exists()


@pytest.mark.slow
def test_the_command_line(tiny, tiny_settings, tmp_path, monkeypatch):
    words = ["pretrain", "--config", "runs/pretrain.gin", "--corpus", str(tiny.corpus.path)]
    words += [*tiny_settings, "--set", REALM]
    assert cli.main([*words, "--run", str(tmp_path / "alone")]) == 0
    # To the job no time passes until the training has ended.
    passed = [0.0]
    clock = SimpleNamespace(monotonic=lambda: passed[0], sleep=time.sleep)
    monkeypatch.setattr(indexing, "time", clock)
    with concurrent.futures.ThreadPoolExecutor() as threads:
        job = threads.submit(indexing.embed_for, tmp_path / "run", say=lambda line: None)
        assert cli.main([*words, "--run", str(tmp_path / "run"), "--index-job"]) == 0
        passed[0] = 1000.0
    logged = [read_metrics(metrics_file(tmp_path / name)) for name in ("alone", "run")]
    losses = [[line["loss"] for line in lines if "loss" in line] for lines in logged]
    assert job.result() == 2 and losses[0] == losses[1]
    monkeypatch.undo()
    moved = shutil.move(tmp_path / "run", tmp_path / "moved")
    with pytest.raises(UserError, match="there is no run at"):
        indexing.embed_for(tmp_path / "run", patience=0.05)
    assert indexing.embed_for(moved, patience=0.05) == 0
