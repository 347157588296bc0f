import concurrent.futures
import json
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import sys
import time
import zlib
from multiprocessing.connection import Connection

import jax.numpy as jnp
import numpy as np
import pytest

from ralm_jax import messages
from ralm_jax.errors import UserError
from ralm_jax.retrieval import index, scann_process
from ralm_jax.retrieval import searcher as mips
from ralm_jax.retrieval.choose import EXACT_BELOW, choose
from ralm_jax.retrieval.scann_index import FOLDER, SETTINGS, ScannConfig
from ralm_jax.retrieval.scann_process import ScannProcess

pytestmark = pytest.mark.skipif(not scann_process.has_scann(), reason="ScaNN is not installed")

N, E, K = 3000, 16, 8


def unit(rows, seed=0):
    """Vectors [rows, E] of length 1, so that each is nearest to itself."""
    vectors = np.random.default_rng(seed).normal(size=(rows, E))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def commit(root, step, vectors):
    writer = index.create(root, step, vectors.shape, "corpus")
    writer.write(0, vectors)
    return writer.commit()


@pytest.fixture
def searcher():
    process = ScannProcess()
    yield process
    process.close()


@pytest.fixture(scope="module")
def version(tmp_path_factory):
    """A version that one process has built and published, and what that process found."""
    root = tmp_path_factory.mktemp("index")
    made = commit(root, 7, unit(N))
    process = ScannProcess()
    process.build(made)
    published = process.publish()
    found = process.search(unit(200, 1), K)()
    process.close()
    return made, published, found


def assert_same(found, wanted):
    for got, want in zip(found, wanted, strict=True):
        np.testing.assert_array_equal(got, want)


def alive(pid):
    """Whether that process runs; one that has ended and was not waited for does not."""
    try:
        return pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def gone_within(pid, seconds):
    deadline = time.monotonic() + seconds
    while alive(pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    return not alive(pid)


def test_what_is_published_has_the_recall_it_reports(version):
    made, published, (ids, scores) = version
    queries = unit(200, 1)
    wanted, _ = mips.exact(queries, made.vectors, K)
    assert published.step == 7 and published.build_seconds > 0 and published.wait_seconds > 0
    assert published.recall >= 0.95
    assert mips.recall(ids, wanted) == pytest.approx(published.recall, abs=0.03)
    np.testing.assert_allclose(scores, np.einsum("be,bke->bk", queries, made.vectors[ids]), 1e-4)
    assert (np.diff(scores) <= 0).all()
    assert ids.dtype == np.int32 and scores.dtype == np.float32


def test_a_restored_searcher_answers_as_the_one_that_was_published(version, searcher):
    made, _, found = version
    stored = (made.path / FOLDER / SETTINGS).stat()
    searcher.restore(made)
    assert searcher.step == 7
    assert_same(searcher.search(unit(200, 1), K)(), found)
    # Equal even if built again, at this size; that it was not is what counts.
    assert (made.path / FOLDER / SETTINGS).stat() == stored


def test_the_process_never_loads_jax(version, searcher):
    searcher.restore(version[0])
    mapped = pathlib.Path(f"/proc/{searcher.pid}/maps").read_text()
    assert "scann" in mapped and "jaxlib" not in mapped
    modules = "import sys, ralm_jax.retrieval.scann_server; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", modules], capture_output=True, text=True)
    assert "ralm_jax.retrieval.searcher" in loaded.stdout.split()
    assert not {"jax", "jaxlib", "tensorflow"} & set(loaded.stdout.split())


def test_a_search_keeps_the_version_it_began_with(version, searcher, tmp_path):
    made, _, _ = version
    searcher.restore(made)
    queries = made.vectors[:5]
    early = searcher.search(jnp.asarray(queries), 1)
    searcher.build(commit(tmp_path, 8, made.vectors[::-1]))
    assert searcher.step == 7
    assert searcher.publish().step == searcher.step == 8
    assert early()[0].ravel().tolist() == [0, 1, 2, 3, 4]
    late = searcher.search(jnp.asarray(queries), 1)
    assert late()[0].ravel().tolist() == [N - 1 - row for row in range(5)]


