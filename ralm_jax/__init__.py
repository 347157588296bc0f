"""Retrieval-augmented language model pretraining: a retriever and a reader that learn together.

The verbs of the command line are functions: `prepare`, `update`, `pretrain`, `finetune`, `evaluate`; and
`open_run` opens what they made. Each is imported when it is first used.
"""

import importlib

from ralm_jax import release

__version__ = release.VERSION

_OFFERED = {
    "prepare": "ralm_jax.data.prepare",
    "update": "ralm_jax.living.update",
    "pretrain": "ralm_jax.training.pretrain",
    "finetune": "ralm_jax.training.finetune",
    "evaluate": "ralm_jax.evaluation.evaluate",
    "open_run": "ralm_jax.inference.open_run",
}

__all__ = ["evaluate", "finetune", "open_run", "prepare", "pretrain", "update"]


def __getattr__(name: str):
    if name not in _OFFERED:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_OFFERED[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
