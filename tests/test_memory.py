import subprocess
import sys

import pytest

from ralm_jax import memory

PROGRAM = """
import ctypes
from ralm_jax import memory
assert memory.keep_freed()
def faults():
    import resource
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(3):
    begun, block = faults(), ctypes.create_string_buffer(1 << 28)
    ctypes.memset(block, 1, 1 << 28)
    del block
    print(faults() - begun)
"""


# What stays lies between blocks that were freed; the first look comes when they are.
HOLES = """
import ctypes, threading, time
from ralm_jax import memory
memory.LOOK_EVERY = 3600
assert memory.keep_freed() and memory.keep_freed()
assert threading.active_count() == 2
blocks, stay = [], []
for _ in range(20):
    blocks.append(ctypes.create_string_buffer(32 << 20))
    ctypes.memset(blocks[-1], 1, 32 << 20)
    stay.append(ctypes.create_string_buffer(1 << 16))
del blocks
print(memory.private_bytes() >> 20)
memory.LOOK_EVERY = 0.05
threading.Thread(target=memory._return_holes, args=(ctypes.CDLL(None),), daemon=True).start()
for _ in range(200):
    time.sleep(0.05)
    if memory.private_bytes() >> 20 < 300:
        break
print(memory.private_bytes() >> 20)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's allocator")
def test_holes_that_nothing_fits_are_given_back():
    done = subprocess.run([sys.executable, "-c", HOLES], capture_output=True, text=True, check=True)
    before, after = map(int, done.stdout.split())
    assert before > 600 and after < 300


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's allocator")
def test_memory_that_was_freed_is_not_asked_for_again():
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True
    )
    first, *later = map(int, done.stdout.split())
    assert first > 100 and max(later) < first / 10


def test_elsewhere_nothing_is_tried(monkeypatch):
    def unknown(name):
        raise TypeError("no such library")

    monkeypatch.setattr(memory.ctypes, "CDLL", unknown)
    monkeypatch.setattr(sys, "platform", "win32")
    assert not memory.keep_freed()
