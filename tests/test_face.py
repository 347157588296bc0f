"""`import ralm_jax` offers the verbs as functions, and is quick about it."""

import subprocess
import sys

import pytest

import ralm_jax

VERBS = ["evaluate", "finetune", "open_run", "prepare", "pretrain", "update"]


def test_the_verbs_are_functions_of_the_package():
    assert sorted(ralm_jax.__all__) == VERBS
    for name in VERBS:
        assert callable(getattr(ralm_jax, name)) and getattr(ralm_jax, name).__doc__
        assert name in dir(ralm_jax)
    with pytest.raises(AttributeError, match="no attribute 'retrain'"):
        _ = ralm_jax.retrain


def test_nothing_heavy_is_imported_until_it_is_used():
    """What takes time to import: `import ralm_jax` stays under 0.3 s by importing none of it."""
    script = "import sys, ralm_jax; print(*sorted({m.split('.')[0] for m in sys.modules}))"
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    loaded = set(ran.stdout.split())
    assert not loaded & {
        "jax",
        "numpy",
        "flax",
        "gin",
        "tensorflow_datasets",
        "orbax",
        "tokenizers",
    }
