"""bm25s, imported as if JAX were not there.

Where it finds JAX it runs a small program on the default device as soon as it is imported. So each process
that imports it would take hold of the accelerator, and on a GPU of three quarters of its memory.
"""

import sys

# Imported first: what is missing while bm25s looks for it must not be missing to JAX itself.
import jax.lax  # noqa: F401

_there = sys.modules["jax.lax"]
sys.modules["jax.lax"] = None  # pyrefly: ignore[unsupported-operation]
try:
    import bm25s
    from bm25s.stopwords import STOPWORDS_EN_PLUS
finally:
    sys.modules["jax.lax"] = _there

__all__ = ["STOPWORDS_EN_PLUS", "bm25s"]