def test_searches_are_answered_during_a_build(version, searcher, tmp_path):
    made, _, found = version
    searcher.restore(made)
    searcher.build(commit(tmp_path, 8, unit(30_000, 2)))
    answered, deadline = 0, time.monotonic() + 30
    while not (tmp_path / "step_00000008" / FOLDER).exists() and time.monotonic() < deadline:
        assert_same(searcher.search(unit(200, 1), K)(), found)
        answered += 1
    assert answered > 3
    searcher.publish()


def test_the_death_of_the_process_is_survived(version, searcher):
    made, _, found = version
    searcher.restore(made)
    # As Ctrl-C, a job that is ended and a terminal that is closed do to the whole group; the trainer decides.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        os.kill(searcher.pid, number)
    assert_same(searcher.search(unit(200, 1), K)(), found)
    assert searcher.restarts == 0
    for _ in range(2):
        os.kill(searcher.pid, signal.SIGKILL)
        assert_same(searcher.search(unit(200, 1), K)(), found)
    assert searcher.restarts == 2 and searcher.step == 7


def test_its_death_during_a_build_is_survived(version, searcher, tmp_path):
    made, _, found = version
    searcher.restore(made)
    searcher.build(commit(tmp_path, 8, unit(30_000, 2)))
    assert_same(searcher.search(unit(200, 1), K)(), found)
    os.kill(searcher.pid, signal.SIGKILL)
    assert_same(searcher.search(unit(200, 1), K)(), found)
    assert searcher.publish().step == 8
    assert searcher.search(unit(1, 2), 1)()[0] == 0
    assert sorted(os.listdir(tmp_path / "step_00000008")) == [
        "manifest.json",
        "scann",
        "vectors.npy",
    ]


def test_a_request_that_kills_every_time_is_given_up(version, searcher, monkeypatch):
    searcher.restore(version[0])
    monkeypatch.setattr(
        "ralm_jax.retrieval.scann_process.send",
        lambda *_: os.kill(searcher.pid, signal.SIGKILL),
    )
    with pytest.raises(UserError, match=r"died 3 times at one request \(search\)"):
        searcher.search(unit(1), 1)()


def test_a_process_that_hangs_is_said_to_and_then_replaced(version, searcher, monkeypatch, caplog):
    made, _, found = version
    monkeypatch.setattr(scann_process, "SAID_AFTER", 0.2)
    searcher.restore(made)
    hung = searcher.pid
    # It goes on in time.
    os.kill(hung, signal.SIGSTOP)
    search = searcher.search(unit(200, 1), K)
    while "has not answered for 0.2 s (search)" not in caplog.text:
        time.sleep(0.01)
    os.kill(hung, signal.SIGCONT)
    assert_same(search(), found)
    assert searcher.restarts == 0 and searcher.pid == hung
    # It does not, and the message is longer than what waits to be read may be.
    monkeypatch.setattr(scann_process, "DEAD_AFTER", 0.5)
    searcher._child.limit()
    os.kill(hung, signal.SIGSTOP)
    search = searcher.search(np.tile(unit(200, 1), (40, 1)), K)
    monkeypatch.setattr(scann_process, "DEAD_AFTER", 60.0)
    many = search()
    assert_same([x[:200] for x in many], found)
    assert searcher.restarts == 1 and gone_within(hung, 5)
    assert "did not answer for" in caplog.text


@pytest.mark.parametrize("harm", ["cut", "flip", "longer", "dropped"])
@pytest.mark.parametrize("part", [0, 1])
@pytest.mark.parametrize("side", ["request", "answer"])
def test_a_damaged_message_is_a_death(version, searcher, monkeypatch, caplog, side, part, harm):
    """Of a header or of an array, on its way there or back: asked again of another process, once."""
    made, _, found = version
    searcher.restore(made)
    connection = searcher._child._connection
    sent, received, number = connection.send_bytes, connection.recv_bytes, iter(range(9))

    def harmed(data):
        if next(number) != part:
            return data
        if harm == "flip":
            return data[:20] + bytes([data[20] ^ 4]) + data[21:]
        return {"cut": data[:-3], "longer": data + b"xyz"}.get(harm)

    class Noisy:
        """A connection on which one message comes otherwise."""

        def __getattr__(self, name):
            return getattr(connection, name)

        def send_bytes(self, data):
            data = harmed(data) if side == "request" else data
            return None if data is None else sent(data)

        def recv_bytes(self, limit):
            data = harmed(received(limit)) if side == "answer" else received(limit)
            return received(limit) if data is None else data

    monkeypatch.setattr(searcher._child, "_connection", Noisy())
    monkeypatch.setattr(scann_process, "DEAD_AFTER", 1.0)
    searcher._child.limit()
    assert_same(searcher.search(unit(200, 1), K)(), found)
    assert searcher.restarts == 1 and "starting it again" in caplog.text


