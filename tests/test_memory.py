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
