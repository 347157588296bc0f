"""One joint training under each refresh policy: what differs between the rows, and the table."""

import pytest

from experiments import pricing, refreshes
from ralm_jax import gin_config
from ralm_jax.retrieval.refresh import Asynchronous, Rolling, WriteBack


def policy(setting, name):
    joint = refreshes.chain(setting, name)[-1]
    stages = gin_config.bindings("pretrain.pretrain", joint.config, joint.changes)["stages"]
    return stages[-1].task.refresh


def test_rows_differ_in_the_policy_alone(setting):
    rare = Asynchronous(500, 200)
    wanted = {
        "full": Asynchronous(50, 20),
        "rare": rare,
        "written": WriteBack(rare, over=4),
        "both": WriteBack(Rolling(50, 20, turns=10), over=4),
        "rolling": Rolling(50, 20, turns=10),
        "seldom": WriteBack(Rolling(50, 20, turns=10), over=4),
    }
    assert {name: policy(setting, name) for name in refreshes.ROWS} == wanted
    starts = {refreshes.chain(setting, name)[-1].start for name in refreshes.ROWS}
    assert starts == {setting.run("warmup")}


def test_the_table():
    shared = {"index_age": 40.0, "candidate_age": 12.4, "refresh_share": 0.25}
    rows = [
        {"policy": name, "seed": seed, "recall@5": recall + 0.1 * seed, **shared}
        for name, recall in (("full", 0.5), ("written", 0.55))
        for seed in (0, 1)
    ]
    shown = refreshes.table(rows)
    assert "| all passages every 50 steps | 2 | 55.0 (50.0 to 60.0) | 40 | 12 | 25.0% |" in shown
    assert "written back − all passages every 50 steps | +5.0, +5.0 |" in shown
    assert "| ten times more rarely − all passages every 50 steps | not run |" in shown


@pytest.mark.parametrize("name", ["rare", "rolling"])
def test_what_is_refreshed_is_a_tenth(setting, name):
    def embedded(name):
        cost = pricing.pretraining(refreshes.chain(setting, name)[-1], setting.model())[-1]
        return cost.index * cost.refreshes

    assert embedded(name) <= embedded("full") / 10 + 1e-6
