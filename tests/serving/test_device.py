"""One thread works for everybody: together where it can, else in turn, and for nobody who has left."""

import json
import shutil
import threading
from concurrent.futures import CancelledError

import pytest

from ralm_jax.inference.open_run import OpenRun
from ralm_jax.living.update import update
from ralm_jax.serving import device
from ralm_jax.serving.device import DeviceThread
from ralm_jax.serving.metrics import Metrics
from tests.serving.conftest import until


@pytest.fixture
def thread(opened):
    """Started; what `hold` is asked for waits until the test lets it go on."""
    made = DeviceThread({"one": opened, "two": opened}, Metrics(), lambda *_: None)
    made.start()
    made.ready.wait()
    yield made
    made.stop()


class Held:
    """An operation that notes its batches, and waits in the first of them."""

    __name__ = "held"

    def __init__(self):
        self.batches, self.begun, self.free = [], threading.Event(), threading.Event()

    def __call__(self, opened, items):
        self.batches.append(items)
        self.begun.set()
        self.free.wait()
        return [item * 2 for item in items]


@pytest.fixture
def held(thread):
    made = Held()
    made.first = thread.submit("one", made, [0])
    made.begun.wait()
    yield made
    made.free.set()


def test_what_waits_for_the_same_operation_is_worked_on_together(thread, held):
    waiting = [thread.submit("one", held, [i, i]) for i in range(1, 4)]
    other = thread.submit("two", held, [9])
    big = thread.submit("one", held, list(range(device.BATCH)))
    held.free.set()
    assert [each.result() for each in waiting] == [[2, 2], [4, 4], [6, 6]]
    assert other.result() == [18] and len(big.result()) == device.BATCH
    assert held.batches == [[0], [1, 1, 2, 2, 3, 3], [9], list(range(device.BATCH))]


def test_what_nobody_waits_for_is_not_worked_on(thread, held):
    gone, left = thread.submit("one", held, [1]), thread.submit("one", held, [2])
    gone.cancel()
    held.free.set()
    assert left.result() == [4] and held.batches == [[0], [2]]


def test_an_error_is_that_of_its_batch_or_its_item(thread):
    def fails(opened, items):
        raise RuntimeError("a text that must not be logged")

    def some(opened, items):
        return [ValueError() if item < 0 else item for item in items]

    with pytest.raises(RuntimeError):
        thread.submit("one", fails, [1]).result()
    with pytest.raises(ValueError):
        thread.submit("one", some, [1, -1]).result()
    assert thread.submit("one", some, [3]).result() == [3]


def test_stopping_ends_what_is_worked_on_and_cancels_what_waits(thread, held):
    waiting = thread.submit("one", held, [1])
    stopping = threading.Thread(target=thread.stop)
    stopping.start()
    with pytest.raises(CancelledError):
        waiting.result(timeout=60)
    held.free.set()
    stopping.join()
    assert held.first.result() == [0] and thread.submit("one", held, [2]).cancelled()


def test_what_keeps_it_from_being_ready_is_kept(opened):
    def prepare(opened, stopping):
        raise MemoryError

    failed = threading.Event()
    made = DeviceThread({"one": opened}, Metrics(), prepare, failed=failed.set)
    made.start()
    failed.wait()
    made.stop()
    assert isinstance(made.failure, MemoryError) and not made.ready.is_set()


def test_an_updated_corpus_is_served_from_the_next_batch_on(runs, tiny, tmp_path, monkeypatch):
    """Also before anybody asks; and where the newest cannot be opened, the one before is served."""
    monkeypatch.setattr(device, "IDLE", 0.01)
    monkeypatch.setattr(device, "AGAIN", 0.01)
    corpus = shutil.copytree(tiny.corpus.path, tmp_path / "corpus")
    opened = OpenRun.open(runs[0], corpus)
    _ = opened.corpus
    prepared, broken = threading.Semaphore(0), threading.Event()

    def prepare(run, stopping):
        prepared.release()
        if broken.is_set():
            raise OSError("a disk")

    def version(run, items):
        return [run.corpus.version.number for _ in items]

    def add(number):
        line = {"id": f"kiln {number}", "text": f"The kiln was built in {1700 + number}."}
        (tmp_path / "more.jsonl").write_text(json.dumps(line) + "\n")
        update(corpus, str(tmp_path / "more.jsonl"), processes=1, say=str)

    made = DeviceThread({"one": opened}, Metrics(), prepare)
    made.start()
    prepared.acquire()
    assert made.submit("one", version, [0]).result() == [0]
    add(1)
    prepared.acquire()
    assert made.submit("one", version, [0, 0]).result() == [1, 1]
    broken.set()
    add(2)
    prepared.acquire()
    assert made.submit("one", version, [0]).result() == [1]
    broken.clear()
    prepared.acquire()
    until(lambda: made.runs["one"].corpus.version.number == 2)
    made.stop()
