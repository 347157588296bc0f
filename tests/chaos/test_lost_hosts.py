"""One of several processes is killed, stopped or fails: the others end soon, with a line that names it.

All slow, for each process starts jax. What they do is as little as a run does: a collective, over and over.
"""

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

import ralm_jax

pytestmark = pytest.mark.slow

PATIENCE = (
    8  # seconds, of a process with the others; of this test, as long as a loaded machine takes
)
LONG = 240
WORK = """
import sys, time
from ralm_jax import ending
from ralm_jax.errors import UserError
from ralm_jax.hosts import start

def work():
    address, count, number, patience, fails = sys.argv[1:]
    with start.joined(start.given(address, int(count), int(number)), float(patience)):
        import numpy as np
        from ralm_jax import partition
        from ralm_jax.hosts.watch import reached
        start.agree("a letter", {"letter": "b" if fails == "unlike" else "a"})
        for step in range(3 if fails == "never" else 10**9):
            reached()
            partition.gather_rows(np.array([step]))
            if step == 2:
                print("at work", flush=True)
            if step == 9 and fails == "wrong":
                raise UserError("the disk is full")
            if step == 9 and fails == "bug":
                raise ZeroDivisionError
            time.sleep(0.02)

sys.exit(ending.exit_code(work))
"""


class Processes:
    def __init__(self, folder, count=3, **fails):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            address = f"127.0.0.1:{free.getsockname()[1]}"
        environment = {**os.environ, "JAX_NUM_CPU_DEVICES": "1"}
        environment["PYTHONPATH"] = str(Path(ralm_jax.__file__).parents[1])
        self.logs = [folder / f"{number}.log" for number in range(count)]
        self.running = []
        for number, log in enumerate(self.logs):
            fail = fails.get(f"p{number}", fails.get("all", "not"))
            words = [address, str(count), str(number), str(PATIENCE), fail]
            with log.open("w") as out:
                command = [sys.executable, "-c", WORK, *words]
                self.running.append(
                    subprocess.Popen(command, stdout=out, stderr=out, env=environment)
                )

    def at_work(self):
        until = time.monotonic() + LONG
        while not all("at work" in log.read_text() for log in self.logs):
            assert time.monotonic() < until, self.said()
            time.sleep(0.1)

    def ended(self, *numbers):
        """Exit codes of some, and the lines of ours that they end with."""
        codes = [self.running[number].wait(LONG) for number in numbers]
        lines = [re.findall("^ralm: .*", self.logs[i].read_text(), re.MULTILINE) for i in numbers]
        return codes, lines

    def said(self):
        return "\n".join(log.read_text() for log in self.logs)

    def close(self):
        for process in self.running:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            process.wait()


@pytest.fixture
def start(tmp_path):
    made = []

    def start(**fails):
        made.append(Processes(tmp_path, **fails))
        return made[-1]

    yield start
    for one in made:
        one.close()


@pytest.mark.parametrize("lost", [0, 1])
def test_a_process_that_is_killed_ends_all(start, lost):
    processes = start()
    processes.at_work()
    processes.running[lost].kill()
    begun = time.monotonic()
    codes, lines = processes.ended(*{0, 1, 2} - {lost})
    assert time.monotonic() - begun < 10 * PATIENCE
    assert codes == [2, 2], processes.said()
    pid = processes.running[lost].pid
    for said in lines:
        assert re.fullmatch(rf"ralm: process {lost} on \S+ \(pid {pid}\) is gone: .*", said[0])
        assert len(said) == 1


def test_a_process_that_is_stopped_ends_all_and_itself_when_it_goes_on(start):
    processes = start()
    processes.at_work()
    processes.running[2].send_signal(signal.SIGSTOP)
    codes, lines = processes.ended(0, 1)
    assert codes == [2, 2], processes.said()
    for said in lines:
        assert re.fullmatch(r"ralm: process 2 on .* has not been heard of for 8 s: .*", said[0])
    processes.running[2].send_signal(signal.SIGCONT)
    assert processes.ended(2)[0] == [2]


@pytest.mark.parametrize("how", ["wrong", "bug"])
def test_an_error_of_one_ends_all(start, how):
    processes = start(p1=how)
    codes, lines = processes.ended(0, 1, 2)
    assert codes == [2, 2 if how == "wrong" else 1, 2], processes.said()
    why = "the disk is full" if how == "wrong" else "ZeroDivisionError"
    for said in lines[0], lines[2]:
        assert re.fullmatch(rf"ralm: process 1 on .* ended: {why}", said[0])
    own = processes.logs[1].read_text()
    assert ("Traceback" in own) == (how == "bug") and why in own


def test_records_that_are_unlike_and_an_end_that_is_none(start):
    processes = start(count=2, p1="unlike")
    codes, lines = processes.ended(0, 1)
    assert codes == [2, 2], processes.said()
    assert all("process 1 on" in x[0] and "letter is b, not a" in x[0] for x in lines)
    processes = start(count=2, all="never")
    assert processes.ended(0, 1) == ([0, 0], [[], []]), processes.said()
