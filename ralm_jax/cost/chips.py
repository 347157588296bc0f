"""Devices that can be rented: what they do, hold and cost.

Peaks and memory of TPUs are those of cloud.google.com/tpu/docs; of GPUs, of their makers' data sheets. The
share of the peak that training reaches is a range, from reports of models of this kind: 40 to 45% of an A100
(MPT, llm-foundry), 23% (BERT-base of HF, 128 tokens), 40% of an H100 (GPT-2 in llm.c); there is no report of
a TPU at this size. Prices are rough, of 2026: give your own.
"""

from typing import NamedTuple

from ralm_jax.errors import UserError

GIB = float(1 << 30)


class Chip(NamedTuple):
    """Devices of one machine.

    Attributes:
      platform: "cuda" or "tpu".
      devices: how many.
      peak: operations a second of each, in bfloat16.
      memory: bytes of each.
      bandwidth: bytes a second of its memory.
      reached: the share of the peak that training reaches, at least and at most.
      dollars: an hour, of all devices.
      topology: as the compiler of the platform names it; of a GPU, its compute capability.
    """

    platform: str
    devices: int
    peak: float
    memory: float
    bandwidth: float
    reached: tuple[float, float]
    dollars: float
    topology: str


def _gpu(peak, memory, bandwidth, reached, dollars, capability) -> Chip:
    return Chip(
        "cuda", 1, peak * 1e12, memory * GIB, bandwidth * 1e12, reached, dollars, capability
    )


def _tpu(devices, peak, memory, bandwidth, dollars, topology) -> Chip:
    speed = peak * 1e12, memory * GIB, bandwidth * 1e12
    return Chip("tpu", devices, *speed, (0.2, 0.45), devices * dollars, topology)


CHIPS = {
    "h100": _gpu(989, 79.1, 3.35, (0.25, 0.40), 3.5, "9.0"),
    "h200": _gpu(989, 139, 4.8, (0.25, 0.40), 5.0, "9.0"),
    "a100": _gpu(312, 79.1, 2.04, (0.25, 0.45), 1.6, "8.0"),
    "l4": _gpu(121, 22, 0.30, (0.25, 0.45), 0.6, "8.9"),
    "v5e-1": _tpu(1, 197, 15.75, 0.82, 1.2, "v5e:1x1"),
    "v5e-8": _tpu(8, 197, 15.75, 0.82, 1.2, "v5e:2x4"),
    "v5p-8": _tpu(4, 459, 95, 2.77, 4.2, "v5p:2x2x1"),
    "v6e-1": _tpu(1, 918, 31.25, 1.64, 2.7, "v6e:1x1"),
    "v6e-8": _tpu(8, 918, 31.25, 1.64, 2.7, "v6e:2x4"),
}


def chip(name: str) -> Chip:
    """Raises UserError for a device that is not known."""
    if name not in CHIPS:
        raise UserError(f"--on {name}: that device is not known; there are {', '.join(CHIPS)}")
    return CHIPS[name]
