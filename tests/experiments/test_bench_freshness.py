"""What refreshes add beside embedding: the arithmetic, and the whole at a small size."""

import json

import pytest

from experiments.bench import freshness


def test_what_is_left_beside_embedding_is_a_share_of_training_without_a_refresh():
    one = {"never": 100.0, "fresh": 130.0, "embedding": 26.0, "steps": 1000, "passages": 50}
    assert freshness.share([one, {**one, "fresh": 126.0}]) == [0.04, 0.0]
    assert "| 1,000 | 50 | 100.0 | 130.0 | 26.0 | +4.0% |" in freshness.table([one])


@pytest.mark.slow
def test_rounds_are_measured_and_not_run_again(tiny, tmp_path, monkeypatch, capsys):
    words = [str(tiny.corpus.path), "--out", str(tmp_path), "--every", "5", "--rounds", "1"]
    assert freshness.main(words) == 0
    made = json.loads((tmp_path / "freshness.json").read_text("utf-8"))
    (one,) = made["rounds"]
    assert one["steps"] == 10 and one["passages"] == tiny.corpus.size
    assert min(one["never"], one["fresh"], one["embedding"]) > 0
    monkeypatch.setattr(freshness, "measured", None)
    assert freshness.main(words) == 0
    assert capsys.readouterr().out.count("| 10 |") == 2
