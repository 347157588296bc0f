"""What the experiment over hosts trains is a run that there is, and what it notes of objects."""

import os

from experiments import hosts
from ralm_jax import gin_config


def test_the_run_is_configured():
    changes = [f"{name} = {size}" for name, size in hosts.SIZES.items()]
    given = gin_config.pretraining(
        "runs/pretrain.gin", [*changes, hosts.STAGES, "REALM_STEPS = 12"]
    )
    (stage,) = given["stages"]
    assert (stage.name, stage.schedule.steps) == ("realm", 12)
    # No version is published between the steps of which the bytes are counted.
    served = {stage.task.refresh.published(step) for step in range(*hosts.COUNTED)}
    assert len(served) == 1
    assert all(hosts.DEVICES % count == 0 for count in hosts.PROCESSES)


def test_a_method_is_noted_behind_its_call():
    class Counter:
        count = 0

        def add(self, more):
            self.count += more
            return self.count

    noted = []
    hosts._after(Counter, "add", lambda counter: noted.append(counter.count))
    counter = Counter()
    assert [counter.add(2), counter.add(3)] == [2, 5] == noted


def test_a_network_of_its_own_is_one_only_where_it_was_made(monkeypatch):
    monkeypatch.delenv("RALM_NETWORK", raising=False)
    assert not hosts.alone() and hosts.sent() >= 0
    assert "RALM_NETWORK" not in os.environ
