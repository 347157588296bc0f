"""A training starts on several hosts, as flags say or a cluster does, and ends on all of them together.

JAX's runtime has to be started before anything asks which devices there are, so before `training` is
imported.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.metadata
import logging
import os
import platform
import sys
import time
import traceback
import zlib
from collections.abc import Generator, Mapping
from pathlib import Path
from typing import NamedTuple

import jax
from jax._src import distributed, xla_bridge
from jax._src.clusters import ClusterEnv
from jax._src.lib import _jax

from ralm_jax import ending
from ralm_jax.errors import UserError
from ralm_jax.hosts import meeting
from ralm_jax.hosts.meeting import Address, Place
from ralm_jax.hosts.watch import Watch
from ralm_jax.release import VERSION

# Seconds that a host waits for the others as they start, and that one may be silent afterwards.
PATIENCE = 120.0
# Where an error may have come of a lost host, so many seconds until the watch has named it.
VERDICT = 3.0
# Threads of a CPU for each device, beside one for each core; see `_give_threads`.
_THREADS = 8
# Our own watch is to be first: JAX ends a process with a signal, and does not say whom it has lost.
_LATER = 4

_watch: Watch | None = None


class Cluster(NamedTuple):
    """Where the processes meet, which of them this is, and which of its devices it takes (None: all)."""

    at: Address
    place: Place
    # Where process 0 listens; None at `at` itself.
    bind: str | None = None
    devices: list[int] | None = None


def given(coordinator: str | None, processes: int | None, process: int | None) -> Cluster | None:
    """What flags say; None where they say nothing. Raises UserError where they do not go together."""
    flags = {"--coordinator": coordinator, "--processes": processes, "--process": process}
    if missing := [name for name, value in flags.items() if value is None]:
        if len(missing) == len(flags):
            return None
        raise UserError(
            f"{', '.join(missing)} is missing: {', '.join(flags)} belong together, on every host"
        )
    assert coordinator is not None
    assert processes is not None
    assert process is not None
    at = meeting.address(coordinator)
    if not 0 <= process < processes:
        raise UserError(
            f"--process is {process} of {processes}: number them from 0 to --processes less 1"
        )
    return Cluster(at, Place(process, processes), os.environ.get("JAX_COORDINATOR_BIND_ADDRESS"))


def found() -> Cluster | None:
    """The cluster that this process was started in (Slurm, Open MPI, Kubernetes, TPU); None for none.

    Raises UserError where there is one that does not say who is who.
    """
    kinds = [kind for kind in ClusterEnv._cluster_types if not kind.opt_in_only_method]
    if not any(kind.is_env_present() for kind in kinds):
        return None
    try:
        detect = ClusterEnv.auto_detect_unset_distributed_params
        told = detect(None, None, None, None, None, int(PATIENCE))
        at, processes, process = meeting.address(str(told[0])), int(told[1] or 1), int(told[2] or 0)
    except UserError:
        raise
    except Exception as error:
        raise UserError(
            f"the cluster does not say who is who ({type(error).__name__}: {error}): give --coordinator, "
            "--processes and --process"
        ) from error
    bind = os.environ.get("JAX_COORDINATOR_BIND_ADDRESS", "")
    devices = None if told[3] is None else list(told[3])
    return Cluster(at, Place(process, processes), bind, devices)


@contextlib.contextmanager
def joined(cluster: Cluster | None, patience: float = PATIENCE) -> Generator[None]:
    """The block runs as one of the processes of a cluster; without one, or alone in it, as ever.

    With others, whatever ends the block with an error ends this process, and all of them.

    Raises UserError: somebody is missing or unlike, before JAX has been started.
    """
    global _watch
    if cluster is None or cluster.place.processes == 1:
        yield
        return
    met = meeting.meet(cluster.at, cluster.place, _versions(), patience, cluster.bind)
    _watch = Watch(met, patience)
    try:
        _start_jax(cluster, patience)
        _reach_at(next(iter(met.links.values())).getsockname()[0])
        yield
        sys.stdout.flush()
        jax.distributed.shutdown()
        _watch.close()
        _watch = None
    except BaseException as error:
        _leave(_watch, error)


def agree(about: str, record: Mapping[str, str]) -> None:
    """All processes compare what they have; see `Watch.agree`. Nothing where this is the only one."""
    if _watch is not None:
        _watch.agree(about, record)


def _versions() -> dict[str, str]:
    """What must be the same on all hosts for their programs to be the same."""
    said = {"jax": importlib.metadata.version("jax"), "ralm_jax": VERSION}
    said["jaxlib"] = importlib.metadata.version("jaxlib")
    said["Python"] = ".".join(platform.python_version_tuple()[:2])
    return {**said, "code": f"{_code():08x}"}


def _code() -> int:
    """CRC-32 of the modules of this package: of one release there may be several, while it is developed."""
    package, checksum = Path(__file__).parents[1], 0
    for file in sorted(package.rglob("*.py")):
        checksum = zlib.crc32(str(file.relative_to(package)).encode() + file.read_bytes(), checksum)
    return checksum


def _start_jax(cluster: Cluster, patience: float) -> None:
    # Its handler would swallow SIGTERM, by which a run is asked to save and stop.
    jax.config.update("jax_enable_preemption_service", False)
    # Proxies, which it warns of, are none of a run's.
    logging.getLogger("jax._src.distributed").setLevel(logging.ERROR)
    _give_threads()
    host = "[::]" if cluster.bind == "" else cluster.bind or cluster.at.host
    jax.distributed.initialize(
        str(cluster.at),
        cluster.place.processes,
        cluster.place.process,
        local_device_ids=cluster.devices,
        cluster_detection_method="deactivate",
        initialization_timeout=int(_LATER * patience) + 1,
        heartbeat_timeout_seconds=int(_LATER * patience) + 1,
        coordinator_bind_address=str(Address(host.strip("[]"), cluster.at.port)),
    )


def _give_threads() -> None:
    """Lets CPUs wait for other hosts without standing still, unless the user says how many threads there are.

    By itself XLA has as many as there are cores or devices, whichever are more, and what is summed over hosts
    holds them until the others have come. Of trainings by two processes with two devices each, on two cores
    with a link of 200 Mbit/s between them, half stood still for good.
    """
    devices = max(1, getattr(jax.config, "jax_num_cpu_devices", 1))
    os.environ.setdefault("NPROC", str((os.cpu_count() or 1) + _THREADS * devices))


def _reach_at(address: str) -> None:
    """Lets the others reach this process where they have met it, for what is summed between CPUs.

    Gloo listens at what the machine's own name stands for, which on many a machine is 127.0.0.1.
    """
    if getattr(jax.config, "jax_cpu_collectives_implementation", "gloo") != "gloo":
        return

    def client():
        given = {"distributed_client": distributed.global_state.client, "hostname": address}
        return xla_bridge.make_cpu_client(_jax.make_gloo_tcp_collectives(**given))

    xla_bridge.register_backend_factory("cpu", client, priority=0, fail_quietly=False)


def _leave(watch: Watch, error: BaseException) -> None:
    """Ends this process as the command would end, at once: JAX would wait for the others."""
    if isinstance(error, Exception):
        # What another host has ended by, its line says better.
        time.sleep(VERDICT)
    said = str(error).splitlines()[0] if isinstance(error, UserError) else type(error).__name__
    try:
        code = ending.exit_code(functools.partial(_again, error))
    except BaseException:
        traceback.print_exception(error)
        code = 1
    with contextlib.suppress(OSError):
        sys.stdout.flush()
        sys.stderr.flush()
    watch.failed(said)
    os._exit(code)


def _again(error: BaseException) -> None:
    raise error
