"""Which process of which cluster this is: as flags say, or as the environment does."""

import jax
import pytest
from jax._src.clusters import ClusterEnv

from ralm_jax import cli
from ralm_jax.errors import UserError
from ralm_jax.hosts import start
from ralm_jax.hosts.meeting import Address, Place

SLURM = {
    "SLURM_JOB_ID": "5", "SLURM_STEP_NODELIST": "node[001-003]", "SLURM_NTASKS": "3",
    "SLURM_PROCID": "2", "SLURM_LOCALID": "0",
}  # fmt: skip


def test_flags_say_who_this_is():
    cluster = start.given("node1:4567", 3, 2)
    assert cluster == start.Cluster(Address("node1", 4567), Place(2, 3))
    assert start.given(None, None, None) is None


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("node1:4567", None, 0), "--processes is missing"),
        ((None, 2, None), "--coordinator, --process is missing"),
        (("node1:4567", 2, 2), "--process is 2 of 2"),
        (("node1:4567", 2, -1), "--process is -1 of 2"),
        (("node1", 2, 0), "write HOST:PORT"),
    ],
)
def test_flags_that_do_not_go_together_are_refused(flags, said):
    with pytest.raises(UserError, match=said) as error:
        start.given(*flags)
    assert "\n" not in str(error.value)


def test_without_a_cluster_none_is_found():
    assert start.found() is None


def test_slurm_says_who_this_is(monkeypatch):
    for name, value in SLURM.items():
        monkeypatch.setenv(name, value)
    cluster = start.found()
    assert cluster.place == Place(2, 3) and cluster.at.host == "node001"
    # On every address: the name of a machine may not be one that it can listen at.
    assert (cluster.bind, cluster.devices) == ("", [0])


def test_a_cluster_that_does_not_say_who_is_who_is_refused(monkeypatch):
    for name, value in {**SLURM, "SLURM_PROCID": "second"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(
        UserError, match=r"the cluster does not say who is who .*give --coordinator"
    ):
        start.found()


def test_whatever_jax_detects_is_asked(monkeypatch):
    """Those that the documentation names are among what jax knows."""
    names = {kind.__name__ for kind in ClusterEnv._cluster_types if not kind.opt_in_only_method}
    assert {"SlurmCluster", "OmpiCluster", "K8sCluster", "GceTpuCluster", "GkeTpuCluster"} <= names


def test_a_process_alone_is_no_cluster(monkeypatch):
    monkeypatch.setattr(start.meeting, "meet", None)
    with start.joined(start.given("localhost:4567", 1, 0)):
        assert start._watch is None
    start.agree("nothing", {"a": "b"})


def test_the_command_says_what_is_missing(capsys):
    words = ["pretrain", "--config", "runs/pretrain.gin", "--corpus", "c", "--run", "r"]
    assert cli.main([*words, "--processes", "2"]) == 2
    assert "--coordinator, --process is missing" in capsys.readouterr().err
    assert cli.main([*words, "--patience", "0"]) == 2
    assert "--patience is 0.0" in capsys.readouterr().err


@pytest.mark.parametrize(("kind", "listens"), [("gloo", ["10.0.0.2"]), ("mpi", [])])
def test_others_reach_a_process_where_they_have_met_it(monkeypatch, kind, listens):
    """By its own name a machine often means 127.0.0.1, where no other host reaches it."""
    at, made = [], {}
    gloo = lambda distributed_client, hostname: at.append(hostname)  # noqa: E731
    monkeypatch.setattr(start._jax, "make_gloo_tcp_collectives", gloo)
    monkeypatch.setattr(start.xla_bridge, "make_cpu_client", lambda collectives: collectives)
    register = lambda name, make, **how: made.update({name: make})  # noqa: E731
    monkeypatch.setattr(start.xla_bridge, "register_backend_factory", register)
    before = jax.config.jax_cpu_collectives_implementation
    jax.config.update("jax_cpu_collectives_implementation", kind)
    try:
        start._reach_at("10.0.0.2")
    finally:
        jax.config.update("jax_cpu_collectives_implementation", before)
    for make in made.values():
        make()
    assert at == listens


@pytest.mark.parametrize(("given", "wanted"), [(None, 3 + 8 * 8), ("5", 5)])
def test_a_process_has_threads_enough_to_wait_for_others(monkeypatch, given, wanted):
    monkeypatch.setattr(start.os, "cpu_count", lambda: 3)
    # Restored by the second of these, whatever was there.
    monkeypatch.setenv("NPROC", given or "")
    if given is None:
        monkeypatch.delenv("NPROC")
    start._give_threads()
    assert int(start.os.environ["NPROC"]) == wanted
