"""One process is lost, as threads: each of the others ends by a line that names it."""

import concurrent.futures
import contextlib
import queue
import socket
import time

import pytest

from ralm_jax.errors import UserError
from ralm_jax.hosts import watch
from ralm_jax.hosts.meeting import Met, Place

NAMES = {i: f"process {i} on h{i}" for i in range(3)}


class Three:
    """Three processes with their links, each with a watch or left to the test; and what they end by."""

    def __init__(self, watched=(0, 1, 2), patience=30.0):
        self.ended = {i: queue.Queue() for i in watched}
        ends = {i: socket.socketpair() for i in (1, 2)}
        links = {
            0: {i: pair[0] for i, pair in ends.items()},
            1: {0: ends[1][1]},
            2: {0: ends[2][1]},
        }
        self.links = links
        self.watches = {
            i: watch.Watch(Met(Place(i, 3), NAMES, links[i]), patience, self.ended[i].put)
            for i in watched
        }

    def close(self):
        for one in self.watches.values():
            one.close()
        for links in self.links.values():
            for link in links.values():
                link.close()


@pytest.fixture
def three(monkeypatch):
    monkeypatch.setattr(watch, "BEAT", 0.05)
    monkeypatch.setattr(watch, "LAST_WORDS", 0.1)
    made = []

    def start(*args, **kwargs):
        made.append(Three(*args, **kwargs))
        return made[-1]

    yield start
    for one in made:
        one.close()


@pytest.mark.parametrize("lost", [0, 2])
def test_a_process_that_is_killed_is_named_to_all(three, lost):
    cluster = three(watched=[i for i in range(3) if i != lost])
    for link in cluster.links[lost].values():
        link.close()
    lines = {ended.get(timeout=5) for ended in cluster.ended.values()}
    assert lines == {f"{NAMES[lost]} is gone: it was killed, or its machine is down"}


@pytest.mark.parametrize("lost", [0, 2])
def test_a_process_that_is_silent_is_named_to_all(three, lost):
    cluster = three(watched=[i for i in range(3) if i != lost], patience=0.4)
    begun = time.monotonic()
    lines = {ended.get(timeout=5) for ended in cluster.ended.values()}
    assert lines == {
        f"{NAMES[lost]} has not been heard of for 0.4 s: stopped, cut off, or its machine is down"
    }
    assert time.monotonic() - begun > 0.3


def test_a_process_that_answers_but_stays_behind_is_named_to_all(three, monkeypatch):
    monkeypatch.setattr(watch, "STUCK", 2)
    cluster = three(watched=(0, 1), patience=0.4)
    watch.reached()
    deadline = time.monotonic() + 5
    while cluster.ended[0].empty() and time.monotonic() < deadline:
        with contextlib.suppress(OSError):
            cluster.links[2][0].sendall(b'{"at": 0}\n')
        time.sleep(0.05)
    lines = {ended.get(timeout=5) for ended in cluster.ended.values()}
    assert lines == {f"{NAMES[2]} got no further for 0.8 s, and the others wait for it"}


def test_nobody_is_stuck_where_all_are_equally_far(three, monkeypatch):
    monkeypatch.setattr(watch, "STUCK", 1)
    cluster = three(patience=0.3)
    time.sleep(1)
    assert all(ended.empty() for ended in cluster.ended.values())


@pytest.mark.parametrize("failing", [0, 1])
def test_an_error_of_one_is_said_by_all_others(three, failing):
    cluster = three()
    cluster.watches[failing].failed("disk full")
    lines = {ended.get(timeout=5) for i, ended in cluster.ended.items() if i != failing}
    assert lines == {f"{NAMES[failing]} ended: disk full"}
    assert cluster.ended[failing].empty()


def test_whoever_has_finished_is_not_lost(three):
    cluster = three(patience=0.3)
    cluster.watches[0].close()
    cluster.watches[1].close()
    time.sleep(0.6)
    cluster.watches[2].close()
    assert all(ended.empty() for ended in cluster.ended.values())


def test_records_that_are_unlike_are_said_on_all(three, monkeypatch):
    cluster = three()

    def agree(records):
        with concurrent.futures.ThreadPoolExecutor(3) as threads:
            given = zip(cluster.watches.values(), records, strict=True)
            asked = [threads.submit(one.agree, "a corpus", record) for one, record in given]
            return [x.exception(timeout=5) for x in asked]

    assert agree([{"size": "3"}] * 3) == [None] * 3
    found = agree([{"size": "3"}, {"size": "3"}, {"size": "4"}])
    assert all(isinstance(error, UserError) for error in found)
    said = f"{NAMES[2]} has a corpus unlike that of {NAMES[0]}: size is 4, not 3"
    assert {str(error) for error in found} == {said}
