"""Strict settings for every test: eight CPU devices, no silent broadcasting.

Warnings are errors too, see filterwarnings in pyproject.toml. The plain suite needs no network and
no accelerator.
"""

import os

# Before jax is imported, and in the environment so that the processes a test starts inherit it.
os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax

jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_numpy_rank_promotion", "raise")
# Tests compile for much longer than they compute.
jax.config.update("jax_disable_most_optimizations", True)
