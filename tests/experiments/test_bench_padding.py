"""What is read is at least what there is, and at most the longest."""

import json

from experiments.bench import padding


def test_what_is_read_is_measured(tiny, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(padding, "CPU", (1, 3, 5))
    monkeypatch.setattr(padding, "ACCELERATOR", (4, 3, 3))
    words = ["--out", str(tmp_path), "--corpus", f"small={tiny.corpus.path}"]
    assert padding.main(words) == 0
    (row,) = json.loads((tmp_path / "padding.json").read_text("utf-8"))["rows"]
    assert row["passages"] == tiny.corpus.size
    for kind in ("cpu", "accelerator"):
        assert row["wordpieces"] <= row[kind]["read"] <= 320
    # Those of this corpus are far from as long as they may be.
    assert row["accelerator"]["read"] < 200 and row["accelerator"]["groups_that_fit"] > 0
    assert "| small |" in capsys.readouterr().out
    assert padding.main([*words[:3], "small"]) == 2
    assert "give NAME=CORPUS" in capsys.readouterr().err
