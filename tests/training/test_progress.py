"""Lines of the metrics after an interruption are those that would have been written without it."""

import math

import jax

from ralm_jax.retrieval.searcher import Published
from ralm_jax.runs.writers import metrics_file, read_metrics
from ralm_jax.training.progress import Progress


def stepped(progress, steps):
    """A step whose loss is its number; that of the second is not finite."""
    for step in steps:
        progress.step(step, {"loss": (math.nan if step == 2 else float(step), 1)}, {})
        progress.log(step, {})


def logged(path):
    names = ("step", "loss", "index_step", "index_recall", "skipped_steps")
    lines = read_metrics(metrics_file(path))
    return [{n: line[n] for n in names if n in line} for line in lines if "loss" in line]


def test_what_lines_repeat_is_taken_up_again(tmp_path):
    for run, parts in (("whole", [range(1, 7)]), ("stopped", [range(1, 6), range(4, 7)])):
        for steps in parts:
            progress = Progress(tmp_path / run, {})
            progress.begin("realm", 8, 6, steps[0] - 1)
            if steps[0] == 1:
                progress.published(0, Published(0, 1.0, 0.0, 0.0))
                stepped(progress, [1, 2])
                progress.published(3, Published(2, 0.5, 0.0, 0.0))
            stepped(progress, [step for step in steps if step > 2])
            progress.close()
    assert logged(tmp_path / "stopped") == logged(tmp_path / "whole")
    last = logged(tmp_path / "whole")[-1]
    assert last == {
        "step": 6,
        "loss": 6.0,
        "index_step": 2,
        "index_recall": 0.5,
        "skipped_steps": 1,
    }


def test_an_accelerator_says_once_that_a_step_compiles(tmp_path, monkeypatch, capsys):
    for platform, lines in (("gpu", 1), ("cpu", 0)):
        monkeypatch.setattr(jax, "default_backend", lambda platform=platform: platform)
        progress = Progress(tmp_path / platform, {})
        progress.begin("realm", 8, 6, 0)
        step = progress.before_first(lambda *given: given)
        capsys.readouterr()
        assert [step("state", batch) for batch in (1, 2)] == [("state", 1), ("state", 2)]
        said = capsys.readouterr()
        assert (said.out + said.err).count("realm: compiling the step") == lines
        progress.close()
