"""Who reads while others write finds something whole, and harms nobody. See test_processes.py for runs."""

import threading
import time

import numpy as np
import pytest

from ralm_jax.errors import UserError
from ralm_jax.retrieval import index
from ralm_jax.retrieval.exact import Exact
from ralm_jax.retrieval.scann_process import ScannProcess

N, E, K, READERS, PUBLISHES = 64, 8, 3, 8, 50


def vectors(step):
    """[N,E] of a version: for a query of ones, passage `step` is the best one, with `step` for its score."""
    made = np.zeros((N, E), np.float32)
    made[:, 0] = np.linspace(0, 0.5, N)
    made[step, 0] = step
    return made


def committed(root, step):
    writer = index.create(root, step, (N, E), "corpus", "encoder")
    writer.write(0, vectors(step))
    return writer.commit()


def together(read, write):
    """Readers call `read()` while `write(step)` is called for each version; how often each of them did."""
    counts, failed, done = [0] * READERS, [], threading.Event()

    def reader(number):
        try:
            while not done.is_set():
                read()
                counts[number] += 1
                # Others want to go on as well.
                time.sleep(0.003)
        except BaseException as error:
            failed.append(error)

    readers = [threading.Thread(target=reader, args=(number,)) for number in range(READERS)]
    for thread in readers:
        thread.start()
    try:
        for step in range(2, 2 + PUBLISHES):
            write(step)
    finally:
        done.set()
        for thread in readers:
            thread.join()
    assert not failed
    return counts


def test_a_version_is_whole_for_whoever_opens_it(tmp_path):
    """Versions are removed under their readers, too; what one has opened it goes on reading."""
    committed(tmp_path, 1)
    seen = set()

    def read():
        found = index.versions(tmp_path)
        try:
            version = index.open_version(tmp_path, found[-1], "corpus")
        # All that were there when it began to look may be gone.
        except (UserError, IndexError) as error:
            assert not found or "is missing" in str(error)
            return
        np.testing.assert_array_equal(version.vectors, vectors(version.step))
        seen.add(version.step)

    def write(step):
        committed(tmp_path, step)
        index.prune(tmp_path, {step - 1, step})

    assert min(together(read, write)) > 0 and len(seen) > 5
    assert index.versions(tmp_path) == [PUBLISHES, PUBLISHES + 1]


@pytest.mark.parametrize("kind", [Exact, pytest.param(ScannProcess, marks=pytest.mark.slow)])
def test_each_answer_is_of_one_version_and_none_goes_back(tmp_path, kind):
    searcher, newest = kind(), threading.local()
    queries = np.ones((2, E), np.float32)
    searcher.build(committed(tmp_path, 1))
    searcher.publish()

    def read():
        before = searcher.step
        ids, scores = searcher.search(queries, K)()
        best = int(ids[0, 0])
        assert (ids[:, 0] == best).all() and before <= best <= searcher.step + 1
        np.testing.assert_allclose(scores[:, 0], best, rtol=0.02)
        assert best >= getattr(newest, "step", 0)
        newest.step = best

    def write(step):
        searcher.build(committed(tmp_path, step))
        searcher.publish()

    assert min(together(read, write)) > 0 and searcher.step == PUBLISHES + 1
    searcher.close()
