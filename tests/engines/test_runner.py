"""An engine that is not there is one line, before anything is made."""

import importlib.util

import pytest

from ralm_jax import cli


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--runner", "beam"], "needs Apache Beam: install it with pip install 'ralm_jax[beam]'"),
        (
            ["--runner", "baem:FlinkRunner"],
            "there is no runner 'baem:FlinkRunner'; did you mean beam?",
        ),
        (["--runner-option", "flink_master=x"], "is for an engine; give --runner beam too"),
        (["--runner", ""], "--runner is empty"),
    ],
)
@pytest.mark.parametrize("verb", ["prepare", "embed"])
def test_an_engine_that_is_not_there_is_one_line(
    verb, options, said, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    (tmp_path / "x.txt").write_text("A mill.")
    given = [str(tmp_path / "x.txt")] if verb == "prepare" else ["--run", str(tmp_path)]
    assert cli.main([verb, *given, "--out", str(tmp_path / "out"), *options]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert said in line
    assert [file.name for file in tmp_path.iterdir()] == ["x.txt"]