def test_a_message_makes_no_room_for_what_it_claims():
    """A header that says so is as it was sent, and what follows is shorter, or longer, than it says."""
    ours, theirs = socket.socketpair()
    with Connection(ours.detach()) as one, Connection(theirs.detach()) as other:
        messages.send(one, {"op": "x"}, np.ones((2, 3), np.float32), np.zeros((0, 4), np.int32))
        header, (ones, none) = messages.receive(other)
        assert header == {"op": "x"} and none.shape == (0, 4)
        np.testing.assert_array_equal(ones, np.ones((2, 3)))
        text = json.dumps({"arrays": [["<f4", [1 << 40, 1 << 10], 0]]}).encode()
        one.send_bytes(zlib.crc32(text).to_bytes(4, "little") + text)
        one.send_bytes(b"few")
        with pytest.raises(OSError, match="not as it was sent"):
            messages.receive(other)
        one.send_bytes(bytes(messages.HEADER + 5))
        with pytest.raises(OSError, match="bad message length"):
            messages.receive(other)


def test_the_death_of_the_parent_ends_the_process(version):
    script = f"""
import os, pathlib, time
from ralm_jax.retrieval import index
from ralm_jax.retrieval.scann_process import ScannProcess
searcher = ScannProcess()
searcher.restore(index.open_version({str(version[0].path.parent)!r}, 7, "corpus"))
if os.fork() == 0:  # inherits the socket, which so stays open
    time.sleep(30)
    os._exit(0)
print(searcher.pid, flush=True)
time.sleep(60)
"""
    parent = subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    with parent:
        pid = int(parent.stdout.readline())
        assert alive(pid)
        parent.kill()
        parent.wait()
        ended = gone_within(pid, 10)
        os.killpg(parent.pid, signal.SIGKILL)
    assert ended


def test_closing_ends_the_process_at_once_even_in_a_build(tmp_path):
    searcher = ScannProcess()
    searcher.build(commit(tmp_path, 1, unit(400_000)))  # takes many seconds
    with concurrent.futures.ThreadPoolExecutor() as threads:
        publishing = threads.submit(searcher.publish)
        while searcher.pid is None:
            time.sleep(0.01)
        time.sleep(0.3)  # by now it is waiting for the build
        pid, began = searcher.pid, time.monotonic()
        searcher.close()
        assert time.monotonic() - began < 4 and not alive(pid)
        assert publishing.exception()
    assert not (tmp_path / "step_00000001" / FOLDER).exists()


@pytest.mark.parametrize("passages", [1, 5, 40, 1100])
def test_few_passages_and_more_asked_for_than_there_are(searcher, tmp_path, passages):
    vectors, queries = unit(passages), unit(3, 1)
    searcher.restore(commit(tmp_path, 0, vectors))
    ids, scores = searcher.search(queries, 64)()
    wanted, there = mips.exact(queries, vectors, 64)
    assert mips.recall(ids, wanted) > 0.97
    np.testing.assert_array_equal(ids < 0, wanted < 0)
    np.testing.assert_allclose(scores, there, rtol=1e-3)


def test_vectors_of_an_untrained_encoder_are_found_too(searcher, tmp_path):
    """All point nearly one way, where a hash alone finds few of the nearest."""
    vectors, queries = (1 + 0.01 * unit(rows, rows) for rows in (20_000, 300))
    searcher.build(commit(tmp_path, 0, vectors))
    published = searcher.publish()
    wanted, _ = mips.exact(queries, vectors, K)
    assert published.recall >= 0.95
    assert mips.recall(searcher.search(queries, K)()[0], wanted) >= 0.95
    assert '"form": "brute"' in (tmp_path / "step_00000000" / FOLDER / SETTINGS).read_text()


