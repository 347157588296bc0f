"""What a scorer knows: three lists beside the reader's, by hand."""

import jax.numpy as jnp
import numpy as np
import pytest

from experiments import scorers


def test_agreement_and_distance_by_hand():
    """Two queries of three candidates, the last of the second none; a third query asks nothing."""
    gone = -1e31
    read = jnp.log(jnp.array([[0.1, 0.8, 0.1], [0.5, 0.25, 0.9], [0.9, 0.05, 0.05]]))[:, :, None]
    weights = jnp.array([[1.0], [1.0], [0.0]])
    third, half = np.log(1 / 3), np.log(1 / 2)
    flat = jnp.array([[third] * 3, [half, half, gone], [third] * 3])
    scorer = flat.at[0].set(jnp.log(jnp.array([0.1, 0.8, 0.1])))
    prior = flat.at[1].set(jnp.array([np.log(0.2), np.log(0.8), gone]))
    found = scorers.lists(prior, scorer, flat, read, weights)
    values = {name: float(total / count) for name, (total, count) in found.items()}
    assert all(int(count) == 2 for _, count in found.values())
    assert values["scorer_agrees"] == 1  # both: the second ties, and the first is taken
    assert values["retriever_agrees"] == 0  # the first ties, and the first is taken: not the best
    lists = (
        np.array([0.1, 0.8, 0.1]),
        np.array([2 / 3, 1 / 3]),
    )  # the reader's, over those there are
    entropies = [-(p * np.log(p)).sum() for p in lists]
    to_flat = [np.log(3) - entropies[0], np.log(2) - entropies[1]]
    assert values["to_flat"] == pytest.approx(np.mean(to_flat), rel=1e-5)
    assert values["to_scorer"] == pytest.approx(to_flat[1] / 2, rel=1e-5)  # 0 for the first
    assert values["scorer_entropy"] == pytest.approx((entropies[0] + np.log(2)) / 2, rel=1e-5)


def test_a_folder_that_is_no_run_is_one_line(capsys, monkeypatch, tmp_path):
    monkeypatch.setattr("sys.argv", ["scorers", "--out", str(tmp_path / "s.json"), str(tmp_path)])
    assert scorers.main() == 2
    said = capsys.readouterr().err
    assert said.startswith("scorers: ") and said.count("\n") == 1
    assert not (tmp_path / "s.json").exists()
