"""What a scorer knows: three lists beside the reader's, computed by hand."""

import json

import jax.numpy as jnp
import numpy as np
import pytest

from experiments import scorers
from ralm_jax.models import initial
from ralm_jax.models.config import EncoderConfig
from ralm_jax.models.ralm import Ralm
from ralm_jax.runs import directory
from ralm_jax.runs.checkpoint import Checkpoints


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
    # The scorer ties in the second query, the retriever in the first; of equals the first is taken.
    assert values["scorer_agrees"] == 1
    assert values["retriever_agrees"] == 0
    # The reader's, over the candidates there are.
    lists = np.array([0.1, 0.8, 0.1]), np.array([2 / 3, 1 / 3])
    entropies = [-(p * np.log(p)).sum() for p in lists]
    to_flat = [np.log(3) - entropies[0], np.log(2) - entropies[1]]
    assert values["to_flat"] == pytest.approx(np.mean(to_flat), rel=1e-5)
    # In the first query it is 0.
    assert values["to_scorer"] == pytest.approx(to_flat[1] / 2, rel=1e-5)
    assert values["scorer_entropy"] == pytest.approx((entropies[0] + np.log(2)) / 2, rel=1e-5)


@pytest.fixture
def run(tiny, tmp_path):
    """Makes a run on the small almanac, drawn at random, with a scorer or without."""

    def make(with_scorer):
        config = EncoderConfig(hidden=8, layers=1, heads=2, intermediate=8, positions=64)
        model = Ralm(config, config, embedding=8, with_scorer=with_scorer)
        model = directory.sized(model, tiny.corpus.vocabulary.size)
        lengths = {"query": 20, "passage": 56, "joint": 64, "masked": 4}
        parts = {"lengths": lengths, "held_out": 0.2, "seed": 7}
        directory.describe(tmp_path / "run", model, tiny.corpus, stages=["scorer"], **parts)
        checkpoints = Checkpoints(directory.checkpoint_folder(tmp_path / "run", "scorer"))
        checkpoints.save(3, {"state": {"params": initial.drawn_params(model, 0)}}, wait=True)
        checkpoints.close()
        return tmp_path / "run"

    return make


def measure(file, run):
    return scorers.main(["--out", str(file), str(run)])


@pytest.mark.slow
def test_a_run_of_random_parameters_knows_nothing(run, tmp_path, capsys):
    assert measure(tmp_path / "s.json", run(True)) == 0
    (row,) = json.loads((tmp_path / "s.json").read_text("utf-8"))["rows"]
    assert row["step"] == 3 and row["seed"] == 7 and row["sentences"] > 20
    assert row["scorer_entropy"] <= np.log(scorers.CANDIDATES) + 1e-5
    # Its reader has no preference either.
    assert row["scorer_agrees"] < 0.5 and row["to_flat"] < 0.1
    assert "scorer_entropy" in capsys.readouterr().out


def test_mistakes_are_one_line(run, capsys, tmp_path):
    (tmp_path / "none").mkdir()
    for folder, wanted in ((tmp_path / "none", ""), (run(False), "has no scorer: train one with")):
        assert measure(tmp_path / "s.json", folder) == 2
        said = capsys.readouterr().err
        assert said.startswith("scorers: ") and wanted in said and said.count("\n") == 1
        assert not (tmp_path / "s.json").exists()