def test_a_tree_and_threads_find_the_same(tmp_path):
    vectors, queries = unit(5000), unit(100, 1)
    searcher = ScannProcess(ScannConfig(k=K, threads=2, leaves=50))
    try:
        searcher.build(commit(tmp_path, 0, vectors))
        assert searcher.publish().recall >= 0.95
        found = searcher.search(queries, K)()[0]
        everything = searcher.search(queries, len(vectors))()
    finally:
        searcher.close()
    assert '"form": "tree"' in (tmp_path / "step_00000000" / FOLDER / SETTINGS).read_text()
    assert mips.recall(found, mips.exact(queries, vectors, K)[0]) >= 0.93
    # So many leaves are looked into as hold what is asked for: here all of them.
    assert not (everything[0] < 0).any()
    np.testing.assert_array_equal(everything[0] < 0, everything[1] == -np.inf)
    assert all(len(set(row[row >= 0])) == (row >= 0).sum() for row in everything[0])


@pytest.mark.parametrize("damage", ["cut", "flip", "lost", "settings", "pickle"])
def test_a_damaged_searcher_is_built_again(searcher, tmp_path, damage):
    made = commit(tmp_path, 1, unit(N))
    searcher.restore(made)
    folder = made.path / FOLDER
    if damage == "cut":
        os.truncate(folder / "scann_assets.pbtxt", 143)  # ScaNN itself would abort
    elif damage == "flip":
        data = bytearray((folder / "hashed_dataset.npy").read_bytes())
        data[-100] ^= 1
        (folder / "hashed_dataset.npy").write_bytes(data)
    elif damage == "lost":
        (folder / "ah_codebook.pb").unlink()
    elif damage == "settings":
        (folder / SETTINGS).write_text("{}")
    else:
        (folder / "scann_docids.pkl").write_bytes(b"")
    (made.path / ".scann_1").mkdir()  # and what a killed process left
    searcher.restore(made)
    assert sorted(os.listdir(made.path)) == ["manifest.json", "scann", "vectors.npy"]
    assert searcher.restarts == 0
    assert searcher.search(made.vectors[:4], 1)()[0].ravel().tolist() == [0, 1, 2, 3]
    assert not (folder / "scann_docids.pkl").exists()


# In a mount namespace of its own, so that the small file system goes when the process does.
ON_A_SMALL_DISK = ["unshare", "--user", "--map-root-user", "--mount", sys.executable, "-c"]
FILL_IT = """
import os, subprocess, sys
import numpy as np
from ralm_jax.errors import UserError
from ralm_jax.retrieval import index
from ralm_jax.retrieval.scann_process import ScannProcess

def commit(step, rows):
    vectors = np.random.default_rng(step).normal(size=(rows, 16)).astype(np.float32)
    writer = index.create(root, step, vectors.shape, "corpus")
    writer.write(0, vectors)
    return writer.commit()

root = sys.argv[1]
subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2500k", "tmpfs", root], check=True)
searcher = ScannProcess()
small, queries = commit(1, 2000), np.eye(16, dtype=np.float32)
searcher.restore(small)
before = searcher.search(queries, 8)()
large = commit(2, 30_000)  # 1.9 MB, and the searcher as much again
searcher.build(large)
try:
    searcher.publish()
except UserError as error:
    print(error)
after = searcher.search(queries, 8)()
print(searcher.step, searcher.restarts, np.array_equal(before, after), sorted(os.listdir(large.path)))
searcher.close()
"""


def test_a_full_disk_leaves_what_is_served_and_no_half_searcher(tmp_path):
    allowed = shutil.which("unshare") and subprocess.run(
        [*ON_A_SMALL_DISK, ""], capture_output=True
    )
    if not allowed or allowed.returncode:
        pytest.skip("may not mount a small file system here")
    command = [*ON_A_SMALL_DISK, FILL_IT, str(tmp_path)]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert ran.stdout.splitlines() == [
        "disk full while publishing the index at step 2: free 1,920,000 bytes and run again",
        "1 0 True ['manifest.json', 'vectors.npy']",
    ], ran.stderr


def test_nothing_is_served_before_the_first_publish(searcher):
    with pytest.raises(ValueError, match="before the first publish"):
        searcher.search(unit(1), 1)
    with pytest.raises(ValueError, match="without a build"):
        searcher.publish()
    assert isinstance(choose(EXACT_BELOW, width=2), ScannProcess)
