"""A step compiled for a device that is not here, by that device's own compiler: what memory it takes.

The compilers come with the wheels of the accelerators and need none: `ralm_jax[tpu]` and `ralm_jax[gpu]`. A
program for a GPU is compiled without measuring kernels, and cuDNN's workspace is not counted.
"""

import contextlib
import functools
import os
import time
from typing import Any, NamedTuple

import jax
from jax.experimental import topologies

from ralm_jax import partition
from ralm_jax.cost import shapes
from ralm_jax.cost.chips import Chip
from ralm_jax.errors import UserError
from ralm_jax.models.encoder import attention
from ralm_jax.models.openqa import OpenQA
from ralm_jax.models.ralm import Ralm
from ralm_jax.training.schedule import Stage
from ralm_jax.training.steps import train_step

# What the compiler of CUDA asks, by compute capability: from the data sheets of H100, A100 and L4.
GPUS = {
    "9.0": {
        "cores": 132,
        "fpus": 128,
        "shared": 233472,
        "block": 232448,
        "l2": 52428800,
        "clock": 1.98,
    },
    "8.0": {
        "cores": 108,
        "fpus": 64,
        "shared": 167936,
        "block": 166912,
        "l2": 41943040,
        "clock": 1.41,
    },
    "8.9": {
        "cores": 58,
        "fpus": 128,
        "shared": 102400,
        "block": 101376,
        "l2": 50331648,
        "clock": 2.04,
    },
}
# Of the environment of a machine with TPUs, which the compiler would otherwise look for.
TPU = {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_ACCELERATOR_TYPE": "v5litepod-8",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    "TPU_STDERR_LOG_LEVEL": "3",
    "TF_CPP_MIN_LOG_LEVEL": "3",
}
# Without the device no tiles can be tried out, and for some products none is found: cuBLAS needs none.
OPTIONS: dict[str, Any] = {"cuda": {"xla_gpu_enable_triton_gemm": False}, "tpu": None}
EXTRAS = {"cuda": "gpu", "tpu": "tpu"}


class Compiled(NamedTuple):
    """Bytes on each device, as its compiler counts them, and the seconds that it took.

    Attributes:
      aliased: of the output, what takes the place of arguments.
      most: all of them, what is aliased counted once.
    """

    arguments: float
    temporary: float
    output: float
    aliased: float
    most: float
    seconds: float


@attention.lowering()
def compiled(model: Ralm | OpenQA, stage: Stage, chip: Chip, rows: int, **how: Any) -> Compiled:
    """The pmapped step of a stage, `rows` queries a device, for all devices of the chip.

    how: more for the loss of the stage, such as `part_widths`.

    Raises UserError where its compiler is not installed.
    """
    devices = _devices(chip)
    loss = functools.partial(stage.task.loss(model), **how)
    step = functools.partial(train_step, loss=loss)
    batch = shapes.batch(model, stage, rows, len(devices))
    batch = jax.tree.map(lambda x: jax.ShapeDtypeStruct((len(devices), *x.shape), x.dtype), batch)
    key = jax.eval_shape(lambda: jax.random.key(0))
    begun = time.perf_counter()
    lowered = partition.parallelize(step, devices).lower(shapes.state(model, stage), batch, key)
    used = lowered.compile(OPTIONS[chip.platform]).memory_analysis()
    seconds = time.perf_counter() - begun
    given, output = used.argument_size_in_bytes, used.output_size_in_bytes
    most = given + used.temp_size_in_bytes + output - used.alias_size_in_bytes
    return Compiled(given, used.temp_size_in_bytes, output, used.alias_size_in_bytes, most, seconds)


def _devices(chip: Chip) -> list[Any]:
    if chip.platform == "cuda":
        given: dict[str, Any] = {"target_config": _target(chip), "topology": f"1x1x{chip.devices}"}
    else:
        _, _, sizes = chip.topology.partition(":")
        hosts = [int(n) for n in sizes.split("x")]
        given = {"topology_name": chip.topology}
        given |= {"chips_per_host_bounds": [*hosts, 1][:3]} if len(hosts) == 2 else {}
    with _environment(TPU if chip.platform == "tpu" else {}):
        try:
            return list(topologies.get_topology_desc(platform=chip.platform, **given).devices)
        # Whatever a plugin that is not there, or is of another release, may raise.
        except Exception as error:
            said = " ".join(str(error).split())[:120]
            raise UserError(
                "the compiler for this device is not installed: pip install "
                f"'ralm_jax[{EXTRAS[chip.platform]}]' ({said})"
            ) from error


def _target(chip: Chip) -> str:
    """xla.GpuTargetConfigProto, as text."""
    gpu, (major, minor) = GPUS[chip.topology], chip.topology.split(".")
    return f"""
gpu_device_info {{
  threads_per_block_limit: 1024
  threads_per_warp: 32
  shared_memory_per_block: 49152
  shared_memory_per_core: {gpu["shared"]}
  threads_per_core_limit: 2048
  core_count: {gpu["cores"]}
  fpus_per_core: {gpu["fpus"]}
  block_dim_limit_x: 2147483647
  block_dim_limit_y: 65535
  block_dim_limit_z: 65535
  memory_bandwidth: {int(chip.bandwidth)}
  l2_cache_size: {gpu["l2"]}
  clock_rate_ghz: {gpu["clock"]}
  device_memory_size: {int(chip.memory)}
  shared_memory_per_block_optin: {gpu["block"]}
  cuda_compute_capability {{ major: {major} minor: {minor} }}
  registers_per_core_limit: 65536
  registers_per_block_limit: 65536
}}
platform_name: "CUDA"
dnn_version_info {{ major: 9 minor: 8 }}
runtime_version {{ major: 12 minor: 8 patch: 0 }}
device_description_str: "NVIDIA"
"""


@contextlib.contextmanager
def _environment(wanted: dict[str, str]):
    before = {name: os.environ.get(name) for name in wanted}
    os.environ.update({name: value for name, value in wanted.items() if before[name] is None})
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
