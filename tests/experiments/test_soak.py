"""What a soak says of looks at a process, and what a run that was killed is compared by."""

import os
import subprocess
import sys

import numpy as np
import pytest

from experiments import chaos, outcomes, soak


def looks(mib_an_hour, noise=0.0):
    """Two hours of a process that grows so fast once a quarter has passed."""
    rng = np.random.default_rng(0)
    hours = np.arange(0, 2, 5 / 3600)
    mib = 100 + mib_an_hour * hours + noise * rng.normal(size=len(hours))
    mib[hours < 0.5] = 20
    return [soak.Look(3600 * h, int(m * 2**20), 30, 8) for h, m in zip(hours, mib, strict=True)]


def test_growth_is_that_of_the_settled_part():
    found = soak.growth(looks(60.0))
    assert found["mib_an_hour"] == pytest.approx([60.0, 0.0], abs=0.1)
    assert found["resident_mib"] == pytest.approx([130, 220], abs=1)
    assert found["descriptors"] == [30, 30] and found["threads"] == [8, 8]


def test_noise_is_no_growth():
    slope, error = soak.growth(looks(0.0, noise=5.0))["mib_an_hour"]
    assert 0.1 < error < 2 and abs(slope) < 3 * error


def test_what_is_kept_for_a_while_is_no_growth():
    """Memory that is given back now and then: the least of each tenth tells."""
    seen = [
        one._replace(resident=one.resident + (i % 97) * 2**20) for i, one in enumerate(looks(6.0))
    ]
    found = soak.growth(seen)
    assert found["least_mib_an_hour"] == pytest.approx([6.0, 0.0], abs=1.0)


def test_step_times_are_those_of_ten_parts_in_order():
    assert soak.by_tenths([0.1] * 50 + [0.2] * 50) == [0.1] * 5 + [0.2] * 5
    assert soak.by_tenths([0.5, 0.1]) == [0.5, 0.1]


def test_a_process_is_looked_at_with_its_children():
    program = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'input()'])"
    parent = subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE)
    while not (born := chaos.children(parent.pid)):
        assert parent.poll() is None
    assert os.getpid() not in born and len(born) == 1
    seen = soak.look(parent.pid, 1.0)
    assert seen.resident > 2**20 and seen.descriptors >= 3 and seen.threads >= 1
    parent.communicate(b"\n")
    # As an ended process has none.
    assert chaos.children(parent.pid) == []


def test_a_line_lost_or_a_number_changed_is_a_difference():
    whole = {"metrics": [{"step": 1, "loss": 2.0}, {"step": 2, "loss": 1.0}], "state": {"a": 1}}
    assert outcomes.differences(whole, whole) == []
    lost = {"metrics": whole["metrics"][:1], "state": {"a": 1}}
    assert outcomes.differences(whole, lost) == ["2 and 1 lines of metrics"]
    other = {"metrics": [{"step": 1, "loss": 2.5}, whole["metrics"][1]], "state": {"a": 2}}
    (first, second) = outcomes.differences(whole, other)
    assert first.startswith("line 1 of the metrics") and second == "a differs"
    outlines = [outcomes.in_outline(outcome) for outcome in (whole, other)]
    assert outcomes.differences(*outlines) == []
    assert outcomes.differences(outcomes.in_outline(whole), outcomes.in_outline(lost)) != []
