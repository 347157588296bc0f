import json
import math

import jax.numpy as jnp
import numpy as np
import pytest

from ralm_jax.errors import UserError
from ralm_jax.runs.writers import MetricWriter, metrics_file, read_metrics


def steps(run_dir, stage):
    return [line["step"] for line in read_metrics(metrics_file(run_dir)) if line["stage"] == stage]


def test_a_line_is_readable_as_soon_as_it_is_written(tmp_path):
    writer = MetricWriter(tmp_path)
    writer.write(3, {"loss": jnp.float32(0.5), "recall": np.float64(0.25), "seen": 7}, "joint")
    line = {"stage": "joint", "step": 3, "loss": 0.5, "recall": 0.25, "seen": 7.0}
    assert read_metrics(metrics_file(tmp_path)) == [line]
    writer.close()


def test_values_that_are_not_finite_leave_valid_json(tmp_path):
    writer = MetricWriter(tmp_path)
    writer.write(0, {"a": math.nan, "b": -math.inf, "c": 1.0}, "ict")
    writer.close()
    text = metrics_file(tmp_path).read_text()
    line = json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    assert (line["a"], line["b"], line["c"]) == (None, None, 1.0)


def test_resuming_drops_what_lies_beyond_in_that_stage_alone(tmp_path):
    writer = MetricWriter(tmp_path)
    for stage in ("ict", "joint"):
        for step in range(5):
            writer.write(step, {"loss": step}, stage)
    writer.close()
    again = MetricWriter(tmp_path)
    again.resume("joint", 2)
    again.write(3, {"loss": -1}, "joint")
    again.close()
    assert steps(tmp_path, "ict") == [0, 1, 2, 3, 4]
    assert steps(tmp_path, "joint") == [0, 1, 2, 3]
    assert read_metrics(metrics_file(tmp_path))[-1]["loss"] == -1
    assert sorted(file.name for file in tmp_path.iterdir()) == ["metrics.jsonl", "tensorboard"]


def test_a_line_cut_off_by_a_kill_does_not_spoil_the_next(tmp_path):
    writer = MetricWriter(tmp_path)
    writer.write(0, {"loss": 1}, "ict")
    writer.close()
    with open(metrics_file(tmp_path), "a") as file:
        file.write('{"stage": "ict", "st')
    assert steps(tmp_path, "ict") == [0]
    again = MetricWriter(tmp_path)
    again.write(1, {"loss": 1}, "ict")
    again.close()
    assert steps(tmp_path, "ict") == [0, 1]


def test_a_scalar_cannot_take_the_place_of_the_step(tmp_path):
    writer = MetricWriter(tmp_path)
    with pytest.raises(ValueError, match="step"):
        writer.write(0, {"step": 1}, "ict")
    writer.close()


def test_tensorboard_has_one_directory_a_stage(tmp_path):
    writer = MetricWriter(tmp_path)
    writer.write(0, {"loss": 1}, "ict")
    writer.resume("joint", 4)
    writer.write(5, {"loss": 1}, "joint")
    writer.close()
    files = list((tmp_path / "tensorboard").glob("*/events.out.tfevents.*"))
    assert sorted(file.parent.name for file in files) == ["ict", "joint"]
    assert all(b"loss" in file.read_bytes() for file in files)


def test_a_line_that_has_changed_is_named(tmp_path):
    writer = MetricWriter(tmp_path)
    for step in range(3):
        writer.write(step, {"eval/exact_match": 0.25}, "ict")
    writer.close()
    file = metrics_file(tmp_path)
    sound = file.read_text()
    first, second, third = sound.splitlines(keepends=True)
    without = json.dumps({k: v for k, v in json.loads(second).items() if k != "crc32"}) + "\n"
    for harmed in (second.replace("0.25", "0.75"), second[:-9] + "\n", "7\n", "\n", without):
        file.write_text(first + harmed + third)
        with pytest.raises(
            UserError, match=r"metrics\.jsonl, line 2: not as it was written; remove"
        ):
            read_metrics(file)
    # An earlier release wrote none.
    file.write_text(without + third)
    assert steps(tmp_path, "ict") == [1, 2]
